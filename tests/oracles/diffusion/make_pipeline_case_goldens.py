"""What diffusers' pipelines make of model folders and requests with less usual settings.

    pip install -r requirements.txt
    python make_pipeline_case_goldens.py

The models are those of make_pipeline_goldens.py (tests/fixtures/diffusion/pipelines) with changes of their JSON files, and
some with a tensor more. Writes tests/fixtures/diffusion/pipeline_cases/: `cases.json`, requests as there with what is changed
in the model and the `sample_size` that the pipeline takes; `goldens.safetensors`, of each case the latents before the first
step and after each, and of most the picture.
"""

import inspect
import json
import shutil
import tempfile
import warnings
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from make_pipeline_goldens import BETAS, DDIM, LCM, MASKED, NEGATIVE, OUT, PICTURE, SD, SDXL, SIZE, inputs, request
from PIL import Image
from random_weights import uniform
from safetensors.torch import load_file, save_file

CASES_OUT = OUT.parent / "pipeline_cases"
SMALL = {"width": 32, "height": 32, "num_inference_steps": 3}


def scheduler(class_name: str, **keys) -> dict:
    """A folder's scheduler, in place of its own."""
    return {"scheduler/scheduler_config.json": {"replace": BETAS | {"_class_name": class_name} | keys}}


OLD_DDIM = scheduler("DDIMScheduler")
OLD_PNDM = scheduler("PNDMScheduler")
MOMENTS = {"latents_mean": [0.2, -0.4, 0.1, 0.3], "latents_std": [1.5, 0.8, 1.2, 0.6], "shift_factor": 0.3}
WITH_MOMENTS = {"vae/config.json": {"set": MOMENTS}}
PLAYGROUND = {
    "scheduler/scheduler_config.json": {
        "replace": {
            "_class_name": "EDMDPMSolverMultistepScheduler", "num_train_timesteps": 1000, "prediction_type": "epsilon",
            "rho": 7.0, "sigma_data": 0.5, "sigma_max": 80.0, "sigma_min": 0.002, "solver_order": 2,
        }
    }
}  # fmt: skip
DISTILLED = {
    "unet/config.json": {"set": {"time_cond_proj_dim": 12}},
    "unet/diffusion_pytorch_model.fp16.safetensors": {"tensor": ["time_embedding.cond_proj.weight", [8, 12]]},
} | scheduler("LCMScheduler", original_inference_steps=50)
OLD_UNET = {"unet/config.json": {"set": {"sample_size": 32, "_diffusers_version": "0.6.0"}}}
AS_PLAIN = {"model_index.json": {"set": {"_class_name": "StableDiffusionPipeline"}}}


def case(name: str, model: str, pipeline: str, changes: dict, **options) -> dict:
    size = {"width": SIZE, "height": SIZE} if "image" in options else {}
    return request(name, model, pipeline, **(SMALL | size | options)) | {"changes": changes}


CASES = [
    case("old_ddim", "sd", SD.format(""), OLD_DDIM),
    case("old_ddim_img2img", "sd", SD.format("Img2Img"), OLD_DDIM, **PICTURE, strength=0.7, num_inference_steps=10, guidance_scale=1.0),
    case("old_ddim_inpaint", "sd", SD.format("Inpaint"), OLD_DDIM, **MASKED, strength=1.0),
    case("old_ddim_sdxl", "sdxl", SDXL.format(""), OLD_DDIM, guidance_scale=5.0),
    case("old_pndm", "sd", SD.format(""), OLD_PNDM, num_inference_steps=4),
    case("old_pndm_inpaint", "inpaint", SD.format("Inpaint"), OLD_PNDM, **MASKED, strength=1.0),
    case("old_lcm_class", "lcm", SD.format("Img2Img"), AS_PLAIN, **PICTURE, strength=0.5, num_inference_steps=4, guidance_scale=8.5),
    case("old_unet", "sd", SD.format(""), OLD_UNET, num_inference_steps=1),
    case("deis", "sd", SD.format(""), scheduler("DEISMultistepScheduler", use_karras_sigmas=True), **NEGATIVE),
    case("playground", "sdxl", SDXL.format(""), PLAYGROUND | WITH_MOMENTS, guidance_scale=3.0),
    case("playground_img2img", "sdxl", SDXL.format("Img2Img"), PLAYGROUND | WITH_MOMENTS, **PICTURE, strength=0.67, guidance_scale=3.0),
    case("moments_inpaint", "sdxl", SDXL.format("Inpaint"), WITH_MOMENTS, **MASKED, strength=0.67, guidance_scale=5.0),
    case("moments_sd", "sd", SD.format("Img2Img"), WITH_MOMENTS, **PICTURE, strength=0.67),
    case("zeros_by_default", "sdxl", SDXL.format(""), {"model_index.json": {"remove": ["force_zeros_for_empty_prompt"]}}, guidance_scale=5.0),
    case("no_zeros", "sdxl", SDXL.format(""), {"model_index.json": {"set": {"force_zeros_for_empty_prompt": False}}}, guidance_scale=5.0),
    case("empty_second_prompts", "sdxl", SDXL.format(""), {}, guidance_scale=5.0, prompt_2="", negative_prompt_2="", **NEGATIVE),
    case("sdxl_clip_skip", "sdxl", SDXL.format(""), {}, guidance_scale=5.0, clip_skip=1, **NEGATIVE),
    case("sdxl_distilled", "sdxl", SDXL.format(""), DISTILLED, guidance_scale=5.0),
    case("sdxl_distilled_img2img", "sdxl", SDXL.format("Img2Img"), DISTILLED, **PICTURE, strength=0.5, num_inference_steps=4, guidance_scale=5.0),
    case("attention_mask", "sd", SD.format(""), {"text_encoder/config.json": {"set": {"use_attention_mask": True}}}, **NEGATIVE),
    case("guidance_rescale", "sd", SD.format(""), {}, guidance_rescale=0.7, scheduler=DDIM),
    case("guidance_rescale_sdxl", "sdxl", SDXL.format(""), {}, guidance_rescale=0.4, guidance_scale=9.0),
    case("eta", "sd", SD.format(""), {}, eta=0.6, scheduler=DDIM),
    case("eta_tcd", "sd", SD.format(""), {}, eta=0.3, scheduler={"_class_name": "TCDScheduler"}, guidance_scale=1.0),
]  # fmt: skip


