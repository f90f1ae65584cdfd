//! The super-resolution networks and resamplers there are, and running one.

use std::{collections::BTreeMap, fs, path::Path};

use image::DynamicImage;
use reverie_kernels::{Backend, Filter, cpu::CpuBackend};

use super::{
    Control, RrdbNet, SrvggNetCompact, Upscale, Weights, WeightsError,
    samples::{self, AnyPlanes, Planes, Sample},
    tiles::{self, Progress},
};

/// The network when none is named.
pub const DEFAULT: &str = "realesr-animevideov3";

const EMBEDDED: [&[u8]; 3] = [
    include_bytes!("../../weights/realesr-animevideov3-x2.safetensors"),
    include_bytes!("../../weights/realesr-animevideov3-x3.safetensors"),
    include_bytes!("../../weights/realesr-animevideov3-x4.safetensors"),
];

const RESAMPLERS: [(&str, Filter); 4] = [
    ("nearest", Filter::Nearest),
    ("bilinear", Filter::Bilinear),
    ("bicubic", Filter::Bicubic),
    ("lanczos3", Filter::Lanczos3),
];

const MAX_PASSES: u32 = 3;
const MAX_FACTOR: f32 = 8.0;

/// What `list` tells of a network or resampler.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkInfo {
    pub name: String,
    /// `network` or `resampler`.
    pub kind: &'static str,
    /// The factors of one pass, ascending; empty for a resampler, which takes any from 1 to 8.
    pub scales: Vec<u32>,
    pub architecture: String,
    /// `embedded`, `built in` or a file's path.
    pub source: String,
}

/// How much larger.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// This many passes, 1 to 3, of the network's smallest factor; of 2 for a resampler.
    Passes(u32),
    /// One pass by this factor.
    Factor(f32),
}

/// What to run.
#[derive(Debug, Clone)]
pub struct UpscaleRequest {
    pub model: String,
    pub scale: Scale,
}

/// Why nothing was made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UpscaleError {
    #[error("model '{model}' is not known; there are: {known}")]
    UnknownModel { model: String, known: String },
    #[error("magnitude {0} is out of range: accepted are 1 to {MAX_PASSES} passes")]
    Passes(u32),
    #[error("scale {factor} is not available for model '{model}'; accepted: {accepted}")]
    Factor { model: String, factor: f32, accepted: String },
    #[error("the picture would be too large to address")]
    TooLarge,
    #[error("job cancelled")]
    Cancelled,
    #[error("computing failed: {0}")]
    Backend(#[from] reverie_kernels::Error),
}

impl UpscaleError {
    /// Whether the request was wrong, and not the machine.
    pub fn is_invalid_input(&self) -> bool {
        matches!(self, Self::UnknownModel { .. } | Self::Passes(_) | Self::Factor { .. } | Self::TooLarge)
    }
}

type Network = Box<dyn Upscale<CpuBackend>>;

struct Family {
    networks: BTreeMap<u32, Network>,
    architecture: &'static str,
    source: String,
}

/// One pass: by what, and how much.
enum Pass<'a> {
    Network(&'a dyn Upscale<CpuBackend>),
    Resampler(Filter, f32),
}

impl Pass<'_> {
    fn size(&self, (width, height): (usize, usize)) -> Option<(usize, usize)> {
        let (w, h) = match self {
            Pass::Network(network) => {
                (width.checked_mul(network.scale())?, height.checked_mul(network.scale())?)
            }
            Pass::Resampler(_, factor) => {
                let side = |length: usize| ((length as f64 * f64::from(*factor)).round() as usize).max(1);
                (side(width), side(height))
            }
        };
        u32::try_from(w).ok().zip(u32::try_from(h).ok()).map(|_| (w, h))
    }
}

/// All networks, loaded, and the device they run on.
pub struct Upscalers {
    backend: CpuBackend,
    families: BTreeMap<String, Family>,
    tile: usize,
}

impl Upscalers {
    /// Loads the embedded networks and those of the operator's folder. A file that can't be used is left out and reported.
    /// `threads`: none for one a core. `tile`: its side in pixels of the input.
    pub fn new(models_dir: Option<&Path>, threads: Option<usize>, tile: usize) -> (Self, Vec<WeightsError>) {
        let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
        let mut upscalers = Self { backend: CpuBackend::new(threads), families: BTreeMap::new(), tile };
        let mut warnings = Vec::new();
        for bytes in EMBEDDED {
            warnings.extend(upscalers.load(DEFAULT, "embedded", bytes).err());
        }
        let files = models_dir.into_iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
        for path in
            files.map(|entry| entry.path()).filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        {
            let file = path.display().to_string();
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let loaded = match fs::read(&path) {
                Ok(bytes) => upscalers.load(&name, &file, &bytes),
                Err(error) => Err(WeightsError::Format { file, reason: error.to_string() }),
            };
            warnings.extend(loaded.err());
        }
        (upscalers, warnings)
    }

    fn load(&mut self, name: &str, source: &str, bytes: &[u8]) -> Result<(), WeightsError> {
        let weights = Weights::parse(source, bytes)?;
        let (network, architecture): (Network, _) = if weights.has("conv_first.weight") {
            (Box::new(RrdbNet::load(&self.backend, &weights)?), "RRDBNet")
        } else if weights.has("body.0.weight") {
            (Box::new(SrvggNetCompact::load(&self.backend, &weights)?), "SRVGGNetCompact")
        } else {
            let reason = "it has neither 'conv_first.weight' (RRDBNet) nor 'body.0.weight' (SRVGGNetCompact)";
            return Err(weights.unknown(reason));
        };
        let family = self.families.entry(name.to_owned()).or_insert_with(|| Family {
            networks: BTreeMap::new(),
            architecture,
            source: source.to_owned(),
        });
        family.networks.insert(network.scale() as u32, network);
        Ok(())
    }

