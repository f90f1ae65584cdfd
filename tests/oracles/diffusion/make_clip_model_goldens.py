"""A tiny random CLIPModel as transformers saves it, and what it and its processor make of pictures and texts.

    python make_clip_model_goldens.py ../../fixtures/diffusion/pipelines/sd/tokenizer ../../fixtures/diffusion/clip_model

`values.safetensors` holds the pictures (bytes as floats, rows first), what the processor makes of them on Pillow, and both
towers' embeddings of length 1; `texts.json` the texts. One picture is reduced, one enlarged, one has the right size.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SIZES = [(96, 64), (21, 37), (32, 32)]
TEXTS = ["a photo of a cat", "", "a red house under a blue sky, " * 12]


@torch.no_grad()
def main():
    source, out = map(pathlib.Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer.from_pretrained(source)
    special = dict(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    text = dict(hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3, projection_dim=20)
    vision = dict(hidden_size=20, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2, projection_dim=20)
    torch.manual_seed(5)
    config = CLIPConfig(
        text_config=CLIPTextConfig(
            vocab_size=len(tokenizer), max_position_embeddings=48, **text, **special
        ).to_dict(),
        vision_config=CLIPVisionConfig(image_size=32, patch_size=8, hidden_act="gelu", **vision).to_dict(),
        projection_dim=20,
    )
    model = CLIPModel(config).eval()
    # Initial weights are so small that the layers hardly show: these are not.
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.3)
        elif "norm" not in name and parameter.ndim == 1:
            parameter.normal_(std=0.1)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    model.save_pretrained(out)
    processor.save_pretrained(out)
    shutil.copytree(source, out / "tokenizer", dirs_exist_ok=True)

    rng = np.random.default_rng(3)
    values = {}
    for i, (width, height) in enumerate(SIZES):
        # Smooth with some noise, so that the filter's overshoot and its clipping both show.
        y, x = np.mgrid[:height, :width]
        plain = np.stack([255 * (x > width / 2), 255 * y / height, 127 + 127 * np.sin(x * y / 50)], -1)
        pixels = np.clip(plain + rng.normal(0, 20, plain.shape), 0, 255).astype(np.uint8)
        prepared = processor(Image.fromarray(pixels), return_tensors="pt").pixel_values
        pooled = model.vision_model(pixel_values=prepared).pooler_output
        embeds = model.visual_projection(pooled)
        values[f"picture.{i}"] = torch.from_numpy(pixels).float()
        values[f"pixel_values.{i}"] = prepared
        values[f"image_embeds.{i}"] = embeds / embeds.norm()
    for i, prompt in enumerate(TEXTS):
        ids = tokenizer(prompt, truncation=True, max_length=48, return_tensors="pt").input_ids
        embeds = model.text_projection(model.text_model(input_ids=ids).pooler_output)
        values[f"text_embeds.{i}"] = embeds / embeds.norm()
    values["logit_scale"] = model.logit_scale.exp()[None]
    save_file({key: value.contiguous() for key, value in values.items()}, out / "values.safetensors")
    (out / "texts.json").write_text(json.dumps(TEXTS) + "\n")
    for key, value in values.items():
        print(f"{key:16} {list(value.shape)}")


main()
