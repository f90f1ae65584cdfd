"""What diffusers' AutoencoderKL and AutoencoderTiny make of random inputs, for tiny models.

    python make_vae_goldens.py ../../fixtures/diffusion/vae

Each case is a JSON file (configuration, recipe of the weights) and a safetensors file (inputs and outputs). Weights
are made again by the reader: see random_weights.py.
"""

import json
import pathlib
import sys

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import save_file

from random_weights import fill, uniform

KL = dict(
    block_out_channels=(16, 32),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    layers_per_block=1,
    norm_num_groups=8,
    sample_size=16,
)
# name: configuration, size of the image, whether to tile
KL_CASES = {
    "kl": (KL, (16, 24), False),
    # A side that is odd at the downsampler, and no optional layers.
    "kl_bare": (
        {
            **KL,
            "layers_per_block": 2,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "mid_block_add_attention": False,
        },
        (13, 10),
        False,
    ),
    # Tiles of 8x8 latents in steps of 6; the last ones are smaller than the overlap.
    "kl_tiled": (KL, (40, 28), True),
    # Three stages, and as many latent channels as newer models have.
    "kl_wide": (
        {
            **KL,
            "latent_channels": 16,
            "block_out_channels": (16, 24, 24),
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
        },
        (16, 16),
        False,
    ),
}
TINY = dict(
    encoder_block_out_channels=(16, 16, 16, 16),
    decoder_block_out_channels=(16, 16, 16, 16),
    num_encoder_blocks=(1, 2, 1, 1),
    num_decoder_blocks=(2, 1, 1, 1),
)


def store(name, model, weights, tensors, out):
    save_file({key: value.contiguous() for key, value in tensors.items()}, out / f"{name}.safetensors")
    about = {"config": dict(model.config), "tensors": weights}
    (out / f"{name}.json").write_text(json.dumps(about, separators=(",", ":")) + "\n")
    for key, value in tensors.items():
        print(f"{name:12} {key:10} {list(value.shape)} std {value.std():.3f} max {value.abs().max():.3f}")


def kl(name, config, size, tiled, out):
    model = AutoencoderKL(**config).eval()
    weights = fill(model)
    if tiled:
        model.enable_tiling()
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    image = uniform("image", (2, 3, *size))
    latents = uniform("latents", (2, model.config.latent_channels, *(side // factor for side in size)), 3.0)
    posterior = model.encode(image).latent_dist
    tensors = {"image": image, "latents": latents}
    tensors["mean"], tensors["logvar"] = posterior.mean, posterior.logvar
    noise = uniform("noise", posterior.mean.shape, 1.7)
    tensors["noise"], tensors["drawn"] = noise, posterior.mean + posterior.std * noise
    tensors["decoded"] = model.decode(latents).sample
    store(name, model, weights, tensors, out)


def tiny(out):
    model = AutoencoderTiny(**TINY).eval()
    weights = fill(model)
    tensors = {"image": uniform("image", (2, 3, 16, 24)), "latents": uniform("latents", (2, 4, 3, 5), 4.0)}
    tensors["encoded"] = model.encode(tensors["image"]).latents
    tensors["decoded"] = model.decode(tensors["latents"]).sample
    store("tiny", model, weights, tensors, out)


@torch.no_grad()
def main():
    out = pathlib.Path(sys.argv[1])
    for name, case in KL_CASES.items():
        kl(name, *case, out)
    tiny(out)


main()
