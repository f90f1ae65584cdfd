"""What diffusers reads from single-file checkpoints with the original tensor names, and a folder that it has saved.

    python make_checkpoint_goldens.py ../../fixtures/diffusion/checkpoint

A single file is described by its tensors' names and shapes only, whose values follow from the names (random_weights.py).
The names are made by the structure of the original implementations; that diffusers' own converters turn them into a state
dict which its models load strictly shows that they are right. Of each converted tensor the fixture has the shape and a
checksum of its values. The folder is saved by diffusers itself: sharded, in half precision, as a variant.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from random_weights import fill, uniform


def checksum(tensor):
    """The sum of the values' bits, each times its place; modulo 2^64."""
    bits = tensor.detach().float().contiguous().numpy().view(np.uint32).astype(np.uint64).ravel()
    with np.errstate(over="ignore"):
        return int((bits * np.arange(1, bits.size + 1, dtype=np.uint64)).sum(dtype=np.uint64))


class Shapes(dict):
    """Names and shapes of tensors."""

    def layer(self, name, *shape, bias=True):
        self[f"{name}.weight"] = list(shape)
        if bias:
            self[f"{name}.bias"] = [shape[0]]

    def norm(self, name, channels):
        self.layer(name, channels)


def original_unet(config):
    """The tensors of `openaimodel.UNetModel`."""
    out = Shapes()
    channels, layers = config["block_out_channels"], config["layers_per_block"]
    depths = config.get("transformer_layers_per_block", 1)
    depths = [depths] * len(channels) if isinstance(depths, int) else depths
    attends = [kind.startswith("CrossAttn") for kind in config["down_block_types"]]
    temb = 4 * channels[0]
    context = config["cross_attention_dim"]
    prefix = "model.diffusion_model."

    def resnet(name, inputs, outputs):
        out.norm(f"{name}.in_layers.0", inputs)
        out.layer(f"{name}.in_layers.2", outputs, inputs, 3, 3)
        out.layer(f"{name}.emb_layers.1", outputs, temb)
        out.norm(f"{name}.out_layers.0", outputs)
        out.layer(f"{name}.out_layers.3", outputs, outputs, 3, 3)
        if inputs != outputs:
            out.layer(f"{name}.skip_connection", outputs, inputs, 1, 1)

    def transformer(name, width, depth):
        kernel = () if config.get("use_linear_projection") else (1, 1)
        out.norm(f"{name}.norm", width)
        out.layer(f"{name}.proj_in", width, width, *kernel)
        for i in range(depth):
            block = f"{name}.transformer_blocks.{i}"
            for attention, inputs in (("attn1", width), ("attn2", context)):
                out.layer(f"{block}.{attention}.to_q", width, width, bias=False)
                out.layer(f"{block}.{attention}.to_k", width, inputs, bias=False)
                out.layer(f"{block}.{attention}.to_v", width, inputs, bias=False)
                out.layer(f"{block}.{attention}.to_out.0", width, width)
            out.layer(f"{block}.ff.net.0.proj", 8 * width, width)
            out.layer(f"{block}.ff.net.2", width, 4 * width)
            for norm in ("norm1", "norm2", "norm3"):
                out.norm(f"{block}.{norm}", width)
        out.layer(f"{name}.proj_out", width, width, *kernel)

    out.layer(f"{prefix}time_embed.0", temb, channels[0])
    out.layer(f"{prefix}time_embed.2", temb, temb)
    if config.get("addition_embed_type"):
        out.layer(f"{prefix}label_emb.0.0", temb, config["projection_class_embeddings_input_dim"])
        out.layer(f"{prefix}label_emb.0.2", temb, temb)
    out.layer(f"{prefix}input_blocks.0.0", channels[0], config["in_channels"], 3, 3)
    skips, width, block = [channels[0]], channels[0], 1
    for level, outputs in enumerate(channels):
        for _ in range(layers):
            resnet(f"{prefix}input_blocks.{block}.0", width, outputs)
            if attends[level]:
                transformer(f"{prefix}input_blocks.{block}.1", outputs, depths[level])
            width = outputs
            skips.append(width)
            block += 1
        if level + 1 < len(channels):
            out.layer(f"{prefix}input_blocks.{block}.0.op", width, width, 3, 3)
            skips.append(width)
            block += 1
    resnet(f"{prefix}middle_block.0", width, width)
    transformer(f"{prefix}middle_block.1", width, depths[-1])
    resnet(f"{prefix}middle_block.2", width, width)
    block = 0
    for level in reversed(range(len(channels))):
        for i in range(layers + 1):
            resnet(f"{prefix}output_blocks.{block}.0", width + skips.pop(), channels[level])
            width = channels[level]
            if attends[level]:
                transformer(f"{prefix}output_blocks.{block}.1", width, depths[level])
            if i == layers and level > 0:
                place = 2 if attends[level] else 1
                out.layer(f"{prefix}output_blocks.{block}.{place}.conv", width, width, 3, 3)
            block += 1
    out.norm(f"{prefix}out.0", width)
    out.layer(f"{prefix}out.2", config["out_channels"], width, 3, 3)
    return out


