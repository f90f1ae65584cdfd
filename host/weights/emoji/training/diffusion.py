"""The denoiser: `python diffusion.py train RUN MINUTES`, `python diffusion.py sheet RUN`.

The text encoder stays as naming.py left it.
"""

import json
import pickle
import sys
from pathlib import Path

from common import Average, Together, Training, autocast

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from encoder import CAPTIONS, config as clip_config
from tokenizer import PROMPT as TOKENS
from tokenizer import SIZE
from optimizer import Muon

UNET = dict(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(48, 96, 128),
    layers_per_block=1,
    norm_num_groups=16,
    attention_head_dim=4,
    cross_attention_dim=160,
    time_cond_proj_dim=64,
)
# Latents of plain backgrounds are told apart from noise at any level but pure noise; so that is where it must begin.
SCHEDULE = dict(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    clip_sample=False,
)
BATCH = 24
DROPPED = 0.05


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.unet = UNet2DConditionModel(**UNET).to(memory_format=torch.channels_last)
        # The fused attention's backward pass in bf16 is many times slower on a CPU than plain products.
        self.unet.set_attn_processor(AttnProcessor())
        text = CLIPTextConfig(**clip_config().text_config.to_dict())
        self.text = CLIPTextModel._from_config(text, attn_implementation="eager")

    def context(self, tokens):
        return self.text(input_ids=tokens).last_hidden_state

    def forward(self, noisy, times, tokens, guidance=None):
        return self.unet(noisy, times, self.context(tokens), timestep_cond=guidance).sample.float()


def noise_levels():
    """By timestep, how much of picture and of noise a noisy picture has."""
    cumulative = DDIMScheduler(**SCHEDULE, set_alpha_to_one=True).alphas_cumprod
    return cumulative.sqrt(), (1 - cumulative).sqrt()


def noise_times(count):
    """Timesteps to train at: half of them the first, where the prompt alone decides what a picture shows."""
    times = torch.randint(1, 51, (count,)) * 20 - 1
    often = torch.rand(count)
    times[often < 0.3] = torch.tensor([759, 499, 259])[torch.randint(0, 3, (int((often < 0.3).sum()),))]
    times[often > 0.5] = 999
    return times


def empty_tokens(count):
    """No prompt: what classifier-free guidance compares with."""
    row = torch.full((TOKENS,), SIZE - 1)
    row[0] = SIZE - 2
    return row.expand(count, -1).clone()


class Data:
    """Latents of the pictures whose objects the model draws, and their captions."""

    def __init__(self, run, seed):
        meta = json.loads((run / "emoji.json").read_text())
        scenes = pickle.loads((run / "train.scenes.pkl").read_bytes())
        self.scenes, self.emoji = scenes, len(meta)
        drawn = [all(meta[thing.emoji]["drawn"] for thing in scene.things) for scene in scenes]
        self.usable = np.flatnonzero(drawn)
        self.latents = np.load(run / "train.latents.npy", mmap_mode="r")
        self.tokens = np.load(run / "train.tokens.npy")[..., :TOKENS]
        self.rng = np.random.default_rng(seed)

    def batch(self, count=BATCH):
        at = self.rng.choice(self.usable, count)
        # The first caption leaves nothing open, not even the background, so that it teaches most about all else.
        said = self.rng.integers(0, CAPTIONS, count) * (self.rng.random(count) < 0.5)
        texts = torch.from_numpy(self.tokens[at, said]).long()
        self.at = at
        return torch.from_numpy(self.latents[at]).float(), texts


def taught(run, model):
    """The text encoder as naming.py leaves it."""
    if (run / "names.pt").exists():
        state = torch.load(run / "names.pt", weights_only=True)["models"]["both"]
        model.text.load_state_dict({key[5:]: value for key, value in state.items() if key.startswith("text.")})


def train(run, minutes):
    together = Together(run / "rendezvous")
    rank = together.rank
    torch.manual_seed(3)
    model = Denoiser()
    taught(run, model)
    average = Average(model, 0.998)
    model.text.requires_grad_(False)
    optimizer = Muon(model.unet, 1e-3)
    path = run / f"diffusion{rank or ''}.pt"
    training = Training(path, minutes, {"model": model, "average": average}, optimizer, 1e-3, warmup=50, decay=0.3)
    torch.manual_seed(1000 * training.step + rank)
    data, (signal, sigma) = Data(run, [training.step, rank]), noise_levels()
    print("pictures", len(data.usable), "parameters", sum(p.numel() for p in model.unet.parameters()), flush=True)
    firsts = []
    for _ in together.steps(training, model.unet.parameters()):
        latents, texts = data.batch()
        dropped = torch.rand(len(texts)) < DROPPED
        texts[dropped] = empty_tokens(int(dropped.sum()))
        times = noise_times(len(latents))
        noise = torch.randn_like(latents)
        a, s = signal[times, None, None, None], sigma[times, None, None, None]
        with autocast():
            with torch.no_grad():
                context = model.context(texts)
            noisy = (a * latents + s * noise).to(memory_format=torch.channels_last)
            made = model.unet(noisy, times, context).sample.float()
        losses = (made - (a * noise - s * latents)).square().mean((1, 2, 3))
        loss, first = losses.mean(), losses[(times == 999) & ~dropped].mean()
        training.learn(loss)
        firsts.append(first.item())
        if training.step % 40 == 0:
            print("first", np.nanmean(firsts[-150:]), training.step, flush=True)
        average.update(model)
    training.save()


def load(run, name="diffusion", part="average"):
    model = Denoiser()
    state = torch.load(run / f"{name}.pt", weights_only=True)["models"][part]
    state = {key.removeprefix("model."): value for key, value in state.items() if not key.startswith("_extra")}
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def sample(model, tokens, steps=12, guidance=4.0, seed=0):
    """Latents by DDIM with classifier-free guidance."""
    scheduler = DDIMScheduler(**SCHEDULE, set_alpha_to_one=True, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    x = torch.randn((len(tokens), 4, 16, 16), generator=torch.Generator().manual_seed(seed))
    both = torch.cat([empty_tokens(len(tokens)), tokens])
    with autocast():
        context = model.context(both)
        for t in scheduler.timesteps:
            nothing, prompt = model.unet(torch.cat([x, x]), t, context).sample.float().chunk(2)
            x = scheduler.step(nothing + guidance * (prompt - nothing), t, x).prev_sample
    return x


PROMPTS = """a cat|a dog|a red apple on a blue background|a smiling face|rocket|a house|a red heart|a tree
a green apple on a yellow background|a blue car|a pizza on pink|a purple cat on a white background|a fox|a robot
a cat and a dog|two red apples on a white background|a frog on the left|a blue rose|a guitar|a birthday cake
a ghost on a black background|a green dragon|an ice cream on light blue|a smiling cat""".replace("\n", "|").split("|")


def sheet(run):
    """RUN/diffusion.png: PROMPTS as the model makes them now."""
    from PIL import Image

    import vae

    model, tokenizer = load(run), CLIPTokenizer.from_pretrained(run / "tokenizer")
    ids = tokenizer(PROMPTS, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        made = vae.to_pictures(vae.load(run).decode(sample(model, ids)).sample)
    rows = [np.concatenate(list(made[at : at + 8]), 1) for at in range(0, len(made), 8)]
    Image.fromarray(np.concatenate(rows)).save(run / "diffusion.png")


if __name__ == "__main__":
    task, folder, *rest = sys.argv[1:]
    {"train": train, "sheet": sheet}[task](Path(folder), *map(float, rest))
