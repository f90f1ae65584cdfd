"""Tiny complete models as diffusers saves them, and what diffusers' pipelines make of requests to them.

    pip install -r requirements.txt
    python make_pipeline_goldens.py

Writes tests/fixtures/diffusion/pipelines/:

- a folder for each model, random weights in fp16: `sd` (like Stable Diffusion 1.5), `inpaint` (its UNet with 9 channels),
  `lcm` (a UNet with guidance embedding), `turbo` (like SD-Turbo; its text encoder's tensors are named as transformers 5
  saves them, without `text_model.`), `sdxl` (with `.fp16.` in its file names), and `taesd`, an AutoencoderTiny to put in
  place of another model's VAE;
- `requests.json`: requests with all of their parameters; `inputs.safetensors`: the picture and the mask that they name, as
  bytes (rows, columns, colours);
- `goldens.safetensors`: for each request `prompt_embeds` and, with guidance, `negative_prompt_embeds` (for SDXL also both
  pooled ones), `noise_pred` (what the first step's output is after guidance), `trajectory` (the latents before the first
  step and after each) and `image`, the pictures as bytes. Everything was computed in float32 from the fp16 weights.

Random numbers are drawn from the request's generator in this order. Text to image: the noise; then what the scheduler draws
in its steps. Image to image: the VAE's sample of the picture, the noise, the scheduler's. Inpainting: with a UNet of 4
channels the VAE's sample of the picture; the noise; the VAE's sample of the masked picture (drawn with 4 channels as well,
where nothing is made of it); the scheduler's. With a 9-channel UNet and a strength below 1 the picture is sampled as with 4
channels. AutoencoderTiny draws nothing.
"""

import inspect
import json
import math
import shutil
import warnings
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

OUT = Path(__file__).resolve().parents[2] / "fixtures/diffusion/pipelines"
SIZE = 64

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
# As in the published files.
PNDM = BETAS | {"_class_name": "PNDMScheduler", "clip_sample": False, "set_alpha_to_one": False}
PNDM |= {"skip_prk_steps": True, "steps_offset": 1, "trained_betas": None}
LCM_SCHEDULER = BETAS | {"_class_name": "LCMScheduler", "original_inference_steps": 50, "timestep_scaling": 10.0}
LEADING_EULER = BETAS | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "steps_offset": 1}
TRAILING_EULER = BETAS | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}

UNET = dict(
    sample_size=SIZE // 8,
    block_out_channels=(8, 16),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    norm_num_groups=4,
    cross_attention_dim=16,
    attention_head_dim=2,
)
TURBO_UNET = UNET | dict(attention_head_dim=(2, 4), use_linear_projection=True)
SDXL_UNET = UNET | dict(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=(2, 4),
    transformer_layers_per_block=(1, 2),
    use_linear_projection=True,
    cross_attention_dim=40,
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=6 * 8 + 20,
)
VAE = dict(
    block_out_channels=(4, 8, 8, 8),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=1,
    latent_channels=4,
    norm_num_groups=4,
    sample_size=SIZE,
)
TAESD = dict(
    encoder_block_out_channels=(8, 8, 8, 8),
    decoder_block_out_channels=(8, 8, 8, 8),
    num_encoder_blocks=(1, 2, 2, 2),
    num_decoder_blocks=(2, 2, 2, 1),
)

# The model whose text encoder has its tensors named as transformers 5 does.
FLAT_TEXT_ENCODER = "turbo"
# The model that is saved with `.fp16.` in its file names.
FP16_VARIANT = "sdxl"

# ---------------------------------------------------------------- models


