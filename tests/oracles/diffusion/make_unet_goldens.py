"""What diffusers' UNet2DConditionModel makes of random inputs, for tiny models in the likeness of the known ones.

    python make_unet_goldens.py ../../fixtures/diffusion/unet

Each case is a JSON file (configuration, recipe of the weights) and a safetensors file (inputs, the outputs of the
whole and of some blocks). Weights are made again by the reader: see random_weights.py.
"""

import json
import pathlib
import sys

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from random_weights import fill, uniform

BASE = dict(
    sample_size=16,
    block_out_channels=(32, 64, 64),
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    norm_num_groups=8,
    cross_attention_dim=32,
    attention_head_dim=4,
)
TWO_STAGES = dict(
    block_out_channels=(32, 64),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)
SDXL = dict(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=(2, 4, 8),
    use_linear_projection=True,
    transformer_layers_per_block=(1, 2, 3),
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=6 * 8 + 24,
)
# name: configuration, size of the latents, blocks to record
CASES = {
    "sd15": (
        BASE,
        (16, 16),
        [
            "down_blocks.0.resnets.0",
            "down_blocks.1.resnets.0",
            "down_blocks.0.attentions.0",
            "down_blocks.1",
            "down_blocks.2",
            "mid_block",
            "up_blocks.0",
            "up_blocks.1",
            "up_blocks.2",
        ],
    ),
    "sd15_odd": (BASE, (14, 10), []),
    "lcm": (
        {**BASE, "layers_per_block": 2, "norm_num_groups": 16, "time_cond_proj_dim": 24},
        (8, 12),
        [],
    ),
    "sd2_turbo": (
        {**BASE, **TWO_STAGES, "attention_head_dim": (2, 4), "use_linear_projection": True},
        (8, 8),
        ["down_blocks.0.attentions.0"],
    ),
    "sdxl": ({**BASE, **SDXL}, (12, 8), ["down_blocks.1.attentions.0", "up_blocks.0"]),
    "inpaint": ({**BASE, **TWO_STAGES, "in_channels": 9, "norm_num_groups": 32}, (8, 8), []),
    "no_mid_block": ({**BASE, **TWO_STAGES, "mid_block_type": None, "block_out_channels": (24, 40)}, (9, 7), []),
}
# One timestep for each entry of the batch; LCM's and SD's schedulers give whole numbers, others do not.
TIMESTEPS = torch.tensor([999.0, 17.25])
TOKENS = 11


def record(model, blocks, tensors):
    """Keeps what goes into and out of the named modules, as `{block}/{argument}`."""

    def hook(block):
        def keep(module, args, kwargs, out):
            for name, value in {**dict(zip(("hidden_states", "temb"), args)), **kwargs}.items():
                if name == "res_hidden_states_tuple":
                    for i, skip in enumerate(value):
                        tensors[f"{block}/skip.{i}"] = skip.clone()
                elif torch.is_tensor(value):
                    tensors[f"{block}/{name}"] = value.clone()
            # Down blocks also return their skips; the last of these is the output itself.
            tensors[f"{block}/out"] = (out[0] if isinstance(out, tuple) else out).clone()

        return keep

    for block in blocks:
        model.get_submodule(block).register_forward_hook(hook(block), with_kwargs=True)


def make(name, config, size, blocks, out):
    model = UNet2DConditionModel(**config).eval()
    weights = fill(model)
    batch = len(TIMESTEPS)
    tensors = {
        "sample": uniform("sample", (batch, model.config.in_channels, *size), 1.7),
        "timesteps": TIMESTEPS,
        "encoder_hidden_states": uniform("context", (batch, TOKENS, config["cross_attention_dim"]), 1.7),
    }
    arguments = {}
    if model.config.time_cond_proj_dim:
        tensors["timestep_cond"] = uniform("guidance", (batch, model.config.time_cond_proj_dim), 1.0)
        arguments["timestep_cond"] = tensors["timestep_cond"]
    if model.config.addition_embed_type:
        tensors["text_embeds"] = uniform("pooled", (batch, 24), 1.0)
        tensors["time_ids"] = torch.tensor([[1024.0, 768, 0, 16, 1024, 1024], [64.0, 96, 8, 0, 512, 480]])
        arguments["added_cond_kwargs"] = {key: tensors[key] for key in ("text_embeds", "time_ids")}
    record(model, blocks, tensors)
    tensors["out"] = model(
        tensors["sample"], tensors["timesteps"], tensors["encoder_hidden_states"], **arguments
    ).sample
    save_file({key: value.contiguous() for key, value in tensors.items()}, out / f"{name}.safetensors")
    about = {"config": dict(model.config), "tensors": weights}
    (out / f"{name}.json").write_text(json.dumps(about, separators=(",", ":")) + "\n")
    for key, value in tensors.items():
        if key.endswith("out"):
            print(f"{name:14} {key:32} {list(value.shape)} std {value.std():.3f} max {value.abs().max():.3f}")


@torch.no_grad()
def main():
    out = pathlib.Path(sys.argv[1])
    for name, case in CASES.items():
        make(name, *case, out)


main()
