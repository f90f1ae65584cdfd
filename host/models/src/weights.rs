//! The tensors of a checkpoint: safetensors, read when they are asked for.

mod entry;
mod finite;
mod header;
mod source;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use reverie_kernels::{Format, Weight};
use safetensors::Dtype;

pub(crate) use self::entry::Entry;
use self::{entry::Found, source::Source};
use crate::error::{Error, Result};

/// Tensors by name, from one file or several. Cheap to clone; the files stay open while any clone lives. A file that others
/// write to meanwhile is found out when the next tensor of it is read: [`Error::Changed`]. Whatever is read has values that are
/// numbers.
#[derive(Clone)]
pub struct Weights {
    tensors: Arc<Tensors>,
    /// What [`Weights::sub`] has put before every name.
    prefix: String,
}

/// What all clones of [`Weights`] share.
struct Tensors {
    /// Differs from that of all others: names are unique within a set of tensors only.
    id: u64,
    /// For messages.
    file: Arc<str>,
    entries: BTreeMap<String, Entry>,
    metadata: Arc<HashMap<String, String>>,
}

impl Weights {
    /// Opens the files and reads their headers. A later file wins where two have a tensor of one name.
    ///
    /// # Errors
    /// [`Error::File`], also for a file that is being written; [`Error::Unsupported`] for what is no safetensors file, or only
    /// a part of one; [`Error::Changed`].
    pub fn open(paths: &[impl AsRef<Path>]) -> Result<Self> {
        let mut entries = BTreeMap::new();
        let mut metadata = HashMap::new();
        for path in paths {
            read(path.as_ref(), &mut entries, &mut metadata)?;
        }
        let first = paths.first().map(|path| path.as_ref().display().to_string()).unwrap_or_default();
        Ok(Self::new(first.into(), entries, metadata.into()))
    }

    fn new(file: Arc<str>, entries: BTreeMap<String, Entry>, metadata: Arc<HashMap<String, String>>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { tensors: Arc::new(Tensors { id, file, entries, metadata }), prefix: String::new() }
    }

    /// The same tensors under other names: `rename` gives each its new one, or none to leave it out. Names are without
    /// the prefix, before and after.
    pub fn renamed(&self, rename: impl Fn(&str) -> Option<String>) -> Self {
        self.mapped(|name, entry| rename(name).map(|name| (name, entry.clone())))
    }

    /// Other tensors made of these: `map` gives those that replace one of them, or a part of one.
    pub(crate) fn mapped<I>(&self, map: impl Fn(&str, &Entry) -> I) -> Self
    where
        I: IntoIterator<Item = (String, Entry)>,
    {
        let entries = self.entries().flat_map(|(name, entry)| map(name, entry)).collect();
        Self::new(self.tensors.file.clone(), entries, self.tensors.metadata.clone())
    }

    /// The tensors whose names begin with `prefix` and a dot, without it.
    pub fn sub(&self, prefix: &str) -> Self {
        Self { prefix: format!("{}{prefix}.", self.prefix), ..self.clone() }
    }

    /// The file, for messages.
    pub fn file(&self) -> &str {
        &self.tensors.file
    }

