"""Pictures of the embedded model by plain diffusers.

    python make_emoji_goldens.py ../../../host/weights/emoji/model ../../fixtures/diffusion/emoji

Writes NUMBER.png for each of requests.json's; fp32, and the random numbers of a CPU generator.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import LatentConsistencyModelPipeline

model, folder = map(Path, sys.argv[1:])
pipeline = LatentConsistencyModelPipeline.from_pretrained(model, torch_dtype=torch.float32)
pipeline.set_progress_bar_config(disable=True)
for number, request in enumerate(json.loads((folder / "requests.json").read_text())):
    generator = torch.Generator("cpu").manual_seed(request.pop("seed"))
    pipeline(**request, height=128, width=128, generator=generator).images[0].save(folder / f"{number}.png")
