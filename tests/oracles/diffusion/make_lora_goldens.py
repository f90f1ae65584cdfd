"""What diffusers and peft make of LoRA files in all namings, for tiny models.

    python make_lora_goldens.py ../../fixtures/diffusion/lora

Needs the fixtures of make_unet_goldens.py, whose models and inputs are used. Files are described by their tensors' names,
shapes and ranges (random_weights.py), from which the reader makes them again. Recorded is what the UNet with the adapters
makes of its inputs, and what the adapted layers of text encoders make of a vector.
"""

import json
import math
import pathlib
import sys
import tempfile

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from random_weights import fill, uniform

TEXT = dict(
    vocab_size=20,
    hidden_size=32,
    intermediate_size=48,
    projection_dim=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=77,
)


class File:
    """A file of adapters in the making."""

    def __init__(self, metadata=None):
        self.tensors, self.metadata = {}, metadata

    def add(self, name, shape, scale, offset=0.0):
        self.tensors[name] = [list(shape), scale, offset]

    def layer(self, down, up, weight, rank, alpha=None, strength=1.0):
        """The pair for a weight; its product is as great as the weight."""
        outputs, inputs, *kernel = weight.shape
        self.add(down, [rank, inputs, *kernel], strength * math.sqrt(9.0 / (inputs * math.prod(kernel) * rank)))
        self.add(up, [outputs, rank] + [1] * len(kernel), 1.0)
        if alpha:
            self.add(alpha[0], [], 0.0, alpha[1])

    def state(self):
        return {name: uniform(name, shape, scale, offset) for name, (shape, scale, offset) in self.tensors.items()}

    def described(self):
        return {"tensors": self.tensors, "metadata": self.metadata or {}}


