//! Builds the plugins that the binary carries.

mod guests;

use std::{env, fmt::Write as _, fs, path::PathBuf};

/// Package and file name of each.
const BUILTIN: &[(&str, &str)] = &[
    ("reverie-plugin-sr", "sr"),
    ("reverie-plugin-generate", "generate"),
    ("reverie-plugin-dream", "dream"),
];

fn main() {
    let packages: Vec<&str> = BUILTIN.iter().map(|(package, _)| *package).collect();
    let folder = guests::build(&packages, false);
    let mut code = String::from(
        "/// Name and component of each built-in plugin.\nconst BUILTIN: &[(&str, &[u8])] = &[\n",
    );
    for (_, name) in BUILTIN {
        let path = folder.join(format!("{name}.wasm"));
        writeln!(code, "    ({name:?}, include_bytes!({:?})),", path.display().to_string())
            .expect("to memory");
    }
    code.push_str("];\n");
    let out = PathBuf::from(env::var("OUT_DIR").expect("set by cargo"));
    fs::write(out.join("builtin_plugins.rs"), code).expect("OUT_DIR is writable");
}
