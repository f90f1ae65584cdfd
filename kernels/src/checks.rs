//! Whether operands fit together, and the shape of what comes out: the same on every device.

use crate::backend::{Shape, check_len, check_shape};
use crate::error::{Error, Result};

pub(crate) fn same_shape(operation: &'static str, left: Shape, right: Shape) -> Result<()> {
    if left == right { Ok(()) } else { Err(Error::ShapeMismatch { operation, left, right }) }
}

/// Shape of tensors joined along the channels.
pub(crate) fn concat(shapes: &[Shape]) -> Result<Shape> {
    let [n, _, h, w] = *shapes.first().ok_or(Error::NothingToConcat)?;
    let mut channels = 0usize;
    for shape in shapes {
        same_shape("concat", [n, shape[1], h, w], *shape)?;
        channels = channels.saturating_add(shape[1]);
    }
    let shape = [n, channels, h, w];
    check_shape(shape)?;
    Ok(shape)
}

/// Shape of tensors joined along the batch.
pub(crate) fn stack(shapes: &[Shape]) -> Result<Shape> {
    let [_, c, h, w] = *shapes.first().ok_or(Error::NothingToConcat)?;
    let mut images = 0usize;
    for shape in shapes {
        same_shape("stack", [shape[0], c, h, w], *shape)?;
        images = images.saturating_add(shape[0]);
    }
    let shape = [images, c, h, w];
    check_shape(shape)?;
    Ok(shape)
}

/// Shape of `count` images from `first` on.
pub(crate) fn images(x: Shape, first: usize, count: usize) -> Result<Shape> {
    let [n, c, h, w] = x;
    let shape = [count, c, h, w];
    check_shape(shape)?;
    if first.checked_add(count).is_none_or(|end| end > n) {
        let left = [first.saturating_add(count), c, h, w];
        return Err(Error::ShapeMismatch { operation: "images", left, right: x });
    }
    Ok(shape)
}

pub(crate) fn combine(mut shapes: impl Iterator<Item = Shape>) -> Result<()> {
    let first = shapes.next().ok_or(Error::NothingToCombine)?;
    shapes.try_for_each(|shape| same_shape("combine", first, shape))
}

pub(crate) fn blend(x: Shape, y: Shape, mask: Shape) -> Result<()> {
    same_shape("blend", x, y)?;
    same_shape("blend: mask", x, mask)
}

pub(crate) fn attention(q: Shape, k: Shape, v: Shape, heads: usize) -> Result<()> {
    let [n, _, queries, features] = q;
    same_shape("attention: queries", [n, 1, queries, features], q)?;
    same_shape("attention: keys", [n, 1, k[2], features], k)?;
    same_shape("attention: values", k, v)?;
    if heads == 0 || !features.is_multiple_of(heads) { Err(Error::Heads { heads, features }) } else { Ok(()) }
}

pub(crate) fn group_norm(x: Shape, groups: usize, weight: Shape, bias: Shape) -> Result<()> {
    let channels = x[1];
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(Error::Groups { groups, shape: x });
    }
    same_shape("group_norm: weight", [1, 1, 1, channels], weight)?;
    same_shape("group_norm: bias", [1, 1, 1, channels], bias)
}

pub(crate) fn layer_norm(x: Shape, weight: Shape, bias: Shape) -> Result<()> {
    same_shape("layer_norm: weight", [1, 1, 1, x[3]], weight)?;
    same_shape("layer_norm: bias", [1, 1, 1, x[3]], bias)
}

/// Shape of (N, C, H, W) with half of the last axis.
pub(crate) fn geglu(x: Shape) -> Result<Shape> {
    let [n, c, h, w] = x;
    same_shape("geglu", [n, c, h, (w / 2).max(1) * 2], x)?;
    Ok([n, c, h, w / 2])
}

pub(crate) fn from_tokens(x: Shape, h: usize, w: usize) -> Result<Shape> {
    let [n, _, _, c] = x;
    let shape = [n, c, h, w];
    check_shape(shape)?;
    same_shape("from_tokens", [n, 1, h * w, c], x)?;
    Ok(shape)
}

pub(crate) fn pad(x: Shape, right: usize, bottom: usize) -> Result<Shape> {
    let [n, c, h, w] = x;
    let shape = [n, c, h.saturating_add(bottom), w.saturating_add(right)];
    check_shape(shape)?;
    Ok(shape)
}

/// Shape of (N, C·f², H, W) with its channels spread over f × f pixels.
pub(crate) fn pixel_shuffle(x: Shape, factor: usize) -> Result<Shape> {
    let wrong = Error::PixelShuffle { shape: x, factor };
    let [n, c, h, w] = x;
    let square = factor.checked_mul(factor).filter(|&square| square > 0 && c.is_multiple_of(square));
    let shape = [n, c / square.ok_or(wrong)?, h.saturating_mul(factor), w.saturating_mul(factor)];
    check_shape(shape)?;
    Ok(shape)
}

/// Shape of `x Wᵀ`, over the last axis.
pub(crate) fn linear(operation: &'static str, x: Shape, inputs: usize, outputs: usize) -> Result<Shape> {
    let [n, c, h, _] = x;
    same_shape(operation, [n, c, h, inputs], x)?;
    let shape = [n, c, h, outputs];
    check_shape(shape)?;
    Ok(shape)
}

/// Shape of the embeddings of so many numbers.
pub(crate) fn timestep_embedding(values: usize, batch: usize, num_channels: usize) -> Result<Shape> {
    let each = values.checked_div(batch).unwrap_or(0);
    let shape = [batch, 1, 1, each.saturating_mul(num_channels)];
    check_shape(shape)?;
    match each * batch == values {
        true => Ok(shape),
        false => Err(Error::DataLength { shape, expected: each * batch, actual: values }),
    }
}

/// Shape of the rows that `sequences` name in a table of `count` rows of `features`.
pub(crate) fn embedding(
    sequences: &[&[u32]],
    count: usize,
    features: usize,
    positions: Shape,
) -> Result<Shape> {
    let tokens = sequences.first().map_or(0, |sequence| sequence.len());
    let shape = [sequences.len(), 1, tokens, features];
    check_shape(shape)?;
    if let Some(other) = sequences.iter().find(|sequence| sequence.len() != tokens) {
        return Err(Error::DataLength { shape: [1, 1, 1, tokens], expected: tokens, actual: other.len() });
    }
    same_shape("embedding: positions", [1, 1, positions[2].max(tokens), features], positions)?;
    let ids = sequences.iter().copied().flatten();
    match ids.map(|&id| id as usize).find(|&id| id >= count) {
        None => Ok(shape),
        Some(index) => Err(Error::Row { index, count }),
    }
}

/// That a row has as many values as the table has features.
pub(crate) fn row(row: &[f32], features: usize) -> Result<()> {
    check_len("row of an embedding", features, row.len())
}

/// That pictures have three channels.
pub(crate) fn pixels(operation: &'static str, shape: Shape) -> Result<()> {
    let [n, _, h, w] = shape;
    same_shape(operation, [n, 3, h, w], shape)
}

/// That so many bytes are pictures of `shape`.
pub(crate) fn from_pixels(bytes: usize, shape: Shape) -> Result<()> {
    let expected = check_shape(shape)?;
    pixels("from_pixels", shape)?;
    match bytes == expected {
        true => Ok(()),
        false => Err(Error::DataLength { shape, expected, actual: bytes }),
    }
}
