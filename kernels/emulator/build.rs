//! Names the library as programs ask for the driver.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // A library of this name that is in the process already is what `dlopen("libcuda.so")` gives.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
    }
}
