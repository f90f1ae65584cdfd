"""Trajectories of diffusers' schedulers, for host/models/tests/schedulers.rs.

    pip install -r requirements.txt
    python make_scheduler_goldens.py

Writes tests/fixtures/diffusion/schedulers/: `cases.json`, what each case asks for, and `trajectories.safetensors`, of each
case its timesteps, its sigmas, its latents before the first step and after each. In place of a model there is `model()`,
which is cheap and smooth and depends on the latents and on the timestep.
"""

import inspect
import json
import math
import warnings
from pathlib import Path

import diffusers
import torch
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parents[2] / "fixtures/diffusion/schedulers"
# Not a multiple of 16, so that drawing noise takes its less usual path.
SHAPE = (1, 4, 3, 2)
STEPS = [1, 2, 4, 20, 50]
# Of the cases that came later, which are many. 15 and more are another thing than fewer for some solvers.
FURTHER_STEPS = [1, 3, 16]

SD15 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
SDXL = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
TURBO = SDXL | {"timestep_spacing": "trailing"}
LCM = {
    "_class_name": "LCMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "dynamic_thresholding_ratio": 0.995,
    "num_train_timesteps": 1000,
    "original_inference_steps": 50,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "sample_max_value": 1.0,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "thresholding": False,
    "timestep_scaling": 10.0,
    "timestep_spacing": "leading",
    "trained_betas": None,
}
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
COSINE = {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False}
KARRAS = {"use_karras_sigmas": True}
EXPONENTIAL = {"use_exponential_sigmas": True}
SDE = {"algorithm_type": "sde-dpmsolver++"}
BETA = {"use_beta_sigmas": True}
LU = {"use_lu_lambdas": True}
V = {"prediction_type": "v_prediction"}
LIMITS = {"sigma_min": 0.1, "sigma_max": 10.0}
NOISE = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
SDE_NOISE = {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"}
THRESHOLD = {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.8}
PRK = {"skip_prk_steps": False}
PLAYGROUND = {
    "_class_name": "EDMDPMSolverMultistepScheduler",
    "algorithm_type": "dpmsolver++",
    "dynamic_thresholding_ratio": 0.995,
    "euler_at_final": False,
    "final_sigmas_type": "zero",
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "sample_max_value": 1.0,
    "sigma_data": 0.5,
    "sigma_max": 80.0,
    "sigma_min": 0.002,
    "solver_order": 2,
    "solver_type": "midpoint",
    "thresholding": False,
}

# Label, the model's configuration, the scheduler that is asked for, what is changed in the configuration, and what the plan
# has beside steps and strength.
SNR_CLIPPED = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": True}

CASES = [
    ("pndm_sd15", SD15, "PNDMScheduler", {}, {}),
    ("pndm_v", SD15, "PNDMScheduler", {"prediction_type": "v_prediction", "set_alpha_to_one": True}, {}),
    ("pndm_linspace", SD15, "PNDMScheduler", {"timestep_spacing": "linspace"}, {}),
    ("lcm_dreamshaper", LCM, "LCMScheduler", {}, {}),
    ("lcm_sd15", SD15, "LCMScheduler", {}, {}),
    ("lcm_v_clipped", LCM, "LCMScheduler", {"prediction_type": "v_prediction", "clip_sample": True}, {}),
    ("lcm_original_100", LCM, "LCMScheduler", {}, {"original_inference_steps": 100}),
    ("lcm_img2img", LCM, "LCMScheduler", {}, {"strength_in_original_steps": True}),
    ("ddim_sd15", SD15, "DDIMScheduler", {}, {}),
    ("ddim_eta", SD15, "DDIMScheduler", {}, {"eta": 0.7}),
    ("ddim_v_zero_snr", SD15, "DDIMScheduler", ZERO_SNR, {}),
    ("ddim_sample_clipped", SD15, "DDIMScheduler", {"prediction_type": "sample", "clip_sample": True}, {}),
    ("ddim_linspace_linear", {"_class_name": "DDIMScheduler", "timestep_spacing": "linspace"}, "DDIMScheduler", {"clip_sample_range": 2.0}, {}),
    ("ddpm_sd15", SD15, "DDPMScheduler", {}, {}),
    ("ddpm_cosine_large", SD15, "DDPMScheduler", COSINE | {"variance_type": "fixed_large"}, {}),
    ("euler_sdxl", SDXL, "EulerDiscreteScheduler", {}, {}),
    ("euler_turbo", TURBO, "EulerDiscreteScheduler", {}, {}),
    ("euler_sd15_linspace", SD15, "EulerDiscreteScheduler", {}, {}),
    ("euler_karras", SDXL, "EulerDiscreteScheduler", KARRAS, {}),
    ("euler_karras_limits", SDXL, "EulerDiscreteScheduler", KARRAS | {"sigma_min": 0.1, "sigma_max": 10.0}, {}),
    ("euler_exponential_sigma_min", SDXL, "EulerDiscreteScheduler", EXPONENTIAL | {"final_sigmas_type": "sigma_min"}, {}),
    ("euler_log_linear_sample", SDXL, "EulerDiscreteScheduler", {"interpolation_type": "log_linear", "prediction_type": "sample"}, {}),
    ("euler_v_zero_snr", SDXL, "EulerDiscreteScheduler", ZERO_SNR, {}),
    ("euler_a_sd15", SD15, "EulerAncestralDiscreteScheduler", {}, {}),
    ("euler_a_sdxl_turbo", TURBO, "EulerAncestralDiscreteScheduler", {}, {}),
    ("euler_a_v_zero_snr", SDXL, "EulerAncestralDiscreteScheduler", ZERO_SNR, {}),
    ("heun_sd15", SD15, "HeunDiscreteScheduler", {}, {}),
    ("heun_karras_v", SDXL, "HeunDiscreteScheduler", KARRAS | {"prediction_type": "v_prediction", "clip_sample": True}, {}),
    ("dpmpp_2m_sd15", SD15, "DPMSolverMultistepScheduler", {}, {}),
    ("dpmpp_2m_karras", SDXL, "DPMSolverMultistepScheduler", KARRAS, {}),
    ("dpmpp_2m_heun", SDXL, "DPMSolverMultistepScheduler", {"solver_type": "heun", "euler_at_final": True}, {}),
    ("dpmpp_1_sample", SDXL, "DPMSolverMultistepScheduler", {"solver_order": 1, "prediction_type": "sample"}, {}),
    ("dpmpp_3m", SD15, "DPMSolverMultistepScheduler", {"solver_order": 3, "final_sigmas_type": "sigma_min"}, {}),
    ("dpmpp_2m_v_zero_snr", SDXL, "DPMSolverMultistepScheduler", ZERO_SNR, {}),
    ("dpmpp_cosine_clipped", SD15, "DPMSolverMultistepScheduler", COSINE | {"lambda_min_clipped": -5.1}, {}),
    ("dpmpp_exponential", SD15, "DPMSolverMultistepScheduler", EXPONENTIAL, {}),
    ("dpmpp_2m_sde", SD15, "DPMSolverMultistepScheduler", SDE, {}),
    ("dpmpp_2m_sde_karras_heun", SD15, "DPMSolverMultistepScheduler", SDE | KARRAS | {"solver_type": "heun"}, {}),
    ("dpmpp_3m_sde", SD15, "DPMSolverMultistepScheduler", SDE | {"solver_order": 3, "lower_order_final": False}, {}),
    ("unipc_sd15", SD15, "UniPCMultistepScheduler", {}, {}),
    ("unipc_bh1_karras", SDXL, "UniPCMultistepScheduler", KARRAS | {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}, {}),
    ("unipc_3", SD15, "UniPCMultistepScheduler", {"solver_order": 3, "disable_corrector": [0, 2]}, {}),
    ("unipc_v_zero_snr", SDXL, "UniPCMultistepScheduler", ZERO_SNR, {}),
    ("unipc_exponential_sigma_min", SD15, "UniPCMultistepScheduler", EXPONENTIAL | {"final_sigmas_type": "sigma_min"}, {}),
]

FURTHER_CASES = [
    ("deis_dreamshaper", SD15, "DEISMultistepScheduler", {"solver_order": 2}, {}),
    ("deis_karras_3", SDXL, "DEISMultistepScheduler", KARRAS | {"solver_order": 3}, {}),
    ("deis_v_trailing", SD15, "DEISMultistepScheduler", V | {"timestep_spacing": "trailing", "lower_order_final": False}, {}),
    ("deis_sample_1_threshold", SD15, "DEISMultistepScheduler", THRESHOLD | {"prediction_type": "sample", "solver_order": 1}, {}),
    ("deis_beta", SD15, "DEISMultistepScheduler", BETA, {}),
    ("lms_sd15", SD15, "LMSDiscreteScheduler", {}, {}),
    ("lms_karras_v", SDXL, "LMSDiscreteScheduler", KARRAS | V | LIMITS, {}),
    ("lms_exponential_limits", SDXL, "LMSDiscreteScheduler", EXPONENTIAL | LIMITS, {}),
    ("singlestep_sd15", SD15, "DPMSolverSinglestepScheduler", {}, {}),
    ("singlestep_3_karras", SDXL, "DPMSolverSinglestepScheduler", KARRAS | {"solver_order": 3, "lower_order_final": True}, {}),
    ("singlestep_3_heun", SD15, "DPMSolverSinglestepScheduler", {"solver_order": 3, "solver_type": "heun", "final_sigmas_type": "sigma_min"}, {}),
    ("singlestep_heun_v", SD15, "DPMSolverSinglestepScheduler", V | {"solver_type": "heun", "lambda_min_clipped": -5.1}, {}),
    ("singlestep_noise", SD15, "DPMSolverSinglestepScheduler", NOISE, {}),
    ("singlestep_noise_3_heun", SD15, "DPMSolverSinglestepScheduler", NOISE | V | {"solver_order": 3, "solver_type": "heun"}, {}),
    ("singlestep_sde_3", SD15, "DPMSolverSinglestepScheduler", SDE | {"solver_order": 3}, {}),
    ("singlestep_sde_3_heun_beta", SD15, "DPMSolverSinglestepScheduler", SDE | BETA | {"solver_order": 3, "solver_type": "heun"}, {}),
    ("kdpm2_sd15", SD15, "KDPM2DiscreteScheduler", {}, {}),
    ("kdpm2_karras_v", SDXL, "KDPM2DiscreteScheduler", KARRAS | V, {}),
    ("kdpm2_a_sd15", SD15, "KDPM2AncestralDiscreteScheduler", {}, {}),
    ("kdpm2_a_karras_limits_v", SDXL, "KDPM2AncestralDiscreteScheduler", KARRAS | V | LIMITS, {}),
    ("kdpm2_a_beta", SDXL, "KDPM2AncestralDiscreteScheduler", BETA | {"timestep_spacing": "trailing"}, {}),
    ("tcd_sd15", SD15, "TCDScheduler", {}, {"eta": 0.3}),
    ("tcd_v_zero_snr", LCM, "TCDScheduler", V | {"rescale_betas_zero_snr": True}, {"eta": 0.0}),
    ("tcd_sample", LCM, "TCDScheduler", {"prediction_type": "sample"}, {"eta": 1.0}),
    ("edm_playground", PLAYGROUND, "EDMDPMSolverMultistepScheduler", {}, {}),
    ("edm_dpmpp_3_exponential", PLAYGROUND, "EDMDPMSolverMultistepScheduler", V | {"solver_order": 3, "sigma_schedule": "exponential"}, {}),
    ("edm_dpmpp_sde_heun", PLAYGROUND, "EDMDPMSolverMultistepScheduler", SDE | {"solver_type": "heun", "sigma_max": 20.0}, {}),
    ("edm_dpmpp_threshold", PLAYGROUND, "EDMDPMSolverMultistepScheduler", THRESHOLD, {}),
    ("edm_euler", PLAYGROUND, "EDMEulerScheduler", {}, {}),
    ("edm_euler_v_exponential", PLAYGROUND, "EDMEulerScheduler", V | {"sigma_schedule": "exponential", "final_sigmas_type": "sigma_min"}, {}),
    ("dpm_2m", SD15, "DPMSolverMultistepScheduler", NOISE, {}),
    ("dpm_3m_v", SD15, "DPMSolverMultistepScheduler", NOISE | V | {"solver_order": 3}, {}),
    ("dpm_2m_heun_sample_threshold", SD15, "DPMSolverMultistepScheduler", NOISE | THRESHOLD | {"solver_type": "heun", "prediction_type": "sample"}, {}),
    ("dpm_2m_sde", SD15, "DPMSolverMultistepScheduler", SDE_NOISE, {}),
    ("dpm_2m_sde_heun", SD15, "DPMSolverMultistepScheduler", SDE_NOISE | {"solver_type": "heun"}, {}),
    ("dpmpp_2m_lu", SDXL, "DPMSolverMultistepScheduler", LU, {}),
    ("dpmpp_2m_lu_cosine", SD15, "DPMSolverMultistepScheduler", LU | COSINE, {}),
    ("dpmpp_2m_beta", SDXL, "DPMSolverMultistepScheduler", BETA, {}),
    ("dpmpp_2m_karras_limits", SDXL, "DPMSolverMultistepScheduler", KARRAS | LIMITS, {}),
    ("dpmpp_2m_threshold", SD15, "DPMSolverMultistepScheduler", THRESHOLD, {}),
    ("unipc_threshold_beta", SD15, "UniPCMultistepScheduler", THRESHOLD | BETA, {}),
    ("ddim_threshold", SD15, "DDIMScheduler", THRESHOLD | {"clip_sample": True}, {}),
    ("ddim_threshold_1", SD15, "DDIMScheduler", {"thresholding": True}, {}),
    ("ddpm_threshold_log", SD15, "DDPMScheduler", THRESHOLD | {"variance_type": "fixed_small_log"}, {}),
    ("lcm_threshold", LCM, "LCMScheduler", THRESHOLD, {}),
    ("euler_beta", SDXL, "EulerDiscreteScheduler", BETA, {}),
    ("euler_continuous", SDXL, "EulerDiscreteScheduler", KARRAS | V | {"timestep_type": "continuous"}, {}),
    ("heun_exp_exponential_limits", SD15, "HeunDiscreteScheduler", EXPONENTIAL | LIMITS | {"beta_schedule": "exp"}, {}),
    ("pndm_prk", SD15, "PNDMScheduler", PRK, {}),
    ("pndm_prk_v_linspace", SD15, "PNDMScheduler", PRK | V | {"timestep_spacing": "linspace", "set_alpha_to_one": True}, {}),
    # From pure noise, of which nothing of the picture can be told but its limits.
    ("ddim_zero_snr_clipped", SD15, "DDIMScheduler", SNR_CLIPPED, {}),
    ("ddpm_zero_snr_clipped", SD15, "DDPMScheduler", SNR_CLIPPED, {}),
    ("lcm_zero_snr_clipped", LCM, "LCMScheduler", SNR_CLIPPED, {}),
]


def model(sample: torch.Tensor, timestep: float) -> torch.Tensor:
    # Nothing but operations that every machine rounds alike: no error but the scheduler's own.
    return sample / (1 + sample.abs()) * 0.3 + math.sin(timestep * 0.01) * 0.5


def begin(scheduler, steps: int, strength: float, plan: dict) -> torch.Tensor:
    """The timesteps that are run, as the pipelines of diffusers choose them."""
    if isinstance(scheduler, diffusers.LCMScheduler):
        original = plan.get("original_inference_steps")
        if plan.get("strength_in_original_steps"):
            scheduler.set_timesteps(steps, original_inference_steps=original, strength=strength)
            return scheduler.timesteps
        scheduler.set_timesteps(steps, original_inference_steps=original)
    else:
        scheduler.set_timesteps(steps)
    if strength == 1.0:
        return scheduler.timesteps
    first = (steps - min(int(steps * strength), steps)) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return scheduler.timesteps[first:]


def run(scheduler, steps: int, strength: float, plan: dict, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator("cpu").manual_seed(seed)
    timesteps = begin(scheduler, steps, strength, plan)
    original = torch.randn(SHAPE, generator=generator) * 0.8
    noise = torch.randn(SHAPE, generator=generator)
    if strength == 1.0:
        latents = noise * scheduler.init_noise_sigma
    else:
        latents = scheduler.add_noise(original, noise, timesteps[:1])

    accepted = inspect.signature(scheduler.step).parameters
    extra = {"generator": generator} if "generator" in accepted else {}
    if "eta" in plan:
        extra["eta"] = plan["eta"]
    trajectory = [latents]
    for timestep in timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        output = model(scaled, timestep.item())
        latents = scheduler.step(output, timestep, latents, return_dict=False, **extra)[0]
        trajectory.append(latents)
    result = {
        "timesteps": timesteps.to(torch.float32),
        "trajectory": torch.stack(trajectory).flatten(1),
    }
    if len(timesteps) > 1 and strength < 1.0:
        # Inpainting's, after the first step.
        begin(scheduler, steps, strength, plan)
        scheduler.scale_model_input(latents, timesteps[0])
        if hasattr(scheduler, "_step_index"):
            scheduler._step_index = scheduler.begin_index + 1 if scheduler.begin_index is not None else 1
        result["noised"] = scheduler.add_noise(original, noise, timesteps[1:2]).flatten()
    if strength == 1.0 and hasattr(scheduler, "sigmas"):
        result["sigmas"] = scheduler.sigmas.to(torch.float32)
    return result


def main() -> None:
    cases, tensors, seed = [], {}, 0
    of_steps = [(case, STEPS) for case in CASES] + [(case, FURTHER_STEPS) for case in FURTHER_CASES]
    for (label, model_config, class_name, changed, plan), all_steps in of_steps:
        config = model_config | changed
        runs = []
        for steps in all_steps:
            for strength in [1.0, 0.6]:
                too_many = label == "lcm_img2img" and steps > 30
                too_few = class_name == "PNDMScheduler" and not config["skip_prk_steps"] and steps < 4
                # A single step from pure noise to the end multiplies the rounding of diffusers' own detour by the picture.
                too_far = label == "deis_v_trailing" and steps == 1
                redundant = all_steps is FURTHER_STEPS and steps < 16 and strength < 1.0
                if int(steps * strength) == 0 or too_many or too_few or too_far or redundant:
                    continue
                seed += 1
                scheduler = getattr(diffusers, class_name).from_config(dict(config))
                for key, value in run(scheduler, steps, strength, plan, seed).items():
                    assert torch.isfinite(value).all(), (label, steps, strength, key)
                    tensors[f"{label}/{steps}/{strength}/{key}"] = value.contiguous()
                runs.append({"steps": steps, "strength": strength, "seed": seed})
        cases.append({"label": label, "config": config, "scheduler": class_name, "plan": plan, "runs": runs})
    OUT.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case) for case in cases)
    (OUT / "cases.json").write_text(f"[\n{lines}\n]\n")
    save_file(tensors, OUT / "trajectories.safetensors")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
