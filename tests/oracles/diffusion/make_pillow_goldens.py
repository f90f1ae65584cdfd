"""What Pillow makes of small pictures, for host/models/tests/pillow.rs.

    pip install -r requirements.txt
    python make_pillow_goldens.py

Writes tests/fixtures/diffusion/pillow/goldens.safetensors: the pictures `RGB` and `L` (rows, columns, colours), each resized by
each filter to several sizes (`RGB/lanczos/24x16`, width first), and pictures in grey.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parents[2] / "fixtures/diffusion/pillow"
FILTERS = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}
# Enlarged, reduced, both, one side alone, by whole factors and by others. The last three have the columns resized first.
SIZES = [(37, 28), (16, 26), (31, 30), (40, 23), (8, 8), (3, 1), (30, 20), (40, 12), (29, 18)]


def main() -> None:
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:23, :31]
    # Edges, slopes and noise, so that overshoot and its clipping show.
    plain = np.stack([255 * (x > 15), 255 * y / 23, 127 + 127 * np.sin(x * y / 20)], -1)
    picture = np.clip(plain + rng.normal(0, 20, plain.shape), 0, 255).astype(np.uint8)
    mask = np.where((x - 12) ** 2 + (y - 11) ** 2 < 60, 255, 0).astype(np.uint8)
    tensors = {"RGB": torch.from_numpy(picture), "L": torch.from_numpy(mask)}
    for mode, pixels in [("RGB", picture), ("L", mask)]:
        for name, filter_ in FILTERS.items():
            for size in SIZES:
                resized = np.asarray(Image.fromarray(pixels).resize(size, filter_))
                tensors[f"{mode}/{name}/{size[0]}x{size[1]}"] = torch.from_numpy(resized.copy())
    ramps = np.zeros((3, 256, 3), np.uint8)
    for channel in range(3):
        ramps[channel, :, channel] = np.arange(256)
    ramps = np.concatenate([ramps, np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)])
    for name, pixels in [("grey", picture), ("ramps_grey", ramps)]:
        tensors[name] = torch.from_numpy(np.asarray(Image.fromarray(pixels).convert("L")).copy())
    tensors["ramps"] = torch.from_numpy(ramps)
    OUT.mkdir(exist_ok=True)
    save_file(tensors, OUT / "goldens.safetensors")


if __name__ == "__main__":
    main()
