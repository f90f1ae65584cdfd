"""Writes what is shipped: `python export.py RUN FOLDER`.

FOLDER/model is a pipeline of diffusers, FOLDER/scorer a CLIPModel where there is one. Ends with pictures by plain
diffusers from what was written, RUN/exported.png.
"""

import json
import shutil
import sys
from pathlib import Path

import common

import torch
from diffusers import LatentConsistencyModelPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPTokenizer

import distil
import vae

# Where the judge ranks pictures best.
GUIDANCE = 1.5


def tidy(folder):
    """Configurations without what only says where they were made."""
    for path in folder.rglob("*.json"):
        config = json.loads(path.read_text())
        if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n")


def prefix(path):
    """The names in Stable Diffusion's files. transformers reads these and its own, other readers only these."""
    tensors = {"text_model." + key.removeprefix("text_model."): value for key, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def main(run, folder):
    run, folder = Path(run), Path(folder)
    made = distil.shipped(run)
    made.unet.set_attn_processor(AttnProcessor2_0())
    tokenizer = CLIPTokenizer.from_pretrained(run / "tokenizer")
    pipeline = LatentConsistencyModelPipeline(
        vae=vae.load(run).half(),
        text_encoder=made.text.half(),
        tokenizer=tokenizer,
        unet=made.unet.half(),
        scheduler=distil.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    shutil.rmtree(folder / "model", ignore_errors=True)
    pipeline.save_pretrained(folder / "model", safe_serialization=True)
    # The vocabulary as it was made, in the files that all readers of CLIP's know.
    shutil.rmtree(folder / "model/tokenizer")
    shutil.copytree(run / "tokenizer", folder / "model/tokenizer")
    prefix(folder / "model/text_encoder/model.safetensors")
    tidy(folder / "model")

    if (run / "scorer.pt").exists():
        import encoder

        scorer = folder / "scorer"
        shutil.rmtree(scorer, ignore_errors=True)
        encoder.load(run).half().save_pretrained(scorer)
        half = [0.5, 0.5, 0.5]
        CLIPImageProcessor(
            size={"shortest_edge": 128}, crop_size={"height": 128, "width": 128}, image_mean=half, image_std=half
        ).save_pretrained(scorer)
        for path in (run / "tokenizer").iterdir():
            shutil.copy(path, scorer)
        config = json.loads((scorer / "tokenizer_config.json").read_text())
        config["model_max_length"] = encoder.LENGTH
        (scorer / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
        tidy(scorer)
        CLIPModel.from_pretrained(scorer)
    check(folder, run)


def check(folder, run):
    CLIPTextModel.from_pretrained(folder / "model/text_encoder")
    pipeline = LatentConsistencyModelPipeline.from_pretrained(folder / "model", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    prompts = ["a cat", "a red apple on a blue background", "a smiling face", "rocket"]
    made = pipeline(
        prompts, num_inference_steps=4, guidance_scale=GUIDANCE, height=128, width=128,
        generator=torch.Generator().manual_seed(0), output_type="np",
    ).images
    from PIL import Image

    row = (made * 255).round().astype("uint8").transpose(1, 0, 2, 3).reshape(128, -1, 3)
    Image.fromarray(row).save(run / "exported.png")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        if path.stat().st_size > 20000:
            print(f"{path.stat().st_size:>10}  {path.relative_to(folder)}")
    print(f"{sum(path.stat().st_size for path in files):>10}  in all")


if __name__ == "__main__":
    main(*sys.argv[1:])
