"""Runs ncnn itself over the photograph and stores what it makes.

    python make_sr_goldens.py MODELS_DIR ../fixtures/sr
"""

import pathlib
import sys

import ncnn
import numpy as np
from PIL import Image


def run(models, name, picture):
    net = ncnn.Net()
    # The reference in full precision.
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = net.opt.use_vulkan_compute = False
    net.load_param(str(models / f"{name}.param"))
    net.load_model(str(models / f"{name}.bin"))
    planes = np.ascontiguousarray(picture.transpose(2, 0, 1).astype(np.float32) / 255)
    extractor = net.create_extractor()
    extractor.input("data", ncnn.Mat(planes))
    _, out = extractor.extract("output")
    out = np.array(out).transpose(1, 2, 0)
    return np.clip(np.floor(out * 255 + 0.5), 0, 255).astype(np.uint8)


def main():
    models, out = map(pathlib.Path, sys.argv[1:3])
    photo = np.array(Image.open(out / "photo.png").convert("RGB"))
    for scale in (2, 3, 4):
        made = run(models, f"realesr-animevideov3-x{scale}", photo)
        Image.fromarray(made).save(out / f"ncnn-x{scale}.png", optimize=True)
        print(scale, made.shape)


main()
