#!/usr/bin/env python3
"""Reverie against diffusers on PyTorch's CPU: one UNet and VAE of Stable Diffusion 1.5's size, in one run.

    python ../../oracles/diffusion/make_full_size.py FOLDER
    python sd15.py FOLDER [--size 256 --size 512] [--threads 2] [--rounds 3]

Both make a picture from the same latents in four steps (batch 1, no guidance, as LCM) and decode it, in fp32 with the
same number of threads. They take turns within a round, so that whatever else the machine does hits both alike; the
first round warms up and does not count. The figure is the median. The pictures are compared first.

Times on a machine that is busy with other things say little, and PyTorch's threads wait for each other by spinning: there,
compare the CPU time with `--threads 1`.

The ratio is diffusers' over Reverie's: above 1, Reverie is faster or smaller. Peak memory is that of a process while it
makes a picture, its weights included.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
TIMESTEPS = (999, 759, 499, 259)
STEP = -0.25


class Contender:
    """A process that answers a line of its input with a line of JSON."""

    def __init__(self, name, command, env):
        self.name = name
        self.process = subprocess.Popen(
            command, env={**os.environ, **env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.about = json.loads(self.process.stdout.readline())

    def ask(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def build_reverie():
    """The benchmark binary, built if need be."""
    line = ["cargo", "bench", "-p", "reverie-models", "--bench", "sd15", "--no-run", "--message-format", "json"]
    built = subprocess.run(line, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = [json.loads(message) for message in built.splitlines() if message.startswith("{")]
    return [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "sd15"][-1]


def memory_mb(key):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) // 1024
    return 0


def serve_diffusers(folder, threads):
    """The peer's side of the protocol of `host/models/benches/sd15`."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    start = time.perf_counter()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).eval()
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
    del vae.encoder
    inputs = load_file(folder / "golden.safetensors")
    prompt = inputs["encoder_hidden_states"][:1]
    about = {"name": f"diffusers on PyTorch {torch.__version__}", "load_s": time.perf_counter() - start}
    about |= {"load_peak_mb": memory_mb("VmHWM"), "loaded_mb": memory_mb("VmRSS")}
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        size, *file = line.split()
        side = int(size) // 8
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        cpu = time.process_time()
        latents = inputs["sample"][:1, :, :side, :side].contiguous()
        steps = []
        for timestep in TIMESTEPS:
            start = time.perf_counter()
            latents = latents + STEP * unet(latents, timestep, prompt).sample
            steps.append(time.perf_counter() - start)
        start = time.perf_counter()
        picture = vae.decode(latents).sample.numpy()
        answer = {"steps_s": steps, "vae_s": time.perf_counter() - start}
        answer |= {"cpu_s": time.process_time() - cpu, "peak_mb": memory_mb("VmHWM")}
        if file:
            picture.tofile(file[0])
        print(json.dumps(answer), flush=True)


def compare(contenders, size):
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        pictures = []
        for contender in contenders:
            file = pathlib.Path(folder) / contender.name
            contender.ask(size, file)
            pictures.append(np.fromfile(file, np.float32))
    ours, theirs = pictures
    error = np.abs(ours - theirs)
    print(f"  pictures differ by at most {error.max():.1e} of {np.abs(theirs).max():.2f}, on average {error.mean():.1e}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--size", type=int, action="append")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve-diffusers", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve_diffusers:
        serve_diffusers(args.folder, args.threads)
        return

    folder, threads = str(args.folder.resolve()), str(args.threads)
    env = {"REVERIE_FULL_SIZE": folder}
    peer = [sys.executable, __file__, folder, "--threads", threads, "--serve-diffusers"]
    reverie = Contender("reverie", [build_reverie(), "--serve", "--threads", threads], env)
    contenders = [reverie, Contender("diffusers", peer, {"OMP_NUM_THREADS": threads})]
    for contender in contenders:
        about = contender.about
        print(
            f"{contender.name:10} {about['name']}: loaded in {about['load_s']:.1f} s, peak {about['load_peak_mb']} MB, "
            f"then {about['loaded_mb']} MB"
        )
    for size in args.size or [256, 512]:
        print(f"{size}x{size}, {len(TIMESTEPS)} steps")
        compare(contenders, size)
        answers = [[] for _ in contenders]
        for _ in range(args.rounds):
            for contender, own in zip(contenders, answers):
                own.append(contender.ask(size))
        parts = {
            "a step, s": lambda answer: statistics.median(answer["steps_s"]),
            "VAE, s": lambda answer: answer["vae_s"],
            "in all, s": lambda answer: sum(answer["steps_s"]) + answer["vae_s"],
            "CPU, s": lambda answer: answer["cpu_s"],
            "peak, MB": lambda answer: answer["peak_mb"],
        }
        for part, value in parts.items():
            ours, theirs = (statistics.median(map(value, own)) for own in answers)
            print(f"  {part:10} reverie {ours:9.2f}   diffusers {theirs:9.2f}   ratio {theirs / ours:.2f}", flush=True)
    for contender in contenders:
        contender.close()


main()
