"""A UNet and a VAE of Stable Diffusion 1.5's size with random weights, and what diffusers makes of random inputs.

    python make_full_size.py FOLDER [--threads 2]
    REVERIE_FULL_SIZE=FOLDER cargo test --release -p reverie-models --test full_size -- --nocapture

FOLDER becomes a diffusers folder of 1.9 GB with `unet`, `vae` and `golden.safetensors`. The weights are fp16 in the
files; both sides compute in fp32. The time and the peak memory of each part are printed.
"""

import argparse
import pathlib
import resource
import time

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file

from random_weights import fill, uniform

UNET = dict(sample_size=64, cross_attention_dim=768)
VAE = dict(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    sample_size=512,
)


def make(folder, model):
    """Fills the model, stores it as fp16, and gives it the values that it is stored with."""
    fill(model)
    model.half().save_pretrained(folder)
    return model.float().eval()


def timed(what, work):
    start = time.perf_counter()
    out = work()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what:12} {seconds:6.1f} s, std {out.std():.3f}; peak memory so far {peak:.2f} GiB", flush=True)
    return out


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    tensors = {
        "sample": uniform("sample", (2, 4, 64, 64), 1.7),
        "timesteps": torch.tensor([999.0, 259.0]),
        "encoder_hidden_states": uniform("context", (2, 77, 768), 1.7),
        "latents": uniform("latents", (1, 4, 64, 64), 8.0),
    }
    unet = make(args.folder / "unet", UNet2DConditionModel(**UNET))
    inputs = [tensors[name] for name in ("sample", "timesteps", "encoder_hidden_states")]
    tensors["unet"] = timed("UNet, batch 2", lambda: unet(*inputs).sample)
    del unet
    vae = make(args.folder / "vae", AutoencoderKL(**VAE))
    tensors["image"] = timed("VAE decode", lambda: vae.decode(tensors["latents"]).sample)
    save_file(tensors, args.folder / "golden.safetensors")


main()
