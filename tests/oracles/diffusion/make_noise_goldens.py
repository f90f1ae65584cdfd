"""Blends of noise by spherical linear interpolation, in double precision, of PyTorch's noise.

    python make_noise_goldens.py ../../fixtures/diffusion/random/slerp.safetensors

Seed 1's noise, moved towards seed 2's by 0.3, then towards seed 3's by 0.85; 256 values each. The formula is Shoemake's of 1985.
"""

import sys

import torch
from safetensors.torch import save_file


def randn(seed):
    return torch.randn(256, generator=torch.Generator("cpu").manual_seed(seed)).double()


def slerp(a, b, t):
    omega = torch.arccos(torch.dot(a / a.norm(), b / b.norm()))
    return (torch.sin((1 - t) * omega) * a + torch.sin(t * omega) * b) / torch.sin(omega)


once = slerp(randn(1), randn(2), 0.3)
twice = slerp(once.float().double(), randn(3), 0.85)
save_file({"once": once.float(), "twice": twice.float()}, sys.argv[1])
