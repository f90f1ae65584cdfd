"""What the two halves of a run do, in which order, and how long each stage should take."""

import importlib.util
import os
import pathlib
import shutil
import sys

from .schedule import Stage

# Of the kernels that matter, for ncu.
PROFILED = [
    "attention 2 4096x4096 8x40",
    "attention 1 4096x4096 1x512",
    "attention 2 4096x4096 10x64",
    "attention 2 1024x1024 20x64",
    "linear 8192 320->2560",
    "linear 2048 1280->10240",
    "conv 2 3x3/1 320->320 64",
    "conv 2 3x3/1 1280->1280 16",
    "conv 1 3x3/1 128->128 512",
    "upsample 1 512 128 2 bicubic",
]
SECTIONS = [
    "SpeedOfLight",
    "WarpStateStats",
    "MemoryWorkloadAnalysis_Tables",
    "Occupancy",
    "LaunchStats",
    "SourceCounters",
]
# Operations at real shapes, as parts of their checks' names: a process each.
REAL = {
    "convolutions": ["conv2d"],
    "linear": ["linear ", "linear_"],
    "attention": ["attention"],
    "norms": ["norm"],
    "values": ["unary", "scale_add", "clamp", "blend", "prelu ", "add_channels", "combine", "geglu"],
    "pictures": ["resize", "pixel_shuffle", "pad ", "concat", "stack", "images", "tokens"],
    "lookups": ["embedding", "pixels"],
}
# By how sure it is that they are right: see `attention_wgmma.ptx`.
WGMMA_WIDTHS = [64, 128, 40, 80, 160]
# Tests of the suite that do without a device, or compile everything.
NOT_ON_A_DEVICE = ["assemble::"]


class Kit:
    """Where everything is, and what there is to run it with."""

    def __init__(self, root, work, tables, dumps, emulated):
        self.root, self.work, self.tables, self.dumps, self.emulated = root, work, tables, dumps, emulated
        self.weights = pathlib.Path("/dev/shm") / f"reverie-gpu-kit-{os.getpid()}"
        if not os.access("/dev/shm", os.W_OK):
            self.weights = work / "weights"
        # Those of ours are asked for by their driver; tools and PyTorch have no use for an emulated one.
        self.device = {"LD_PRELOAD": str(emulated)} if emulated else {}
        self.no_torch = self.why_not_torch()

    def why_not_torch(self):
        if self.emulated:
            return "the device is emulated"
        return "" if importlib.util.find_spec("torch") else "there is no PyTorch"

    def without(self, tool):
        """Why a tool of CUDA can't run."""
        if self.emulated:
            return "the device is emulated"
        return "" if shutil.which(tool) else f"there is no {tool}"

    def own(self, name, binary, *words, expected, limit, env=None, missing=""):
        """A stage of one of our own programs."""
        env = {**self.device, **(env or {})}
        if self.emulated:
            # An interpreter on a machine with other work.
            limit *= 3
        return Stage(name, [self.root / "bin" / binary, *words], expected, limit, env=env, missing=missing)

    def asked(self, name, *words, **about):
        return self.own(name, "reverie-gpu-kit", *words, **about)

    def script(self, name, script, *words, expected, limit, missing=""):
        env = {"PYTHONPATH": str(self.root / "site")}
        command = [sys.executable, "-u", self.root / "peers" / script, *words]
        return Stage(name, command, expected, limit, env=env, missing=missing, debug=False)


def suite(kit, name="suite"):
    """Every operation of the interpreter's suite; of an emulated device, which is the interpreter, some."""
    words = ["copies", "linear"] if kit.emulated else []
    words += [word for test in NOT_ON_A_DEVICE for word in ("--skip", test)]
    return kit.own(name, "gpu", *words, expected=15, limit=60, env={"REVERIE_TEST_DEVICE": "cuda:0"})


def check(kit, name, *words, **about):
    """Operations against the CPU. Each process has a table of its own, as some run side by side."""
    return kit.asked(f"check-{name}", "check", *words, "--out", kit.tables / f"checks-{name}.tsv", **about)


