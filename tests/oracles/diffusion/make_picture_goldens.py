"""What Pillow makes of pictures of every kind, for host/src/pictures/pillow.rs.

    pip install -r requirements.txt
    python make_picture_goldens.py

Writes tests/fixtures/pictures: a PNG of each kind (`rgba16.png`), the same by `convert("RGB")` (`rgba16.rgb.png`) and by
`convert("L")` (`rgba16.l.png`), those with 8 bits resized (`rgba.lanczos.13x20.png`), and a JPEG with several scans.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

OUT = Path(__file__).resolve().parents[2] / "fixtures/pictures"
FILTERS = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}
SIZES = [(37, 26), (13, 9), (24, 30)]
# PNG's colour types.
TYPES = {"l16": (0, 1), "rgb16": (2, 3), "la16": (4, 2), "rgba16": (6, 4)}


def png_of_16_bits(pixels: np.ndarray, colour_type: int) -> bytes:
    """Pillow writes none in colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def main() -> None:
    rng = np.random.default_rng(11)
    y, x = np.mgrid[:19, :24]
    plain = np.stack([255 * (x > 12), 255 * y / 19, 127 + 127 * np.sin(x * y / 20), 255 * (x + y < 25) * x / 12], -1)
    rgba = np.clip(plain + rng.normal(0, 20, plain.shape), 0, 255).astype(np.uint8)
    pictures = {"rgba": Image.fromarray(rgba), "rgb": Image.fromarray(rgba[:, :, :3].copy()), "l": Image.fromarray(rgba[:, :, 2].copy())}
    pictures["la"] = Image.merge("LA", [pictures["l"], Image.fromarray(rgba[:, :, 3].copy())])
    OUT.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        picture.save(OUT / f"{name}.png")
        for filter_name, filter_ in FILTERS.items():
            for size in SIZES:
                picture.resize(size, filter_).save(OUT / f"{name}.{filter_name}.{size[0]}x{size[1]}.png")
    pictures["rgb"].quantize(16).save(OUT / "p.png", transparency=3)
    pictures["l"].point(lambda value: 255 * (value > 127)).convert("1").save(OUT / "1.png")
    for name, (colour_type, channels) in TYPES.items():
        pixels = rng.integers(0, 1 << 16, (8, 16, channels))
        # Where rounding and cutting off differ.
        pixels[0] = np.array([0, 1, 127, 128, 200, 255, 256, 300, 383, 384, 32767, 32768, 65279, 65407, 65408, 65535])[:, None]
        (OUT / f"{name}.png").write_bytes(png_of_16_bits(pixels, colour_type))
    for name in [*pictures, "p", "1", *TYPES]:
        picture = Image.open(io.BytesIO((OUT / f"{name}.png").read_bytes()))
        for to, made in [("rgb", picture.convert("RGB")), ("l", picture.convert("RGB").convert("L"))]:
            # Without what else the file says, such as its transparent colour.
            Image.fromarray(np.asarray(made)).save(OUT / f"{name}.{to}.png")
    pictures["rgb"].save(OUT / "progressive.jpg", progressive=True, quality=80)


if __name__ == "__main__":
    main()
