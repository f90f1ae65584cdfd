"""Pictures of SD 1.5's and SDXL's shape: Reverie by mma and by wgmma beside diffusers, eager and compiled.

    python3 pictures.py REVERIE WEIGHTS TABLES [--gate FILE] [--gate-s 110] [--small] [--device cuda]

REVERIE is the benchmark `sd15` of host/models, WEIGHTS has the folders `sd15` and `sdxl` of weights.py;
Markdown goes to TABLES/pictures.md as it becomes known. All contenders of single pictures load, compile and
warm up at once, while other work may still go on; nothing is timed before FILE exists, or so many seconds have
passed. Each then makes pictures in turns with the others of its model and batch. Whoever has not warmed up by
then is left out, and said to be; one that has ended by itself makes this end with 1. Batches come after them. `tests/bench/diffusion/sd15.py` says what the figures are.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import threading
import time

import numpy as np

from contenders import Contender, Ended, Skipped, differences, table

HERE = pathlib.Path(__file__).resolve().parent
# The last of them is compared. PyTorch compiles in the first and records in the second, as Reverie does.
WARM_UP = 3
PAUSE_S = 0.02
LATE_REASON = "not ready in time"
# How long those that need no compiler may take to be ready, and those that do, from the beginning.
READY_S = 40
COMPILED_S = 150
# Model, side, batch, rounds. Each of the late ones takes most of a device's memory: it begins when others are gone, without
# wgmma and without what has to be compiled.
EARLY = [("sd15", 512, 1, 7), ("sdxl", 1024, 1, 5)]
LATE = [("sd15", 512, 8, 5), ("sdxl", 1024, 8, 2)]
SMALL = [("sd15", 64, 1, 1), ("sdxl", 64, 1, 1)]


class Entry:
    """A contender of a job, which gets ready in a thread of its own."""

    def __init__(self, name, command, job, folder, env):
        self.name, self.job = name, job
        self.file = folder / f"{'-'.join(map(str, job))}-{name.replace(' ', '-').replace(',', '')}"
        self.contender = Contender(name, command, str(os.cpu_count()), env, pause_s=PAUSE_S)
        self.ready, self.failed, self.crashed = False, None, False
        self.began = time.monotonic()
        self.thread = threading.Thread(target=self.warm_up, daemon=True)
        self.thread.start()

    def warm_up(self):
        _, size, batch, _ = self.job
        try:
            self.contender.wait()
            for _ in range(WARM_UP):
                self.contender.ask(size, batch, self.file)
            self.took_s = time.monotonic() - self.began
            self.ready = True
        except (Skipped, Ended, ValueError) as reason:
            # It may have been killed as too slow.
            self.crashed = self.failed is None and not isinstance(reason, Skipped)
            self.failed = self.failed or str(reason)


class Pictures:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.out = open(args.tables / "pictures.md", "w")
        self.crashed = []

    def say(self, text):
        print(text, flush=True)
        print(text, file=self.out, flush=True)

    def start(self, jobs, kinds):
        """Contenders of these jobs, of these kinds."""
        args, entries = self.args, []
        for job in jobs:
            weights = args.weights / job[0]
            reverie = [args.reverie, "--serve", "--device", args.device]
            peer = [sys.executable, HERE / "peer_diffusers.py", weights, "--device", args.device]
            commands = {
                "Reverie": reverie,
                "Reverie, wgmma": [*reverie, "--wgmma"],
                "diffusers": peer,
                "diffusers, compiled": [*peer, "--compile", args.compile],
            }
            env = {"REVERIE_FULL_SIZE": str(weights)}
            entries += [Entry(name, commands[name], job, self.folder, env) for name in kinds]
        return entries

    def wait_for(self, entries, seconds):
        deadline = time.monotonic() + seconds
        for entry in entries:
            entry.thread.join(max(0, deadline - time.monotonic()))

    def wait_for_gate(self):
        deadline = time.monotonic() + self.args.gate_s
        while self.args.gate and not self.args.gate.exists() and time.monotonic() < deadline:
            time.sleep(0.1)

    def measure(self, job, entries):
        model, size, batch, rounds = job
        entries = [entry for entry in entries if entry.job == job]
        self.say(f"\n### {model}, {size}x{size}, batch {batch}, median of {rounds}\n")
        for entry in entries:
            if not entry.ready:
                self.say(f"- {entry.name}: left out: {entry.failed or LATE_REASON}")
            if entry.crashed:
                self.crashed.append(f"{entry.name} ({model} {size}, batch {batch})")
        entries = [entry for entry in entries if entry.ready]
        for entry in entries:
            self.say(f"- {entry.name}: {entry.contender.about['name']}; ready after {entry.took_s:.0f} s")
        pictures = [np.fromfile(entry.file, np.float32) for entry in entries]
        for entry, values in zip(entries[1:], pictures[1:]):
            self.say(f"- {entry.name}: {differences(pictures[0], values)}")
        answers = [[] for _ in entries]
        for _ in range(rounds):
            for entry, own in zip(entries, answers):
                # The clocks have fallen in the others' turns.
                entry.contender.ask(size, batch)
                own.append(entry.contender.ask(size, batch))
        if entries:
            kind = self.args.device.split(":")[0]
            self.say(
                "\n"
                + table(
                    f"{model} {size}x{size}, batch {batch}", [e.contender for e in entries], answers, kind
                )
            )
        for entry in entries:
            entry.contender.close()

    def run(self, early, late):
        began = time.monotonic()
        compiled = self.start(early, ["diffusers, compiled"])
        entries = self.start(early, ["Reverie", "Reverie, wgmma", "diffusers"])
        self.wait_for_gate()
        self.wait_for(entries, READY_S)
        self.wait_for(compiled, began + COMPILED_S - time.monotonic())
        # They may take processors and the device from what is timed.
        for entry in entries + compiled:
            if not entry.ready:
                entry.failed = entry.failed or LATE_REASON
                entry.contender.kill()
        for job in early:
            self.try_to_measure(job, entries + compiled)
        for job in late:
            entries = self.start([job], ["Reverie", "diffusers"])
            self.wait_for(entries, READY_S)
            self.try_to_measure(job, entries)
            for entry in entries:
                entry.contender.kill()

    def try_to_measure(self, job, entries):
        try:
            self.measure(job, entries)
        except Ended as reason:
            self.say(f"- ended: {reason}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reverie", type=pathlib.Path)
    parser.add_argument("weights", type=pathlib.Path)
    parser.add_argument("tables", type=pathlib.Path)
    parser.add_argument("--gate", type=pathlib.Path)
    parser.add_argument("--gate-s", type=float, default=0)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", default="reduce-overhead", metavar="MODE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pictures = Pictures(args, pathlib.Path(folder))
        early, late = (SMALL, []) if args.small else (EARLY, LATE)
        pictures.run(early, late)
        if pictures.crashed:
            sys.exit(f"ended by themselves: {', '.join(pictures.crashed)}")


main()
