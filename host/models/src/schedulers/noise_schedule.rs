//! How much of a picture is left at each timestep of the training.

use super::settings::{BetaSchedule, Settings};

/// `alphas_cumprod` of diffusers: for each training timestep, the share of the picture in the noisy picture, squared. One
/// value each of `num_train_timesteps`, from nearly 1 down to nearly 0.
#[derive(Debug, Clone)]
pub(super) struct AlphasCumprod(Vec<f32>);

impl AlphasCumprod {
    /// With `rescale_betas_zero_snr`, the last value is 0.
    pub(super) fn new(settings: &Settings) -> Self {
        let mut betas = betas(settings);
        if settings.rescale_betas_zero_snr {
            betas = rescale_zero_terminal_snr(&betas);
        }
        Self(cumprod_of_alphas(&betas))
    }

    /// For the schedulers that divide by it: a last value of 0 is replaced by the smallest positive number of f16, as in
    /// diffusers.
    pub(super) fn nonzero(settings: &Settings) -> Self {
        let mut alphas_cumprod = Self::new(settings);
        if settings.rescale_betas_zero_snr
            && let Some(last) = alphas_cumprod.0.last_mut()
        {
            *last = 2f32.powi(-24);
        }
        alphas_cumprod
    }

    /// The value at a timestep, which must be one of [`super::timesteps`]' whole ones.
    pub(super) fn at(&self, timestep: f64) -> f32 {
        self.0[timestep as usize]
    }

    /// The value at a whole timestep; none beyond the training's last.
    pub(super) fn get(&self, timestep: f64) -> Option<f32> {
        self.0.get(timestep as usize).copied()
    }

    /// The first, and so the largest value.
    pub(super) fn first(&self) -> f32 {
        self.0[0]
    }

    /// The noise for each unit of picture: `((1 - alphas_cumprod) / alphas_cumprod) ** 0.5`.
    pub(super) fn sigmas(&self) -> Vec<f32> {
        self.0.iter().map(|&alpha| sigma_of(alpha)).collect()
    }

    /// `lambda_t`, half of the logarithm of the signal-to-noise ratio.
    pub(super) fn lambdas(&self) -> impl DoubleEndedIterator<Item = f32> {
        self.0.iter().map(|&alpha| alpha.sqrt().ln() - (1.0 - alpha).sqrt().ln())
    }

    /// The factors of the picture and of the noise at a timestep: `DDPMScheduler.add_noise`.
    pub(super) fn noise_level(&self, timestep: f64) -> (f32, f32) {
        let alpha = self.at(timestep);
        (alpha.sqrt(), (1.0 - alpha).sqrt())
    }
}

/// The noise for each unit of picture at a value of `alphas_cumprod`.
pub(super) fn sigma_of(alpha: f32) -> f32 {
    ((1.0 - alpha) / alpha).sqrt()
}

fn betas(settings: &Settings) -> Vec<f32> {
    if let Some(betas) = &settings.trained_betas {
        return betas.clone();
    }
    let (start, end, count) = (settings.beta_start, settings.beta_end, settings.num_train_timesteps);
    match settings.beta_schedule {
        BetaSchedule::Linear => linspace(start, end, count),
        BetaSchedule::ScaledLinear => {
            let roots = linspace(start.sqrt(), end.sqrt(), count);
            roots.into_iter().map(|root| root * root).collect()
        }
        // Nichol and Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", formula 17.
        BetaSchedule::SquaredcosCapV2 => {
            betas_for_alpha_bar(count, |t| ((t + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos().powi(2))
        }
        BetaSchedule::Exp => betas_for_alpha_bar(count, |t| (t * -12.0).exp()),
    }
}

/// `torch.linspace` in float32: counted from the nearer end, by fused products and sums.
pub(super) fn linspace(start: f64, end: f64, count: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    if count == 1 {
        return vec![start];
    }
    let step = (end - start) / (count - 1) as f32;
    let value = |i: usize| {
        if i < count / 2 {
            step.mul_add(i as f32, start)
        } else {
            step.mul_add(-((count - 1 - i) as f32), end)
        }
    };
    (0..count).map(value).collect()
}

/// The steps of a schedule that is given as the share of the picture, squared, by the time from 0 to 1.
fn betas_for_alpha_bar(count: usize, alpha_bar: impl Fn(f64) -> f64) -> Vec<f32> {
    const MAX_BETA: f64 = 0.999;
    let alpha_bar = |i: usize| alpha_bar(i as f64 / count as f64);
    (0..count).map(|i| (1.0 - alpha_bar(i + 1) / alpha_bar(i)).min(MAX_BETA) as f32).collect()
}

/// Shifts and scales the schedule so that nothing is left of the picture at the end (Lin et al. 2023, "Common Diffusion
/// Noise Schedules and Sample Steps are Flawed", algorithm 1).
fn rescale_zero_terminal_snr(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = cumprod_of_alphas(betas).into_iter().map(f32::sqrt).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let scale = first / (first - last);
    let alphas_bar: Vec<f32> = roots.iter().map(|root| ((root - last) * scale).powi(2)).collect();
    let ratios = alphas_bar.windows(2).map(|pair| pair[1] / pair[0]);
    std::iter::once(alphas_bar[0]).chain(ratios).map(|alpha| 1.0 - alpha).collect()
}

/// `torch.cumprod(1 - betas)`, which multiplies in double precision.
fn cumprod_of_alphas(betas: &[f32]) -> Vec<f32> {
    let products = betas.iter().scan(1.0, |product: &mut f64, beta| {
        *product *= f64::from(1.0 - beta);
        Some(*product as f32)
    });
    products.collect()
}
