//! Walks through noise space: a picture's first noise as a blend of several seeds'.

use crate::{
    error::{Error, Result},
    random::Generator,
};

/// Blends that one request may have.
pub const MAX_BLENDS: usize = 64;

/// Moves noise towards that of another seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blend {
    /// The other seed, of which the lower 32 bits count.
    pub seed: u64,
    /// How far: 0 leaves the noise as it is, 1 makes it the other seed's.
    pub amount: f32,
}

/// # Errors
/// [`Error::Invalid`] for an amount that is not from 0 to 1, and for more blends than [`MAX_BLENDS`].
pub fn check(blends: &[Blend]) -> Result<()> {
    if blends.len() > MAX_BLENDS {
        let given = blends.len();
        return Err(Error::Invalid(format!("noise: {given} blends; accepted are at most {MAX_BLENDS}")));
    }
    match blends.iter().find(|blend| !(0.0..=1.0).contains(&blend.amount)) {
        Some(blend) => Err(Error::Invalid(format!("noise: amount {} is not from 0 to 1", blend.amount))),
        None => Ok(()),
    }
}

/// Blends `noise` with that of each seed in turn, along the great circle between the two.
pub fn blend(noise: Vec<f32>, blends: &[Blend]) -> Vec<f32> {
    blends.iter().fold(noise, |noise, &Blend { seed, amount }| {
        let other = Generator::new(seed).randn(noise.len());
        slerp(&noise, &other, amount)
    })
}

/// Spherical linear interpolation (Shoemake 1985, "Animating Rotation with Quaternion Curves"): at 0 it is `from`, at 1 `to`,
/// and in between it keeps the length that noise has, which a straight line does not. Vectors of nearly one direction are
/// interpolated on the line.
pub fn slerp(from: &[f32], to: &[f32], amount: f32) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = dot(from, to) / (dot(from, from) * dot(to, to)).sqrt();
    let amount = f64::from(amount);
    let (weight_from, weight_to) = match cosine.abs() < 0.9995 {
        true => {
            let angle = cosine.acos();
            (((1.0 - amount) * angle).sin() / angle.sin(), (amount * angle).sin() / angle.sin())
        }
        false => (1.0 - amount, amount),
    };
    let mixed = from.iter().zip(to).map(|(a, b)| weight_from * f64::from(*a) + weight_to * f64::from(*b));
    mixed.map(|x| x as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blend_begins_and_ends_at_its_seeds_and_keeps_the_length() {
        let (a, b) = (Generator::new(1).randn(256), Generator::new(2).randn(256));
        assert_eq!(blend(a.clone(), &[]), a);
        assert_eq!(blend(a.clone(), &[Blend { seed: 2, amount: 0.0 }]), a);
        assert_eq!(blend(a.clone(), &[Blend { seed: 2, amount: 1.0 }]), b);
        let norm = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
        let (low, high) = (norm(&a).min(norm(&b)), norm(&a).max(norm(&b)));
        for amount in [0.25, 0.5, 0.75] {
            let there = norm(&slerp(&a, &b, amount));
            assert!((low * 0.99..=high * 1.01).contains(&there), "{there}, {low} to {high}");
        }
    }

    #[test]
    fn amounts_outside_are_refused() {
        for amount in [-0.1, 1.1, f32::NAN] {
            assert!(check(&[Blend { seed: 0, amount }]).is_err());
        }
        assert!(check(&[Blend { seed: 0, amount: 0.5 }; MAX_BLENDS]).is_ok());
        assert!(check(&[Blend { seed: 0, amount: 0.5 }; MAX_BLENDS + 1]).is_err());
    }
}
