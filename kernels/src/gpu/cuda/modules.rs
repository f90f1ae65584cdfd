//! PTX that the driver has compiled, and the functions in it.

use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    sync::Arc,
    time::Instant,
};

use cudarc::driver::sys;
use parking_lot::Mutex;

use super::{
    Gpu,
    compiled::{Compiled, Entry},
    driver::Context,
    once::Once,
};
use crate::{
    error::{Error, Result},
    gpu::{Arg, Variant},
};

/// Dynamic shared memory that a function may have without being asked for.
const PLAIN_SHARED: u32 = 48 << 10;

/// Bytes for what the compiler has to say about PTX that it refuses.
const LOG: usize = 8 << 10;

/// A parameter's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Address,
    /// A tensor map.
    Map,
    Integer,
    Float,
    /// 32 bits of either.
    Word,
}

impl Kind {
    fn fits<B>(self, arg: &Arg<'_, B>) -> bool {
        match arg {
            Arg::Buffer(_) | Arg::Null => self == Self::Address,
            Arg::Map(_) => self == Self::Map,
            Arg::U32(_) => matches!(self, Self::Integer | Self::Word),
            Arg::F32(_) => matches!(self, Self::Float | Self::Word),
        }
    }
}

/// An entry of a module.
pub struct Function {
    raw: sys::CUfunction,
    parameters: Vec<Kind>,
    /// The most dynamic shared memory that it may be launched with.
    shared: Mutex<u32>,
}

// SAFETY: the handle may be used from any thread with the context current.
unsafe impl Send for Function {}
// SAFETY: several threads may launch a function; the one thing that is changed of it is behind the lock.
unsafe impl Sync for Function {}

impl Function {
    /// The handle, for as long as its module is loaded.
    pub fn raw(&self) -> sys::CUfunction {
        self.raw
    }

    /// Whether the entry has just these parameters: the driver reads as many as it has, whatever it is given.
    pub fn takes<B>(&self, args: &[Arg<'_, B>]) -> bool {
        self.parameters.len() == args.len()
            && self.parameters.iter().zip(args).all(|(parameter, arg)| parameter.fits(arg))
    }

    /// Asks for so much dynamic shared memory.
    pub fn reserve(&self, bytes: u32, gpu: &Gpu) -> Result<()> {
        let mut shared = self.shared.lock();
        if bytes <= *shared {
            return Ok(());
        }
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        gpu.with_room(
            || format!("{bytes} bytes of shared memory"),
            // SAFETY: the function is loaded.
            || unsafe { sys::cuFuncSetAttribute(self.raw, attribute, bytes as i32) },
        )?;
        *shared = bytes;
        Ok(())
    }
}

/// Compiled PTX.
pub struct Module {
    context: Arc<Context>,
    raw: sys::CUmodule,
    functions: HashMap<String, Function>,
    /// How long the driver took for it.
    milliseconds: f32,
}

// SAFETY: the handle may be used from any thread with the context current.
unsafe impl Send for Module {}
// SAFETY: shared, nothing is done with it but to launch its functions.
unsafe impl Sync for Module {}

impl Module {
    fn load(gpu: &Gpu, variant: &Variant) -> Result<Self> {
        let context = &gpu.context;
        let wrong = |what: String| context.error(format!("{what}, in {variant}"));
        let text = variant.ptx()?;
        let entries = entries(&text).map_err(wrong)?;
        let text = CString::new(text).map_err(|_| wrong("a zero byte".into()))?;
        context.enter()?;
        let mut log = vec![0u8; LOG];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let log_address = log.as_mut_ptr();
        let mut raw = std::ptr::null_mut();
        let load = || {
            // A value is given in the place of a pointer, and the driver writes its own there. One byte is kept back, so that
            // the log ends in a zero.
            let mut values = [log_address.cast::<c_void>(), std::ptr::without_provenance_mut(LOG - 1)];
            // SAFETY: the text ends in a zero; the options are as many as their values; all outlive the call.
            unsafe {
                sys::cuModuleLoadDataEx(
                    &mut raw,
                    text.as_ptr().cast(),
                    options.len() as u32,
                    options.as_mut_ptr(),
                    values.as_mut_ptr(),
                )
            }
        };
        let start = Instant::now();
        let loaded = gpu.with_room(|| format!("compiling {variant}"), load);
        loaded.map_err(|error| with_log(error, &log))?;
        // From here on, dropping it unloads.
        let mut module = Self { context: context.clone(), raw, functions: HashMap::new(), milliseconds: 0.0 };
        for (name, parameters) in entries {
            let entry = CString::new(name.as_str()).map_err(|_| wrong("a zero byte".into()))?;
            let mut raw = std::ptr::null_mut();
            // A driver that loads lazily brings the code to the device here.
            gpu.with_room(
                || format!("{name} of {variant}"),
                // SAFETY: the module is loaded; the name ends in a zero; the pointer is to a local.
                || unsafe { sys::cuModuleGetFunction(&mut raw, module.raw, entry.as_ptr()) },
            )?;
            module.functions.insert(name, Function { raw, parameters, shared: Mutex::new(PLAIN_SHARED) });
        }
        module.milliseconds = start.elapsed().as_secs_f32() * 1e3;
        Ok(module)
    }

