"""Teaches the text encoder what a caption names: `python naming.py RUN MINUTES`, before diffusion.py or in between.

Through pictures alone it takes very long until a prompt's object, and not only its colours, arrives in the states
that the UNet attends to; from the names of the objects it takes minutes.
"""

import os
import sys
from pathlib import Path

from common import Training, autocast, meet

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import captions as words
from diffusion import Data, Denoiser


class Namer(nn.Module):
    """The objects, paints and background of a prompt from the state of its end, as three distributions."""

    def __init__(self, emoji):
        super().__init__()
        self.sizes = (emoji, len(words.PAINTS), len(words.BACKGROUNDS))
        self.linear = nn.Linear(160, sum(self.sizes))

    def loss(self, states, parts):
        total = 0.0
        for guess, truth in zip(self.linear(states).float().split(self.sizes, 1), parts.split(self.sizes, 1)):
            count = truth.sum(1, keepdim=True)
            total = total - (F.log_softmax(guess, 1) * truth / count.clamp(min=1)).sum(1).mean()
        return total


def main(run, minutes):
    run, rank, world = Path(run), int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD", "1"))
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{run}/rendezvous-names", rank=rank, world_size=world)
    torch.manual_seed(6)
    model = Denoiser()
    if (run / "diffusion.pt").exists():
        model.load_state_dict(torch.load(run / "diffusion.pt", weights_only=True)["models"]["model"])
    data = Data(run, [6, rank])
    namer, text = Namer(data.emoji), model.text
    both = nn.ModuleDict({"namer": namer, "text": text})
    optimizer = torch.optim.AdamW(both.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    training = Training(run / f"names{rank or ''}.pt", minutes, {"both": both}, optimizer, 1.5e-3, warmup=50)
    going = torch.ones(1)
    while going.item():
        going[0] = training.going()
        if world > 1 and training.step % 8 == 0:
            dist.all_reduce(going, dist.ReduceOp.MIN)
            meet(both.parameters(), world)
        elif world > 1:
            going[0] = 1
        _, texts = data.batch(64)
        with autocast():
            loss = namer.loss(model.context(texts)[:, -1], data.parts())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        training.show(loss.detach())
    training.save()


if __name__ == "__main__":
    main(*sys.argv[1:])
