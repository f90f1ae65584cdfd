"""Times the operations of `cargo bench -p reverie-kernels --bench gpu` with PyTorch on the same GPU, in fp16 and eager mode.

    cargo bench -p reverie-kernels --bench gpu | tee ours.txt
    python tests/bench/gpu/torch_peer.py ours.txt

reads the names from the first program's output and prints a Markdown table: both medians in milliseconds and PyTorch's over
ours: above 1, Reverie is faster. (`run.sh` does both.) Whatever PyTorch can do to be faster is tried, and its fastest way counts and is
named: each of the attention kernels, channels last and first, cuDNN's search for the fastest convolution. Lanczos is not in
PyTorch.
"""

import argparse
import statistics
import sys
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# As in kernels/benches/gpu.rs.
SAMPLES = 25
SAMPLE_MS = 4.0
WARM_UP_MS = 200.0


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.float16)


def attention(batch, lengths, sizes):
    batch = int(batch)
    queries, keys = map(int, lengths.split("x"))
    heads, width = map(int, sizes.split("x"))

    # In memory as the projections leave them: heads side by side in a token.
    def tokens(count):
        return random(batch, count, heads, width).transpose(1, 2)

    q, k, v = tokens(queries), tokens(keys), tokens(keys)

    def run():
        return F.scaled_dot_product_attention(q, k, v)

    backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    return {backend.name.split("_")[0].lower(): (run, sdpa_kernel(backend)) for backend in backends}


def linear(rows, widths):
    inputs, outputs = map(int, widths.split("->"))
    x, weight, bias = random(int(rows), inputs), random(outputs, inputs), random(outputs)
    return {"linear": (lambda: F.linear(x, weight, bias), nullcontext())}


def layouts(run, x, *others):
    """`run` with pictures in both layouts."""
    last = [tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, *others)]
    return {
        "channels last": (lambda: run(*last), nullcontext()),
        "channels first": (lambda: run(x, *others), nullcontext()),
    }


def conv(batch, kind, channels, side):
    kernel, stride = int(kind[0]), int(kind.split("/")[1])
    inputs, outputs = map(int, channels.split("->"))
    x, bias = random(int(batch), inputs, int(side), int(side)), random(outputs)
    weight = random(outputs, inputs, kernel, kernel)
    return layouts(lambda x, weight: F.conv2d(x, weight, bias, stride, kernel // 2), x, weight)


def upsample(batch, channels, side, factor, mode):
    x = random(int(batch), int(channels), int(side), int(side))
    if mode == "lanczos":
        return {}
    return layouts(lambda x: F.interpolate(x, scale_factor=float(factor), mode=mode), x)


# Each makes variants by name: the work, and the context in which it runs.
OPERATIONS = {operation.__name__: operation for operation in [attention, linear, conv, upsample]}


def time_ms(work, count):
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(count):
        work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def median_ms(work):
    time_ms(work, 1)
    count, spent = 1, 0.0
    while spent < WARM_UP_MS:
        sample = time_ms(work, count)
        spent += max(sample, 0.01)
        count = min(max(1, round(SAMPLE_MS * count / max(sample, 1e-4))), 10_000)
    return statistics.median(time_ms(work, count) / count for _ in range(SAMPLES))


def fastest(variants):
    """Milliseconds and name of the fastest variant that runs here."""
    times = []
    for name, (work, context) in variants.items():
        try:
            with context:
                times.append((median_ms(work), name))
        except RuntimeError as error:
            # Not every kernel takes every shape on every GPU.
            refusals = ["No available kernel", "No viable backend", "No valid execution plans"]
            if not any(refusal.lower() in str(error).lower() for refusal in refusals):
                raise
    return min(times, default=None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", help="the output of the Rust benchmark")
    args = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    print("| operation | Reverie, ms | rate | PyTorch, ms | ratio | its fastest way |\n|---|---|---|---|---|---|")
    with open(args.ours) as lines, torch.inference_mode():
        for line in lines:
            if line.startswith("#") or "\t" not in line:
                continue
            name, ours, rate = (column.strip() for column in line.split("\t"))
            kind, *sizes = name.split()
            found = fastest(OPERATIONS[kind](*sizes))
            if found:
                theirs, variant = found
                print(f"| {name} | {ours} | {rate} | {theirs:.4f} | {theirs / float(ours):.2f} | {variant} |")
            else:
                print(f"| {name} | {ours} | {rate} | | | |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
