#!/usr/bin/env python3
"""Reverie, diffusers on PyTorch's CPU and stable-diffusion.cpp: one picture of Stable Diffusion 1.5's shape, in one run.

    python -m venv .venv && . .venv/bin/activate
    pip install -r requirements.txt
    CMAKE_ARGS="-DGGML_NATIVE=ON -DGGML_OPENMP=ON -DGGML_LLAMAFILE=ON" pip install -r requirements-sdcpp.txt
    python ../../oracles/diffusion/make_full_size.py FOLDER
    python ../../oracles/diffusion/make_single_file.py FOLDER
    python sd15.py FOLDER [--size 256 --size 512] [--threads 2] [--rounds 3] [--sdcpp f32+direct --sdcpp f16]

The second pip command needs a C++ compiler; without that package stable-diffusion.cpp is left out. Its options are what is
fastest on x86-64: without GGML_LLAMAFILE, its own default, it takes nearly twice as long. A variant of it is the type of its
weights, `f32` or `f16`, and its options: `+direct` (convolutions without a copy of the picture for each tap: as fast, in less
memory) and `+fa` (flash attention: slower on a CPU). Whatever the type, it keeps the convolutions' weights, and their inputs,
in f16.

All make a picture from the same noise and prompt in four steps (batch 1, no guidance, so one call of the UNet a step, at
LCM's timesteps) and decode it, with the same number of threads; Reverie and diffusers in fp32. Loading and the text encoder
are not timed. They take turns within a round, so that whatever else the machine does hits all alike; a round before warms
up, and its pictures are compared. The figures are medians.

Times on a machine that is busy with other things say little, and PyTorch's threads wait for each other by spinning: there,
compare the CPU time with `--threads 1`. CPU time over elapsed time tells how many threads were at work.

The number in parentheses is a peer's figure over Reverie's: above 1, Reverie is faster or smaller. Peak memory is that of a
process from the first step on, its weights included. stable-diffusion.cpp can't be without its text encoder, so its peak is also
given less the text encoder's weights.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PAUSE_S = 0.3


class Contender:
    """A process that answers a line of its input with a line of JSON."""

    def __init__(self, name, command, threads, env):
        self.name = name
        env = {**os.environ, "OMP_NUM_THREADS": threads, **env}
        command = [*command, "--threads", threads]
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} has ended")
        return json.loads(line)

    def ask(self, *words):
        # OpenMP's threads spin for a while after their work, at the cost of whoever comes next.
        time.sleep(PAUSE_S)
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def build_reverie():
    """The benchmark binary, built if need be."""
    line = ["cargo", "bench", "-p", "reverie-models", "--bench", "sd15", "--no-run", "--message-format", "json"]
    built = subprocess.run(line, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = [json.loads(message) for message in built.splitlines() if message.startswith("{")]
    return [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "sd15"][-1]


def start(folder, threads, variants):
    folder = str(folder.resolve())

    def peer(name, script, *options):
        return Contender(name, [sys.executable, HERE / script, folder, *options], threads, {})

    yield Contender("Reverie", [build_reverie(), "--serve"], threads, {"REVERIE_FULL_SIZE": folder})
    yield peer("diffusers", "peer_diffusers.py")
    if importlib.util.find_spec("stable_diffusion_cpp") is None:
        print("SKIPPED: stable-diffusion.cpp, as the package stable-diffusion-cpp-python is not installed", file=sys.stderr)
        return
    for variant in variants:
        yield peer(f"sd.cpp {variant}", "peer_sdcpp.py", "--variant", variant)


def compare(contenders, size):
    """The warm-up: how far each peer's picture is from Reverie's."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        pictures = []
        for contender in contenders:
            file = pathlib.Path(folder) / contender.name
            # Names have spaces.
            file = file.with_name(file.name.replace(" ", "-"))
            contender.ask(size, file)
            pictures.append(np.fromfile(file, np.float32))
    ours = pictures[0]
    for contender, theirs in zip(contenders[1:], pictures[1:]):
        eight_bits = contender.about.get("bits") == 8
        error = np.abs((ours.clip(-1, 1) if eight_bits else ours) - theirs)
        kind = ", as 8 bits" if eight_bits else ""
        print(
            f"{contender.name}: differs by at most {error.max():.1e} of {np.abs(theirs).max():.2f}, "
            f"on average {error.mean():.1e}{kind}"
        )


def elapsed(answer):
    return sum(answer["steps_s"]) + answer["vae_s"]


# What is told of an answer, given also what the contender has said of itself.
FIGURES = {
    "a step, s": lambda answer, _: statistics.median(answer["steps_s"]),
    "VAE, s": lambda answer, _: answer["vae_s"],
    "in all, s": lambda answer, _: elapsed(answer),
    "CPU, s": lambda answer, _: answer["cpu_s"],
    "threads at work": lambda answer, _: answer["cpu_s"] / elapsed(answer),
    "peak, MB": lambda answer, _: answer["peak_mb"],
    "peak less text encoder, MB": lambda answer, about: answer["peak_mb"] - about.get("extra_mb", 0),
}


def measure(contenders, size, rounds):
    answers = [[] for _ in contenders]
    for _ in range(rounds):
        for contender, own in zip(contenders, answers):
            own.append(contender.ask(size))
    names = [contender.name for contender in contenders]
    print(f"\n| {size}x{size} | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for what, figure in FIGURES.items():
        values = [
            statistics.median(figure(answer, contender.about) for answer in own)
            for contender, own in zip(contenders, answers)
        ]
        shown = [f"{value:.0f}" if "MB" in what else f"{value:.2f}" for value in values]
        if what != "threads at work":
            shown[1:] = [f"{text} ({value / values[0]:.2f})" for text, value in zip(shown[1:], values[1:])]
        print(f"| {what} | " + " | ".join(shown) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--size", type=int, action="append", help="the picture's side (default 256, 512)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sdcpp", action="append", metavar="VARIANT", help="default f32+direct and f16+direct")
    args = parser.parse_args()

    contenders = list(start(args.folder, str(args.threads), args.sdcpp or ["f32+direct", "f16+direct"]))
    for contender in contenders:
        about = contender.about
        print(
            f"{contender.name}: {about['name']}; loaded in {about['load_s']:.1f} s, peak {about['load_peak_mb']} MB, "
            f"then {about['loaded_mb']} MB"
        )
    for size in args.size or [256, 512]:
        print(f"\n{size}x{size}, {args.threads} threads, median of {args.rounds}")
        compare(contenders, size)
        measure(contenders, size, args.rounds)
    for contender in contenders:
        contender.close()


main()
