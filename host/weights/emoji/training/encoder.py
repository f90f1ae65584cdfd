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
from tokenizer import LENGTH, SIZE

CAPTIONS = 6
BATCH = 64
TEXT = dict(hidden_size=160, intermediate_size=640, num_hidden_layers=3, num_attention_heads=4)
VISION = dict(hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=3)


def config():
    special = dict(bos_token_id=SIZE - 2, eos_token_id=SIZE - 1, pad_token_id=SIZE - 1)
    text = dict(vocab_size=SIZE, max_position_embeddings=LENGTH, projection_dim=128, **TEXT, **special)
    vision = dict(image_size=128, patch_size=16, projection_dim=128, **VISION)
    return CLIPConfig(
        text_config=CLIPTextConfig(**text).to_dict(),
        vision_config=CLIPVisionConfig(**vision).to_dict(),
        projection_dim=128,
    )


class Scorer(nn.Module):
    """CLIP, and in training what tells it directly which objects, paints and background a picture has."""

    def __init__(self, emoji):
        super().__init__()
        # The fused attention's backward pass in bf16 is many times slower on a CPU than plain products.
        self.clip = CLIPModel._from_config(config(), attn_implementation="eager")
        self.parts = nn.Linear(128, emoji + len(words.PAINTS) + len(words.BACKGROUNDS))

    def towers(self, pictures, tokens):
        image = self.clip.visual_projection(self.clip.vision_model(pixel_values=pictures).pooler_output)
        text = self.clip.text_projection(self.clip.text_model(input_ids=tokens).pooler_output)
        return image, text

    def loss(self, pictures, tokens, parts):
        image, text = self.towers(pictures, tokens)
        image, text = image.float(), text.float()
        scale = self.clip.logit_scale.exp().clamp(max=60)
        logits = scale * F.normalize(image) @ F.normalize(text).T
        same = torch.arange(len(logits))
        contrast = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
        # The same names for both towers, which brings them together early.
        each = [F.binary_cross_entropy_with_logits(self.parts(x), parts, reduction="none") for x in (image, text)]
        named = sum(losses.sum(1).mean() for losses in each)
        return contrast + 0.15 * named, (logits.argmax(1) == same).float().mean()


def parts(scenes, emoji):
    """For each scene which objects, paints and background it has, as ones in a row of zeros."""
    out = np.zeros((len(scenes), emoji + len(words.PAINTS) + len(words.BACKGROUNDS)), np.float32)
    for row, scene in zip(out, scenes):
        for thing in scene.things:
            row[thing.emoji] = 1
            if thing.paint:
                row[emoji + words.PAINT_NAMES.index(thing.paint)] = 1
        row[emoji + len(words.PAINTS) + words.BACKGROUND_NAMES.index(scene.background)] = 1
    return torch.from_numpy(out)


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
    scenes = pickle.loads((run / "train.scenes.pkl").read_bytes())
    emoji = len(json.loads((run / "emoji.json").read_text()))
    pictures = np.load(run / "train.pictures.npy", mmap_mode="r")
    ids = np.load(run / "train.tokens.npy")
    model = Scorer(emoji)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    training = Training(run / "scorer.pt", minutes, {"model": model}, optimizer, 1e-3, warmup=100)
    rng = np.random.default_rng(training.step)
    while training.going():
        at = np.sort(rng.integers(0, len(pictures), BATCH))
        texts = torch.from_numpy(ids[at, rng.integers(0, CAPTIONS, BATCH)]).long()
        with autocast():
            loss, right = model.loss(normalized(pictures[at]), texts, parts([scenes[i] for i in at], emoji))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        training.show(loss.detach(), right=right.item())


def load(run):
    emoji = len(json.loads((run / "emoji.json").read_text()))
    model = Scorer(emoji)
    model.load_state_dict(torch.load(run / "scorer.pt", weights_only=True)["models"]["model"])
    return model.clip.eval()


if __name__ == "__main__":
    task, folder, argument = sys.argv[1:]
    {"tokens": tokens, "train": lambda run, value: train(run, float(value))}[task](Path(folder), argument)
