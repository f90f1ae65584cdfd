"""The autoencoder: `python vae.py train RUN MINUTES`, then `latents RUN` for the latents of all training pictures.

From then on the encoder must stay as it is; `decoder RUN MINUTES` improves what comes after it.
"""

import pickle
import sys
from pathlib import Path

from common import Average, Training, autocast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import nn

CONFIG = dict(
    encoder_block_out_channels=(32,) * 4,
    decoder_block_out_channels=(48,) * 4,
    num_encoder_blocks=(0, 1, 2, 2),
    num_decoder_blocks=(4, 3, 2, 0),
)
CROP = 64
# What the decoder must put up with: the error of latents that were made up.
NOISE = 0.08


class Autoencoder(nn.Module):
    """AutoencoderTiny between whose halves latents are normalised, which `folded` makes part of the encoder."""

    def __init__(self):
        super().__init__()
        self.vae = AutoencoderTiny(**CONFIG).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(4, affine=False, momentum=0.02)
        self.begin()

    @torch.no_grad()
    def begin(self):
        """Weights with which the colours already pass, as a coarse picture; only the details are left to learn.

        Without norms inside, PyTorch's own initialisation takes thousands of steps to find even the colours.
        """
        for name, layer in self.vae.named_modules():
            if not isinstance(layer, nn.Conv2d):
                continue
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            layer.weight *= 0.5
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            if name.endswith(".conv.4"):
                layer.weight *= 0.4
                layer.weight[:3] = 0
            elif ".conv." not in name:
                layer.weight[:3] = 0
                for colour in range(3):
                    if layer.stride == (2, 2):
                        layer.weight[colour, colour, 1:, 1:] = 0.25
                    else:
                        layer.weight[colour, colour, 1, 1] = 1
        first = self.vae.decoder.layers[0]
        first.weight[:3] *= 0.3
        first.bias[:3] = 0.6

    def forward(self, pictures):
        raw = self.vae.encoder(pictures).float()
        if self.training:
            self.norm.train()(raw.detach())
        # Running statistics: those of a batch depend on its backgrounds, and would take the colours away.
        latents = self.norm.eval()(raw)
        noisy = latents + NOISE * torch.randn_like(latents)
        return self.vae.decoder(noisy), latents

    def folded(self):
        """An AutoencoderTiny whose latents have mean 0 and variance 1."""
        vae = AutoencoderTiny(**CONFIG)
        vae.load_state_dict(self.vae.state_dict())
        last = vae.encoder.layers[-1]
        scale = 1 / torch.sqrt(self.norm.running_var + self.norm.eps)
        last.weight.data *= scale[:, None, None, None]
        last.bias.data = (last.bias.data - self.norm.running_mean) * scale
        return vae.eval()


def loss(made, real):
    """Absolute differences of the pictures, and of their Laplacian pyramids, which is where edges count."""
    total = F.l1_loss(made, real)
    for _ in range(3):
        made_low, real_low = F.avg_pool2d(made, 2), F.avg_pool2d(real, 2)
        up = lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")
        total = total + 1.5 * F.l1_loss(made - up(made_low), real - up(real_low))
        made, real = made_low, real_low
    return total


def crops(pictures, rng, count):
    """Parts of pictures, of which few are nothing but background."""
    out = np.empty((count, CROP, CROP, 3), np.uint8)
    for i in range(count):
        for _ in range(3):
            x, y = rng.integers(0, 128 - CROP + 1, 2)
            out[i] = pictures[rng.integers(len(pictures)), y : y + CROP, x : x + CROP]
            if out[i].std() > 12:
                break
    return to_model(out)


