//! Quantiles of the beta distribution, for noise levels that are spaced by them.

/// `scipy.stats.beta.ppf(p, shape, shape)`: the value that a share `p` of the symmetric beta distribution lies below.
///
/// By bisection, since the distribution function rises without end at both ends where `shape` is below 1: 60 halvings
/// leave nothing of f64's precision in the middle, and the ends are exact.
pub(super) fn quantile(p: f64, shape: f64) -> f64 {
    if p <= 0.0 || p >= 1.0 {
        return p.clamp(0.0, 1.0);
    }
    // The lower half has more digits than the upper one, which mirrors it.
    if p > 0.5 {
        return 1.0 - quantile(1.0 - p, shape);
    }
    let (mut low, mut high) = (0.0f64, 0.5f64);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        if share_below(middle, shape) < p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// The regularised incomplete beta function of equal shapes for `x` up to a half: its power series (Abramowitz and Stegun
/// 1964, "Handbook of Mathematical Functions", formula 26.5.4), divided by twice its value at a half.
fn share_below(x: f64, shape: f64) -> f64 {
    0.5 * incomplete(x, shape) / incomplete(0.5, shape)
}

/// The incomplete beta function as `x^a (1 - x)^a` times a series in `x`, but for a factor that does not depend on `x`.
fn incomplete(x: f64, a: f64) -> f64 {
    let (mut term, mut sum, mut n) = (1.0, 1.0, 0.0);
    while term > sum * f64::EPSILON / 4.0 {
        term *= x * (a + a + n) / (a + 1.0 + n);
        sum += term;
        n += 1.0;
    }
    (x * (1.0 - x)).powf(a) * sum
}

#[cfg(test)]
mod tests {
    use super::quantile;

    /// `scipy.stats.beta.ppf`, SciPy 1.18.
    #[test]
    fn quantiles_are_scipys() {
        for (p, expected) in QUANTILES {
            let actual = quantile(p, 0.6);
            assert!((actual - expected).abs() < 1e-13, "{p}: {actual} for {expected}");
        }
    }

    const QUANTILES: [(f64, f64); 7] = [
        (0.0, 0.0),
        (0.001, 1.855873851745199e-05),
        (0.05, 0.012554456873611399),
        (0.3, 0.23401700387523572),
        (0.5, 0.5000000000000001),
        (0.9, 0.9604155944112192),
        (1.0, 1.0),
    ];
}
