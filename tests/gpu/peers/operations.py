"""Times with PyTorch the operations that `reverie-gpu-kit speeds` timed, on the same GPU, in fp16.

    python3 operations.py TABLES [--device cuda] [--small]

reads the names from TABLES/speeds.tsv and writes TABLES/peers.tsv: for each the median and the fastest way,
replayed from a CUDA graph of several runs as ours are; adds to TABLES/ceilings.tsv what a copy and a product
of 8192-cubed matrices reach. Whatever PyTorch can do to be faster is tried, and its fastest way counts: each
of the attention kernels, channels last and first, cuDNN's search for the fastest convolution. Lanczos is not
in PyTorch.
"""

import argparse
import csv
import pathlib
import statistics
import time
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# As in kernels/examine/src/speed/replay.rs.
RUNS = 500
SAMPLES = 15
SAMPLE_MS = 4.0
WARM_UP_MS = 100.0

# Not every kernel takes every shape on every GPU.
REFUSALS = [
    "no available kernel",
    "no viable backend",
    "no valid execution plans",
    "unable to find an engine",
]


class Clock:
    """Medians of replayed runs; on the CPU, for tests of this program, of plain ones."""

    def __init__(self, device, small):
        self.device = device
        self.on_gpu = device.type == "cuda"
        self.warm_up_ms, self.sample_ms, self.samples = (
            (0, 0, 1) if small else (WARM_UP_MS, SAMPLE_MS, SAMPLES)
        )

    def random(self, *shape):
        return torch.randn(*shape, device=self.device, dtype=torch.float16)

    def time_ms(self, work):
        if not self.on_gpu:
            start = time.perf_counter()
            work()
            return 1e3 * (time.perf_counter() - start)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def median_ms(self, work):
        # Loads kernels, and has cuDNN search.
        for _ in range(3):
            work()
        once = self.time_ms(work)
        runs = int(min(max(2, self.sample_ms / max(once, 1e-4) + 1), RUNS))

        def repeated():
            for _ in range(runs):
                work()

        replay = repeated
        if self.on_gpu:
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                repeated()
            replay = graph.replay
        spent = 0.0
        while spent < self.warm_up_ms:
            spent += max(self.time_ms(replay), 0.01)
        return statistics.median(self.time_ms(replay) / runs for _ in range(self.samples))


def attention(clock, batch, lengths, sizes):
    batch = int(batch)
    queries, keys = map(int, lengths.split("x"))
    heads, width = map(int, sizes.split("x"))

    # In memory as the projections leave them: heads side by side in a token.
    def tokens(count):
        return clock.random(batch, count, heads, width).transpose(1, 2)

    q, k, v = tokens(queries), tokens(keys), tokens(keys)

    def run():
        return F.scaled_dot_product_attention(q, k, v)

    backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    if not clock.on_gpu:
        backends = [SDPBackend.MATH]
    return {
        backend.name.split("_")[0].lower(): (run, lambda backend=backend: sdpa_kernel(backend))
        for backend in backends
    }


def linear(clock, rows, widths):
    inputs, outputs = map(int, widths.split("->"))
    x, weight, bias = clock.random(int(rows), inputs), clock.random(outputs, inputs), clock.random(outputs)
    return {"linear": (lambda: F.linear(x, weight, bias), nullcontext)}


def layouts(run, x, *others):
    """`run` with pictures in both layouts."""
    last = [tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, *others)]
    return {
        "channels last": (lambda: run(*last), nullcontext),
        "channels first": (lambda: run(x, *others), nullcontext),
    }


def conv(clock, batch, kind, channels, side):
    kernel, stride = int(kind[0]), int(kind.split("/")[1])
    inputs, outputs = map(int, channels.split("->"))
    x, bias = clock.random(int(batch), inputs, int(side), int(side)), clock.random(outputs)
    weight = clock.random(outputs, inputs, kernel, kernel)
    return layouts(lambda x, weight: F.conv2d(x, weight, bias, stride, kernel // 2), x, weight)


def upsample(clock, batch, channels, side, factor, mode):
    x = clock.random(int(batch), int(channels), int(side), int(side))
    if mode == "lanczos":
        return {}
    return layouts(lambda x: F.interpolate(x, scale_factor=float(factor), mode=mode), x)


# Each makes variants by name: the work, and the context in which it runs.
OPERATIONS = {operation.__name__: operation for operation in [attention, linear, conv, upsample]}


def fastest(clock, variants):
    """Milliseconds and name of the fastest variant that runs here."""
    times = []
    for name, (work, context) in variants.items():
        try:
            with context():
                times.append((clock.median_ms(work), name))
        except RuntimeError as error:
            if not any(refusal in str(error).lower() for refusal in REFUSALS):
                raise
    return min(times, default=None)


def ceilings(clock, small):
    side, values = (64, 1 << 10) if small else (8192, 128 << 20)
    a, b = clock.random(side, side), clock.random(side, side)
    rate = 2 * side**3 / clock.median_ms(lambda: a @ b) / 1e9
    yield f"PyTorch, {side}-cubed product", f"{rate:.1f}", "TFLOP/s"
    x, y = clock.random(values), clock.random(values)
    yield "PyTorch, copy", f"{4 * values / clock.median_ms(lambda: y.copy_(x)) / 1e6:.0f}", "GB/s"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", type=pathlib.Path)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--small", action="store_true", help="one quick sample each")
    args = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    clock = Clock(args.device, args.small)
    with open(args.tables / "speeds.tsv", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        # By `mma` and `wgmma` it is the same to PyTorch.
        names = list(dict.fromkeys(f"{row['operation']} {row['case']}" for row in rows))
    with torch.inference_mode(), open(args.tables / "peers.tsv", "w") as out:
        print("name\tms\tvariant", file=out, flush=True)
        for name in names:
            kind, *sizes = name.split()
            found = fastest(clock, OPERATIONS[kind](clock, *sizes))
            ms, variant = (f"{found[0]:.4f}", found[1]) if found else ("", "")
            print(f"{name}\t{ms}\t{variant}", file=out, flush=True)
            print(f"{name:40} {ms:>9} ms  {variant}", flush=True)
        with open(args.tables / "ceilings.tsv", "a") as table:
            for row in ceilings(clock, args.small):
                print(*row, sep="\t", file=table, flush=True)
                print(*row, flush=True)
    print(f"{len(names)} operations")


main()
