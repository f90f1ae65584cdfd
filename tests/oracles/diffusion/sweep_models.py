"""What `sweep.py` draws: small models of random weights in many layouts, and requests to them."""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from make_pipeline_goldens import SDXL_UNET, TURBO_UNET, UNET, VAE, fill, save_tokenizer, text_config, use_published_names
from PIL import Image
from safetensors.torch import save_file
from sweep_prompts import BREAK, written
from transformers import CLIPTextModel, CLIPTextModelWithProjection

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# Of a token each, so that no prompt has more than the 75 at which diffusers cuts them off.
WORDS = "a photo of the cat dog house red blue oil painting blurry ugly , !".split()
# Of several.
OTHERS = "кот 猫 Über naïve 🐈 42 'tis !! Cat".split()

SCHEDULERS = [
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler", "LCMScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "TCDScheduler", "UniPCMultistepScheduler",
]  # fmt: skip
# Keys of a scheduler's configuration, with values to draw from; most are left out of most configurations.
KEYS = {
    "prediction_type": ["epsilon", "v_prediction"],
    "timestep_spacing": ["leading", "trailing", "linspace"],
    "steps_offset": [0, 1],
    "set_alpha_to_one": [True, False],
    "clip_sample": [True, False],
    "clip_sample_range": [1.0, 2.5],
    "rescale_betas_zero_snr": [True],
    "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2"],
    "skip_prk_steps": [True, False],
    "use_karras_sigmas": [True],
    "use_exponential_sigmas": [True],
    "use_beta_sigmas": [True],
    "use_lu_lambdas": [True],
    "thresholding": [True],
    "sample_max_value": [1.0, 1.5],
    "algorithm_type": ["dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver"],
    "solver_type": ["midpoint", "heun", "bh1", "bh2", "logrho"],
    "solver_order": [1, 2, 3],
    "lower_order_final": [True, False],
    "euler_at_final": [True, False],
    "final_sigmas_type": ["zero", "sigma_min"],
    "interpolation_type": ["linear", "log_linear"],
    "variance_type": ["fixed_small", "fixed_large", "fixed_small_log"],
    "sigma_min": [0.05],
    "sigma_max": [12.0],
    "timestep_type": ["discrete", "continuous"],
}
# Classes that know `use_karras_sigmas` and its like.
SIGMAS = [
    "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "EulerDiscreteScheduler",
    "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler",
    "UniPCMultistepScheduler",
]  # fmt: skip
# Schedule types by their names, and the keys that they set.
SPACINGS = ["karras", "exponential", "beta"]
KINDS = ["sd", "sd2", "inpaint", "lcm", "sdxl", "sdxl_inpaint", "playground"]


@dataclass
class Model:
    """A folder as diffusers saves it."""

    path: Path
    kind: str
    about: dict = field(default_factory=dict)
    variant: str | None = None
    # Names, outputs and inputs of the layers that adapters may be for.
    layers: list = field(default_factory=list)

    @property
    def xl(self) -> bool:
        return self.kind in ("sdxl", "sdxl_inpaint", "playground")

    @property
    def inpaints(self) -> bool:
        return self.kind.endswith("inpaint")


def scheduler_config(rng: random.Random, kind: str) -> dict:
    if kind == "playground":
        config = {"_class_name": rng.choice(["EDMDPMSolverMultistepScheduler", "EDMEulerScheduler"])}
        return config | {"sigma_max": rng.choice([20.0, 80.0]), "sigma_data": 0.5, "solver_order": rng.choice([1, 2])}
    name = "LCMScheduler" if kind == "lcm" else rng.choice(SCHEDULERS)
    few = rng.random() * 0.3
    keys = {key: rng.choice(values) for key, values in KEYS.items() if rng.random() < few}
    return BETAS | {"_class_name": name} | keys


