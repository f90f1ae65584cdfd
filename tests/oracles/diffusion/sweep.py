"""Reverie against installed diffusers, with models and requests that nobody chose.

    pip install -r requirements.txt
    python sweep.py --seed 1 --requests 1000 --runner "cargo run --release -p reverie-models --example sweep"
    python sweep.py --seed 1 --requests 1000 --server http://127.0.0.1:8900 --models checkpoints --loras loras

Every model, request and picture follows from the seed. The runner answers requests, a line of JSON each, as
`host/models/examples/sweep.rs` does; a server is asked as clients ask it, and needs its folders of models and LoRAs to be writable
here. A picture may be off by more than 2 of 255 in a thousandth of its values. Prints a table by
families, and each request over the limit with what is needed to repeat it (`--only MODEL/REQUEST`). A request that both refuse is
right, one that only one of them refuses is not.
"""

import argparse
import json
import logging
import random
import shlex
import subprocess
import tempfile
import warnings
from collections import defaultdict
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image
from sweep_models import draw_model, draw_request, family
from sweep_prompts import embeddings
from sweep_server import Server

LIMIT, SHARE = 2, 1e-3
REQUESTS_OF_A_MODEL = 10


class Runner:
    """A program that answers a line with a line."""

    def __init__(self, command: str):
        self.process = subprocess.Popen(shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, model, asked: dict, out: Path) -> tuple[np.ndarray | None, str]:
        """The picture, or none and why."""
        line = json.dumps(raw(asked) | {"model": str(model.path), "out": str(out)})
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            return None, answer["error"]
        pixels = np.fromfile(out, np.uint8).reshape(answer["height"], answer["width"], 3)
        return pixels, "; ".join(answer["warnings"])


def raw(asked: dict) -> dict:
    """The same with pictures as files of bytes, which need no decoder."""
    asked = dict(asked)
    for key in ["image", "mask"]:
        if key in asked:
            pixels = Image.open(asked[key]).convert("RGB")
            asked[key] = asked[key].replace(".png", f".{pixels.width}x{pixels.height}.rgb")
            Path(asked[key]).write_bytes(pixels.tobytes())
    return asked


def pipeline_class(model, asked: dict):
    if "mask" in asked:
        name = "StableDiffusionXLInpaintPipeline" if model.xl else "StableDiffusionInpaintPipeline"
    elif model.about["class"].startswith("Latent"):
        name = f"LatentConsistencyModel{'Img2Img' if 'image' in asked else ''}Pipeline"
    else:
        name = f"StableDiffusion{'XL' if model.xl else ''}{'Img2Img' if 'image' in asked else ''}Pipeline"
    return getattr(diffusers, name)


def by_diffusers(model, asked: dict) -> np.ndarray:
    pipeline_class_ = pipeline_class(model, asked)
    pipeline = pipeline_class_.from_pretrained(model.path, torch_dtype=torch.float32, variant=model.variant)
    pipeline.set_progress_bar_config(disable=True)
    if not hasattr(pipeline.text_encoder, "text_model"):
        # Transformers 5 has no such part any more, where diffusers looks for the final layer norm.
        type(pipeline.text_encoder).text_model = property(lambda text_encoder: text_encoder)
    # The model's own, named, is the model's own.
    if asked.get("scheduler") not in (None, type(pipeline.scheduler).__name__) or "schedule_type" in asked:
        spacing = asked.get("schedule_type")
        keys = {f"use_{name}_sigmas": name == spacing for name in ["karras", "exponential", "beta"]} if spacing else {}
        class_ = getattr(diffusers, asked["scheduler"])
        if spacing and "use_lu_lambdas" in class_._get_init_keys(class_):
            keys["use_lu_lambdas"] = False
        # As keywords: of the configuration, what was left to the defaults of the old class does not count.
        pipeline.scheduler = class_.from_config(pipeline.scheduler.config, **keys)
    if "lora" in asked:
        pipeline.load_lora_weights(asked["lora"][0], adapter_name="drawn")
        pipeline.set_adapters("drawn", asked["lora"][1])
    same = ["prompt", "num_inference_steps", "guidance_scale", "negative_prompt", "prompt_2", "width", "height", "eta", "guidance_rescale"]
    options = {key: asked[key] for key in same if key in asked}
    options["generator"] = torch.Generator("cpu").manual_seed(asked["seed"])
    if asked.get("clip_skip", 1) > 1:
        options["clip_skip"] = asked["clip_skip"] - 1
    if "image" in asked:
        options["image"] = Image.open(asked["image"]).convert("RGB")
        options["strength"] = asked["strength"]
    if "mask" in asked:
        options["mask_image"] = Image.open(asked["mask"])
    elif "image" in asked:
        # The size is the picture's, rounded down.
        options.pop("width", None), options.pop("height", None)
    if pipeline_class_.__name__.startswith("Latent"):
        options.pop("negative_prompt", None)
    if "spans" in asked:
        guided = asked["guidance_scale"] > 1 and pipeline.unet.config.time_cond_proj_dim is None
        drawn = embeddings(pipeline, model.xl, asked["spans"], asked.get("negative_spans"), options.pop("clip_skip", 0), guided)
        for key in ["prompt", "negative_prompt"]:
            options.pop(key, None)
        options |= drawn
    image = pipeline(**options, output_type="pil").images[0]
    return np.asarray(image)


