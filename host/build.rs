//! Builds the plugins that the binary carries, and lists the models that it carries.

mod guests;

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// Package and file name of each.
const BUILTIN: &[(&str, &str)] = &[
    ("reverie-plugin-sr", "sr"),
    ("reverie-plugin-generate", "generate"),
    ("reverie-plugin-dream", "dream"),
    ("reverie-plugin-comfy", "comfy"),
];

/// Folders of models and what they are called when they are unpacked.
const MODELS: &[(&str, &str)] = &[("weights/emoji/model", "emoji"), ("weights/emoji/scorer", "emoji-scorer")];

fn main() {
    let packages: Vec<&str> = BUILTIN.iter().map(|(package, _)| *package).collect();
    let folder = guests::build(&packages, false);
    let plugins: Vec<_> =
        BUILTIN.iter().map(|(_, name)| (name.to_string(), folder.join(format!("{name}.wasm")))).collect();
    write("builtin_plugins.rs", "BUILTIN", "Name and component of each built-in plugin.", &plugins);

    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let mut models = Vec::new();
    for (folder, name) in MODELS {
        let folder = root.join(folder);
        println!("cargo::rerun-if-changed={}", folder.display());
        collect(&folder, name, &mut models);
    }
    models.sort();
    write("embedded.rs", "FILES", "Path and content of each file of the embedded models.", &models);
}

/// All files of a folder, with their paths in it below `name`.
fn collect(folder: &Path, name: &str, files: &mut Vec<(String, PathBuf)>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())).flatten() {
        let (path, name) = (entry.path(), format!("{name}/{}", entry.file_name().to_string_lossy()));
        match path.is_dir() {
            true => collect(&path, &name, files),
            false => files.push((name, path)),
        }
    }
}

/// Writes a constant with the content of files.
fn write(file: &str, name: &str, documentation: &str, files: &[(String, PathBuf)]) {
    let mut code = format!("/// {documentation}\nconst {name}: &[(&str, &[u8])] = &[\n");
    for (name, path) in files {
        writeln!(code, "    ({name:?}, include_bytes!({:?})),", path.display().to_string())
            .expect("to memory");
    }
    code.push_str("];\n");
    let out = PathBuf::from(env::var("OUT_DIR").expect("set by cargo"));
    fs::write(out.join(file), code).expect("OUT_DIR is writable");
}