def original_vae(config):
    """The tensors of `AutoencoderKL` in latent-diffusion, and one of its loss."""
    out = Shapes()
    channels, layers, latents = config["block_out_channels"], config["layers_per_block"], config["latent_channels"]
    prefix = "first_stage_model."

    def resnet(name, inputs, outputs):
        out.norm(f"{name}.norm1", inputs)
        out.layer(f"{name}.conv1", outputs, inputs, 3, 3)
        out.norm(f"{name}.norm2", outputs)
        out.layer(f"{name}.conv2", outputs, outputs, 3, 3)
        if inputs != outputs:
            out.layer(f"{name}.nin_shortcut", outputs, inputs, 1, 1)

    def middle(name, width):
        resnet(f"{name}.mid.block_1", width, width)
        out.norm(f"{name}.mid.attn_1.norm", width)
        for conv in ("q", "k", "v", "proj_out"):
            out.layer(f"{name}.mid.attn_1.{conv}", width, width, 1, 1)
        resnet(f"{name}.mid.block_2", width, width)

    encoder, decoder = f"{prefix}encoder", f"{prefix}decoder"
    out.layer(f"{encoder}.conv_in", channels[0], 3, 3, 3)
    width = channels[0]
    for level, outputs in enumerate(channels):
        for i in range(layers):
            resnet(f"{encoder}.down.{level}.block.{i}", width, outputs)
            width = outputs
        if level + 1 < len(channels):
            out.layer(f"{encoder}.down.{level}.downsample.conv", width, width, 3, 3)
    middle(encoder, width)
    out.norm(f"{encoder}.norm_out", width)
    out.layer(f"{encoder}.conv_out", 2 * latents, width, 3, 3)
    out.layer(f"{prefix}quant_conv", 2 * latents, 2 * latents, 1, 1)
    out.layer(f"{prefix}post_quant_conv", latents, latents, 1, 1)
    out.layer(f"{decoder}.conv_in", width, latents, 3, 3)
    middle(decoder, width)
    for level in reversed(range(len(channels))):
        for i in range(layers + 1):
            resnet(f"{decoder}.up.{level}.block.{i}", width, channels[level])
            width = channels[level]
        if level > 0:
            out.layer(f"{decoder}.up.{level}.upsample.conv", width, width, 3, 3)
    out.norm(f"{decoder}.norm_out", width)
    out.layer(f"{decoder}.conv_out", 3, width, 3, 3)
    out[f"{prefix}loss.logvar"] = [1]
    return out


def original_clip(prefix, config):
    """transformers' own names, and the positions that its older versions saved."""
    out = Shapes()
    for name, tensor in CLIPTextModel(CLIPTextConfig(**config)).state_dict().items():
        out[f"{prefix}text_model.{name.removeprefix('text_model.')}"] = list(tensor.shape)
    out[f"{prefix}text_model.embeddings.position_ids"] = [1, 77]
    return out


def original_open_clip(prefix, config, layers):
    """The tensors of `open_clip`'s text tower."""
    out = Shapes()
    width = config["hidden_size"]
    out[f"{prefix}positional_embedding"] = [config["max_position_embeddings"], width]
    out[f"{prefix}token_embedding.weight"] = [config["vocab_size"], width]
    out[f"{prefix}text_projection"] = [width, config["projection_dim"]]
    out[f"{prefix}logit_scale"] = []
    out.norm(f"{prefix}ln_final", width)
    for i in range(layers):
        block = f"{prefix}transformer.resblocks.{i}"
        out.norm(f"{block}.ln_1", width)
        out.norm(f"{block}.ln_2", width)
        out[f"{block}.attn.in_proj_weight"] = [3 * width, width]
        out[f"{block}.attn.in_proj_bias"] = [3 * width]
        out.layer(f"{block}.attn.out_proj", width, width)
        out.layer(f"{block}.mlp.c_fc", config["intermediate_size"], width)
        out.layer(f"{block}.mlp.c_proj", width, config["intermediate_size"])
    return out


