"""stable-diffusion.cpp on the CPU, as a contender of `sd15.py`.

It has one call for a whole picture. The times of its parts are those of its messages; the text encoder runs before the
first of them, so it counts for nothing but the memory of its weights, which are told by themselves (`extra_mb`).
"""

import argparse
import os
import pathlib
import re
import sys
import time
from importlib.metadata import version

import numpy as np
import stable_diffusion_cpp as sdcpp
from safetensors.numpy import load_file

from protocol import SEED, memory_mb, reset_peak, serve

# Its messages: before the first step, before the VAE, after it, and how large the weights are.
SAMPLING, DECODING, DECODED = "generating image: 1/1", "decoding 1 latents", "decode_first_stage completed"
TEXT_ENCODER = re.compile(r"text_encoders ([\d.]+)MB")
WARNING = 2


class Messages:
    """Notes when the library says what."""

    def __init__(self):
        self.text_encoder_mb = 0
        self.marks = {}
        self.steps = []
        # The library keeps the pointer only.
        self.callback = sdcpp.sd_log_callback(self.hear)
        sdcpp.sd_set_log_callback(self.callback, None)

    def hear(self, level, text, _data):
        text = text.decode(errors="replace")
        if level > WARNING:
            print(text, file=sys.stderr)
        if found := TEXT_ENCODER.search(text):
            self.text_encoder_mb = float(found[1])
        for mark in (SAMPLING, DECODING, DECODED):
            if mark in text:
                if mark == SAMPLING:
                    reset_peak()
                    self.steps = []
                self.marks[mark] = (time.perf_counter(), time.process_time())

    def step(self, step, _steps, _seconds):
        # Loading reports its progress in the same way, and a run starts with step 0.
        if step > 0:
            self.steps.append(time.perf_counter())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--variant", required=True, help="the weights' type and options, as f16+fa")
    args = parser.parse_args()
    kind, *options = args.variant.split("+")
    # The library prints its progress where the answers go.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    messages = Messages()
    start = time.perf_counter()
    model = sdcpp.StableDiffusion(
        model_path=str(args.folder / "model.safetensors"),
        vae_decode_only=True,
        n_threads=args.threads,
        wtype=kind,
        # PyTorch's random numbers.
        rng_type="cpu",
        sampler_rng_type="cpu",
        diffusion_flash_attn="fa" in options,
        flash_attn="fa" in options,
        diffusion_conv_direct="direct" in options,
        vae_conv_direct="direct" in options,
    )
    load_s = time.perf_counter() - start
    sigmas = load_file(args.folder / "picture.safetensors")["sigmas"].tolist()

    def make(size, batch):
        assert batch == 1, "it makes one picture after the other"
        messages.steps = []
        images = model.generate_image(
            prompt="",
            width=size,
            height=size,
            cfg_scale=1.0,
            sample_method="euler",
            sample_steps=len(sigmas) - 1,
            sigmas=",".join(map(repr, sigmas)),
            seed=SEED,
            progress_callback=messages.step,
        )
        marks = messages.marks
        ends = [marks[SAMPLING][0], *messages.steps]
        assert len(ends) == len(sigmas), "not as many steps as asked for"
        answer = {
            "steps_s": [end - start for start, end in zip(ends, ends[1:])],
            "vae_s": marks[DECODED][0] - marks[DECODING][0],
            "cpu_s": marks[DECODED][1] - marks[SAMPLING][1],
            "peak_mb": memory_mb("VmHWM"),
        }
        # It gives 8 bits, rounded down.
        picture = (np.asarray(images[0].convert("RGB"), np.float32) + 0.5) / 127.5 - 1
        return picture.transpose(2, 0, 1), answer

    features = sdcpp.sd_get_system_info().decode()
    enabled = " ".join(re.findall(r"(\w+) = 1", features))
    name = f"stable-diffusion-cpp-python {version('stable-diffusion-cpp-python')}, {args.variant} ({enabled})"
    serve(name, load_s, make, out=answers, bits=8, extra_mb=round(messages.text_encoder_mb))


main()
