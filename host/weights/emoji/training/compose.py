"""Draws scenes: `python compose.py RUN train 60000`, and `judge`, whose scenes hold nothing out.

Writes RUN/SET.pictures.npy (uint8, a memory map), RUN/SET.scenes.pkl.
"""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import captions as words

SIZE = 128
# Side and centre of each object, always the same: a picture nearly follows from its caption, so that little is left to
# learn but what things look like. Sides and places are whole latents.
PLACES = {
    "plain": [(96, 64, 64)],
    "small": [(48, 64, 64)],
    "large": [(120, 64, 64)],
    "left": [(64, 32, 64)],
    "right": [(64, 96, 64)],
    "two": [(56, 32, 64), (56, 96, 64)],
    "pair": [(56, 32, 64), (56, 96, 64)],
}


def main_hue(image):
    """Which pixels have the object's main colour, as weights, and that colour's hue; none where it is mostly gray."""
    rgb, alpha = image[..., :3].astype(np.float32), image[..., 3] / 255.0
    low, high = rgb.min(-1), rgb.max(-1)
    span = high - low
    hue = np.arctan2(np.sqrt(3) * (rgb[..., 1] - rgb[..., 2]), 2 * rgb[..., 0] - rgb[..., 1] - rgb[..., 2])
    coloured = alpha * (span > 40)
    if coloured.sum() < 0.25 * alpha.sum():
        return None
    bins = np.histogram(hue, 24, (-np.pi, np.pi), weights=coloured * span)[0]
    smooth = bins + np.roll(bins, 1) + np.roll(bins, -1)
    main = (np.argmax(smooth) + 0.5) * np.pi / 12 - np.pi
    distance = np.abs((hue - main + np.pi) % (2 * np.pi) - np.pi)
    return np.clip(2.2 - 2.4 * distance, 0, 1) * np.clip(span / 40, 0, 1), main, smooth.max() / bins.sum()


def own_colour(image, found):
    """The word for the colour that most of the object has, where it clearly has one."""
    if found is None or found[2] < 0.8:
        return None
    degrees = np.degrees(found[1]) % 360
    weight = found[0] * image[..., 3]
    brightness = (image[..., :3].max(-1) * weight).sum() / weight.sum()
    if 12 < degrees < 42 and brightness < 185:
        return "brown"
    for limit, name in ((12, "red"), (38, "orange"), (66, "yellow"), (165, "green"), (255, "blue"), (305, "purple")):
        if degrees < limit:
            return name
    return "pink" if degrees < 345 else "red"


def painted(image, found, paint):
    """The object with its main colour replaced: the shading stays, and so do parts of other colours."""
    colour, brightness = words.PAINTS[paint]
    colour = np.array(colour, np.float32)
    rgb = image[..., :3].astype(np.float32)
    low, high = rgb.min(-1, keepdims=True), rgb.max(-1, keepdims=True)
    if found is None:
        # Of a gray object everything is tinted, by its brightness.
        weight, target = 1.0, (0.25 * low + 0.75 * high) * (0.15 + 0.85 * colour)
    else:
        weight = found[0][..., None]
        target = low + (high - low) * colour
    if paint in ("black", "white"):
        grey = 0.3 * low + 0.7 * high
        target = grey * brightness if paint == "black" else np.minimum(255 - (255 - grey) * 0.55, image[..., 3:])
    else:
        target = target * brightness
    out = image.copy()
    out[..., :3] = np.clip(rgb + weight * (target - rgb), 0, 255)
    return out


class Composer:
    def __init__(self, run):
        self.images = np.load(Path(run) / "emoji.npz")["images"]
        self.found = [main_hue(image) for image in self.images]

    def object(self, thing):
        image = self.images[thing.emoji]
        return painted(image, self.found[thing.emoji], thing.paint) if thing.paint else image

    def picture(self, scene):
        """RGB, SIZE x SIZE. Objects have premultiplied alpha, so that they are added to what they leave visible."""
        canvas = np.empty((SIZE, SIZE, 3), np.float32)
        canvas[:] = words.BACKGROUNDS[scene.background]
        for thing, (size, x, y) in zip(scene.things * (2 if scene.layout == "two" else 1), PLACES[scene.layout]):
            image = np.asarray(Image.fromarray(self.object(thing), "RGBa").resize((size, size), Image.BILINEAR))
            left, top = x - size // 2, y - size // 2
            part = canvas[top : top + size, left : left + size]
            part *= 1 - image[..., 3:].astype(np.float32) / 255
            part += image[..., :3]
        return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def main(run, name, count):
    run, count = Path(run), int(count)
    meta = json.loads((run / "emoji.json").read_text())
    composer = Composer(run)
    for entry, image, found in zip(meta, composer.images, composer.found):
        entry["colour"] = own_colour(image, found)
    (run / "emoji.json").write_text(json.dumps(meta, indent=0))
    rng = words.seeded("scenes", name)
    pictures = np.lib.format.open_memmap(run / f"{name}.pictures.npy", "w+", np.uint8, (count, SIZE, SIZE, 3))
    scenes = []
    while len(scenes) < count:
        # Every emoji in turn for half of them, so that none is rare.
        scene = words.scene(rng, len(meta), len(scenes) // 2 % len(meta) if len(scenes) % 2 else None)
        if name == "train" and words.held_out(scene):
            continue
        pictures[len(scenes)] = composer.picture(scene)
        scenes.append(scene)
    (run / f"{name}.scenes.pkl").write_bytes(pickle.dumps(scenes))
    print(count, "pictures")


if __name__ == "__main__":
    main(*sys.argv[1:])
