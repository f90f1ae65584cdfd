"""The models of make_full_size.py as one file under the original names, with a text encoder of Stable Diffusion 1.5's size.

    python make_full_size.py FOLDER
    python make_single_file.py FOLDER

writes to FOLDER `model.safetensors` (2.1 GB, fp16), which programs read that take published checkpoints, and
`picture.safetensors`: what a picture for the empty prompt in four steps needs, so that programs with and without a text
encoder of their own make the same one.
"""

import argparse
import pathlib

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from make_checkpoint_goldens import CLIP_1, original_clip, original_unet, original_vae
from random_weights import fill

TEXT = dict(
    vocab_size=49408,
    hidden_size=768,
    intermediate_size=3072,
    projection_dim=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=77,
    hidden_act="quick_gelu",
)
START, END = 49406, 49407
# Those of LCM's four steps.
TIMESTEPS = (999, 759, 499, 259)


def original(shapes, convert, state):
    """`state` under the names and in the shapes of the file that `convert` makes it of.

    diffusers has no converter for this direction: its own is given tensors that hold their number, and so tells where
    each of the file's comes out.
    """
    names = list(shapes)
    numbered = {name: torch.tensor(float(i)).expand(shape) for i, (name, shape) in enumerate(shapes.items())}
    tensors = {}
    for name, number in convert(numbered).items():
        source = names[int(number[(0,) * number.dim()])]
        tensors[source] = state[name].reshape(shapes[source]).contiguous()
    assert len(tensors) == len(state), "the converter leaves something out"
    return tensors


def component(folder, model, shapes, convert):
    config = dict(model.load_config(folder))
    state = load_file(folder / "diffusion_pytorch_model.safetensors")
    return original(shapes(config), lambda numbered: convert(numbered, config), state)


def sigmas():
    """The noise at each of the steps, and none after the last."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = (1 - betas).cumprod(0)[list(TIMESTEPS)]
    return torch.cat([((1 - kept) / kept).sqrt(), torch.zeros(1)]).float()


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder

    text = CLIPTextModel(CLIPTextConfig(**TEXT))
    fill(text)
    text.half().float().eval()
    prompt = torch.tensor([[START] + [END] * (TEXT["max_position_embeddings"] - 1)])
    picture = {
        "prompt": text(prompt).last_hidden_state,
        "timesteps": torch.tensor(TIMESTEPS).float(),
        "sigmas": sigmas(),
    }
    save_file(picture, folder / "picture.safetensors")

    state = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in text.half().state_dict().items()}
    shapes = original_clip(CLIP_1, TEXT)
    del shapes[f"{CLIP_1}text_model.embeddings.position_ids"]
    tensors = original(shapes, convert_ldm_clip_checkpoint, state)
    tensors |= component(folder / "unet", UNet2DConditionModel, original_unet, convert_ldm_unet_checkpoint)
    tensors |= component(folder / "vae", AutoencoderKL, original_vae, convert_ldm_vae_checkpoint)
    save_file(tensors, folder / "model.safetensors")


main()