def compare(model, asked: dict, runner: Runner, out: Path) -> tuple[str, str]:
    """`same`, `refused`, `off`, `only Reverie`, `only diffusers`; and what there is to say."""
    ours, said = runner.ask(model, asked, out)
    try:
        theirs, why = by_diffusers(model, asked), ""
    except Exception as error:  # Whatever stops it.
        theirs, why = None, f"{type(error).__name__}: {error}"
    if ours is None or theirs is None:
        if ours is None and theirs is None:
            return "refused", f"{said} / {why}"
        return ("only diffusers", said) if ours is None else ("only Reverie", why)
    if ours.shape != theirs.shape:
        return "off", f"{ours.shape} for {theirs.shape}"
    difference = np.abs(ours.astype(int) - theirs)
    share = (difference > LIMIT).mean()
    return ("same" if share <= SHARE else "off"), f"{100 * share:.2f} % over, {difference.mean():.3f} on average"


def sweep(arguments: argparse.Namespace, only: list[int] | None, table: dict) -> None:
    if arguments.server:
        runner = Server(arguments.server, arguments.models, arguments.loras)
    else:
        runner = Runner(arguments.runner)
    for number in range(-(-arguments.requests // REQUESTS_OF_A_MODEL)):
        if only and number != only[0]:
            continue
        rng = random.Random(f"{arguments.seed}/{number}")
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            model = draw_model(rng, folder / "model")
            for i in range(REQUESTS_OF_A_MODEL):
                asked = draw_request(rng, model, folder, i)
                if only and i != only[1]:
                    continue
                verdict, said = compare(model, asked, runner, folder / "out")
                table[family(model, asked)][verdict] += 1
                if verdict not in ("same", "refused") or only:
                    place = f"--seed {arguments.seed} --only {number}/{i}"
                    print(f"{verdict}: {said}\n  {place}\n  {json.dumps(model.about)}\n  {json.dumps(asked)}", flush=True)


def print_table(table: dict) -> None:
    verdicts = ["same", "refused", "off", "only Reverie", "only diffusers"]
    print(f"{'':24}" + "".join(f"{verdict:>16}" for verdict in verdicts))
    for name, counts in sorted(table.items()):
        print(f"{name:24}" + "".join(f"{counts[verdict]:16}" for verdict in verdicts))
    sums = [sum(counts[verdict] for counts in table.values()) for verdict in verdicts]
    print(f"{'all':24}" + "".join(f"{count:16}" for count in sums))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--requests", type=int, default=1000)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--runner", help="the command line of a program that answers lines")
    asked.add_argument("--server", help="the address of a running server")
    parser.add_argument("--models", type=Path, help="the server's folder of models (diffusion.dir)")
    parser.add_argument("--loras", type=Path, help="the server's folder of LoRAs (diffusion.loras_dir)")
    parser.add_argument("--only", help="MODEL/REQUEST of the same seed")
    arguments = parser.parse_args()
    only = [int(part) for part in arguments.only.split("/")] if arguments.only else None
    table = defaultdict(lambda: defaultdict(int))
    try:
        sweep(arguments, only, table)
    except KeyboardInterrupt:
        print("stopped")
    print_table(table)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    diffusers.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()
    main()
