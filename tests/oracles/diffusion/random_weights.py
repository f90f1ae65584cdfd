"""Weights that a test can make again: every value follows from the tensor's name, so that fixtures hold none.

`host/models/tests/random_weights` is the same in Rust. A tensor of `n` values takes the outputs of SplitMix64 (Steele
et al. 2014, "Fast splittable pseudorandom number generators") from the seed fnv1a(name) on; the upper 24 bits make a
number in [-1, 1), which is scaled and shifted.
"""

import math

import numpy as np
import torch


def fnv1a(name):
    """The 64-bit FNV-1a hash of a string."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def uniform(name, shape, scale=1.0, offset=0.0):
    """A float32 tensor of values in [offset - scale, offset + scale)."""
    count = math.prod(shape)
    with np.errstate(over="ignore"):
        state = np.uint64(fnv1a(name)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    unit = (state >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)
    return torch.from_numpy((unit * np.float32(scale) + np.float32(offset)).reshape(shape))


def recipe(name, shape):
    """Scale and offset that keep activations near 1, and every parameter away from its neutral value."""
    if len(shape) == 1:
        return (0.3, 1.0) if "norm" in name and name.endswith("weight") else (0.2, 0.0)
    # A uniform distribution over [-s, s) has the variance s²/3.
    return (math.sqrt(3.0 / math.prod(shape[1:])), 0.0)


def fill(model):
    """Gives every parameter of `model` its values; returns name -> [shape, scale, offset], for a fixture's JSON."""
    tensors = {}
    state = model.state_dict()
    for name, old in state.items():
        shape = list(old.shape)
        scale, offset = (float(np.float32(value)) for value in recipe(name, shape))
        state[name] = uniform(name, shape, scale, offset)
        tensors[name] = [shape, scale, offset]
    model.load_state_dict(state)
    return tensors