def change(folder: Path, changes: dict) -> None:
    for name, what in changes.items():
        path = folder / name
        if "tensor" in what:
            tensor, shape = what["tensor"]
            tensors = load_file(path) | {tensor: uniform(tensor, shape).half()}
            save_file(tensors, path, {"format": "pt"})
            continue
        fields = what.get("replace") or json.loads(path.read_text())
        fields.update(what.get("set", {}))
        for key in what.get("remove", []):
            del fields[key]
        path.write_text(json.dumps(fields))


def open_pipeline(asked: dict, folder: Path):
    variant = "fp16" if asked["model"] == "sdxl" else None
    if "scheduler/scheduler_config.json" in asked["changes"]:
        # The class of a folder's scheduler is told by its index.
        index = json.loads((folder / "model_index.json").read_text())
        class_name = json.loads((folder / "scheduler/scheduler_config.json").read_text())["_class_name"]
        index["scheduler"] = ["diffusers", class_name]
        (folder / "model_index.json").write_text(json.dumps(index))
    pipeline = getattr(diffusers, asked["pipeline"]).from_pretrained(folder, torch_dtype=torch.float32, variant=variant)
    pipeline.set_progress_bar_config(disable=True)
    if asked["scheduler"]:
        class_ = getattr(diffusers, asked["scheduler"]["_class_name"])
        pipeline.scheduler = class_.from_config(pipeline.scheduler.config)
    return pipeline


def run(asked: dict, pictures: dict) -> tuple[int, dict[str, torch.Tensor]]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        shutil.copytree(OUT / asked["model"], folder)
        change(folder, asked["changes"])
        pipeline = open_pipeline(asked, folder)
    own = {"name", "model", "pipeline", "seeds", "scheduler", "image", "mask_image", "changes"}
    options = {key: value for key, value in asked.items() if key not in own}
    for key in ["image", "mask_image"]:
        if key in asked:
            options[key] = Image.fromarray(pictures[asked[key]].numpy())
    if "Img2Img" in asked["pipeline"]:
        del options["width"], options["height"]
    options["generator"] = torch.Generator("cpu").manual_seed(asked["seeds"][0])
    trajectory = []
    step = pipeline.scheduler.step

    def recording_step(model_output, timestep, sample, *args, **kwargs):
        if not trajectory:
            trajectory.append(sample)
        return step(model_output, timestep, sample, *args, **kwargs)

    def on_step_end(_pipeline, _index, _timestep, values):
        trajectory.append(values["latents"])
        return {}

    recording_step.__signature__ = inspect.signature(step)
    pipeline.scheduler.step = recording_step
    with torch.no_grad():
        images = pipeline(**options, output_type="pil", callback_on_step_end=on_step_end).images
    golden = {"trajectory": torch.stack(trajectory), "image": torch.from_numpy(np.asarray(images[0]))}
    return pipeline.unet.config.sample_size, golden


def main() -> None:
    pictures, cases, goldens = inputs(), [], {}
    for asked in CASES:
        sample_size, golden = run(asked, pictures)
        cases.append(asked | {"sample_size": sample_size})
        if golden["image"].shape[0] == SIZE and "moments" not in asked["name"] and "playground" not in asked["name"]:
            # Its latents tell as much, in fewer bytes.
            del golden["image"]
        for key, value in golden.items():
            assert value.dtype == torch.uint8 or torch.isfinite(value).all(), (asked["name"], key)
            goldens[f"{asked['name']}/{key}"] = value.detach().contiguous()
        print(asked["name"], tuple(golden["trajectory"].shape))
    CASES_OUT.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(asked) for asked in cases)
    (CASES_OUT / "cases.json").write_text(f"[\n{lines}\n]\n")
    save_file(goldens, CASES_OUT / "goldens.safetensors")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    diffusers.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()
    main()
