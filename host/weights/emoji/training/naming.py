"""Teaches the text encoder what a caption names: `python naming.py RUN MINUTES`, before diffusion.py.

Through pictures alone it takes very long until a prompt's object, and not only its colours, arrives in the states
that the UNet attends to; from the names of the objects it takes minutes.
"""

import sys
from pathlib import Path

from common import Together, Training, autocast

import torch
from torch import nn

from diffusion import Data, Denoiser
from encoder import Names, answers
from tokenizer import SIZE


def ends(tokens):
    """Where each prompt ends."""
    return (tokens == SIZE - 1).int().argmax(1)


def main(run, minutes):
    run = Path(run)
    together = Together(run / "rendezvous-names")
    rank = together.rank
    torch.manual_seed(6)
    model = Denoiser()
    data = Data(run, [6, rank])
    data.usable = range(len(data.scenes))
    namer, text = Names(160, data.emoji), model.text
    both = nn.ModuleDict({"namer": namer, "text": text})
    optimizer = torch.optim.AdamW(both.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    training = Training(run / f"names{rank or ''}.pt", minutes, {"both": both}, optimizer, 1.5e-3, warmup=50)
    for _ in together.steps(training, both.parameters()):
        _, texts = data.batch(64)
        with autocast():
            states = model.context(texts)
            truth = answers([data.scenes[i] for i in data.at], data.emoji)
            loss = namer.loss(states[:, -1], truth) + 0.5 * namer.loss(states[torch.arange(len(texts)), ends(texts)], truth)
        training.learn(loss)
    training.save()


if __name__ == "__main__":
    main(*sys.argv[1:])
