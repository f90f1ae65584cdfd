#!/usr/bin/env python3
"""Reverie, diffusers on PyTorch and stable-diffusion.cpp: pictures of Stable Diffusion 1.5's shape, in one run.

    python -m venv .venv && . .venv/bin/activate
    pip install -r requirements.txt
    CMAKE_ARGS="-DGGML_NATIVE=ON -DGGML_OPENMP=ON -DGGML_LLAMAFILE=ON" pip install -r requirements-sdcpp.txt
    python ../../oracles/diffusion/make_full_size.py FOLDER
    python ../../oracles/diffusion/make_single_file.py FOLDER
    python sd15.py FOLDER [--size 256 --size 512] [--threads 2] [--rounds 3] [--sdcpp f32+direct --sdcpp f16]
    python sd15.py FOLDER --device cuda [--size 512] [--batch 1 --batch 8] [--rounds 15] [--compile max-autotune]

All make pictures from the same noise and prompt in four steps (no guidance, so one call of the UNet a step, at LCM's
timesteps) and decode them. Loading and the text encoder are not timed. For each size and batch they are started anew, so
that none holds what an earlier one needed. They take turns within a round, so that whatever else the machine does hits all
alike; a batch before, three on a GPU, warms up, and its pictures are compared. The figures are medians. The number in
parentheses is a peer's figure over Reverie's: above 1, Reverie is faster or smaller.

On the CPU all have the same number of threads; Reverie and diffusers compute in fp32. Times on a machine that is busy with other
things say little, and PyTorch's threads wait for each other by spinning: there, compare the CPU time with `--threads 1`. CPU
time over elapsed time tells how many threads were at work. Peak memory is that of a process from the first step on, its
weights included. stable-diffusion.cpp can't be without its text encoder, so its peak is also given less the text encoder's
weights.

The second pip command needs a C++ compiler; without that package stable-diffusion.cpp is left out, and so it is for a batch of
more than one, which it has no call for. Its options are what is fastest on x86-64: without GGML_LLAMAFILE, its own default,
it takes nearly twice as long. A variant of it is the type of its weights, `f32` or `f16`, and its options: `+direct`
(convolutions without a copy of the picture for each tap: as fast, in less memory) and `+fa` (flash attention: slower on a CPU).
Whatever the type, it keeps the convolutions' weights, and their inputs, in f16.

On a GPU (`--device cuda` or `cuda:N`) Reverie and diffusers compute in fp16; diffusers is eager once and compiled once, both in
channels last, with its own choice of attention and cuDNN's search for the fastest convolution. A time runs from the first
call until the device is done: once for all steps, once for the VAE; the latents come to the device before, and the pictures leave
it after. Each turn makes a batch that does not count first, as the clocks have fallen in the others' turns. Memory of the
device is the most that tensors took, and what the process took for them from the driver: in Reverie the first has the recorded
steps' memory in it, in PyTorch only the second has that of its graphs. Without a GPU it says that it was skipped.
"""

import argparse
import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np

from contenders import Contender, Ended, Skipped, differences, table

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
# Batches before the measured ones; the last of them is compared. PyTorch compiles in the first, records in the second.
WARM_UP = {"cpu": 1, "cuda": 3}


