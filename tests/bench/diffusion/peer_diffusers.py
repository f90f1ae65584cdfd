"""diffusers on PyTorch's CPU, in fp32, as a contender of `sd15.py`."""

import argparse
import pathlib
import time

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file

from protocol import SEED, memory_mb, reset_peak, serve


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    start = time.perf_counter()
    unet = UNet2DConditionModel.from_pretrained(args.folder / "unet", torch_dtype=torch.float32).eval()
    vae = AutoencoderKL.from_pretrained(args.folder / "vae", torch_dtype=torch.float32).eval()
    del vae.encoder
    load_s = time.perf_counter() - start
    inputs = load_file(args.folder / "picture.safetensors")
    timesteps, sigmas = inputs["timesteps"].tolist(), inputs["sigmas"].tolist()

    def make(size):
        reset_peak()
        cpu = time.process_time()
        shape = (1, 4, size // 8, size // 8)
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(SEED)) * sigmas[0]
        steps = []
        for timestep, sigma, after in zip(timesteps, sigmas, sigmas[1:]):
            start = time.perf_counter()
            noise = unet(latents / (sigma**2 + 1) ** 0.5, timestep, inputs["prompt"]).sample
            latents = latents + noise * (after - sigma)
            steps.append(time.perf_counter() - start)
        start = time.perf_counter()
        picture = vae.decode(latents / vae.config.scaling_factor).sample.numpy()
        vae_s = time.perf_counter() - start
        cpu = time.process_time() - cpu
        return picture, {"steps_s": steps, "vae_s": vae_s, "cpu_s": cpu, "peak_mb": memory_mb("VmHWM")}

    serve(f"diffusers on PyTorch {torch.__version__}, fp32", load_s, make)


main()
