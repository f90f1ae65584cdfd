"""Programs that make the same pictures, each in a process of its own; `protocol.py` is their side of it."""

import json
import os
import statistics
import subprocess
import time

import numpy as np

PAUSE_S = 0.3


class Skipped(Exception):
    """A contender that says that it can't take part here, and why."""


class Ended(Exception):
    """A contender that ended before its time."""


class Contender:
    """A process that answers a line of its input with a line of JSON."""

    def __init__(self, name, command, threads, env, pause_s=PAUSE_S):
        self.name, self.pause_s = name, pause_s
        env = {**os.environ, "OMP_NUM_THREADS": threads, **env}
        command = [*command, "--threads", threads]
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.about = {}

    def wait(self):
        """Until it has loaded; gives itself."""
        self.about = self.answer()
        if reason := self.about.get("skipped"):
            raise Skipped(reason)
        return self

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Ended(f"{self.name} has ended")
        return json.loads(line)

    def ask(self, *words):
        # OpenMP's threads spin for a while after their work, at the cost of whoever comes next.
        time.sleep(self.pause_s)
        try:
            self.process.stdin.write(" ".join(map(str, words)) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Ended(f"{self.name} has ended") from None
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def kill(self):
        self.process.kill()
        self.process.wait()


def elapsed(answer):
    return sum(answer["steps_s"]) + answer["vae_s"]


# What is told of an answer, given also what the contender has said of itself.
FIGURES = {
    "cpu": {
        "a step, s": lambda answer, _: statistics.median(answer["steps_s"]),
        "VAE, s": lambda answer, _: answer["vae_s"],
        "in all, s": lambda answer, _: elapsed(answer),
        "CPU, s": lambda answer, _: answer["cpu_s"],
        "threads at work": lambda answer, _: answer["cpu_s"] / elapsed(answer),
        "peak, MB": lambda answer, _: answer["peak_mb"],
        "peak less text encoder, MB": lambda answer, about: answer["peak_mb"] - about.get("extra_mb", 0),
    },
    "cuda": {
        "all steps, ms": lambda answer, _: 1e3 * sum(answer["steps_s"]),
        "VAE, ms": lambda answer, _: 1e3 * answer["vae_s"],
        "in all, ms": lambda answer, _: 1e3 * elapsed(answer),
        "tensors, MB": lambda answer, _: answer["tensors_mb"],
        "held, MB": lambda answer, _: answer["held_mb"],
    },
}


def differences(expected, theirs, eight_bits=False):
    """How far a peer's pictures are from Reverie's, in words."""
    error = np.abs((expected.clip(-1, 1) if eight_bits else expected) - theirs)
    kind = ", as 8 bits" if eight_bits else ""
    largest = np.abs(theirs).max()
    return f"differs by at most {error.max():.1e} of {largest:.2f}, on average {error.mean():.1e}{kind}"


def table(title, contenders, answers, kind):
    """Medians by contender, and a peer's over those of the first, which is Reverie."""
    names = [contender.name for contender in contenders]
    lines = [f"| {title} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for what, figure in FIGURES[kind].items():
        values = [
            statistics.median(figure(answer, contender.about) for answer in own)
            for contender, own in zip(contenders, answers)
        ]
        shown = [f"{value:.0f}" if "MB" in what else f"{value:.2f}" for value in values]
        if what != "threads at work":
            shown[1:] = [f"{text} ({value / values[0]:.2f})" for text, value in zip(shown[1:], values[1:])]
        lines.append(f"| {what} | " + " | ".join(shown) + " |")
    return "\n".join(lines)
