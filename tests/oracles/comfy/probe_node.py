"""A node for ComfyUI that takes steps and shows a picture of each, as a sampler does, without a model.

Copy it into ComfyUI's custom_nodes to record the conversations (see record.py).
"""

import time

import comfy.utils
import torch
from PIL import Image


class ReverieProbe:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "image": ("IMAGE",),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1}),
                "steps": ("INT", {"default": 4, "min": 1, "max": 1000}),
                "step_ms": ("INT", {"default": 50, "min": 0, "max": 60000}),
                "method": (["invert", "keep"],),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "reverie"

    def run(self, image, seed, steps, step_ms, method):
        bar = comfy.utils.ProgressBar(steps)
        for step in range(steps):
            time.sleep(step_ms / 1000)
            shade = int(255 * (step + 1) / steps)
            bar.update_absolute(step + 1, steps, ("JPEG", Image.new("RGB", (16, 16), (shade, 90, 30)), 16))
        return (1.0 - image if method == "invert" else torch.clone(image),)


NODE_CLASS_MAPPINGS = {"ReverieProbe": ReverieProbe}
