"""How good the pictures are: `python evaluate.py figures RUN [STEPS:GUIDANCE ...]`, `python evaluate.py contact RUN FILE`.

Pictures of 200 captions of training scenes and of 200 that are held out; how often the judge ranks the right one among
the first of 1000 captions.
"""

import json
import pickle
import sys
from pathlib import Path

import common

import numpy as np
import torch
from transformers import CLIPTokenizer

import captions as words
import distil
import judge
import vae
from export import GUIDANCE
from tokenizer import LENGTH, PROMPT

STEPS = 4
SHEET = """a cat|a dog|rocket|a red apple|a smiling face|a house|a pizza|a robot
a fox on a light blue background|a red heart on a white background|a blue car|a green apple on a yellow background
a purple cat on a white background|a unicorn on pink|a ghost on a black background|a birthday cake
two red apples|a cat and a dog on a green background|a frog on the left|a guitar on orange|an octopus|a penguin
a sunflower|a volcano|a crown on a purple background|a blue rose|a pink elephant|a green dragon on white|a tree
an ice cream|a burger|a robot and a rocket|a smiling cat|sunglasses|a whale on a dark blue background|an owl
a strawberry on teal|a yellow mushroom|a lion|a donut on a light green background""".replace("\n", "|").split("|")


def captions(run):
    """200 of training scenes, 200 that are held out, and others that fill each up to 1000."""
    meta = json.loads((run / "emoji.json").read_text())
    speak, rng = words.Captions(meta), words.seeded("evaluation")
    say = lambda scene: speak.caption(rng, scene, plain=True)
    scenes = pickle.loads((run / "train.scenes.pkl").read_bytes())
    drawn = lambda scene: all(meta[thing.emoji]["drawn"] for thing in scene.things)
    scenes = list(filter(drawn, scenes))
    trained = {say(scene) for scene in scenes}
    seen = list(dict.fromkeys(map(say, rng.choices(scenes, k=400))))[:200]
    unseen, others = {}, {}
    while len(unseen) < 200 or len(others) < 800:
        scene = words.scene(rng, len(meta))
        if not drawn(scene):
            continue
        text = say(scene)
        if words.held_out(scene) and text not in trained and len(unseen) < 200:
            unseen[text] = None
        elif not words.held_out(scene) and text not in seen and len(others) < 800:
            others[text] = None
    return {"seen": seen + list(others), "unseen": list(unseen) + [text for text in others if text not in unseen]}


def tokenize(run, texts, length):
    tokenizer = CLIPTokenizer.from_pretrained(run / "tokenizer")
    return tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


@torch.no_grad()
def pictures(run, texts, steps=STEPS, guidance=GUIDANCE):
    """One picture of each text."""
    model, decoder, made = distil.shipped(run), vae.load(run), []
    ids = tokenize(run, texts, PROMPT)
    for i, part in enumerate(ids.split(25)):
        latents = distil.sample(model, part, steps, guidance, seed=i)
        made.append(vae.to_pictures(decoder.decode(latents).sample))
    return np.concatenate(made)


def figures(run, *variants):
    for variant in variants or (f"{STEPS}:{GUIDANCE}",):
        steps, guidance = variant.split(":")
        for kind, texts in captions(run).items():
            made = pictures(run, texts[:200], int(steps), float(guidance))
            found = judge.ranks(judge.load(run), made, tokenize(run, texts, LENGTH))
            shares = (f"top-{k} {(found < k).float().mean():.1%}" for k in (1, 5))
            print(f"{steps} steps, guidance {guidance}, {kind}:", *shares, flush=True)
            np.save(run / f"{kind}.made.npy", made)


def contact(run, path):
    from PIL import Image, ImageDraw, ImageFont

    made = pictures(run, SHEET)
    wide, high, columns = 144, 172, 8
    rows = (len(SHEET) + columns - 1) // columns
    sheet = Image.new("RGB", (columns * wide + 16, rows * high + 16), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, (picture, text) in enumerate(zip(made, SHEET)):
        x, y = 16 + i % columns * wide, 16 + i // columns * high
        sheet.paste(Image.fromarray(picture), (x, y))
        lines, line = [], ""
        for word in text.split():
            if draw.textlength(f"{line} {word}", font) > 128:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}".strip()
        for j, part in enumerate([*lines, line][:2]):
            draw.text((x, y + 131 + 13 * j), part, (60, 60, 60), font)
    sheet.save(path, quality=90)


if __name__ == "__main__":
    task, folder, *rest = sys.argv[1:]
    {"figures": figures, "contact": contact}[task](Path(folder), *rest)