def train(run, minutes):
    torch.manual_seed(1)
    model = Autoencoder()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=1e-4, fused=True)
    training = Training(run / "vae.pt", minutes, {"model": model}, optimizer, 1.2e-3, warmup=30)
    pictures = np.load(run / "train.pictures.npy", mmap_mode="r")
    rng = np.random.default_rng(training.step)
    if not training.step:
        with torch.no_grad():
            model.norm.momentum = 1.0
            model(crops(pictures, rng, 128))
    model.norm.momentum = 0.02
    while training.going():
        real = crops(pictures, rng, 12).to(memory_format=torch.channels_last)
        with autocast():
            made, _ = model(real)
        value = loss(made.float(), real)
        training.learn(value, l1=F.l1_loss(made.detach().float(), real).item())
    model.folded().save_pretrained(run / "vae")


def decoder(run, minutes):
    """Trains the decoder further, which may take its time while the diffusion model is trained."""
    torch.manual_seed(4)
    vae = load(run).to(memory_format=torch.channels_last)
    model = vae.decoder.requires_grad_(True).train()
    average = Average(model, 0.998)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=1e-4, fused=True)
    models = {"decoder": model, "average": average}
    training = Training(run / "decoder.pt", minutes, models, optimizer, 6e-4, warmup=50, decay=0.5)
    pictures = np.load(run / "train.pictures.npy", mmap_mode="r")
    rng = np.random.default_rng(training.step + 10**6)
    while training.going():
        real = crops(pictures, rng, 12).to(memory_format=torch.channels_last)
        with autocast():
            with torch.no_grad():
                latents = vae.encoder(real).float()
            made = model(latents + NOISE * torch.randn_like(latents))
        value = loss(made.float(), real)
        training.learn(value, l1=F.l1_loss(made.detach().float(), real).item())
        average.update(model)


def load(run):
    """The trained autoencoder, also in the middle of its training."""
    model = Autoencoder()
    model.load_state_dict(torch.load(run / "vae.pt", weights_only=True)["models"]["model"])
    vae = model.folded()
    if (run / "decoder.pt").exists():
        state = torch.load(run / "decoder.pt", weights_only=True)["models"]["average"]
        vae.decoder.load_state_dict({key[6:]: value for key, value in state.items() if key.startswith("model.")})
    return vae.to(memory_format=torch.channels_last)


def to_model(pictures):
    """uint8 NHWC to -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(x):
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


@torch.no_grad()
def latents(run):
    """RUN/train.latents.npy, in the order of the pictures. The same scene, drawn again, is the same picture."""
    vae = load(run)
    pictures = np.load(run / "train.pictures.npy", mmap_mode="r")
    scenes = pickle.loads((run / "train.scenes.pkl").read_bytes())
    first = {}
    alike = np.array([first.setdefault(repr(scene), i) for i, scene in enumerate(scenes)])
    out = np.lib.format.open_memmap(run / "train.latents.npy", "w+", np.float16, (len(pictures), 4, 16, 16))
    different = np.array(list(first.values()))
    for at in np.split(different, range(64, len(different), 64)):
        with autocast():
            out[at] = vae.encode(to_model(pictures[at])).latents.float().numpy()
    out[:] = out[alike]
    print(len(different), "latents", "mean", out.mean((0, 2, 3), np.float32), "std", out.std((0, 2, 3), np.float32))


@torch.no_grad()
def sheet(run):
    """RUN/vae.png: pictures above what comes back."""
    from PIL import Image

    vae = load(run)
    real = np.load(run / "train.pictures.npy", mmap_mode="r")[3000:3036]
    encoded = vae.encode(to_model(real)).latents
    made = to_pictures(vae.decode(encoded).sample)
    rows = [np.concatenate(list(part[at : at + 12]), 1) for at in range(0, 36, 12) for part in (real, made)]
    Image.fromarray(np.concatenate(rows)).save(run / "vae.png")
    print("mean absolute error of 255:", np.abs(real.astype(float) - made).mean(), "std", encoded.std().item())


if __name__ == "__main__":
    task, folder, *rest = sys.argv[1:]
    {"train": train, "decoder": decoder, "latents": latents, "sheet": sheet}[task](Path(folder), *map(float, rest))
