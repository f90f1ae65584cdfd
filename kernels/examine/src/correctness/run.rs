//! Runs cases on the CPU and on the device.

use reverie_kernels::{
    Backend, Either, Error, Result, Shape,
    cpu::CpuBackend,
    gpu::{GpuBackend, cuda::Cuda},
};

use super::{Check, Sizes, Verdict, name};
use crate::{
    mismatch::{Layout, compare_and_dump},
    noise,
};

/// Either backend, so that one closure is a case of both.
pub type Any = Either<CpuBackend, GpuBackend<Cuda>>;
pub type Tensor = <Any as Backend>::Tensor;

/// Of the largest value: what sums, in fp32 and in another order, and roundings to fp16, of the result by 4.9e-4 at most and
/// of what is in between, come to.
pub const SUMS: f32 = 2e-3;

/// The same for one operation on each value.
pub const ONE_ROUNDING: f32 = 1e-3;

/// Values in N, C, H, W order.
pub struct Values {
    pub shape: Shape,
    pub data: Vec<f32>,
}

/// A shape as cases have it.
pub fn text([n, c, h, w]: Shape) -> String {
    format!("{n}x{c}x{h}x{w}")
}

/// What is compared, and how.
pub struct Case<'a> {
    pub operation: &'static str,
    pub case: String,
    /// Shapes of inputs, which are noise in -1..1.
    pub inputs: &'a [Shape],
    /// That share the columns of the result.
    pub heads: usize,
    /// Of the largest value.
    pub allowed: f32,
}

impl<'a> Case<'a> {
    pub fn new(operation: &'static str, case: String, inputs: &'a [Shape], allowed: f32) -> Self {
        Self { operation, case, inputs, heads: 1, allowed }
    }
}

/// The checks of an examination.
pub struct Run<'a> {
    cpu: Any,
    mma: Any,
    wgmma: Option<Any>,
    pub sizes: Sizes,
    filters: &'a [String],
    each: &'a mut dyn FnMut(&Check),
    checks: Vec<Check>,
}

impl<'a> Run<'a> {
    pub fn new(
        mma: &Cuda,
        wgmma: Option<&Cuda>,
        sizes: Sizes,
        filters: &'a [String],
        each: &'a mut dyn FnMut(&Check),
    ) -> Self {
        let gpu = |cuda: &Cuda| Any::Second(GpuBackend::new(cuda.clone()));
        let cpu = Any::First(CpuBackend::new(0));
        Self { cpu, mma: gpu(mma), wgmma: wgmma.map(gpu), sizes, filters, each, checks: Vec::new() }
    }

    pub fn finish(self) -> Vec<Check> {
        self.checks
    }

    /// Whether the filters let it pass.
    pub fn wants(&self, operation: &str, case: &str, path: &str) -> bool {
        let name = name(operation, case, path);
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }

    pub fn push(&mut self, check: Check) {
        (self.each)(&check);
        self.checks.push(check);
    }

    /// What there is one way to do.
    pub fn tensors(&mut self, case: Case<'_>, op: impl Fn(&Any, &[&Tensor]) -> Result<Tensor>) {
        if self.wants(case.operation, &case.case, "") {
            let expected = evaluate(&self.cpu, case.inputs, &op);
            let actual = evaluate(&self.mma, case.inputs, &op);
            self.push(judge(case, "", expected, actual));
        }
    }

    /// What is done by `mma` and, if it has one, by `wgmma`: whether that is in question for this case.
    pub fn by_both_paths(
        &mut self,
        case: Case<'_>,
        wgmma: bool,
        op: impl Fn(&Any, &[&Tensor]) -> Result<Tensor>,
    ) {
        let paths: &[&str] = if wgmma { &["mma", "wgmma"] } else { &["mma"] };
        let wanted: Vec<_> =
            paths.iter().copied().filter(|path| self.wants(case.operation, &case.case, path)).collect();
        if wanted.is_empty() {
            return;
        }
        let expected = evaluate(&self.cpu, case.inputs, &op);
        for path in wanted {
            let gpu = if path == "mma" { Some(&self.mma) } else { self.wgmma.as_ref() };
            let actual = gpu.map(|gpu| evaluate(gpu, case.inputs, &op));
            let case = Case { case: case.case.clone(), ..case };
            self.push(match actual {
                Some(actual) => judge(case, path, share(&expected), actual),
                None => {
                    let why = "not opened with wgmma, which devices of compute capability 9.0 have";
                    let check = Check::plain(case.operation, case.case, Verdict::Skipped(why.into()));
                    Check { path, ..check }
                }
            });
        }
    }

