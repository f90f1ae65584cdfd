"""The dual encoder, in CLIP's shape: `python encoder.py tokens RUN SET`, then `train RUN MINUTES`.

It scores how well a picture fits a prompt.
"""

import json
import pickle
import sys
from pathlib import Path

from common import Training, autocast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

import captions as words
from optimizer import Muon
from tokenizer import LENGTH, PROMPT, SIZE

CAPTIONS = 6
BATCH = 64
TEXT = dict(hidden_size=160, intermediate_size=640, num_hidden_layers=3, num_attention_heads=4)
VISION = dict(hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=3)


def config():
    special = dict(bos_token_id=SIZE - 2, eos_token_id=SIZE - 1, pad_token_id=SIZE - 1)
    text = dict(vocab_size=SIZE, max_position_embeddings=LENGTH, projection_dim=128, **TEXT, **special)
    vision = dict(image_size=128, patch_size=32, projection_dim=128, **VISION)
    return CLIPConfig(
        text_config=CLIPTextConfig(**text).to_dict(),
        vision_config=CLIPVisionConfig(**vision).to_dict(),
        projection_dim=128,
    )


class Names(nn.Module):
    """What a scene has, read from `features` numbers: one choice for each column of `answers`.

    Names teach within minutes what contrast or pictures alone take very long to teach.
    """

    def __init__(self, features, emoji):
        super().__init__()
        paints = len(words.PAINTS) + 1
        self.sizes = (emoji, emoji + 1, paints, paints, len(words.BACKGROUNDS), len(words.LAYOUTS))
        self.linear = nn.Linear(features, sum(self.sizes))

    def loss(self, states, truth):
        guesses = self.linear(states).float().split(self.sizes, 1)
        return sum(F.cross_entropy(guess, truth[:, i]) for i, guess in enumerate(guesses))


def answers(scenes, emoji):
    """For each scene its first object and its second, their paints, its background and its layout, by number.

    What there is none of has the number after the last.
    """
    paint = lambda thing: words.PAINT_NAMES.index(thing.paint) if thing.paint else len(words.PAINTS)
    rows = []
    for scene in scenes:
        first, *second = scene.things
        rows.append((
            first.emoji, second[0].emoji if second else emoji,
            paint(first), paint(second[0]) if second else len(words.PAINTS),
            words.BACKGROUND_NAMES.index(scene.background), words.LAYOUTS.index(scene.layout),
        ))
    return torch.tensor(rows)


def contrast(image, text, scale):
    """CLIP's loss of pictures and texts in the same order, and the share of pictures whose text fits best."""
    image, text = F.normalize(image.float()), F.normalize(text.float())
    logits = scale.exp().clamp(max=60) * image @ text.T
    same = torch.arange(len(logits))
    loss = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
    return loss, (logits.argmax(1) == same).float().mean()


class Pairs:
    """Pictures of a set with one of their captions each and their answers."""

    def __init__(self, run, name, skip=0):
        self.scenes = pickle.loads((run / f"{name}.scenes.pkl").read_bytes())[skip:]
        self.pictures = np.load(run / f"{name}.pictures.npy", mmap_mode="r")[skip:]
        self.ids = np.load(run / f"{name}.tokens.npy")[skip:, :, :PROMPT]
        self.emoji = len(json.loads((run / "emoji.json").read_text()))

    def batch(self, rng, count):
        at = np.sort(rng.integers(0, len(self.pictures), count))
        texts = torch.from_numpy(self.ids[at, rng.integers(0, CAPTIONS, count)]).long()
        return normalized(self.pictures[at]), texts, answers([self.scenes[i] for i in at], self.emoji)


class Scorer(nn.Module):
    """CLIP, and in training what tells it directly what is in a picture and in a text."""

    def __init__(self, emoji):
        super().__init__()
        # The fused attention's backward pass in bf16 is many times slower on a CPU than plain products.
        self.clip = CLIPModel._from_config(config(), attn_implementation="eager")
        self.names = Names(128, emoji)

    def towers(self, pictures, tokens):
        image = self.clip.visual_projection(self.clip.vision_model(pixel_values=pictures).pooler_output)
        text = self.clip.text_projection(self.clip.text_model(input_ids=tokens).pooler_output)
        return image, text

    def loss(self, pictures, tokens, truth):
        image, text = self.towers(pictures, tokens)
        loss, right = contrast(image, text, self.clip.logit_scale)
        # The same names for both towers, which brings them together early.
        return loss + 0.3 * (self.names.loss(image, truth) + self.names.loss(text, truth)), right


def normalized(pictures):
    """uint8 NHWC to the vision tower's input, as preprocessor_config.json says."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def tokens(run, name):
    """RUN/SET.tokens.npy: CAPTIONS of each picture, the first in the most usual words."""
    scenes = pickle.loads((run / f"{name}.scenes.pkl").read_bytes())
    captions = words.Captions(json.loads((run / "emoji.json").read_text()))
    tokenizer, rng = CLIPTokenizer.from_pretrained(run / "tokenizer"), words.seeded("captions", name)
    texts = [captions.caption(rng, scene, plain=i == 0) for scene in scenes for i in range(CAPTIONS)]
    ids = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="np").input_ids
    np.save(run / f"{name}.tokens.npy", ids.reshape(len(scenes), CAPTIONS, LENGTH).astype(np.int16))
    (run / f"{name}.captions.json").write_text(json.dumps(texts))
    print(len(texts), "captions;", (ids != SIZE - 1).sum(1).max() + 1, "tokens at most")


def train(run, minutes):
    torch.manual_seed(2)
    pairs = Pairs(run, "train")
    model = Scorer(pairs.emoji)
    optimizer = Muon(model, 1e-3, weight_decay=0.02)
    training = Training(run / "scorer.pt", minutes, {"model": model}, optimizer, 1e-3, warmup=100, decay=0.5)
    rng = np.random.default_rng(training.step)
    while training.going():
        with autocast():
            loss, right = model.loss(*pairs.batch(rng, BATCH))
        training.learn(loss, right=right.item())


def load(run):
    emoji = len(json.loads((run / "emoji.json").read_text()))
    model = Scorer(emoji)
    model.load_state_dict(torch.load(run / "scorer.pt", weights_only=True)["models"]["model"])
    return model.clip.eval()


if __name__ == "__main__":
    task, folder, argument = sys.argv[1:]
    {"tokens": tokens, "train": lambda run, value: train(run, float(value))}[task](Path(folder), argument)