def draw_model(rng: random.Random, folder: Path) -> Model:
    kind = rng.choice(KINDS)
    seed = rng.randrange(1 << 30)
    model = Model(folder, kind)
    unet = dict(SDXL_UNET if model.xl else TURBO_UNET if kind == "sd2" else UNET)
    if model.inpaints:
        unet["in_channels"] = 9
    if kind == "lcm" or (kind == "sdxl" and rng.random() < 0.2):
        unet["time_cond_proj_dim"] = 12
    vae = VAE | {"scaling_factor": rng.choice([0.18215, 0.13025])}
    if rng.random() < 0.3 or kind == "playground":
        vae |= {"latents_mean": [rng.uniform(-1, 1) for _ in range(4)], "latents_std": [rng.uniform(0.5, 2) for _ in range(4)]}
    if rng.random() < 0.2:
        vae["shift_factor"] = 0.2
    if rng.random() < 0.2:
        vae |= {"use_quant_conv": False, "use_post_quant_conv": False}
    first = text_config(hidden_act=rng.choice(["gelu", "quick_gelu"]))
    parts = {"unet": UNet2DConditionModel(**unet), "vae": AutoencoderKL(**vae), "text_encoder": CLIPTextModel(first)}
    if model.xl:
        second = text_config(pad_token_id=0, hidden_act="gelu", hidden_size=24, num_attention_heads=3, projection_dim=20)
        parts["text_encoder_2"] = CLIPTextModelWithProjection(second)
        save_tokenizer(folder / "tokenizer_2", "!")
    save_tokenizer(folder / "tokenizer", "!" if kind == "sd2" else "<|endoftext|>")
    for number, (name, part) in enumerate(parts.items()):
        fill(part, seed + number).save_pretrained(folder / name)
        if isinstance(part, CLIPTextModel):
            use_published_names(next((folder / name).glob("*.safetensors")))
    config = scheduler_config(rng, kind)
    write(folder / "scheduler/scheduler_config.json", config)
    base = "StableDiffusionXL{}Pipeline" if model.xl else "StableDiffusion{}Pipeline"
    class_name = base.format("Inpaint" if model.inpaints else "")
    if kind == "lcm" and rng.random() < 0.7:
        class_name = "LatentConsistencyModelPipeline"
    index = {"_class_name": class_name, "_diffusers_version": "0.42.1", "scheduler": ["diffusers", config["_class_name"]]}
    libraries = {name: ["transformers" if "text" in name else "diffusers", type(part).__name__] for name, part in parts.items()}
    index |= libraries | {path.name: ["transformers", "CLIPTokenizer"] for path in folder.glob("tokenizer*")}
    if model.xl:
        if rng.random() < 0.6:
            index["force_zeros_for_empty_prompt"] = rng.random() < 0.5
    else:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    index["image_encoder"] = [None, None]
    write(folder / "model_index.json", index)
    model.layers = lora_layers(parts)
    model.about = {"kind": kind, "class": class_name, "scheduler": config, "unet": sorted(set(unet) - set(UNET))}
    return model


def write(path: Path, fields: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields, indent=1) + "\n")


def lora_layers(parts: dict) -> list:
    """Of attentions and feed-forwards of the UNet, and of attentions of the text encoder."""
    found = []
    for name, module in parts["unet"].named_modules():
        if isinstance(module, torch.nn.Linear) and ("attn" in name or "ff.net.2" in name):
            found.append((f"unet.{name}", module.out_features, module.in_features))
    for name, module in parts["text_encoder"].named_modules():
        if isinstance(module, torch.nn.Linear) and "self_attn" in name:
            found.append((f"text_encoder.{name}", module.out_features, module.in_features))
    return found


def draw_lora(rng: random.Random, model: "Model", path: Path) -> None:
    """An adapter in diffusers' naming for some of the layers."""
    noise, rank = torch.Generator().manual_seed(rng.randrange(1 << 30)), rng.choice([1, 4])
    tensors = {}
    for name, outputs, inputs in model.layers:
        if rng.random() < 0.5 or not tensors:
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=noise) / inputs**0.5
            tensors[f"{name}.lora_B.weight"] = torch.randn(outputs, rank, generator=noise) * 0.3
    save_file(tensors, path)


def spans(rng: random.Random) -> list:
    """A prompt with weights, or longer than a text encoder takes."""
    long = rng.random() < 0.4
    drawn = []
    for _ in range(rng.randrange(2, 6)):
        words = " ".join(rng.choice(WORDS[:-2]) for _ in range(rng.choice([15, 30]) if long else rng.choice([1, 3])))
        drawn.append((words, rng.choice([1.0, 1.0, 1.3, 0.6, 1.15])))
        if rng.random() < 0.1:
            drawn.append(BREAK)
    return drawn if drawn[-1] != BREAK else drawn[:-1]


