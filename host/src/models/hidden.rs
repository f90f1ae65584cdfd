//! The colour under fully transparent pixels.
//!
//! It is arbitrary, often black, and nobody sees it. But a network or a resampler mixes it into its neighbours, and then
//! it shows as a dark or bright rim around whatever was cut out. So before anything is enlarged, hidden pixels near
//! visible ones take their colour.

use super::samples::{Pixels, Sample};

/// How far, in pixels, colour is carried: further than any visible output pixel can notice.
const REACH: usize = 32;

/// Spreads the colour of visible pixels into the fully transparent ones around them; alpha is not touched. In time
/// proportional to the pixels.
pub fn spread_colour<T: Sample>(picture: &mut Pixels<T>) {
    let Some(alpha) = &picture.alpha else { return };
    let (width, height) = (picture.width, picture.height);
    let mut known: Vec<bool> = alpha.iter().map(|alpha| alpha.to_unit() > 0.0).collect();
    // Pixels next to hidden ones: to begin with those that are visible, then those that were coloured in the last round.
    let at_edge = |&i: &usize| known[i] && neighbours(i, width, height).any(|n| !known[n]);
    let mut front: Vec<usize> = (0..known.len()).filter(at_edge).collect();
    for _ in 0..REACH {
        let mut next = Vec::new();
        for i in front {
            next.extend(neighbours(i, width, height).filter(|&n| !known[n]));
        }
        next.sort_unstable();
        next.dedup();
        // From the colours of earlier rounds alone, so that the order of the pixels does not matter.
        let colours: Vec<[T; 3]> = next
            .iter()
            .map(|&i| {
                let mut sum = [0.0; 3];
                let mut count = 0.0;
                for n in neighbours(i, width, height).filter(|&n| known[n]) {
                    (0..3).for_each(|c| sum[c] += picture.color[n][c].to_unit());
                    count += 1.0;
                }
                sum.map(|sum| T::from_unit(sum / count))
            })
            .collect();
        for (&i, colour) in next.iter().zip(colours) {
            picture.color[i] = colour;
            known[i] = true;
        }
        if next.is_empty() {
            break;
        }
        front = next;
    }
}

/// The up to eight pixels around pixel `i`.
fn neighbours(i: usize, width: usize, height: usize) -> impl Iterator<Item = usize> {
    let (x, y) = (i % width, i / width);
    let rows = y.saturating_sub(1)..(y + 2).min(height);
    rows.flat_map(move |row| {
        (x.saturating_sub(1)..(x + 2).min(width)).map(move |column| row * width + column)
    })
    .filter(move |&n| n != i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_pixels_take_the_colour_nearby_and_visible_ones_keep_theirs() {
        // A row of 40: one visible red pixel, then hidden green ones.
        fn row<T: Clone>(first: T, other: T) -> Vec<T> {
            [vec![first], vec![other; 39]].concat()
        }
        let mut picture =
            Pixels { width: 40, height: 1, color: row([200u8, 10, 20], [0, 255, 0]), alpha: Some(row(1, 0)) };
        spread_colour(&mut picture);
        for i in 0..40 {
            assert_eq!(picture.color[i], if i <= REACH { [200, 10, 20] } else { [0, 255, 0] }, "pixel {i}");
        }
        assert_eq!(picture.alpha, Some(row(1, 0)));
    }

    #[test]
    fn a_wholly_transparent_picture_stays_as_it_is() {
        let mut picture =
            Pixels { width: 2, height: 1, color: vec![[1u8, 3, 5], [2, 4, 6]], alpha: Some(vec![0, 0]) };
        spread_colour(&mut picture);
        assert_eq!(picture.color, [[1, 3, 5], [2, 4, 6]]);
    }
}