def fill(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Random weights that keep activations near 1, and every parameter away from its neutral value, rounded to fp16."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        values = torch.rand(parameter.shape, generator=generator) * 2 - 1
        if parameter.ndim > 1:
            values *= math.sqrt(3 / parameter[0].numel())
        elif "norm" in name and name.endswith("weight"):
            values = 1 + 0.3 * values
        else:
            values *= 0.2
        parameter.data = values.half()
    return module.half()


def bytes_to_unicode() -> list[str]:
    """The characters that stand for the bytes in a CLIP vocabulary, in the order of their ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Every byte, and a few words; as in CLIP's own, "!" is 0 and the end of the text is the last."""
    merges = []
    for word in "a photo of the cat dog house red blue oil painting blurry ugly".split():
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            if (parts[0], parts[1]) not in merges:
                merges.append((parts[0], parts[1]))
            parts[:2] = [parts[0] + parts[1]]
    symbols = bytes_to_unicode()
    tokens = symbols + [symbol + "</w>" for symbol in symbols] + [first + second for first, second in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}, merges


def save_tokenizer(folder: Path, pad_token: str) -> None:
    """The files that Stable Diffusion's models have."""
    vocab, merges = vocabulary()
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    lines = [f"{first} {second}" for first, second in merges]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": pad_token}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1) + "\n")
    config = special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def text_config(**changes) -> CLIPTextConfig:
    vocab, _ = vocabulary()
    config = dict(
        vocab_size=len(vocab),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        bos_token_id=vocab["<|startoftext|>"],
        eos_token_id=vocab["<|endoftext|>"],
        pad_token_id=vocab["<|endoftext|>"],
    )
    return CLIPTextConfig(**(config | changes))


def use_published_names(path: Path) -> None:
    """Transformers 5 saves a CLIPTextModel's tensors without the `text_model.` that they have in every published model."""
    tensors = load_file(path)
    save_file({f"text_model.{name}": tensor for name, tensor in tensors.items()}, path, {"format": "pt"})


def save_model(name: str, class_name: str, parts: dict, scheduler: dict, extra: dict, variant: str | None = None) -> None:
    folder = OUT / name
    for part, module in parts.items():
        module.save_pretrained(folder / part, variant=variant)
        if isinstance(module, CLIPTextModel) and name != FLAT_TEXT_ENCODER:
            use_published_names(next((folder / part).glob("*.safetensors")))
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler, indent=1) + "\n")
    libraries = {part: ["transformers" if "text" in part else "diffusers", type(m).__name__] for part, m in parts.items()}
    tokenizers = {path.name: ["transformers", "CLIPTokenizer"] for path in folder.glob("tokenizer*")}
    index = {"_class_name": class_name, "_diffusers_version": diffusers.__version__} | extra | libraries | tokenizers
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    (folder / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")


def save_models() -> None:
    no_checker = {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    no_checker |= {"image_encoder": [None, None]}
    vae = fill(AutoencoderKL(**VAE, scaling_factor=0.18215), 1)
    text_encoder = fill(CLIPTextModel(text_config()), 2)

    save_tokenizer(OUT / "sd/tokenizer", "<|endoftext|>")
    parts = {"unet": fill(UNet2DConditionModel(**UNET), 3), "vae": vae, "text_encoder": text_encoder}
    save_model("sd", "StableDiffusionPipeline", parts, PNDM, no_checker)

    save_tokenizer(OUT / "inpaint/tokenizer", "<|endoftext|>")
    parts["unet"] = fill(UNet2DConditionModel(**UNET, in_channels=9), 4)
    save_model("inpaint", "StableDiffusionInpaintPipeline", parts, PNDM, no_checker)

    save_tokenizer(OUT / "lcm/tokenizer", "<|endoftext|>")
    parts["unet"] = fill(UNet2DConditionModel(**UNET, time_cond_proj_dim=12), 5)
    save_model("lcm", "LatentConsistencyModelPipeline", parts, LCM_SCHEDULER, no_checker)

    save_tokenizer(OUT / "turbo/tokenizer", "!")
    parts["unet"] = fill(UNet2DConditionModel(**TURBO_UNET), 6)
    parts["text_encoder"] = fill(CLIPTextModel(text_config(hidden_act="gelu", pad_token_id=0)), 7)
    save_model("turbo", "StableDiffusionPipeline", parts, TRAILING_EULER, no_checker)

    save_tokenizer(OUT / "sdxl/tokenizer", "<|endoftext|>")
    save_tokenizer(OUT / "sdxl/tokenizer_2", "!")
    # As in the published files, which say 2 and mean the largest id.
    first = text_config(eos_token_id=2)
    second = text_config(
        eos_token_id=2, pad_token_id=0, hidden_act="gelu", hidden_size=24, num_attention_heads=3, projection_dim=20
    )
    parts = {
        "unet": fill(UNet2DConditionModel(**SDXL_UNET), 8),
        "vae": fill(AutoencoderKL(**VAE, scaling_factor=0.13025), 9),
        "text_encoder": fill(CLIPTextModel(first), 10),
        "text_encoder_2": fill(CLIPTextModelWithProjection(second), 11),
    }
    extra = {"force_zeros_for_empty_prompt": True, "feature_extractor": [None, None], "image_encoder": [None, None]}
    save_model("sdxl", "StableDiffusionXLPipeline", parts, LEADING_EULER, extra, variant="fp16")

    taesd = fill(AutoencoderTiny(**TAESD), 12)
    # It decodes to [0, 1], not to both sides of 0.
    taesd.decoder.layers[-1].bias.data.fill_(0.5)
    taesd.save_pretrained(OUT / "taesd")


# ---------------------------------------------------------------- requests


def inputs() -> dict[str, torch.Tensor]:
    """A picture with some structure, and a mask with a soft edge."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    red = np.sin(rows * 9) * 100 + 128
    green = (rows + columns) * 127
    blue = np.where((rows - 0.5) ** 2 + (columns - 0.4) ** 2 < 0.1, 240, 30)
    mask = np.clip((columns - 0.45) * 10, 0, 1) * 255
    pictures = {"picture": np.stack([red, green, blue], axis=-1), "mask": mask}
    return {name: torch.from_numpy(pixels.astype(np.uint8)) for name, pixels in pictures.items()}


def request(name: str, model: str, pipeline: str, **changes) -> dict:
    defaults = {
        "prompt": "a photo of a cat",
        "negative_prompt": None,
        "width": SIZE,
        "height": SIZE,
        "num_inference_steps": 4,
        "guidance_scale": 7.5,
        "seeds": [1234],
        "scheduler": None,
    }
    return {"name": name, "model": model, "pipeline": pipeline} | defaults | changes


SD, SDXL, LCM = "StableDiffusion{}Pipeline", "StableDiffusionXL{}Pipeline", "LatentConsistencyModel{}Pipeline"
EULER_A = {"_class_name": "EulerAncestralDiscreteScheduler"}
DDIM = {"_class_name": "DDIMScheduler"}
DPMPP_KARRAS = {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
TO_LCM = {"_class_name": "LCMScheduler"}
PICTURE = {"image": "picture"}
MASKED = {"image": "picture", "mask_image": "mask"}
NEGATIVE = {"negative_prompt": "blurry, ugly"}

REQUESTS = [
    request("sd_txt2img", "sd", SD.format("")),
    request("sd_negative_ddim", "sd", SD.format(""), **NEGATIVE, scheduler=DDIM, width=96, seeds=[5]),
    request("sd_unguided_euler_a", "sd", SD.format(""), guidance_scale=1.0, scheduler=EULER_A, height=48),
    request("sd_dpmpp_karras", "sd", SD.format(""), scheduler=DPMPP_KARRAS, num_inference_steps=6, seeds=[2**40 + 3]),
    request("sd_clip_skip", "sd", SD.format(""), scheduler=DDIM, clip_skip=1, num_inference_steps=2, **NEGATIVE),
    request("sd_batch_euler_a", "sd", SD.format(""), scheduler=EULER_A, seeds=[7, 8, 9], num_inference_steps=3),
    request("sd_lcm_scheduler", "sd", SD.format(""), scheduler=TO_LCM, guidance_scale=1.5),
    request("sd_img2img", "sd", SD.format("Img2Img"), **PICTURE, strength=0.6, num_inference_steps=5, **NEGATIVE),
    request("sd_img2img_euler_a", "sd", SD.format("Img2Img"), **PICTURE, strength=0.5, scheduler=EULER_A),
    request("sd_img2img_lcm_scheduler", "sd", SD.format("Img2Img"), **PICTURE, strength=0.5, scheduler=TO_LCM, guidance_scale=1.0),
    request("sd_inpaint", "sd", SD.format("Inpaint"), **MASKED, strength=1.0),
    request("sd_inpaint_partly_euler_a", "sd", SD.format("Inpaint"), **MASKED, strength=0.75, scheduler=EULER_A, **NEGATIVE),
    request("sd_inpaint_unguided_ddim", "sd", SD.format("Inpaint"), **MASKED, strength=0.75, scheduler=DDIM, guidance_scale=1.0),
    request("inpaint_whole", "inpaint", SD.format("Inpaint"), **MASKED, strength=1.0, **NEGATIVE),
    request("inpaint_partly_euler_a", "inpaint", SD.format("Inpaint"), **MASKED, strength=0.75, scheduler=EULER_A),
    request("taesd_txt2img", "sd", SD.format(""), vae="taesd", scheduler=DDIM, num_inference_steps=2),
    request("taesd_img2img", "sd", SD.format("Img2Img"), vae="taesd", **PICTURE, strength=0.5, scheduler=EULER_A),
    request("lcm_txt2img", "lcm", LCM.format(""), guidance_scale=8.5),
    request("lcm_original_steps", "lcm", LCM.format(""), guidance_scale=2.0, original_inference_steps=30, seeds=[3, 4]),
    request("lcm_img2img", "lcm", LCM.format("Img2Img"), **PICTURE, strength=0.5, guidance_scale=8.5),
    request("turbo_1_step", "turbo", SD.format(""), guidance_scale=0.0, num_inference_steps=1),
    request("turbo_3_steps", "turbo", SD.format(""), guidance_scale=0.0, num_inference_steps=3, seeds=[77]),
    request("turbo_guided", "turbo", SD.format(""), guidance_scale=3.0, num_inference_steps=2, **NEGATIVE),
    request("turbo_img2img", "turbo", SD.format("Img2Img"), **PICTURE, strength=0.5, guidance_scale=0.0, num_inference_steps=2),
    request("sdxl_txt2img", "sdxl", SDXL.format(""), guidance_scale=5.0),
    request("sdxl_negative", "sdxl", SDXL.format(""), guidance_scale=5.0, **NEGATIVE, width=96, seeds=[6]),
    request("sdxl_unguided", "sdxl", SDXL.format(""), guidance_scale=1.0, num_inference_steps=2, scheduler=EULER_A),
    request(
        "sdxl_two_prompts", "sdxl", SDXL.format(""), guidance_scale=5.0, num_inference_steps=2,
        prompt_2="oil painting", original_size=[512, 384], crops_coords_top_left=[16, 8], target_size=[128, 64],
    ),
    request("sdxl_img2img", "sdxl", SDXL.format("Img2Img"), **PICTURE, strength=0.6, guidance_scale=5.0, num_inference_steps=5),
    request("sdxl_inpaint", "sdxl", SDXL.format("Inpaint"), **MASKED, strength=0.8, guidance_scale=5.0, num_inference_steps=5),
]  # fmt: skip


def open_pipeline(asked: dict):
    """The model's pipeline in float32, with the scheduler and the VAE that the request asks for."""
    variant = "fp16" if asked["model"] == FP16_VARIANT else None
    class_ = getattr(diffusers, asked["pipeline"])
    pipeline = class_.from_pretrained(OUT / asked["model"], torch_dtype=torch.float32, variant=variant)
    pipeline.set_progress_bar_config(disable=True)
    if "clip_skip" in asked and not hasattr(pipeline.text_encoder, "text_model"):
        # Transformers 5 has no such part any more, where diffusers looks for the final layer norm.
        type(pipeline.text_encoder).text_model = property(lambda text_encoder: text_encoder)
    if asked["scheduler"]:
        changes = {key: value for key, value in asked["scheduler"].items() if key != "_class_name"}
        class_ = getattr(diffusers, asked["scheduler"]["_class_name"])
        pipeline.scheduler = class_.from_config(pipeline.scheduler.config, **changes)
    if "vae" in asked:
        pipeline.vae = AutoencoderTiny.from_pretrained(OUT / asked["vae"], torch_dtype=torch.float32)
    return pipeline


def encode(pipeline, asked: dict) -> dict[str, torch.Tensor]:
    guided = asked["guidance_scale"] > 1 and "Latent" not in asked["pipeline"]
    options = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": guided}
    options |= {"negative_prompt": asked["negative_prompt"], "clip_skip": asked.get("clip_skip")}
    names = ["prompt_embeds", "negative_prompt_embeds"]
    if "XL" in asked["pipeline"]:
        options["prompt_2"] = asked.get("prompt_2")
        names += ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    values = pipeline.encode_prompt(asked["prompt"], **options)
    return {name: value for name, value in zip(names, values) if value is not None}


def run(asked: dict, pictures: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    pipeline = open_pipeline(asked)
    golden = encode(pipeline, asked)
    own = {"name", "model", "pipeline", "seeds", "scheduler", "vae", "image", "mask_image"}
    options = {key: value for key, value in asked.items() if key not in own}
    for key in ["image", "mask_image"]:
        if key in asked:
            options[key] = Image.fromarray(pictures[asked[key]].numpy())
    for key in ["original_size", "crops_coords_top_left", "target_size"]:
        if key in options:
            options[key] = tuple(options[key])
    if "LatentConsistency" in asked["pipeline"]:
        del options["negative_prompt"]
    if "Img2Img" in asked["pipeline"]:
        # These take the picture's size.
        del options["width"], options["height"]
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in asked["seeds"]]
    options["generator"] = generators if len(generators) > 1 else generators[0]
    options["num_images_per_prompt"] = len(generators)

    first, trajectory = [], []
    step = pipeline.scheduler.step

    def recording_step(model_output, timestep, sample, *args, **kwargs):
        if not first:
            first.append(model_output)
            trajectory.append(sample)
        return step(model_output, timestep, sample, *args, **kwargs)

    def on_step_end(_pipeline, _index, _timestep, values):
        trajectory.append(values["latents"])
        return {}

    # The schedulers' arguments are found by the signature.
    recording_step.__signature__ = inspect.signature(step)
    pipeline.scheduler.step = recording_step
    with torch.no_grad():
        images = pipeline(**options, output_type="pil", callback_on_step_end=on_step_end).images
    golden["noise_pred"] = first[0]
    golden["trajectory"] = torch.stack(trajectory)
    golden["image"] = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return golden


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    save_models()
    pictures = inputs()
    goldens = {}
    for asked in REQUESTS:
        for key, value in run(asked, pictures).items():
            assert value.dtype == torch.uint8 or torch.isfinite(value).all(), (asked["name"], key)
            goldens[f"{asked['name']}/{key}"] = value.detach().contiguous()
        image = goldens[f"{asked['name']}/image"].float()
        latents = goldens[f"{asked['name']}/trajectory"]
        print(asked["name"], tuple(image.shape), f"{image.mean():.0f} ± {image.std():.0f}", f"{latents[0].std():.2f} -> {latents[-1].std():.2f}")
    lines = ",\n".join(json.dumps(asked) for asked in REQUESTS)
    (OUT / "requests.json").write_text(f"[\n{lines}\n]\n")
    save_file(pictures, OUT / "inputs.safetensors")
    save_file(goldens, OUT / "goldens.safetensors")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    diffusers.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()
    main()
