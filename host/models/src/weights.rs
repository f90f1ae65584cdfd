//! The tensors of a checkpoint: memory-mapped safetensors, read as f32 when they are asked for.

mod finite;

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use memmap2::Mmap;
use reverie_kernels::{Format, Weight};
use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};

/// Tensors by name, from one file or several. Cheap to clone; the files stay mapped while any clone lives.
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

/// Where a tensor lies.
#[derive(Clone)]
pub(crate) struct Entry {
    map: Arc<Mmap>,
    /// The name in the file, for messages.
    origin: Arc<str>,
    dtype: Dtype,
    /// As it is read: after the transposition, where there is one.
    shape: Vec<usize>,
    start: usize,
    len: usize,
    /// Whether the file has columns for rows.
    transposed: bool,
}

impl Weights {
    /// Maps the files and reads their headers. A later file wins where two have a tensor of one name.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Unsupported`] for what is no safetensors file, or only a part of one.
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
    /// [`Error::Missing`], [`Error::Shape`], [`Error::Dtype`].
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.check(name, shape)?;
        self.values(name)
    }

    /// The values of a tensor of exactly this shape, in the file where they lie there as they are read.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Shape`], [`Error::Dtype`].
    pub fn layer(&self, name: &str, shape: &[usize]) -> Result<LayerWeight<'_>> {
        self.check(name, shape)?;
        match self.entry(name)?.stored() {
            Some((format, bytes)) => Ok(LayerWeight::Mapped(format, bytes)),
            None => self.values(name).map(LayerWeight::Values),
        }
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

    /// That all values of a tensor are numbers.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::Unsupported`] where some are not.
    pub fn check_finite(&self, name: &str) -> Result<()> {
        let entry = self.entry(name)?;
        if entry.bytes().is_none_or(|(format, bytes)| finite::are_finite(format, bytes)) {
            return Ok(());
        }
        Err(Error::Unsupported(format!(
            "{}: tensor '{}' has values that are not numbers (NaN or infinite); accepted are files without",
            self.file(),
            self.described(name)
        )))
    }

    /// The values of a tensor of any shape.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Dtype`].
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        let entry = self.entry(name)?;
        entry.values().ok_or_else(|| self.wrong_dtype(name, entry))
    }

    /// The values of one row of a tensor: all that lies at `index` of its first axis; none past its end. What was made of
    /// columns has no rows to read.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Dtype`].
    pub fn row(&self, name: &str, index: usize) -> Result<Option<Vec<f32>>> {
        let entry = self.entry(name)?;
        let Some(row) = entry.shape.first().and_then(|&rows| entry.part(index, rows)) else {
            return Ok(None);
        };
        row.values().map(Some).ok_or_else(|| self.wrong_dtype(name, entry))
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

/// A layer's weight: in a mapped file, or read from there.
pub enum LayerWeight<'a> {
    /// As the file has them.
    Mapped(Format, &'a [u8]),
    /// In the order of the layer.
    Values(Vec<f32>),
}

impl LayerWeight<'_> {
    /// The values as numbers, to be changed.
    pub fn into_values(self) -> Vec<f32> {
        match self {
            Self::Mapped(format, bytes) => Weight::Stored(format, bytes).to_f32().into_owned(),
            Self::Values(values) => values,
        }
    }
}

impl<'a> From<&'a LayerWeight<'_>> for Weight<'a> {
    fn from(weight: &'a LayerWeight<'_>) -> Self {
        match weight {
            LayerWeight::Mapped(format, bytes) => Self::Stored(*format, bytes),
            LayerWeight::Values(values) => Self::F32(values),
        }
    }
}

impl Entry {
    /// The one numbered `index` of `parts` equal parts along the first axis; none where that can't be divided so.
    pub(crate) fn part(&self, index: usize, parts: usize) -> Option<Self> {
        let rows = *self.shape.first()?;
        if parts == 0 || index >= parts || rows % parts != 0 || self.transposed {
            return None;
        }
        let len = self.len / parts;
        let shape = [&[rows / parts], &self.shape[1..]].concat();
        Some(Self { start: self.start + index * len, len, shape, ..self.clone() })
    }

    /// Rows for columns; none for what is not a matrix.
    pub(crate) fn transposed(&self) -> Option<Self> {
        let [rows, columns] = self.shape[..] else { return None };
        Some(Self { shape: vec![columns, rows], transposed: !self.transposed, ..self.clone() })
    }

    /// A 1x1 convolution's (out, in, 1, 1) as a linear layer's (out, in); anything else as it is.
    pub(crate) fn linear(&self) -> Self {
        match self.shape[..] {
            [outputs, inputs, 1, 1] => Self { shape: vec![outputs, inputs], ..self.clone() },
            _ => self.clone(),
        }
    }

    /// Its bytes; none for a type that is not read.
    fn bytes(&self) -> Option<(Format, &[u8])> {
        let format = match self.dtype {
            Dtype::F32 => Format::F32,
            Dtype::F16 => Format::F16,
            Dtype::BF16 => Format::Bf16,
            _ => return None,
        };
        Some((format, &self.map[self.start..self.start + self.len]))
    }

    /// The same where they are in order, too.
    fn stored(&self) -> Option<(Format, &[u8])> {
        self.bytes().filter(|_| !self.transposed)
    }

    /// None for a type that is not read.
    fn values(&self) -> Option<Vec<f32>> {
        let (format, bytes) = self.bytes()?;
        let values = Weight::Stored(format, bytes).to_f32().into_owned();
        Some(if self.transposed { transpose(&values, &self.shape) } else { values })
    }
}

/// `values` are in column order of a matrix of this shape; the result is in row order.
fn transpose(values: &[f32], shape: &[usize]) -> Vec<f32> {
    let (rows, columns) = (shape[0], shape[1]);
    (0..rows).flat_map(|row| (0..columns).map(move |column| values[column * rows + row])).collect()
}

fn read(
    path: &Path,
    entries: &mut BTreeMap<String, Entry>,
    metadata: &mut HashMap<String, String>,
) -> Result<()> {
    let failed = |reason: String| Error::File { file: path.display().to_string(), reason };
    let file = File::open(path).map_err(|e| failed(e.to_string()))?;
    #[allow(unsafe_code)]
    // SAFETY: the mapping is read-only. A file that is changed in place while it is mapped changes the values that are
    // read, or ends the process where it is cut short: as with every mapped checkpoint, files are replaced, not edited.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| failed(e.to_string()))?;
    let map = Arc::new(map);
    // It checks that all tensors lie within the file and have the lengths of their shapes.
    let (header, described) = SafeTensors::read_metadata(&map).map_err(|e| {
        Error::Unsupported(format!(
            "{}: is not a safetensors file, or is incomplete: {e}; accepted are whole .safetensors files",
            path.display()
        ))
    })?;
    // The header has its length before it, in 8 bytes.
    let data = 8 + header;
    for (name, info) in described.tensors() {
        let (start, end) = info.data_offsets;
        let entry = Entry {
            map: map.clone(),
            origin: name.as_str().into(),
            dtype: info.dtype,
            shape: info.shape.clone(),
            start: data + start,
            len: end - start,
            transposed: false,
        };
        entries.insert(name, entry);
    }
    metadata.extend(described.metadata().clone().unwrap_or_default());
    Ok(())
}
