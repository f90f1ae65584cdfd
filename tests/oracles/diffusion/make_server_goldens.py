"""What diffusers makes of requests as clients send them, for tests/tests/same_picture.rs.

    pip install -r requirements.txt
    python make_server_goldens.py

Writes tests/fixtures/diffusion/server: pictures to begin with whose sides are no multiples of 8, `cases.json`, whose requests go
to the server as they are (with uploads in place of the files' names), and diffusers' picture of each.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from sweep import by_diffusers

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures/diffusion"
OUT = FIXTURES / "server"

BASE = {"prompt": "a photo of a cat", "negative_prompt": "dogs", "guidance_scale": 5.0, "seed": 11}
TEXT = BASE | {"width": 64, "height": 48, "num_inference_steps": 4}
IMAGE = BASE | {"image": "photo.png", "num_inference_steps": 10, "strength": 0.7}
CASES = {
    # int(10 * 0.7) is 7 in doubles, and 6 in floats.
    "strength": ("sd", IMAGE),
    "with_alpha": ("sd", IMAGE | {"image": "alpha.png"}),
    "with_16_bits": ("sd", IMAGE | {"image": "deep.png"}),
    "masked": ("sd", IMAGE | {"mask": "mask.png", "width": 72, "height": 48}),
    "masked_in_grey": ("inpaint", IMAGE | {"mask": "grey_mask.png", "width": 72, "height": 48, "strength": 1.0}),
    "old": ("old", IMAGE | {"mask": "mask.png", "width": 72, "height": 48}),
    "eta": ("sd", TEXT | {"scheduler": "DDIMScheduler", "eta": 0.7}),
    "rescale": ("sd", TEXT | {"guidance_rescale": 0.7}),
    "clip_skip": ("sdxl", TEXT | {"clip_skip": 2}),
    "not_built": ("not_built", TEXT | {"scheduler": "EulerDiscreteScheduler"}),
}


@dataclass
class Model:
    path: Path
    xl: bool = False
    variant: str | None = None
    about: dict = field(default_factory=lambda: {"class": ""})


def changed(name: str, scheduler: dict, folder: Path) -> Path:
    """The model `sd` with another scheduler's configuration."""
    for file in (FIXTURES / "pipelines/sd").rglob("*"):
        if file.is_file():
            to = folder / name / file.relative_to(FIXTURES / "pipelines/sd")
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(file.read_bytes())
    (folder / name / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    index = folder / name / "model_index.json"
    fields = json.loads(index.read_text()) | {"scheduler": ["diffusers", scheduler["_class_name"]]}
    index.write_text(json.dumps(fields))
    return folder / name


def main() -> None:
    import tempfile

    OUT.mkdir(exist_ok=True)
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:53, :75]
    plain = np.stack([255 * (x > 30), 255 * y / 53, 127 + 127 * np.sin(x * y / 50), 255 * (x + y < 60)], -1)
    photo = np.clip(plain + rng.normal(0, 25, plain.shape), 0, 255).astype(np.uint8)
    Image.fromarray(photo[:, :, :3].copy()).save(OUT / "photo.png")
    Image.fromarray(photo).save(OUT / "alpha.png")
    Image.fromarray(photo[:, :, :3].copy()).convert("L").save(OUT / "grey_mask.png")
    Image.fromarray(photo[:, :, [2, 1, 0]].copy()).save(OUT / "mask.png")
    Image.fromarray((photo[:, :, 1].astype(np.uint16) * 3)).save(OUT / "deep.png")

    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    schedulers = {"old": betas | {"_class_name": "DDIMScheduler"}, "not_built": betas | {"_class_name": "SASolverScheduler"}}
    cases = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, (model, asked) in CASES.items():
            path = FIXTURES / "pipelines" / model
            if model in schedulers:
                path = changed(model, schedulers[model], Path(temporary))
            files = {key: str(OUT / asked[key]) for key in ["image", "mask"] if key in asked}
            picture = by_diffusers(Model(path, *((True, "fp16") if model == "sdxl" else ())), asked | files)
            Image.fromarray(picture).save(OUT / f"{name}.png")
            cases[name] = {"model": model, "request": asked}
            if model in schedulers:
                cases[name]["scheduler"] = schedulers[model]
    (OUT / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