    /// What the driver made of it, where its entries are launched with so much dynamic shared memory.
    pub fn describe(&self, gpu: &Gpu, shared: u32) -> Result<Compiled> {
        let entries = self.functions.iter().map(|(name, function)| Entry::of(gpu, name, function, shared));
        let mut entries = entries.collect::<Result<Vec<_>>>()?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Compiled { milliseconds: self.milliseconds, entries })
    }

    /// The entry of this name.
    pub fn function(&self, entry: &str) -> Option<&Function> {
        self.functions.get(entry)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: loaded in `load`.
            let _ = unsafe { sys::cuModuleUnload(self.raw) };
        }
    }
}

/// The error with what the compiler has to say.
fn with_log(error: Error, log: &[u8]) -> Error {
    let log = log.split(|byte| *byte == 0).next().map(String::from_utf8_lossy).unwrap_or_default();
    match error {
        Error::Device { device, what, lost } if !log.trim().is_empty() => {
            Error::Device { device, what: format!("{what}: {}", log.trim()), lost }
        }
        error => error,
    }
}

/// Names and parameters of a text's entries.
///
/// # Errors
/// What is not as in `.entry name(.param .u64 x, .param .f32 y)`.
fn entries(text: &str) -> Result<Vec<(String, Vec<Kind>)>, String> {
    let bare: Vec<&str> =
        text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code)).collect();
    let bare = bare.join("\n");
    let mut entries = Vec::new();
    for entry in bare.split(".entry").skip(1) {
        let head = entry.split_once('{').ok_or("an entry without a body")?.0;
        let (name, rest) = match head.split_once('(') {
            Some((name, rest)) => (name, rest.split_once(')').ok_or("parameters that do not end")?.0),
            None => (head.split_whitespace().next().unwrap_or_default(), ""),
        };
        let mut parameters = Vec::new();
        for parameter in rest.split(',').map(str::trim).filter(|parameter| !parameter.is_empty()) {
            let words: Vec<&str> = parameter.split_whitespace().collect();
            let kind = match words[..] {
                [".param", ".u64" | ".b64", _] => Kind::Address,
                [".param", ".align", "64", ".b8", name] if name.ends_with("[128]") => Kind::Map,
                [".param", ".u32" | ".s32", _] => Kind::Integer,
                [".param", ".f32", _] => Kind::Float,
                [".param", ".b32", _] => Kind::Word,
                _ => return Err(format!("a parameter that is not known: {parameter}")),
            };
            parameters.push(kind);
        }
        entries.push((name.trim().to_owned(), parameters));
    }
    Ok(entries)
}

/// The modules of a device by variant.
#[derive(Default)]
pub struct Modules(Once<Variant, Module>);

impl Modules {
    /// The module of a variant, compiled at the first call. (The driver keeps the machine code on disk.)
    pub fn get(&self, gpu: &Gpu, variant: &Variant) -> Result<Arc<Module>> {
        self.0.get(variant, || Module::load(gpu, variant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_from_the_text() {
        let text = "// .entry no(.param .u64 x) {}
            .visible .entry two(  // .param .f32 comment,
                .param .u64 x, .param .b64 y,
                .param .u32 n,
                .param .f32 alpha, .param .b32 any)  // and more
            .maxntid 256, 1, 1 { ret; }
            .visible .entry none() { ret; }
            .entry bare .maxntid 32 { ret; }";
        use Kind::*;
        let expected = [
            ("two".to_owned(), vec![Address, Address, Integer, Float, Word]),
            ("none".to_owned(), vec![]),
            ("bare".to_owned(), vec![]),
        ];
        assert_eq!(entries(text).unwrap(), expected);
        let wide = ".entry f(.param .align 8 .b8 x[16]) { ret; }";
        assert!(entries(wide).unwrap_err().contains("x[16]"));
        assert!(entries(".entry f(").is_err() && entries(".entry f( {").is_err());
    }

    #[test]
    fn every_variant_has_entries_whose_parameters_are_known() {
        for variant in crate::gpu::variants() {
            let text = variant.ptx().unwrap();
            assert!(text.is_ascii(), "{variant}: PTX is ASCII");
            let found = entries(&text);
            assert!(found.as_ref().is_ok_and(|found| !found.is_empty()), "{variant}: {found:?}");
        }
    }

    #[test]
    fn arguments_must_be_the_entrys() {
        let function = Function {
            raw: std::ptr::null_mut(),
            parameters: vec![Kind::Address, Kind::Integer, Kind::Float],
            shared: Mutex::new(PLAIN_SHARED),
        };
        assert!(function.takes::<()>(&[Arg::Null, Arg::U32(1), Arg::F32(1.0)]));
        assert!(function.takes(&[Arg::Buffer(&()), Arg::U32(1), Arg::F32(1.0)]));
        assert!(!function.takes::<()>(&[Arg::Null, Arg::U32(1)]));
        assert!(!function.takes::<()>(&[Arg::Null, Arg::F32(1.0), Arg::F32(1.0)]));
        assert!(!function.takes::<()>(&[Arg::U32(1), Arg::U32(1), Arg::F32(1.0)]));
        assert!(!function.takes::<()>(&[Arg::Null, Arg::U32(1), Arg::F32(1.0), Arg::Null]));
    }
}
