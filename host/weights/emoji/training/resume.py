"""Makes checkpoints of what is shipped, to go on from: `python resume.py FOLDER RUN`, in place of tokenizer.py.

The training of each begins with fresh optimizers; the encoder of the autoencoder must not be trained again, since the
UNet belongs to its latents. A denoiser that was distilled forgets its guidance in the first few hundred steps.
"""

import shutil
import sys
from pathlib import Path

import common

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel

import vae
from diffusion import Denoiser
from encoder import Scorer


def checkpoint(path, **models):
    """As `Training` has them, without an optimizer, so that it begins anew with these weights."""
    torch.save({"models": models, "optimizer": None, "step": 0, "spent": 0.0}, path)


def averaged(state):
    return {f"model.{key}": value for key, value in state.items()} | {"_extra_state": torch.tensor(0)}


def main(folder, run):
    folder, run = Path(folder), Path(run)
    shutil.copytree(folder / "model/tokenizer", run / "tokenizer", dirs_exist_ok=True)

    # The normalisation is part of the encoder already: what remains has mean 0 and variance 1.
    autoencoder = vae.Autoencoder()
    autoencoder.vae.load_state_dict(AutoencoderTiny.from_pretrained(folder / "model/vae").state_dict())
    checkpoint(run / "vae.pt", model=autoencoder.state_dict())
    decoder = autoencoder.vae.decoder.state_dict()
    checkpoint(run / "decoder.pt", decoder=decoder, average=averaged(decoder))

    model = Denoiser()
    model.unet.load_state_dict(UNet2DConditionModel.from_pretrained(folder / "model/unet").state_dict())
    model.text.load_state_dict(CLIPTextModel.from_pretrained(folder / "model/text_encoder").state_dict())
    state = model.state_dict()
    for name in ("diffusion", "diffusion1"):
        checkpoint(run / f"{name}.pt", model=state, average=averaged(state))

    if (folder / "scorer").exists():
        import json

        scorer = Scorer(len(json.loads((run / "emoji.json").read_text())))
        scorer.clip.load_state_dict(CLIPModel.from_pretrained(folder / "scorer").state_dict())
        checkpoint(run / "scorer.pt", model=scorer.state_dict())


if __name__ == "__main__":
    main(*sys.argv[1:])