    /// What is held against values that do not come from the CPU backend, or is no tensor.
    pub fn values(
        &mut self,
        case: Case<'_>,
        expected: impl FnOnce(&Any) -> Result<Values>,
        actual: impl FnOnce(&Any) -> Result<Values>,
    ) {
        if self.wants(case.operation, &case.case, "") {
            let (expected, actual) = (expected(&self.cpu), actual(&self.mma));
            self.push(judge(case, "", expected, actual));
        }
    }
}

fn share(values: &Result<Values>) -> Result<Values> {
    let copy = |values: &Values| Values { shape: values.shape, data: values.data.clone() };
    values.as_ref().map(copy).map_err(Error::clone)
}

/// A tensor's values.
pub fn values_of(backend: &Any, x: &Tensor) -> Result<Values> {
    Ok(Values { shape: backend.shape(x), data: backend.to_vec(x)? })
}

fn evaluate(
    backend: &Any,
    inputs: &[Shape],
    op: &impl Fn(&Any, &[&Tensor]) -> Result<Tensor>,
) -> Result<Values> {
    let input = |(i, shape): (usize, &Shape)| {
        backend.tensor(noise::halves(shape.iter().product(), 1.0, i as u64 + 1), *shape)
    };
    let tensors = inputs.iter().enumerate().map(input).collect::<Result<Vec<Tensor>>>()?;
    values_of(backend, &op(backend, &tensors.iter().collect::<Vec<_>>())?)
}

fn judge(case: Case<'_>, path: &'static str, expected: Result<Values>, actual: Result<Values>) -> Check {
    let Case { operation, case, heads, allowed, .. } = case;
    let (worst, verdict) = match (expected, actual) {
        (Err(error), _) => (0.0, Verdict::Failed(format!("on the CPU, {error}"))),
        (_, Err(error)) => (0.0, Verdict::Failed(error.to_string())),
        (Ok(expected), Ok(actual)) if actual.shape != expected.shape => {
            let text = format!("the shape is {:?}, not {:?}\n", actual.shape, expected.shape);
            (f32::INFINITY, Verdict::Differs(text))
        }
        (Ok(expected), Ok(actual)) => {
            let layout = Layout { shape: expected.shape, heads };
            let what = name(operation, &case, path);
            let found = compare_and_dump(&what, &actual.data, &expected.data, layout, allowed, &[]);
            (found.worst, found.mismatch.map_or(Verdict::Right, Verdict::Differs))
        }
    };
    Check { operation, case, path, worst, allowed, verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(expected: Result<Values>, actual: Result<Values>) -> Check {
        judge(Case::new("add", "2".into(), &[], 1e-3), "mma", expected, actual)
    }

    fn values(data: &[f32]) -> Result<Values> {
        Ok(Values { shape: [1, 1, 1, data.len()], data: data.to_vec() })
    }

    #[test]
    fn what_differs_or_fails_is_wrong() {
        let right = judged(values(&[1.0, 2.0]), values(&[1.0, 2.001]));
        assert!(matches!(right.verdict, Verdict::Right) && !right.is_wrong(), "{right:?}");
        let differs = judged(values(&[1.0, 2.0]), values(&[1.0, 2.5]));
        assert!(
            matches!(&differs.verdict, Verdict::Differs(text) if text.contains("2.5, not 2")),
            "{differs:?}"
        );
        assert!(differs.is_wrong() && differs.worst == 0.25 && differs.name() == "add 2 mma");
        let shape = judged(values(&[1.0, 2.0]), values(&[1.0]));
        assert!(
            matches!(&shape.verdict, Verdict::Differs(text) if text.contains("[1, 1, 1, 1], not")),
            "{shape:?}"
        );
        let failed = judged(values(&[1.0]), Err(Error::OtherDevice));
        assert!(matches!(&failed.verdict, Verdict::Failed(_)) && failed.is_wrong(), "{failed:?}");
        let nan = judged(values(&[1.0]), values(&[f32::NAN]));
        assert!(nan.is_wrong() && nan.worst == f32::INFINITY, "{nan:?}");
    }
}
