"""Random weights of the shape of Stable Diffusion 1.5 or SDXL, made on the GPU in seconds, and what a picture
needs beside them.

    python3 weights.py FOLDER --model sd15|sdxl [--device cuda] [--tiny]

FOLDER becomes what `host/models/benches/sd15` and `tests/bench/diffusion/peer_diffusers.py` read: `unet` and
`vae` as diffusers stores them, in fp16, and `picture.safetensors`. The values are noise with the spread of
`tests/oracles/diffusion/random_weights.py`, so that activations stay near 1; nothing depends on which they
are.
"""

import argparse
import json
import math
import pathlib
import time

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file

# Those of LCM's four steps.
TIMESTEPS = (999, 759, 499, 259)
TOKENS = 77

VAE = dict(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    sample_size=512,
)
MODELS = {
    "sd15": (dict(sample_size=64, cross_attention_dim=768), VAE),
    "sdxl": (
        dict(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        # Its weights are within fp16 as they are: nothing has to be kept from overflowing.
        VAE | dict(sample_size=1024, scaling_factor=0.13025, force_upcast=False),
    ),
}
# The same kinds of blocks, to try this on a CPU.
TINY_UNET = {
    "sd15": dict(
        block_out_channels=(32, 64, 64, 64), attention_head_dim=4, layers_per_block=1, cross_attention_dim=32
    ),
    "sdxl": dict(
        block_out_channels=(32, 64, 64),
        attention_head_dim=(1, 2, 2),
        transformer_layers_per_block=1,
        layers_per_block=1,
        cross_attention_dim=64,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    ),
}
TINY_VAE = dict(block_out_channels=(32, 32, 32, 32), layers_per_block=1)


def value(name, shape, device):
    """Of a parameter."""
    noise = torch.empty(shape, device=device).uniform_(-1, 1)
    if len(shape) == 1:
        return noise * 0.3 + 1 if "norm" in name and name.endswith("weight") else noise * 0.2
    # A uniform distribution over [-s, s) has the variance s²/3.
    return noise * math.sqrt(3 / math.prod(shape[1:]))


def make(folder, model, config, device):
    """Stores weights for a model of this configuration; its parameters are never in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        shape = model(**config)
    tensors = {
        name: value(name, tensor.shape, device).half().contiguous()
        for name, tensor in shape.state_dict().items()
    }
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({**shape.config, "_class_name": model.__name__}, default=list)
    )
    return sum(tensor.numel() for tensor in tensors.values())


def sigmas():
    """The noise at each of the steps, and none after the last."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = (1 - betas).cumprod(0)[list(TIMESTEPS)]
    return torch.cat([((1 - kept) / kept).sqrt(), torch.zeros(1, dtype=torch.float64)]).float()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    start = time.perf_counter()
    torch.manual_seed(1)
    unet, vae = MODELS[args.model]
    if args.tiny:
        unet, vae = unet | TINY_UNET[args.model], vae | TINY_VAE
    count = make(args.folder / "unet", UNet2DConditionModel, unet, args.device)
    count += make(args.folder / "vae", AutoencoderKL, vae, args.device)
    picture = {
        "prompt": torch.randn(1, TOKENS, unet["cross_attention_dim"]),
        "timesteps": torch.tensor(TIMESTEPS).float(),
        "sigmas": sigmas(),
    }
    if "addition_embed_type" in unet:
        # What is left beside six numbers.
        pooled = unet["projection_class_embeddings_input_dim"] - 6 * unet["addition_time_embed_dim"]
        picture["text_embeds"] = torch.randn(1, pooled)
    save_file(picture, args.folder / "picture.safetensors")
    print(f"{count / 1e6:.0f} million parameters in {time.perf_counter() - start:.1f} s")


main()