def layers(model):
    """Names and weights of linear layers and convolutions."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return {name: module.weight for name, module in model.named_modules() if isinstance(module, kinds)}


def kohya(models, names=lambda prefix, name: f"{prefix}_{name.replace('.', '_')}"):
    """All layers, of ranks that differ.

    The alphas are the same, as in all files that trainers write: diffusers 0.42 applies the one that occurs most to those
    layers of attentions that have another one.
    """
    file = File()
    for prefix, model in models.items():
        for i, (name, weight) in enumerate(layers(model).items()):
            if prefix != "lora_unet":
                name = f"text_model.{name.removeprefix('text_model.')}" if "projection" not in name else name
            key = names(prefix, name)
            alpha = (f"{key}.alpha", 1.5)
            file.layer(f"{key}.lora_down.weight", f"{key}.lora_up.weight", weight, 2 + i % 2, alpha)
    return file


def original(unet):
    """Names of SDXL's UNet in kohya's trainer; two levels have attention, each has one ResNet."""
    resnet = {
        "conv1": "in_layers.2",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    }

    def rename(prefix, name):
        if prefix != "lora_unet":
            return f"{prefix}_{name.replace('.', '_')}"
        parts = name.split(".")
        levels, per_level = len(unet.config.block_out_channels), unet.config.layers_per_block + 1
        if parts[0] == "down_blocks":
            level, kind, i = int(parts[1]), parts[2], int(parts[3])
            block = f"input_blocks.{1 + level * per_level + (per_level - 1 if kind == 'downsamplers' else i)}"
        elif parts[0] == "mid_block":
            block = f"middle_block.{1 if parts[1] == 'attentions' else 2 * int(parts[2])}"
            kind = "middle_" + parts[1]
            parts.insert(0, "")
        elif parts[0] == "up_blocks":
            level, kind, i = int(parts[1]), parts[2], int(parts[3])
            block = f"output_blocks.{level * per_level + (per_level - 1 if kind == 'upsamplers' else i)}"
            attends = unet.config.up_block_types[level].startswith("Cross")
        else:
            outer = {
                "time_embedding.linear_1": "time_embed.0",
                "time_embedding.linear_2": "time_embed.2",
                "add_embedding.linear_1": "label_emb.0.0",
                "add_embedding.linear_2": "label_emb.0.2",
                "conv_in": "input_blocks.0.0",
                "conv_out": "out.2",
            }
            return f"{prefix}_{outer[name].replace('.', '_')}"
        rest = parts[4:]
        if kind.endswith("resnets"):
            rest = [resnet[rest[0]]]
        place = {
            "resnets": [0],
            "attentions": [1],
            "downsamplers": [0],
            "upsamplers": [2 if parts[0] == "up_blocks" and attends else 1],
        }.get(kind, [])
        if kind == "downsamplers":
            rest = ["op"]
        return "_".join([prefix, block, *map(str, place), *rest]).replace(".", "_")

    return rename


def peft(model, metadata=None):
    """Attention and feed-forward layers, without alphas."""
    file = File(metadata)
    for i, (name, weight) in enumerate(layers(model).items()):
        if ".attn" in name or ".ff." in name:
            key = f"unet.{name}"
            file.layer(f"{key}.lora_A.weight", f"{key}.lora_B.weight", weight, 4 if metadata else 2 + i % 2)
    return file


def processors(unet, text_encoder):
    """The naming of diffusers before 0.22."""
    file = File()
    for name, weight in layers(unet).items():
        if ".attn" in name:
            attention, projection = name.replace("to_out.0", "to_out").rsplit(".", 1)
            key = f"unet.{attention}.processor.{projection}_lora"
            file.layer(f"{key}.down.weight", f"{key}.up.weight", weight, 2)
    for name, weight in layers(text_encoder).items():
        name = f"text_encoder.text_model.{name.removeprefix('text_model.')}"
        if ".self_attn." in name:
            for new, old in (("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("out_proj", "to_out")):
                name = name.replace(new, f"{old}_lora")
            file.layer(f"{name}.down.weight", f"{name}.up.weight", weight, 2)
        else:
            name = f"{name}.lora_linear_layer"
            file.layer(f"{name}.down.weight", f"{name}.up.weight", weight, 2)
    return file


def locon(unet):
    """Tucker decompositions of 3x3 convolutions, which diffusers does not read, of alphas that differ."""
    file = File()
    for i, (name, weight) in enumerate(layers(unet).items()):
        if weight.shape[2:] == (3, 3) and "resnets" in name:
            key, rank = f"lora_unet_{name.replace('.', '_')}", 2
            outputs, inputs = weight.shape[:2]
            file.add(f"{key}.lora_down.weight", [rank, inputs, 1, 1], math.sqrt(3.0 / inputs))
            file.add(f"{key}.lora_mid.weight", [rank, rank, 3, 3], 1.0)
            file.add(f"{key}.lora_up.weight", [outputs, rank, 1, 1], 1.0)
            file.add(f"{key}.alpha", [], 0.0, 1.0 + i % 3)
    return file


def unet_inputs(fixtures, case):
    about = json.loads((fixtures / f"{case}.json").read_text())
    inputs = load_file(fixtures / f"{case}.safetensors")
    unet = UNet2DConditionModel(**{key: value for key, value in about["config"].items() if key[0] != "_"})
    assert fill(unet) == {name: recipe for name, recipe in about["tensors"].items()}
    return unet.eval(), inputs


def run(unet, inputs):
    added = {key: inputs[key] for key in ("text_embeds", "time_ids") if key in inputs}
    with torch.no_grad():
        return unet(
            inputs["sample"],
            inputs["timesteps"],
            inputs["encoder_hidden_states"],
            added_cond_kwargs=added or None,
        ).sample


def probes(component, model, out, case):
    """What the layers of a text encoder make of a vector of their own."""
    for name, module in model.named_modules():
        if name.endswith("base_layer") or any(part.startswith("lora_") for part in name.split(".")):
            continue
        base = getattr(module, "base_layer", module)
        if isinstance(base, torch.nn.Linear):
            name = name if "text_projection" in name else f"text_model.{name.removeprefix('text_model.')}"
            vector = uniform(name, [1, base.in_features])
            with torch.no_grad():
                out[f"{case}.{component}.{name}"] = module(vector)


def encoder(kind):
    model = kind(CLIPTextConfig(**TEXT)).eval()
    recipes = fill(model)
    canonical = {
        (name if "text_projection" in name else f"text_model.{name.removeprefix('text_model.')}"): recipe
        for name, recipe in recipes.items()
    }
    # The values follow from the names that the reader has.
    state = {name: uniform(full, *recipe) for name, (full, recipe) in zip(recipes, canonical.items())}
    model.load_state_dict(state)
    return model, canonical


def pipeline(fixtures, case):
    unet, inputs = unet_inputs(fixtures, case)
    text_encoder, first = encoder(CLIPTextModel)
    parts = dict(vae=None, tokenizer=None, scheduler=None, unet=unet, text_encoder=text_encoder)
    if case != "sdxl":
        parts |= dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        return StableDiffusionPipeline(**parts), inputs, {"text_encoder": first}
    text_encoder_2, second = encoder(CLIPTextModelWithProjection)
    parts |= dict(tokenizer_2=None, text_encoder_2=text_encoder_2)
    return StableDiffusionXLPipeline(**parts), inputs, {"text_encoder": first, "text_encoder_2": second}


def main(target):
    target.mkdir(parents=True, exist_ok=True)
    fixtures = target.parent / "unet"
    cases, out, recipes = {}, {}, {}

    def record(case, model, files):
        pipe, inputs, recipes[model] = pipeline(fixtures, model)
        names, strengths = [], []
        for i, (file, strength) in enumerate(files):
            with tempfile.TemporaryDirectory() as folder:
                header = {"format": "pt"}
                if file.metadata:
                    header["lora_adapter_metadata"] = json.dumps(file.metadata)
                save_file(file.state(), f"{folder}/lora.safetensors", metadata=header)
                pipe.load_lora_weights(folder, weight_name="lora.safetensors", adapter_name=f"lora{i}")
            names.append(f"lora{i}")
            strengths.append(strength)
        pipe.set_adapters(names, strengths)
        out[f"{case}.unet"] = run(pipe.unet, inputs)
        for component in recipes[model]:
            probes(component, getattr(pipe, component), out, case)
        files = [{**file.described(), "strength": strength} for file, strength in files]
        cases[case] = {"model": model, "files": files}

    pipe, inputs, _ = pipeline(fixtures, "sd15")
    all_of_sd1 = kohya({"lora_unet": pipe.unet, "lora_te": pipe.text_encoder})
    attention = peft(pipe.unet)
    alphas = {"unet.r": 4, "unet.lora_alpha": 6, "unet.alpha_pattern": {"attn2.to_k": 3}, "unet.rank_pattern": {}}
    targets = {"unet.target_modules": ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"]}
    record("kohya", "sd15", [(all_of_sd1, 0.7)])
    record("peft", "sd15", [(attention, 1.0)])
    record("peft_metadata", "sd15", [(peft(pipe.unet, alphas | targets), 0.4)])
    record("peft_rslora", "sd15", [(peft(pipe.unet, alphas | targets | {"unet.use_rslora": True}), 0.2)])
    record("processors", "sd15", [(processors(pipe.unet, pipe.text_encoder), 1.0)])
    record("two", "sd15", [(all_of_sd1, 0.6), (attention, -0.4)])

    xl, _, _ = pipeline(fixtures, "sdxl")
    encoders = {"lora_te1": xl.text_encoder, "lora_te2": xl.text_encoder_2}
    record("sdxl", "sdxl", [(kohya({"lora_unet": xl.unet, **encoders}, original(xl.unet)), 0.8)])

    file = locon(pipe.unet)
    state = file.state()
    for name, weight in layers(pipe.unet).items():
        key = f"lora_unet_{name.replace('.', '_')}"
        if f"{key}.lora_mid.weight" in state:
            up, mid, down = (state[f"{key}.lora_{part}.weight"] for part in ("up", "mid", "down"))
            delta = torch.einsum("oa,abyx,bi->oiyx", up[:, :, 0, 0], mid, down[:, :, 0, 0])
            weight.data += 0.5 * (state[f"{key}.alpha"] / 2) * delta
    out["locon.unet"] = run(pipe.unet, inputs)
    cases["locon"] = {"model": "sd15", "files": [{**file.described(), "strength": 0.5}]}

    save_file({name: value.contiguous() for name, value in out.items()}, target / "lora.safetensors")
    (target / "lora.json").write_text(json.dumps({"cases": cases, "text_encoders": recipes}) + "\n")


if __name__ == "__main__":
    torch.manual_seed(0)
    main(pathlib.Path(sys.argv[1]))
