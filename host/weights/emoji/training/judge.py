"""What judges the pictures, and nothing else: `python judge.py train RUN MINUTES`, `python judge.py test RUN`.

A convolutional network and a small text encoder of their own, trained on scenes of their own (SET judge), among them
the combinations that the model never saw. It shares no weights and no architecture with the scorer that is shipped.
"""

import json
import sys
from pathlib import Path

from common import Training, autocast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from encoder import Names, Pairs, contrast, normalized
from optimizer import Muon
from tokenizer import LENGTH, SIZE

BATCH = 64
# Pictures of its set that it is tested with and not trained on.
TESTED = 1000
WIDTH = 192


def stage(before, after, stride):
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
        nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
    )


class Judge(nn.Module):
    def __init__(self, emoji):
        super().__init__()
        self.pictures = nn.Sequential(
            nn.PixelUnshuffle(4), stage(48, 48, 1), stage(48, 96, 2), stage(96, 160, 2), nn.Flatten(),
        ).to(memory_format=torch.channels_last)
        self.project = nn.Linear(160 * 64, WIDTH)
        self.words = nn.Embedding(SIZE, 128)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, 128))
        layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.text = nn.Linear(128, WIDTH)
        self.scale = nn.Parameter(torch.tensor(2.5))
        self.names = Names(WIDTH, emoji)

    def see(self, pictures):
        return self.project(self.pictures(pictures.to(memory_format=torch.channels_last))).float()

    def read(self, tokens):
        x = self.words(tokens) + self.places[: tokens.shape[1]]
        padding = tokens == SIZE - 1
        x = self.layers(x, src_key_padding_mask=padding)
        return self.text((x * ~padding[..., None]).sum(1) / (~padding).sum(1, keepdim=True)).float()

    def loss(self, pictures, tokens, truth):
        image, text = self.see(pictures), self.read(tokens)
        loss, right = contrast(image, text, self.scale)
        return loss + 0.3 * (self.names.loss(image, truth) + self.names.loss(text, truth)), right


def train(run, minutes):
    torch.manual_seed(7)
    pairs = Pairs(run, "judge", TESTED)
    model = Judge(pairs.emoji)
    optimizer = Muon(model, 1.5e-3, weight_decay=0.05)
    training = Training(run / "judge.pt", minutes, {"model": model}, optimizer, 1.5e-3, decay=0.5)
    rng = np.random.default_rng(training.step)
    while training.going():
        with autocast():
            loss, right = model.loss(*pairs.batch(rng, BATCH))
        training.learn(loss, right=right.item())


def load(run):
    model = Judge(len(json.loads((run / "emoji.json").read_text())))
    model.load_state_dict(torch.load(run / "judge.pt", weights_only=True)["models"]["model"])
    return model.eval()


@torch.no_grad()
def ranks(model, pictures, tokens):
    """For each picture, how many of the captions `tokens` fit better than its own, which has the same number."""
    image = torch.cat([model.see(normalized(part)) for part in np.array_split(pictures, max(1, len(pictures) // 50))])
    fit = F.normalize(image) @ F.normalize(model.read(tokens)).T
    own = fit.diagonal()[:, None]
    return (fit > own).sum(1)


def test(run):
    """Real pictures that it was not trained on, among 1000 captions in the most usual words."""
    tokens = torch.from_numpy(np.load(run / "judge.tokens.npy")[:TESTED, 0]).long()
    found = ranks(load(run), np.load(run / "judge.pictures.npy", mmap_mode="r")[:TESTED], tokens)
    print("real pictures, right caption among 1000:", *(f"top-{k} {(found < k).float().mean():.1%}" for k in (1, 5)))


if __name__ == "__main__":
    task, folder, *rest = sys.argv[1:]
    {"train": train, "test": test}[task](Path(folder), *map(float, rest))
