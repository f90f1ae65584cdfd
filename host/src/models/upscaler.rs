//! The super-resolution networks and resamplers there are, and running one.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use image::DynamicImage;
use parking_lot::Mutex;
use reverie_kernels::{Backend, Filter};

use super::{
    Control, Upscale, Weights, WeightsError,
    architecture::{self, Description},
    hidden,
    samples::{self, AnyPixels, Pixels, Sample},
    tiles::{self, Progress},
};
use crate::{
    error::Error,
    execution::{
        AnyBackend,
        room::{self, MayBeFull},
    },
};

/// The network when none is named.
pub const DEFAULT: &str = "realesr-animevideov3";

/// x2, x3 and x4: their weights are the same, x2 and x3 reduce the output (see weights/README.md).
const EMBEDDED: &[u8] = include_bytes!("../../weights/realesr-animevideov3.safetensors");

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
    #[error("job canceled")]
    Cancelled,
    /// A file of the operator's folder that was good when the server started.
    #[error("the network can't be loaded any more: {0}")]
    Weights(#[from] WeightsError),
    /// Its tile is black, or of another colour.
    #[error("the network '{0}' made values that are not numbers (NaN or infinite)")]
    NotFinite(String),
    #[error("computing failed: {0}")]
    Backend(#[from] reverie_kernels::Error),
}

impl UpscaleError {
    /// Whether the request was wrong, and not the machine.
    pub fn is_invalid_input(&self) -> bool {
        matches!(self, Self::UnknownModel { .. } | Self::Passes(_) | Self::Factor { .. } | Self::TooLarge)
    }
}

impl From<UpscaleError> for Error {
    fn from(error: UpscaleError) -> Self {
        match error {
            UpscaleError::Cancelled => Self::cancelled(),
            error if error.is_invalid_input() => Self::invalid(error.to_string()),
            error => {
                room::full("enlarging a picture", &error).unwrap_or_else(|| Self::internal(error.to_string()))
            }
        }
    }
}

impl MayBeFull for UpscaleError {
    fn full(&self) -> Option<&reverie_kernels::Error> {
        match self {
            Self::Backend(error) | Self::Weights(WeightsError::Backend { source: error, .. }) => error.full(),
            _ => None,
        }
    }
}

type Network = Arc<dyn Upscale<AnyBackend>>;

/// A network that is there; its weights are brought to the device when it is first used.
struct Entry {
    description: Description,
    /// None for the embedded one.
    path: Option<PathBuf>,
    loaded: Mutex<Option<Network>>,
}

impl Entry {
    fn new(file: &str, bytes: &[u8], path: Option<PathBuf>) -> Result<Self, WeightsError> {
        let description = architecture::describe(&Weights::parse(file, bytes)?)?;
        Ok(Self { description, path, loaded: Mutex::new(None) })
    }

    /// An error of its network, with the name of its file.
    fn named(&self, error: UpscaleError) -> UpscaleError {
        match error {
            UpscaleError::NotFinite(_) => UpscaleError::NotFinite(self.source()),
            error => error,
        }
    }

    fn source(&self) -> String {
        self.path.as_ref().map_or_else(|| "embedded".into(), |path| path.display().to_string())
    }

    fn network(&self, backend: &AnyBackend) -> Result<Network, WeightsError> {
        let mut loaded = self.loaded.lock();
        if let Some(network) = &*loaded {
            return Ok(network.clone());
        }
        let network: Network = match &self.path {
            None => architecture::load(backend, &Weights::parse("embedded", EMBEDDED)?)?.into(),
            Some(path) => {
                let bytes = read(path)?;
                let weights = Weights::parse(&path.display().to_string(), &bytes)?;
                // A file that was replaced by another network would make pictures of another size than was promised.
                if architecture::describe(&weights)? != self.description {
                    return Err(weights.unknown("it was another one when the server started"));
                }
                architecture::load(backend, &weights)?.into()
            }
        };
        Ok(loaded.insert(network).clone())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, WeightsError> {
    fs::read(path)
        .map_err(|error| WeightsError::Format { file: path.display().to_string(), reason: error.to_string() })
}

/// One pass: by what, and how much.
#[derive(Clone, Copy)]
enum Pass<'a> {
    Network(&'a Entry, u32),
    Resampler(Filter, f32),
}

impl Pass<'_> {
    fn size(&self, (width, height): (usize, usize)) -> Option<(usize, usize)> {
        let (w, h) = match self {
            Pass::Network(_, scale) => {
                (width.checked_mul(*scale as usize)?, height.checked_mul(*scale as usize)?)
            }
            Pass::Resampler(_, factor) => {
                let side = |length: usize| ((length as f64 * f64::from(*factor)).round() as usize).max(1);
                (side(width), side(height))
            }
        };
        u32::try_from(w).ok().zip(u32::try_from(h).ok()).map(|_| (w, h))
    }
}

/// All networks and resamplers, and the device they run on.
pub struct Upscalers {
    backend: Arc<AnyBackend>,
    networks: BTreeMap<String, Entry>,
    tile: usize,
}

impl Upscalers {
    /// Finds the embedded network and those of the operator's folder (`*.safetensors`, each under its file's name without
    /// the ending; one called like the embedded network takes its place). A file that can't be used is left out and
    /// reported; every tensor is checked now, but weights are kept in memory only for networks that were used.
    /// `tile`: its side in pixels of the input; memory grows with its square: at 512 about
    /// 300 MB for SRVGGNetCompact and 1.5 GB for RRDBNet.
    pub fn new(
        backend: Arc<AnyBackend>,
        models_dir: Option<&Path>,
        tile: usize,
    ) -> (Self, Vec<WeightsError>) {
        let mut networks = BTreeMap::new();
        let mut warnings = Vec::new();
        match Entry::new("embedded", EMBEDDED, None) {
            Ok(entry) => drop(networks.insert(DEFAULT.to_owned(), entry)),
            Err(error) => warnings.push(error),
        }
        let files = models_dir.into_iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
        let files = files.map(|entry| entry.path());
        for path in files.filter(|path| path.extension().is_some_and(|ending| ending == "safetensors")) {
            let file = path.display().to_string();
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if RESAMPLERS.iter().any(|(resampler, _)| *resampler == name) {
                let reason = format!("'{name}' is the name of a resampler; rename the file");
                warnings.push(WeightsError::Unknown { file, reason });
                continue;
            }
            match read(&path).and_then(|bytes| Entry::new(&file, &bytes, Some(path))) {
                Ok(entry) => drop(networks.insert(name, entry)),
                Err(error) => warnings.push(error),
            }
        }
        (Self { backend, networks, tile }, warnings)
    }

    /// The device in words.
    pub fn backend(&self) -> &str {
        self.backend.name()
    }

    /// Drops the weights that nobody uses at the moment; whether there were any.
    pub fn drop_idle(&self) -> bool {
        let idle = self.networks.values().filter(|entry| {
            // Locked, it is being loaded.
            let Some(mut loaded) = entry.loaded.try_lock() else { return false };
            loaded.take_if(|network| Arc::strong_count(network) == 1).is_some()
        });
        idle.count() > 0
    }

    /// Networks by name, then resamplers.
    pub fn list(&self) -> Vec<NetworkInfo> {
        let networks = self.networks.iter().map(|(name, entry)| NetworkInfo {
            name: name.clone(),
            kind: "network",
            scales: entry.description.scales.clone(),
            architecture: entry.description.architecture.into(),
            source: entry.source(),
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
                Pass::Network(..) => tiles::count(size.0, size.1, self.tile),
                Pass::Resampler(..) => 1,
            };
            size = pass.size(size).ok_or(UpscaleError::TooLarge)?;
        }
        let mut progress = Progress { control, done: 0, total };
        let (pixels, kind) = samples::split(picture);
        let made = match pixels {
            AnyPixels::Bits8(pixels) => AnyPixels::Bits8(self.run(&passes, pixels, &mut progress)?),
            AnyPixels::Bits16(pixels) => AnyPixels::Bits16(self.run(&passes, pixels, &mut progress)?),
        };
        Ok(samples::join(&made, kind))
    }

    fn run<T: Sample>(
        &self,
        passes: &[Pass<'_>],
        mut pixels: Pixels<T>,
        progress: &mut Progress<'_>,
    ) -> Result<Pixels<T>, UpscaleError> {
        if passes.iter().any(|pass| !matches!(pass, Pass::Resampler(Filter::Nearest, _))) {
            hidden::spread_colour(&mut pixels);
        }
        for pass in passes {
            pixels = match pass {
                Pass::Network(entry, scale) => {
                    let network = progress.fit(|| Ok(entry.network(&self.backend)?))?;
                    let network = (&*network, *scale as usize);
                    tiles::network_pass(&*self.backend, network, &pixels, self.tile, progress)
                        .map_err(|error| entry.named(error))?
                }
                Pass::Resampler(filter, _) => {
                    let size = pass.size((pixels.width, pixels.height)).ok_or(UpscaleError::TooLarge)?;
                    tiles::resampler_pass(&*self.backend, *filter, &pixels, size, progress)?
                }
            };
        }
        Ok(pixels)
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
        let entry = self.networks.get(model).ok_or_else(|| {
            let known: Vec<String> = self.list().into_iter().map(|network| network.name).collect();
            UpscaleError::UnknownModel { model: model.clone(), known: known.join(", ") }
        })?;
        let scales = &entry.description.scales;
        match *scale {
            Scale::Passes(passes) => Ok(vec![Pass::Network(entry, scales[0]); passes as usize]),
            Scale::Factor(factor) => {
                let accepted = || scales.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
                let scale = scales.iter().find(|scale| **scale as f32 == factor);
                Ok(vec![Pass::Network(entry, *scale.ok_or_else(|| wrong(factor, accepted()))?)])
            }
        }
    }
}