def build_reverie():
    """The benchmark binary, built if need be."""
    line = ["cargo", "bench", "-p", "reverie-models", "--bench", "sd15", "--no-run", "--message-format", "json"]
    built = subprocess.run(line, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = [json.loads(message) for message in built.splitlines() if message.startswith("{")]
    return [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "sd15"][-1]


def start_reverie(args):
    """Without it there is nothing to compare with: where it can't take part, that is an exception."""
    command = [build_reverie(), "--serve", "--device", args.device, *["--wgmma"] * args.wgmma]
    return Contender("Reverie", command, str(args.threads), {"REVERIE_FULL_SIZE": str(args.folder.resolve())}).wait()


def start_peers(args, batch):
    """Those that can take part."""
    if args.device != "cpu":
        on_gpu = ["peer_diffusers.py", "--device", args.device]
        commands = {"diffusers": on_gpu, "diffusers, compiled": [*on_gpu, "--compile", args.compile]}
    else:
        commands = {"diffusers": ["peer_diffusers.py"]}
        if batch > 1:
            print("- stable-diffusion.cpp: left out: it makes one picture at a time")
        elif importlib.util.find_spec("stable_diffusion_cpp") is None:
            print("- stable-diffusion.cpp: left out: the package stable-diffusion-cpp-python is not installed")
        else:
            for variant in args.sdcpp or ["f32+direct", "f16+direct"]:
                commands[f"sd.cpp {variant}"] = ["peer_sdcpp.py", "--variant", variant]
    for name, (script, *options) in commands.items():
        command = [sys.executable, HERE / script, args.folder.resolve(), *options]
        try:
            yield Contender(name, command, str(args.threads), {}).wait()
        except (Skipped, Ended) as reason:
            print(f"- {name}: left out: {reason}", flush=True)


def warm_up(contenders, size, batch, times):
    """Says how far each peer's pictures are from Reverie's; gives those that got through."""
    ours, *peers = contenders
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "pictures"
        for _ in range(times):
            ours.ask(size, batch, file)
        expected = np.fromfile(file, np.float32)
        through = [ours]
        for peer in peers:
            try:
                for _ in range(times):
                    peer.ask(size, batch, file)
            except Ended as reason:
                print(f"- {peer.name}: left out: {reason}", flush=True)
                continue
            through.append(peer)
            theirs = np.fromfile(file, np.float32)
            difference = differences(expected, theirs, peer.about.get("bits") == 8)
            print(f"- {peer.name}: {difference}", flush=True)
    return through


def measure(contenders, size, batch, rounds, kind):
    answers = [[] for _ in contenders]
    for _ in range(rounds):
        for contender, own in zip(contenders, answers):
            if kind == "cuda":
                # The clocks have fallen meanwhile.
                contender.ask(size, batch)
            own.append(contender.ask(size, batch))
    print("\n" + table(f"{size}x{size}, batch {batch}", contenders, answers, kind), flush=True)


def run(args, size, batch):
    kind = args.device.split(":")[0]
    rounds = args.rounds or {"cpu": 3, "cuda": 15}[kind]
    reverie = start_reverie(args)
    where = args.device if kind == "cuda" else f"{args.threads} threads"
    print(f"\n{size}x{size}, batch {batch}, {where}, median of {rounds}\n", flush=True)
    contenders = [reverie, *start_peers(args, batch)]
    for contender in contenders:
        about = contender.about
        print(
            f"- {contender.name}: {about['name']}; loaded in {about['load_s']:.1f} s, peak {about['load_peak_mb']} MB, "
            f"then {about['loaded_mb']} MB",
            flush=True,
        )
    remaining = warm_up(contenders, size, batch, WARM_UP[kind])
    measure(remaining, size, batch, rounds, kind)
    for contender in remaining:
        contender.close()


def device(text):
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError("cpu, cuda or cuda:N")
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--device", type=device, default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--size", type=int, action="append", help="the pictures' side (default 256, 512; on a GPU 512)")
    parser.add_argument("--batch", type=int, action="append", help="pictures at a time (default 1; on a GPU 1, 8)")
    parser.add_argument("--wgmma", action="store_true", help="Reverie's attention by these instructions, on a GPU")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help="default 3; on a GPU 15")
    parser.add_argument("--compile", default="max-autotune", metavar="MODE", help="torch.compile's, on a GPU")
    parser.add_argument("--sdcpp", action="append", metavar="VARIANT", help="default f32+direct and f16+direct")
    args = parser.parse_args()
    on_gpu = args.device != "cpu"
    for size in args.size or ([512] if on_gpu else [256, 512]):
        for batch in args.batch or ([1, 8] if on_gpu else [1]):
            try:
                run(args, size, batch)
            except Skipped as reason:
                print(f"skipped: {reason}")
                return
            except Ended as reason:
                sys.exit(str(reason))


main()
