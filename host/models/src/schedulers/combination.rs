//! Linear combinations of tensors, written as formulas and computed at once.

use std::ops::{Add, Div, Mul, Sub};

use reverie_kernels::Backend;

use crate::error::Result;

/// Factors of tensors whose products are summed.
///
/// What a formula multiplies a tensor with is gathered in f64, so that this rounds no more than the formula would: the f32
/// numbers in it are those of diffusers, and a factor is rounded to f32 once, where it meets its tensor.
pub(super) struct Combination<'a, T> {
    /// Each tensor once.
    terms: Vec<(f64, &'a T)>,
}

impl<'a, T> Combination<'a, T> {
    /// The tensor itself.
    pub(super) fn of(tensor: &'a T) -> Self {
        Self { terms: vec![(1.0, tensor)] }
    }

    /// # Errors
    /// The device's; tensors of different shapes.
    pub(super) fn compute<B: Backend<Tensor = T>>(&self, backend: &B) -> Result<T> {
        let terms: Vec<_> = self.terms.iter().map(|&(factor, tensor)| (factor as f32, tensor)).collect();
        Ok(backend.combine(&terms)?)
    }

    fn scaled(mut self, scale: f64) -> Self {
        self.terms.iter_mut().for_each(|(factor, _)| *factor *= scale);
        self
    }
}

impl<T> Clone for Combination<'_, T> {
    fn clone(&self) -> Self {
        Self { terms: self.terms.clone() }
    }
}

impl<T> Add for Combination<'_, T> {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        for (factor, tensor) in other.terms {
            match self.terms.iter_mut().find(|(_, own)| std::ptr::eq(*own, tensor)) {
                Some((own, _)) => *own += factor,
                None => self.terms.push((factor, tensor)),
            }
        }
        self
    }
}

impl<T> Sub for Combination<'_, T> {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + other.scaled(-1.0)
    }
}

impl<'a, T> Mul<Combination<'a, T>> for f32 {
    type Output = Combination<'a, T>;

    fn mul(self, combination: Combination<'a, T>) -> Combination<'a, T> {
        combination.scaled(f64::from(self))
    }
}

impl<T> Div<f32> for Combination<'_, T> {
    type Output = Self;

    fn div(mut self, divisor: f32) -> Self {
        self.terms.iter_mut().for_each(|(factor, _)| *factor /= f64::from(divisor));
        self
    }
}
