//! Where values lie, and where errors crowd.

use std::{collections::BTreeMap, fmt};

use reverie_kernels::Shape;

/// Bins of a histogram that are shown.
const SHOWN: usize = 32;

/// How a tensor lies on the device.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// N, C, H, W.
    pub shape: Shape,
    /// Heads that share the columns; 1 where there are none.
    pub heads: usize,
}

/// Where a value lies in the matrix of its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub image: usize,
    pub row: usize,
    /// Of all heads.
    pub column: usize,
    pub head: usize,
}

impl Layout {
    /// Of a sequence, whose features lie side by side, rather than of a picture.
    fn is_rows(&self) -> bool {
        self.shape[1] == 1
    }

    pub(super) fn images(&self) -> usize {
        self.shape[0]
    }

    /// Of an image's matrix.
    pub(super) fn rows(&self) -> usize {
        let [_, _, h, w] = self.shape;
        if self.is_rows() { h } else { h * w }
    }

    pub(super) fn columns(&self) -> usize {
        let [_, c, _, w] = self.shape;
        if self.is_rows() { w } else { c }
    }

    /// The place of the value with this number in N, C, H, W order.
    pub(super) fn place(&self, index: usize) -> Place {
        let [rows, columns] = [self.rows().max(1), self.columns().max(1)];
        let (image, index) = (index / (rows * columns), index % (rows * columns));
        let (row, column) =
            if self.is_rows() { (index / columns, index % columns) } else { (index % rows, index / rows) };
        Place { image, row, column, head: column / columns.div_ceil(self.heads.max(1)) }
    }

    /// The place in words.
    pub(super) fn describe(&self, index: usize) -> String {
        let Place { image, row, column, head } = self.place(index);
        let mut text = format!("image {image}, row {row}, column {column}");
        if self.heads > 1 {
            let within = column % self.columns().div_ceil(self.heads);
            text.push_str(&format!(" (column {within} of head {head})"));
        }
        if !self.is_rows() {
            let w = self.shape[3].max(1);
            text.push_str(&format!(" (y {}, x {})", row / w, row % w));
        }
        text
    }
}

/// Counts by one number or two.
pub struct Histogram {
    bins: BTreeMap<[usize; 2], usize>,
    pairs: bool,
}

impl Histogram {
    pub fn of_pairs(self) -> Self {
        Self { pairs: true, ..self }
    }
}

impl FromIterator<[usize; 2]> for Histogram {
    fn from_iter<T: IntoIterator<Item = [usize; 2]>>(keys: T) -> Self {
        let mut bins = BTreeMap::new();
        keys.into_iter().for_each(|key| *bins.entry(key).or_insert(0) += 1);
        Self { bins, pairs: false }
    }
}

/// Bins that are not empty; of many, the first.
impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, ([a, b], count)) in self.bins.iter().take(SHOWN).enumerate() {
            let space = if i > 0 { " " } else { "" };
            if self.pairs {
                write!(f, "{space}{a},{b}:{count}")?;
            } else {
                write!(f, "{space}{a}:{count}")?;
            }
        }
        match self.bins.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