def prompt(rng: random.Random) -> str:
    words = [rng.choice(WORDS) for _ in range(rng.choice([0, 1, 4, 9, 30]))]
    words += [rng.choice(OTHERS) for _ in range(rng.choice([0, 0, 1, 3]))]
    rng.shuffle(words)
    return " ".join(words)


def picture(rng: random.Random, width: int, height: int) -> np.ndarray:
    noise = np.random.default_rng(rng.randrange(1 << 30))
    y, x = np.mgrid[:height, :width]
    plain = np.stack([255 * (x > width / 2), 255 * y / height, 127 + 127 * np.sin(x * y / 50)], -1)
    return np.clip(plain + noise.normal(0, 25, plain.shape), 0, 255).astype(np.uint8)


def draw_request(rng: random.Random, model: Model, folder: Path, number: int) -> dict:
    """A request by the names of Reverie's parameters; pictures are files."""
    width, height = (8 * rng.randrange(4, 12) for _ in range(2))
    asked = {"prompt": prompt(rng), "seed": rng.randrange(1 << 32), "width": width, "height": height}
    asked |= {"num_inference_steps": rng.randrange(1, 13), "guidance_scale": round(rng.choice([0.0, 1.0, rng.uniform(1, 12)]), 2)}
    if rng.random() < 0.5:
        asked["negative_prompt"] = prompt(rng)
    if model.xl and rng.random() < 0.3:
        asked["prompt_2"] = rng.choice(["", prompt(rng)])
    if rng.random() < 0.2:
        asked["clip_skip"] = rng.choice([1, 2])
    # The pipeline of latent consistency models takes no other scheduler than its own.
    if rng.random() < 0.4 and model.kind != "playground" and not model.about["class"].startswith("Latent"):
        asked["scheduler"] = rng.choice(SCHEDULERS)
    scheduler = asked.get("scheduler", model.about["scheduler"]["_class_name"])
    if "scheduler" in asked and scheduler in SIGMAS and rng.random() < 0.4:
        asked["schedule_type"] = rng.choice(SPACINGS)
    if scheduler in ("DDIMScheduler", "TCDScheduler") and rng.random() < 0.4:
        asked["eta"] = round(rng.random(), 2)
    if not model.about["class"].startswith("Latent"):
        if rng.random() < 0.15:
            asked["guidance_rescale"] = round(rng.random(), 2)
        if rng.random() < 0.2 and "prompt_2" not in asked:
            asked["spans"] = spans(rng)
            asked["prompt"] = written(asked["spans"])
            if "negative_prompt" in asked:
                asked["negative_spans"] = spans(rng)
                asked["negative_prompt"] = written(asked["negative_spans"])
    if rng.random() < 0.2:
        asked["lora"] = [str(folder / f"{number}.safetensors"), round(rng.uniform(-1, 1.5), 2)]
        draw_lora(rng, model, folder / f"{number}.safetensors")
    masked = model.inpaints or rng.random() < 0.2
    if masked or rng.random() < 0.35:
        # Sides that are no multiples of 8 are resized, as by diffusers' processors.
        sides = [side + rng.randrange(0, 8) * (rng.random() < 0.5) for side in (width, height)]
        asked["image"] = str(folder / f"{number}.png")
        asked.pop("guidance_rescale", None)
        Image.fromarray(picture(rng, *sides)).save(asked["image"])
        asked["strength"] = round(rng.uniform(0.1, 1.0), 2) if rng.random() < 0.8 else 1.0
        if masked:
            asked["mask"] = str(folder / f"{number}_mask.png")
            pixels = picture(rng, *sides)
            mask = Image.fromarray(pixels) if rng.random() < 0.5 else Image.fromarray(pixels).convert("L")
            mask.save(asked["mask"])
    return asked


def family(model: Model, asked: dict) -> str:
    return f"{model.kind} {'inpaint' if 'mask' in asked else 'img2img' if 'image' in asked else 'txt2img'}"


torch.set_grad_enabled(False)
