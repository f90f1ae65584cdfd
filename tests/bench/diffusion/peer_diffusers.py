"""diffusers on PyTorch as a contender of `sd15.py`: on the CPU in fp32; on a GPU in fp16, channels last, eager or compiled."""

import argparse
import pathlib
import time

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file

from protocol import SEED, memory_mb, reset_peak, serve, skip


def missing(device):
    """Why there is no such device; None where there is one."""
    if device.type == "cpu":
        return None
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} finds no GPU"
    count = torch.cuda.device_count()
    return None if (device.index or 0) < count else f"PyTorch finds {count} GPUs, none of them {device}"


def numbered(device):
    """A GPU with its number, without which PyTorch does not make it the current one."""
    return torch.device(device.type, device.index or 0) if device.type == "cuda" else device


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu, cuda or cuda:N")
    parser.add_argument("--compile", metavar="MODE", help="torch.compile's; without it, eager")
    args = parser.parse_args()
    device = numbered(args.device)
    if reason := missing(device):
        return skip(reason)
    on_gpu = device.type == "cuda"
    dtype = torch.float16 if on_gpu else torch.float32
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    start = time.perf_counter()
    unet = UNet2DConditionModel.from_pretrained(args.folder / "unet", torch_dtype=dtype).eval()
    vae = AutoencoderKL.from_pretrained(args.folder / "vae", torch_dtype=dtype).eval()
    del vae.encoder
    if on_gpu:
        torch.cuda.set_device(device)
        # The fastest convolution of cuDNN, tried at each first time.
        torch.backends.cudnn.benchmark = True
        for model in (unet, vae):
            model.to(device, memory_format=torch.channels_last)
    denoise, decode = unet.forward, vae.decode
    if args.compile:
        # For each shape anew: one for all shapes would be slower.
        options = {"mode": args.compile, "fullgraph": True, "dynamic": False}
        denoise, decode = (torch.compile(call, **options) for call in (denoise, decode))
    load_s = time.perf_counter() - start
    inputs = load_file(args.folder / "picture.safetensors")
    timesteps, sigmas = inputs["timesteps"].tolist(), inputs["sigmas"].tolist()

    def settle():
        if on_gpu:
            torch.cuda.synchronize()

    def make(size, batch):
        reset_peak()
        cpu = time.process_time()
        shape = (batch, 4, size // 8, size // 8)
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(SEED)) * sigmas[0]
        latents = latents.to(device, dtype)
        prompt = inputs["prompt"].repeat(batch, 1, 1).to(device, dtype)
        conditions = {}
        if "text_embeds" in inputs:
            # SDXL's: the whole picture, uncropped.
            pooled = inputs["text_embeds"].repeat(batch, 1).to(device, dtype)
            sizes = torch.tensor([[size, size, 0, 0, size, size]], device=device, dtype=dtype).repeat(batch, 1)
            conditions["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
        # On the device beforehand, as in diffusers' pipelines.
        times = [torch.full((batch,), timestep, device=device) for timestep in timesteps]
        settle()
        marks = [time.perf_counter()]
        for timestep, sigma, after in zip(times, sigmas, sigmas[1:]):
            if args.compile:
                # What the call before gave is not needed any more.
                torch.compiler.cudagraph_mark_step_begin()
            noise = denoise(latents / (sigma**2 + 1) ** 0.5, timestep, prompt, return_dict=False, **conditions)[0]
            latents = latents + noise * (after - sigma)
            marks.append(time.perf_counter())
        settle()
        # The last step is over when all are.
        marks[-1] = start = time.perf_counter()
        picture = decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        settle()
        vae_s = time.perf_counter() - start
        cpu = time.process_time() - cpu
        steps = [end - start for start, end in zip(marks, marks[1:])]
        answer = {"steps_s": steps, "vae_s": vae_s, "cpu_s": cpu, "peak_mb": memory_mb("VmHWM")}
        if on_gpu:
            answer["tensors_mb"] = torch.cuda.max_memory_allocated() >> 20
            answer["held_mb"] = torch.cuda.max_memory_reserved() >> 20
        return picture.float().cpu().contiguous().numpy(), answer

    name = f"diffusers on PyTorch {torch.__version__}, {'fp16, channels last' if on_gpu else 'fp32'}"
    if args.compile:
        name += f", torch.compile {args.compile}"
    serve(name, load_s, make)


main()
