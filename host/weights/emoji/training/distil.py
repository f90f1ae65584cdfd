"""From many steps with guidance to a few without: `python distil.py train RUN MINUTES`.

Latent consistency distillation (Luo et al. 2023): the student learns to say from anywhere on the teacher's way to a
picture where that way ends. The guidance scale is one of its inputs (`time_cond_proj_dim`). The text encoder stays.
"""

import sys
from pathlib import Path

from common import Average, Together, Training, autocast

import numpy as np
import torch
from diffusers import LCMScheduler
from torch import nn
from transformers import CLIPTokenizer

import diffusion
from optimizer import Muon
from diffusion import BATCH, PROMPTS, SCHEDULE, TOKENS, UNET, Data, empty_tokens, noise_levels

# Of the scheduler's 50 steps of 20: how far apart the two points are that must lead to the same picture.
HOP = 60
# Scales that the student learns. At 1 there is none, which is what the prompts of a model that knows its words by heart need:
# a third of the examples, so that guidance is not learned at its expense.
GUIDANCE, UNGUIDED = (1.0, 3.0), 1 / 3
SCALING, SIGMA_DATA = 10.0, 0.5
# Small: the student begins as good as its teacher, and has only to learn what guidance does.
RATE = 1e-4


def guidance_embedding(guidance):
    """diffusers' `get_guidance_scale_embedding` of what exceeds 1."""
    half = UNET["time_cond_proj_dim"] // 2
    rates = torch.exp(torch.arange(half) * -(np.log(10000.0) / (half - 1)))
    angles = 1000.0 * (guidance - 1)[:, None] * rates[None]
    return torch.cat([angles.sin(), angles.cos()], 1).float()


def boundary(times):
    """How much of the model's picture and of its input is the answer: all of the input where that has no noise."""
    scaled = times.float() * SCALING
    total = scaled**2 + SIGMA_DATA**2
    return (scaled / total.sqrt())[:, None, None, None], (SIGMA_DATA**2 / total)[:, None, None, None]


def train(run, minutes):
    together = Together(run / "rendezvous-lcm")
    rank = together.rank
    torch.manual_seed(5)
    teacher, student = diffusion.load(run), diffusion.load(run)
    student.text.requires_grad_(False)
    unet = student.unet.train()
    nn.init.zeros_(unet.time_embedding.cond_proj.weight)
    average = Average(student, 0.99)
    optimizer = Muon(unet, RATE, weight_decay=0.0)
    # What guidance does begins at nothing, and has further to go than all else.
    meaning = unet.time_embedding.cond_proj.weight
    matrices = optimizer.param_groups[0]
    matrices["params"] = [parameter for parameter in matrices["params"] if parameter is not meaning]
    optimizer.add_param_group(dict(params=[meaning], adam=True, factor=10.0))
    path = run / f"distilled{rank or ''}.pt"
    training = Training(path, minutes, {"model": student, "average": average}, optimizer, RATE, warmup=10)
    torch.manual_seed(2000 * training.step + rank)
    data, (signal, sigma) = Data(run, [training.step, rank, 1]), noise_levels()
    for _ in together.steps(training, unet.parameters()):
        latents, texts = data.batch()
        # Where a picture of four steps begins, more often.
        times = torch.randint(1, 51, (BATCH,)) * 20 - 1
        often = torch.rand(BATCH) < 0.5
        times[often] = torch.tensor([999, 759, 499, 259])[torch.randint(0, 4, (int(often.sum()),))]
        after = times - HOP
        a, s = signal[times, None, None, None], sigma[times, None, None, None]
        # At -1 there is no noise.
        end = (after < 0)[:, None, None, None]
        a_after = torch.where(end, 1.0, signal[after.clamp(min=0), None, None, None])
        s_after = torch.where(end, 0.0, sigma[after.clamp(min=0), None, None, None])
        guidance = GUIDANCE[0] + (GUIDANCE[1] - GUIDANCE[0]) * torch.rand(BATCH)
        guidance[torch.rand(BATCH) < UNGUIDED] = 1.0
        embedding, w = guidance_embedding(guidance), guidance[:, None, None, None]
        x = (a * latents + s * torch.randn_like(latents)).to(memory_format=torch.channels_last)
        with autocast():
            with torch.no_grad():
                context = student.context(torch.cat([texts, empty_tokens(BATCH)]))
                prompt, nothing = teacher.unet(x.repeat(2, 1, 1, 1), times.repeat(2), context).sample.float().chunk(2)
                v = nothing + w * (prompt - nothing)
                clean, noise = a * x - s * v, a * v + s * x
                further = a_after * clean + s_after * noise
                made = unet(further, after.clamp(min=0), context[:BATCH], timestep_cond=embedding).sample.float()
                out, skip = boundary(after.clamp(min=0))
                target = torch.where(end, clean, out * (a_after * further - s_after * made) + skip * further)
            made = unet(x, times, context[:BATCH], timestep_cond=embedding).sample.float()
        out, skip = boundary(times)
        difference = out * (a * x - s * made) + skip * x - target
        loss = (torch.sqrt(difference**2 + 0.05**2) - 0.05).mean()
        training.learn(loss)
        average.update(student)
    training.save()


def scheduler():
    return LCMScheduler(**SCHEDULE, set_alpha_to_one=True, original_inference_steps=50, timestep_scaling=SCALING)


def shipped(run):
    """The model that is exported: the student, or where there is none its teacher, which a few steps may well do."""
    name = "distilled" if (run / "distilled.pt").exists() else "diffusion"
    model = diffusion.load(run, name)
    if name == "diffusion":
        # It has not learned what the guidance scale means, and must not be moved by it.
        nn.init.zeros_(model.unet.time_embedding.cond_proj.weight)
    return model


@torch.no_grad()
def sample(model, tokens, steps=4, guidance=1.5, seed=0):
    """Latents in a few steps."""
    noise = scheduler()
    noise.set_timesteps(steps)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((len(tokens), 4, 16, 16), generator=generator)
    with autocast():
        context, embedding = model.context(tokens), guidance_embedding(torch.full((len(tokens),), guidance))
        for t in noise.timesteps:
            v = model.unet(x, t, context, timestep_cond=embedding).sample.float()
            x, clean = noise.step(v, t, x, generator=generator, return_dict=False)
    return clean


def sheet(run):
    """RUN/shipped.png: PROMPTS in four steps, and in one."""
    from PIL import Image

    import vae

    model, tokenizer = shipped(run), CLIPTokenizer.from_pretrained(run / "tokenizer")
    ids = tokenizer(PROMPTS, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids
    decoder, rows = vae.load(run), []
    for steps in (4, 1):
        with torch.no_grad():
            made = vae.to_pictures(decoder.decode(sample(model, ids, steps)).sample)
        rows += [np.concatenate(list(made[at : at + 8]), 1) for at in range(0, len(made), 8)]
    Image.fromarray(np.concatenate(rows)).save(run / "shipped.png")


if __name__ == "__main__":
    task, folder, *rest = sys.argv[1:]
    {"train": train, "sheet": sheet}[task](Path(folder), *map(float, rest))