UNET = dict(
    sample_size=64,
    in_channels=4,
    out_channels=4,
    block_out_channels=[32, 64, 64],
    down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    layers_per_block=2,
    cross_attention_dim=64,
    attention_head_dim=8,
)
LINEAR = dict(use_linear_projection=True, attention_head_dim=[1, 1, 1])
VAE = dict(
    sample_size=512,
    block_out_channels=[32, 64],
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
    layers_per_block=2,
    latent_channels=4,
    scaling_factor=0.18215,
)
TEXT = dict(
    vocab_size=50,
    hidden_size=64,
    intermediate_size=80,
    projection_dim=64,
    num_hidden_layers=2,
    num_attention_heads=1,
    max_position_embeddings=77,
    hidden_act="quick_gelu",
)
# As much narrower as diffusers' converter allows: it takes the projection for as wide as the encoder.
OPEN = dict(TEXT, hidden_size=128, projection_dim=128, num_attention_heads=2, hidden_act="gelu")
SDXL = UNET | dict(
    use_linear_projection=True,
    attention_head_dim=[1, 1, 2],
    cross_attention_dim=64 + 128,
    sample_size=128,
    block_out_channels=[32, 64, 128],
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    layers_per_block=1,
    transformer_layers_per_block=[1, 2, 3],
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=6 * 8 + 128,
)
XL_VAE = dict(VAE, sample_size=1024, scaling_factor=0.13025)
CLIP_1, OPEN_2 = "cond_stage_model.transformer.", "cond_stage_model.model."
CLIP_XL, OPEN_XL = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
# name: UNet, VAE, text encoders as (component, prefix, configuration, layers in the file)
CASES = {
    "sd1": (UNET, VAE, [("text_encoder", CLIP_1, TEXT, 2)]),
    # More layers than diffusers takes.
    "sd2": (
        UNET | LINEAR | dict(cross_attention_dim=128),
        VAE,
        [("text_encoder", OPEN_2, dict(OPEN, num_hidden_layers=23), 24)],
    ),
    "sdxl": (
        SDXL,
        XL_VAE,
        [("text_encoder", CLIP_XL, TEXT, 2), ("text_encoder_2", OPEN_XL, dict(OPEN, num_hidden_layers=3), 3)],
    ),
}


def convert(case):
    """The file's shapes, and configurations and tensors of the components as diffusers has them."""
    unet, vae, encoders = case
    shapes = {**original_unet(unet), **original_vae(vae)}
    for _, prefix, config, layers in encoders:
        shapes |= (
            original_open_clip(prefix, config, layers) if prefix.endswith("model.") else original_clip(prefix, config)
        )
    checkpoint = {name: uniform(name, shape) for name, shape in shapes.items()}
    tensors = {
        "unet": convert_ldm_unet_checkpoint(dict(checkpoint), dict(UNet2DConditionModel(**unet).config)),
        "vae": convert_ldm_vae_checkpoint(dict(checkpoint), dict(AutoencoderKL(**vae).config)),
    }
    UNet2DConditionModel(**unet).load_state_dict(tensors["unet"], strict=True)
    AutoencoderKL(**vae).load_state_dict(tensors["vae"], strict=True)
    configs = {"unet": unet, "vae": vae}
    for component, prefix, config, _ in encoders:
        configs[component] = config
        projected = component == "text_encoder_2"
        model = (CLIPTextModelWithProjection if projected else CLIPTextModel)(CLIPTextConfig(**config))
        if prefix.endswith("model."):
            state = convert_open_clip_checkpoint(model, dict(checkpoint), prefix=prefix)
            if not projected:
                state.pop("text_projection.weight", None)
        else:
            state = convert_ldm_clip_checkpoint({k: v for k, v in checkpoint.items() if k.startswith(prefix)})
            state.pop("text_model.embeddings.position_ids")
        flat = hasattr(model, "embeddings")
        loadable = {name.removeprefix("text_model.") if flat else name: value for name, value in state.items()}
        model.load_state_dict(loadable, strict=True)
        tensors[component] = state
    return shapes, configs, tensors


def described(tensors):
    return {name: [list(value.shape), checksum(value)] for name, value in sorted(tensors.items())}


def folder(path):
    """A tiny pipeline, saved as published models are."""
    unet = dict(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2,
        sample_size=8,
    )
    vae = dict(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    text = dict(TEXT, vocab_size=20, hidden_size=16, intermediate_size=20, num_attention_heads=2)
    components = {
        "unet": UNet2DConditionModel(**unet),
        "vae": AutoencoderKL(**vae),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**text)),
    }
    for model in components.values():
        fill(model)
        model.half()
    pipeline = StableDiffusionPipeline(
        **components,
        tokenizer=None,
        scheduler=PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(path, variant="fp16")
    # Again, in shards.
    shutil.rmtree(path / "unet")
    components["unet"].save_pretrained(path / "unet", variant="fp16", max_shard_size="100KB")
    names = {}
    for component, model in components.items():
        prefix = "text_model." if component == "text_encoder" and hasattr(model, "embeddings") else ""
        names[component] = described({prefix + name: value for name, value in model.state_dict().items()})
    return names


def main(target):
    target.mkdir(parents=True, exist_ok=True)
    for name, case in CASES.items():
        shapes, configs, tensors = convert(case)
        tensors = {component: described(state) for component, state in tensors.items()}
        case = {"file": shapes, "configs": configs, "tensors": tensors}
        (target / f"{name}.json").write_text(json.dumps(case) + "\n")
    shutil.rmtree(target / "folder", ignore_errors=True)
    tensors = folder(target / "folder")
    (target / "folder.json").write_text(json.dumps({"tensors": tensors}) + "\n")


if __name__ == "__main__":
    torch.manual_seed(0)
    main(pathlib.Path(sys.argv[1]))