def half_a(kit, schedule):
    tables, emulated = kit.tables, kit.emulated is not None
    schedule.run(kit.script("environment", "environment.py", kit.root, tables, expected=5, limit=30))
    schedule.run(kit.asked("modules", "modules", "--out", tables / "modules.tsv", expected=10, limit=60))
    schedule.run(suite(kit))
    schedule.run(check(kit, "small", "small", expected=5, limit=60))
    missing = "the device is emulated" if emulated else ""
    real = [
        check(kit, f"real-{name}", "real", *parts, expected=5, limit=60, missing=missing)
        for name, parts in REAL.items()
    ]
    schedule.run(*real, width=3)
    for width in WGMMA_WIDTHS:
        out = tables / "checks-wgmma.tsv"
        schedule.run(kit.asked(f"wgmma-{width}", "probe", str(width), "--out", out, expected=3, limit=20))
    # Those of all memory and of faults are the other half's last.
    device = ["device::a_budget", "device::transfers"] if emulated else ["device::"]
    schedule.run(kit.own("device", "cuda", *device, expected=10, limit=40))
    measured = [
        "--out",
        tables / "speeds.tsv",
        "--ceilings",
        tables / "ceilings.tsv",
        *(["--small"] if emulated else []),
    ]
    schedule.run(kit.asked("speeds", "speeds", *measured, expected=20, limit=70))
    schedule.run(kit.script("peers", "operations.py", tables, expected=20, limit=90, missing=kit.no_torch))
    # Of all goldens an interpreter makes some.
    pictures = "a_gpu_makes_the_same_pictures" if emulated else "a_gpu_makes"
    env = {"REVERIE_TEST_DEVICE": "cuda:0", "REVERIE_FIXTURES": str(kit.root / "fixtures")}
    schedule.run(kit.own("pipelines", "pipelines", pictures, expected=5, limit=60, env=env))


def half_b(kit, schedule, earlier):
    tables, weights = kit.tables, kit.weights
    again(kit, schedule, earlier)
    about = {"expected": 5, "limit": 40, "missing": kit.no_torch}
    make = [
        kit.script(f"weights-{model}", "weights.py", weights / model, "--model", model, **about)
        for model in ("sd15", "sdxl")
    ]
    schedule.run(*make, width=2)
    gate = kit.work / "gate"
    suite, without = kit.root / "bin" / "gpu", kit.without("compute-sanitizer")
    # PyTorch compiles meanwhile. Where nothing opens the gate, it still needs its time for that.
    gated = ["--gate", gate, "--gate-s", "60" if without else "110"]
    pictures = [kit.root / "bin" / "sd15", weights, tables, *gated]
    schedule.run(
        kit.script("sanitize", "sanitize.py", suite, gate, expected=30, limit=110, missing=without),
        kit.script("pictures", "pictures.py", *pictures, expected=60, limit=250, missing=kit.no_torch),
        width=2,
    )
    env = {"REVERIE_FULL_SIZE": str(weights / "sd15")}
    trace = ["--bench", "--device", "cuda:0", "--size", "512", "--trace", tables / "trace.tsv"]
    schedule.run(kit.own("trace", "sd15", *trace, expected=5, limit=30, env=env, missing=kit.no_torch))
    for way in ([], ["--wgmma"]):
        schedule.run(profile(kit, way))
    shutil.rmtree(weights, ignore_errors=True)
    # Faults on purpose, of which no dump is wanted.
    env = {"CUDA_ENABLE_COREDUMP_ON_EXCEPTION": "0"}
    words = ["--test-threads", "1"]
    missing = "" if (kit.root / "bin" / "cuda_alone").exists() else "it is not in the kit"
    schedule.run(kit.own("alone", "cuda_alone", *words, expected=5, limit=60, env=env, missing=missing))


def profile(kit, way):
    filters = [name for name in PROFILED if not way or name.startswith("attention 2")]
    name = "-".join(["ncu", *(word.strip("-") for word in way)])
    command = [
        "ncu",
        "--clock-control",
        "none",
        "--kernel-name",
        "regex:^(attention|gemm|resize)",
        "--export",
        kit.dumps / name,
    ]
    command += ["--force-overwrite", "--page", "details"]
    command += [word for section in SECTIONS for word in ("--section", section)]
    command += [kit.root / "bin" / "reverie-gpu-kit", "once", *way, *filters]
    return Stage(name, command, 15, 45, missing=kit.without("ncu"), debug=False)


def again(kit, schedule, earlier):
    """What failed in half A, alone: of tests those that failed."""
    bad = [
        line for line in earlier if line["half"] == "A" and line["outcome"] in ("failed", "crashed", "hung")
    ]
    stages = {}
    collect = Collect(stages)
    if bad:
        half_a(kit, collect)
    for line in bad:
        stage = stages.get(line["name"])
        if stage is None:
            continue
        stage.name = f"again-{stage.name}"
        if line.get("failed"):
            stage.command = [stage.command[0], "--exact", "--test-threads", "1", *line["failed"]]
        if "--out" in stage.command:
            # The tables are half A's.
            at = stage.command.index("--out")
            del stage.command[at : at + 2]
        stage.limit = stage.expected = min(stage.limit, 20)
        schedule.run(stage)


class Collect:
    """Takes the stages of a half instead of running them."""

    def __init__(self, stages):
        self.stages = stages

    def run(self, *stages, width=1):
        self.stages.update({stage.name: stage for stage in stages})
