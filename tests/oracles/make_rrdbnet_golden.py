"""A tiny RRDBNet with random weights and what PyTorch makes of a random picture: ../fixtures/rrdbnet.safetensors.

    python make_rrdbnet_golden.py ../fixtures

The forward pass is written from the network's definition (Wang et al. 2018, "ESRGAN"), with the tensor names of
BasicSR's checkpoints.
"""

import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

FEATURES, GROWTH, BLOCKS = 8, 4, 2


def main():
    torch.manual_seed(7)
    weights = {}

    def conv(name, cin, cout):
        weights[f"{name}.weight"] = torch.randn(cout, cin, 3, 3) * (0.6 / (cin * 9) ** 0.5)
        weights[f"{name}.bias"] = torch.randn(cout) * 0.05

    conv("conv_first", 3, FEATURES)
    for block in range(BLOCKS):
        for dense in (1, 2, 3):
            for i in range(5):
                conv(f"body.{block}.rdb{dense}.conv{i + 1}", FEATURES + i * GROWTH, GROWTH if i < 4 else FEATURES)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        conv(name, FEATURES, FEATURES)
    conv("conv_last", FEATURES, 3)

    def run(name, x):
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    def act(x):
        return F.leaky_relu(x, 0.2)

    def dense_block(name, x):
        parts = [x]
        for i in range(4):
            parts.append(act(run(f"{name}.conv{i + 1}", torch.cat(parts, 1))))
        return run(f"{name}.conv5", torch.cat(parts, 1)) * 0.2 + x

    picture = torch.rand(1, 3, 13, 10)
    first = run("conv_first", picture)
    x = first
    for block in range(BLOCKS):
        y = x
        for dense in (1, 2, 3):
            y = dense_block(f"body.{block}.rdb{dense}", y)
        x = y * 0.2 + x
    x = first + run("conv_body", x)
    x = act(run("conv_up1", F.interpolate(x, scale_factor=2, mode="nearest")))
    x = act(run("conv_up2", F.interpolate(x, scale_factor=2, mode="nearest")))
    x = run("conv_last", act(run("conv_hr", x)))
    out = pathlib.Path(sys.argv[1])
    save_file(weights, out / "rrdbnet.safetensors")
    save_file({"input": picture, "output": x}, out / "rrdbnet-golden.safetensors")


main()
