"""Times the operations of Stable Diffusion 1.5 at 512x512 with PyTorch, next to those of reverie-kernels.

    cargo bench -p reverie-kernels --bench diffusion_ops -- --batch 1 | tee ours.txt
    python tests/bench/diffusion/ops.py --batch 1 ours.txt

reads the names from the first program's output, times the same operations in eager mode, and prints both
times in milliseconds and by how much PyTorch is slower. `--cpu` counts CPU time instead of elapsed time (give
it to both programs, with one thread) for machines that are busy with something else.
"""

import argparse
import sys
import time

import torch
import torch.nn.functional as F


def linear(batch, rows, widths):
    inputs, outputs = map(int, widths.split("->"))
    x = torch.randn(batch, int(rows), inputs)
    layer = torch.nn.Linear(inputs, outputs)
    return lambda: layer(x)


def attention(batch, lengths, sizes):
    queries, keys = map(int, lengths.split("x"))
    heads, width = map(int, sizes.split("x"))
    q = torch.randn(batch, queries, heads * width)
    k = torch.randn(batch, keys, heads * width)

    def split(x):
        return x.view(batch, -1, heads, width).transpose(1, 2)

    def run():
        out = F.scaled_dot_product_attention(split(q), split(k), split(k))
        return out.transpose(1, 2).reshape(batch, queries, heads * width)

    return run


def conv(batch, kind, channels, side):
    kernel, stride = int(kind[0]), int(kind.split("/")[1])
    inputs, outputs = map(int, channels.split("->"))
    layer = torch.nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
    x = torch.randn(batch, inputs, int(side), int(side))
    return lambda: layer(x)


def picture(batch, channels, side):
    return torch.randn(batch, int(channels), int(side), int(side))


def group_norm_silu(batch, channels, side):
    x, norm = picture(batch, channels, side), torch.nn.GroupNorm(32, int(channels), 1e-5)
    return lambda: F.silu(norm(x))


def add(batch, channels, side):
    x = picture(batch, channels, side)
    return lambda: x + x


def upsample(batch, channels, side):
    x = picture(batch, channels, side)
    return lambda: F.interpolate(x, scale_factor=2.0, mode="nearest")


def to_tokens(batch, channels, side):
    x = picture(batch, channels, side)
    return lambda: x.permute(0, 2, 3, 1).reshape(batch, -1, int(channels)).contiguous()


def from_tokens(batch, channels, side):
    channels, side = int(channels), int(side)
    x = torch.randn(batch, side * side, channels)
    return lambda: x.reshape(batch, side, side, channels).permute(0, 3, 1, 2).contiguous()


def layer_norm(batch, tokens, channels):
    x, norm = torch.randn(batch, int(tokens), int(channels)), torch.nn.LayerNorm(int(channels))
    return lambda: norm(x)


def geglu(batch, tokens, channels):
    x = torch.randn(batch, int(tokens), int(channels))

    def run():
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)

    return run


OPERATIONS = [
    linear, attention, conv, group_norm_silu, add, upsample, to_tokens, from_tokens, layer_norm, geglu,
]


def best_ms(work, clock, threads):
    work()
    best, spent, runs = float("inf"), 0.0, 0
    while runs < 3 or (spent < 0.4 and runs < 200):
        start = clock()
        work()
        taken = clock() - start
        best, spent, runs = min(best, taken), spent + taken, runs + 1
    return best * 1e3 / (threads if clock is time.process_time else 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("ours", help="the output of the Rust benchmark for the same batch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu else time.perf_counter
    operations = {operation.__name__: operation for operation in OPERATIONS}
    print(f"{'':<40} {'ours':>10} {'torch':>10} {'ratio':>6}")
    with open(args.ours) as lines, torch.inference_mode():
        for line in lines:
            if line.startswith("#") or "\t" not in line:
                continue
            name, ours = line.split("\t")[:2]
            kind, *sizes = name.split()
            theirs = best_ms(operations[kind](args.batch, *sizes), clock, args.threads)
            print(f"{name:<40} {float(ours):>10.3f} {theirs:>10.3f} {theirs / float(ours):>6.2f}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