    /// The device in words.
    pub fn backend(&self) -> &str {
        self.backend.name()
    }

    /// Networks by name, then resamplers.
    pub fn list(&self) -> Vec<NetworkInfo> {
        let networks = self.families.iter().map(|(name, family)| NetworkInfo {
            name: name.clone(),
            kind: "network",
            scales: family.networks.keys().copied().collect(),
            architecture: family.architecture.into(),
            source: family.source.clone(),
        });
        let resamplers = RESAMPLERS.iter().map(|(name, _)| NetworkInfo {
            name: (*name).into(),
            kind: "resampler",
            scales: Vec::new(),
            architecture: (*name).into(),
            source: "built in".into(),
        });
        networks.chain(resamplers).collect()
    }

    /// The size that a request makes of a picture, in pixels.
    ///
    /// # Errors
    /// What is wrong with the request.
    pub fn output_size(
        &self,
        width: u32,
        height: u32,
        request: &UpscaleRequest,
    ) -> Result<(u32, u32), UpscaleError> {
        let mut size = (width as usize, height as usize);
        for pass in self.passes(request)? {
            size = pass.size(size).ok_or(UpscaleError::TooLarge)?;
        }
        Ok((size.0 as u32, size.1 as u32))
    }

    /// Enlarges a picture. Colour type and depth stay: grey stays grey, 16 bits stay 16 bits, alpha is kept.
    ///
    /// # Errors
    /// What is wrong with the request, or [`UpscaleError::Cancelled`] within one tile of being told so.
    pub fn upscale(
        &self,
        picture: DynamicImage,
        request: &UpscaleRequest,
        control: &dyn Control,
    ) -> Result<DynamicImage, UpscaleError> {
        let passes = self.passes(request)?;
        let mut size = (picture.width() as usize, picture.height() as usize);
        let mut total = 0;
        for pass in &passes {
            total += match pass {
                Pass::Network(_) => tiles::count(size.0, size.1, self.tile),
                Pass::Resampler(..) => 3,
            };
            size = pass.size(size).ok_or(UpscaleError::TooLarge)?;
        }
        let mut progress = Progress { control, done: 0, total };
        let (planes, kind) = samples::split(picture);
        let made = match planes {
            AnyPlanes::Bits8(planes) => AnyPlanes::Bits8(self.run(&passes, planes, &mut progress)?),
            AnyPlanes::Bits16(planes) => AnyPlanes::Bits16(self.run(&passes, planes, &mut progress)?),
        };
        Ok(samples::join(&made, kind))
    }

    fn run<T: Sample>(
        &self,
        passes: &[Pass<'_>],
        mut planes: Planes<T>,
        progress: &mut Progress<'_>,
    ) -> Result<Planes<T>, UpscaleError> {
        for pass in passes {
            planes = match pass {
                Pass::Network(network) => {
                    tiles::network_pass(&self.backend, *network, &planes, self.tile, progress)?
                }
                Pass::Resampler(filter, _) => {
                    let size = pass.size((planes.width, planes.height)).ok_or(UpscaleError::TooLarge)?;
                    tiles::resampler_pass(&self.backend, *filter, &planes, size, progress)?
                }
            };
        }
        Ok(planes)
    }

    fn passes(&self, request: &UpscaleRequest) -> Result<Vec<Pass<'_>>, UpscaleError> {
        let UpscaleRequest { model, scale } = request;
        if let Scale::Passes(passes) = scale
            && !(1..=MAX_PASSES).contains(passes)
        {
            return Err(UpscaleError::Passes(*passes));
        }
        let wrong =
            |factor: f32, accepted: String| UpscaleError::Factor { model: model.clone(), factor, accepted };
        if let Some((_, filter)) = RESAMPLERS.iter().find(|(name, _)| name == model) {
            return match *scale {
                Scale::Passes(passes) => Ok((0..passes).map(|_| Pass::Resampler(*filter, 2.0)).collect()),
                Scale::Factor(factor) if (1.0..=MAX_FACTOR).contains(&factor) => {
                    Ok(vec![Pass::Resampler(*filter, factor)])
                }
                Scale::Factor(factor) => Err(wrong(factor, format!("1 to {MAX_FACTOR}"))),
            };
        }
        let family = self.families.get(model).ok_or_else(|| {
            let known: Vec<String> = self.list().into_iter().map(|network| network.name).collect();
            UpscaleError::UnknownModel { model: model.clone(), known: known.join(", ") }
        })?;
        match *scale {
            Scale::Passes(passes) => {
                let smallest = family.networks.values().next().expect("a family has a network");
                Ok((0..passes).map(|_| Pass::Network(&**smallest)).collect())
            }
            Scale::Factor(factor) => {
                let network = family.networks.iter().find(|(scale, _)| **scale as f32 == factor);
                let accepted = || family.networks.keys().map(u32::to_string).collect::<Vec<_>>().join(", ");
                let (_, network) = network.ok_or_else(|| wrong(factor, accepted()))?;
                Ok(vec![Pass::Network(&**network)])
            }
        }
    }
}