    /// What the file's header says about it beyond its tensors.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.tensors.metadata.get(key).map(String::as_str)
    }

    /// Differs between sets of tensors which have not the same origin. Clones, and what [`Weights::sub`] narrows, have the
    /// id of the whole.
    pub(crate) fn id(&self) -> u64 {
        self.tensors.id
    }

    /// `name` with what [`Weights::sub`] has taken off.
    pub fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// All names, without the prefix.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries().map(|(name, _)| name)
    }

    fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        let all = self.tensors.entries.range(self.prefix.clone()..);
        all.map_while(|(name, entry)| Some((name.strip_prefix(&self.prefix)?, entry)))
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.entries.contains_key(&self.full_name(name))
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.entry(name)?.shape)
    }

    /// The length of one axis of a tensor that must have `axes`.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::File`] where it has another number of axes.
    pub(crate) fn side(&self, name: &str, axis: usize, axes: usize) -> Result<usize> {
        let shape = self.shape(name)?;
        match shape.get(axis) {
            Some(&side) if shape.len() == axes => Ok(side),
            _ => Err(Error::File {
                file: self.file().to_owned(),
                reason: format!(
                    "tensor '{}' has the shape {shape:?}; {axes} axes are expected",
                    self.described(name)
                ),
            }),
        }
    }

    /// The values of a tensor of exactly this shape.
    ///
    /// # Errors
    /// [`Error::Shape`], and those of [`Weights::values`].
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.check(name, shape)?;
        self.values(name)
    }

    /// The values of a tensor of exactly this shape, as the file has them where it has them in their order.
    ///
    /// # Errors
    /// [`Error::Shape`], and those of [`Weights::values`].
    pub fn layer(&self, name: &str, shape: &[usize]) -> Result<LayerWeight> {
        self.check(name, shape)?;
        let entry = self.entry(name)?;
        if entry.transposed {
            return self.values(name).map(LayerWeight::Values);
        }
        self.found(name, entry.bytes()?).map(|(format, bytes)| LayerWeight::Stored(format, bytes))
    }

    /// That there is a tensor of exactly this shape, without reading it.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Shape`].
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        match self.entry(name)?.shape == shape {
            true => Ok(()),
            false => Err(self.misshapen(name, shape)),
        }
    }

    /// # Errors
    /// [`Error::Unsupported`], with its name, where a tensor is of a type with less than 16 bits for a number.
    pub fn check_types(&self) -> Result<()> {
        let narrow = |dtype| !matches!(dtype, Dtype::BOOL | Dtype::U8 | Dtype::I8) && dtype.bitsize() < 16;
        let found = self.entries().find(|(_, entry)| narrow(entry.dtype));
        let refused = |(name, entry)| Err(Error::Unsupported(self.wrong_dtype(name, entry).to_string()));
        found.map_or(Ok(()), refused)
    }

    /// That all values of a tensor can be read and are numbers.
    ///
    /// # Errors
    /// Those of [`Weights::values`].
    pub fn check_values(&self, name: &str) -> Result<()> {
        let entry = self.entry(name)?;
        self.found(name, entry.look()?)
    }

    /// The values of a tensor of any shape.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Dtype`]; [`Error::Unsupported`] where some are not numbers; [`Error::Changed`] where the file
    /// was written to since it was opened; [`Error::File`].
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        let entry = self.entry(name)?;
        self.found(name, entry.values()?)
    }

    /// The one value of a tensor that has no more.
    ///
    /// # Errors
    /// [`Error::Shape`], and those of [`Weights::values`].
    pub(crate) fn scalar(&self, name: &str) -> Result<f32> {
        if self.shape(name)?.iter().any(|&side| side != 1) {
            return Err(self.misshapen(name, &[]));
        }
        self.values(name)?.first().copied().ok_or_else(|| self.misshapen(name, &[]))
    }

    /// The values of one row of a tensor: all that lies at `index` of its first axis; none past its end. What was made of
    /// columns has no rows to read.
    ///
    /// # Errors
    /// Those of [`Weights::values`].
    pub fn row(&self, name: &str, index: usize) -> Result<Option<Vec<f32>>> {
        let entry = self.entry(name)?;
        let Some(row) = entry.shape.first().and_then(|&rows| entry.part(index, rows)) else {
            return Ok(None);
        };
        self.found(name, row.values()?).map(Some)
    }

    /// What was found of the tensor `name`, or why it is no good.
    fn found<T>(&self, name: &str, found: Found<T>) -> Result<T> {
        match found {
            Found::Values(values) => Ok(values),
            Found::OtherType => Err(self.wrong_dtype(name, self.entry(name)?)),
            Found::TooLarge => Err(Error::File {
                file: self.file().to_owned(),
                reason: format!("the tensor '{}' is too large for memory", self.described(name)),
            }),
            Found::NotFinite => Err(Error::Unsupported(format!(
                "{}: tensor '{}' has values that are not numbers (NaN or infinite); accepted are files without",
                self.file(),
                self.described(name)
            ))),
        }
    }

    fn wrong_dtype(&self, name: &str, entry: &Entry) -> Error {
        Error::Dtype {
            file: self.file().to_owned(),
            name: self.described(name),
            dtype: format!("{:?}", entry.dtype),
        }
    }

    /// That `name` has another shape than `expected`.
    pub(crate) fn misshapen(&self, name: &str, expected: &[usize]) -> Error {
        let actual = self.entry(name).map(|entry| entry.shape.clone()).unwrap_or_default();
        Error::Shape {
            file: self.file().to_owned(),
            name: self.described(name),
            actual,
            expected: expected.to_vec(),
        }
    }

    /// The full name, and the file's where that is another one.
    fn described(&self, name: &str) -> String {
        let full = self.full_name(name);
        match self.tensors.entries.get(&full) {
            Some(entry) if *entry.origin != *full => format!("{full} ({})", entry.origin),
            _ => full,
        }
    }

    /// The bytes that its values take in memory: backends keep fp16 as it is, and widen all else to fp32.
    pub fn resident_bytes(&self) -> u64 {
        let bytes = |entry: &Entry| {
            let size = if entry.dtype == Dtype::F16 { size_of::<half::f16>() } else { size_of::<f32>() };
            (entry.shape.iter().product::<usize>() * size) as u64
        };
        self.entries().map(|(_, entry)| bytes(entry)).sum()
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        let full = self.full_name(name);
        let found = self.tensors.entries.get(&full);
        found.ok_or_else(|| Error::Missing { file: self.file().to_owned(), name: full })
    }
}

/// A layer's weight.
pub enum LayerWeight {
    /// As the file has them.
    Stored(Format, Vec<u8>),
    /// In the order of the layer.
    Values(Vec<f32>),
}

impl LayerWeight {
    /// The values as numbers, to be changed.
    pub fn into_values(self) -> Vec<f32> {
        match self {
            Self::Stored(format, bytes) => Weight::Stored(format, &bytes).to_f32().into_owned(),
            Self::Values(values) => values,
        }
    }
}

impl<'a> From<&'a LayerWeight> for Weight<'a> {
    fn from(weight: &'a LayerWeight) -> Self {
        match weight {
            LayerWeight::Stored(format, bytes) => Self::Stored(*format, bytes),
            LayerWeight::Values(values) => Self::F32(values),
        }
    }
}

fn read(
    path: &Path,
    entries: &mut BTreeMap<String, Entry>,
    metadata: &mut HashMap<String, String>,
) -> Result<()> {
    let source = Arc::new(Source::open(path)?);
    let (data, described) = header::read(&source, &path.display().to_string())?;
    for (name, info) in described.tensors() {
        let (start, end) = info.data_offsets;
        let entry = Entry {
            source: source.clone(),
            origin: name.as_str().into(),
            dtype: info.dtype,
            shape: info.shape.clone(),
            start: data + start as u64,
            len: end - start,
            transposed: false,
        };
        entries.insert(name, entry);
    }
    metadata.extend(described.metadata().clone().unwrap_or_default());
    Ok(())
}
