//! What is found of the kernels on an emulated driver, which is one of compute capability 9.0.
#![cfg(target_os = "linux")]

#[path = "../../tests/common/emulator.rs"]
mod emulator;

use std::sync::atomic::{AtomicUsize, Ordering};

use emulator::emulate;
use reverie_examine::modules::compile_all;
use reverie_kernels::gpu::{cuda::Cuda, variants};

#[test]
fn every_variant_is_compiled_and_described() {
    emulate();
    let cuda = Cuda::new(0, None, false).unwrap();
    let calls = AtomicUsize::new(0);
    let count = variants().len();
    let modules = compile_all(&cuda, 4, &|done, all| {
        assert!((1..=count).contains(&done) && all == count);
        calls.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(calls.into_inner(), count);
    for variant in variants() {
        let name = variant.to_string();
        let entries: Vec<_> = modules.iter().filter(|module| module.variant == name).collect();
        assert!(!entries.is_empty(), "{name}");
        for module in entries {
            assert_eq!(module.error, None, "{name}");
            assert!(module.compile_ms > 0.0 && module.registers > 0 && module.local_bytes == 0, "{module:?}");
            assert!(module.threads.is_multiple_of(32) && module.threads <= 512, "{module:?}");
            assert!(
                module.blocks_per_multiprocessor > 0 && module.shared_bytes >= variant.shared,
                "{module:?}"
            );
        }
    }
    let find = |variant: &str, entry: &str| {
        let found = modules.iter().find(|module| module.variant == variant && module.entry == entry);
        found.unwrap_or_else(|| panic!("{variant}, {entry}"))
    };
    // What it is launched with: 3 stages of 256 rows of 32 values of fp16, of which 4 blocks would fit if their registers did.
    let gemm = find("gemm BM=128 BN=128 WM=64 WN=64 STAGES=3 CONV=0 WIDE=1 SPLIT=0", "gemm");
    assert_eq!((gemm.threads, gemm.shared_bytes), (128, 48 << 10));
    assert_eq!(gemm.blocks_per_multiprocessor, 4);
    // More than a block has by itself: 192 queries and four tiles of 128 keys of 128 bytes, and what is around them.
    let wgmma = find("attention_wgmma D=64 GROUPS=3 BN=128", "attention");
    assert_eq!((wgmma.threads, wgmma.shared_bytes), (512, 1024 + (192 + 4 * 128) * 128 + 72));
    assert_eq!(wgmma.blocks_per_multiprocessor, 2);
    assert!(modules.iter().any(|module| module.entry == "unary5"));
}

#[test]
fn a_device_is_described_with_and_without_its_context() {
    emulate();
    let listed = Cuda::list().unwrap();
    let cuda = Cuda::new(0, None, true).unwrap();
    let properties = cuda.properties();
    assert_eq!(listed.len(), 1);
    assert_eq!((properties.too_old(), properties.lacks_wgmma()), (None, None));
    assert_eq!((properties.compute_capability, properties.driver), ([9, 0], [12, 9]));
    assert_eq!(properties.memory_total, reverie_cuda_emulator::MEMORY as u64);
    assert!(properties.memory_free.is_some_and(|free| (1..=properties.memory_total).contains(&free)));
    assert_eq!(listed[0].name, "emulated GPU");
    assert_eq!(listed[0].multiprocessors, 4);
    assert_eq!(Cuda::list().unwrap()[0].pci_bus_id, cuda.pci_bus_id().unwrap());
}
