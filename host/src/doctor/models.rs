//! Text-to-image models, LoRAs, super-resolution networks and the dual encoder: which can be loaded, and why others can't.
//!
//! What the server lists and opens is listed and opened by the same code, up to the weights' values, which are not read.

use std::path::Path;

use reverie_memory::Budget;
use reverie_models::{Lora, ModelKind, clip::CLIPFiles};

use super::{Area, device::Room, disk};
use crate::{
    config::{Config, Mode},
    diffusion::Diffusion,
    embedded::Embedded,
    execution::backend,
    models::Upscalers,
    scoring,
};

/// Where a file can't be used as a model.
const REPLACE: &str =
    "replace the file by a whole one (download it again and compare sizes), or take it away";

pub fn check(config: &Config, room: Option<Room>, area: &mut Area<'_>) {
    let embedded = config.diffusion.embedded.then(|| Embedded::new(&config.diffusion.embedded_dir));
    if let Some(embedded) = &embedded {
        unpacking(config, embedded, area);
    }
    // Nothing is computed: any device will do.
    let backend = backend::cpu(1);
    let dir = Some(config.execution.models_dir.as_path()).filter(|dir| !dir.as_os_str().is_empty());
    let (networks, _) = Upscalers::new(backend.clone(), dir, config.execution.tile);
    match Diffusion::new(config, backend, networks.into(), Budget::unlimited()) {
        Ok(diffusion) => {
            modes(config, &diffusion, room, area);
            others(&config.diffusion.dir, &diffusion, area);
            loras(&config.diffusion.loras_dir, &diffusion, area);
        }
        Err(error) => {
            area.error(error, "name a network or resampler that is there: the server does not start")
        }
    }
    upscalers(config, area);
    scorer(config, embedded.as_ref(), area);
}

/// Whether the embedded models can be written where they are used from.
fn unpacking(config: &Config, embedded: &Embedded, area: &mut Area<'_>) {
    let folder = &config.diffusion.embedded_dir;
    if embedded.is_unpacked() {
        area.ok(format!("embedded models: they are in '{}'", folder.display()));
    } else if let Err(error) = disk::try_writing(folder) {
        area.error(
            format!("embedded models: they can't be written to '{}': {error}", folder.display()),
            "let this user write there, set diffusion.embedded_dir to another folder, or diffusion.embedded = false",
        );
    } else {
        area.ok(format!("embedded models: written to '{}' when they are first used", folder.display()));
    }
}

fn modes(config: &Config, diffusion: &Diffusion, room: Option<Room>, area: &mut Area<'_>) {
    let modes = diffusion.modes();
    match modes.get("") {
        Ok((name, _)) => area.ok(format!("mode '{name}' is the default")),
        Err(error) if config.diffusion.default_mode.is_empty() => {
            area.warning(error.message, "put a model there, or set diffusion.embedded = true");
        }
        Err(error) => area.error(
            format!("diffusion.default_mode = {:?}: {}", config.diffusion.default_mode, error.message),
            "set it to one of them, or to \"\": requests that name no mode fail",
        ),
    }
    for (name, mode) in modes.iter() {
        if diffusion.is_embedded(mode) {
            area.ok(format!("mode '{name}': embedded"));
            continue;
        }
        let path = mode.model.display();
        let inspected = match diffusion.inspect(mode) {
            Ok(inspected) => inspected,
            Err(error) => {
                area.error(
                    format!("mode '{name}' can't be used: {}", error.message),
                    mending(name, mode, config),
                );
                continue;
            }
        };
        let kind = match (inspected.kind, inspected.inpainting) {
            (ModelKind::Sd1, false) => "Stable Diffusion 1",
            (ModelKind::Sd1, true) => "Stable Diffusion 1, inpainting",
            (ModelKind::Sd2, false) => "Stable Diffusion 2",
            (ModelKind::Sd2, true) => "Stable Diffusion 2, inpainting",
            (ModelKind::Sdxl, false) => "SDXL",
            (ModelKind::Sdxl, true) => "SDXL, inpainting",
        };
        area.ok(format!("mode '{name}': {kind}, {} of weights, {path}", disk::bytes(inspected.bytes)));
        fits(name, inspected.bytes, config, room.as_ref(), area);
        if let [first, ..] = &inspected.unmatched[..] {
            let count = inspected.unmatched.len();
            area.note(
                format!("mode '{name}': {count} tensors of its LoRAs fit no layer and are left out, such as {first}"),
                "use LoRAs that were made for this family of models",
            );
        }
    }
}

fn fits(name: &str, bytes: u64, config: &Config, room: Option<&Room>, area: &mut Area<'_>) {
    if let Some(Room { of, bytes: all }) = room
        && *all > 0
        && bytes > *all
    {
        area.warning(
            format!("mode '{name}': its weights take more than {of} has ({})", disk::bytes(*all)),
            "use a model in half precision (fp16) or a smaller one",
        );
    }
    if bytes > config.diffusion.memory_mb << 20 {
        area.note(
            format!(
                "mode '{name}' is larger than diffusion.memory_mb = {}: it is kept alone",
                config.diffusion.memory_mb
            ),
            "set diffusion.memory_mb higher where there is the memory, so that changing modes is quick",
        );
    }
}

/// What to do about a mode that can't be used.
fn mending(name: &str, mode: &Mode, config: &Config) -> String {
    let path = mode.model.display();
    if !mode.model.exists() {
        let dir = config.diffusion.dir.display();
        format!("put the model there, or correct modes.{name}.model: a name in '{dir}', or an absolute path")
    } else if mode.model.extension().is_some_and(|extension| extension == "ckpt") {
        format!("convert it to .safetensors, and take {path} away")
    } else if config.modes.contains_key(name) {
        format!("correct [modes.{name}], or replace the file that is named")
    } else {
        format!(
            "replace {path} by a whole one (download it again and compare sizes), or take it out of the folder"
        )
    }
}

/// What lies among the models and is none.
fn others(dir: &Path, diffusion: &Diffusion, area: &mut Area<'_>) {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let modes = diffusion.modes();
    let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let hidden = |path: &Path| path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    // A mode names a file by its path; further models of the same name have none.
    let used =
        |path: &Path| modes.iter().any(|(_, mode)| mode.model == path || mode.vae.as_deref() == Some(path));
    let mut others: Vec<_> = entries.filter(|path| !hidden(path) && !used(path)).collect();
    others.sort();
    for path in others {
        area.note(
            format!("{} is no mode: no diffusers folder (with a model_index.json) and no checkpoint, or its name is taken", path.display()),
            "rename it, name it in the configuration ([modes.NAME] model), or take it out of diffusion.dir",
        );
    }
}

fn loras(dir: &Path, diffusion: &Diffusion, area: &mut Area<'_>) {
    let names = diffusion.loras();
    let mut usable = Vec::new();
    for name in &names {
        match Lora::open(diffusion.lora(name).as_ref()) {
            Ok(_) => usable.push(name.as_str()),
            Err(error) => area.error(format!("LoRA '{name}' can't be used: {error}"), REPLACE),
        }
    }
    match usable.is_empty() {
        true if names.is_empty() => area.ok(format!("LoRAs: none in '{}'", dir.display())),
        true => {}
        false => area.ok(format!("LoRAs: {}", usable.join(", "))),
    }
}

fn upscalers(config: &Config, area: &mut Area<'_>) {
    let dir = &config.execution.models_dir;
    let folder = Some(dir.as_path()).filter(|dir| !dir.as_os_str().is_empty());
    let (upscalers, refused) = Upscalers::new(backend::cpu(1), folder, config.execution.tile);
    for network in upscalers.list().into_iter().filter(|network| network.kind == "network") {
        let scales: Vec<String> = network.scales.iter().map(|scale| format!("x{scale}")).collect();
        area.ok(format!(
            "super-resolution '{}': {} {}, {}",
            network.name,
            network.architecture,
            scales.join(" "),
            network.source
        ));
    }
    for error in refused {
        area.error(format!("super-resolution: {error}"), REPLACE);
    }
    // The networks that the plugins' own configuration names.
    let known: Vec<String> = upscalers.list().into_iter().map(|network| network.name).collect();
    for (plugin, key) in [("sr", "model"), ("generate", "superres_model")] {
        let named = config.plugins.get(plugin).and_then(|table| table.config.get(key)?.as_str());
        if let Some(name) = named.filter(|name| !known.iter().any(|known| known == name)) {
            area.error(
                format!("plugins.{plugin}.config.{key} = {name:?}: there is no such network"),
                format!("set it to one of: {}", known.join(", ")),
            );
        }
    }
}

fn scorer(config: &Config, embedded: Option<&Embedded>, area: &mut Area<'_>) {
    let folder = match scoring::folder(&config.scoring.model, embedded) {
        Ok(folder) => folder,
        Err(error) if config.scoring.model.as_os_str().is_empty() => {
            return area.note(error.message, "nothing, unless pictures are to be scored, as dreams are");
        }
        Err(error) => {
            return area.error(
                error.message,
                "set scoring.model to a folder as CLIPModel.save_pretrained and CLIPProcessor.save_pretrained write it, \
                 or to \"\" for the embedded one",
            );
        }
    };
    if embedded.is_some_and(|embedded| folder == embedded.scorer()) {
        return area.ok("dual encoder: embedded");
    }
    match CLIPFiles::open(&folder) {
        Ok(files) => area.ok(format!(
            "dual encoder: {} of weights, {}",
            disk::bytes(files.weights.resident_bytes()),
            folder.display()
        )),
        Err(error) => area.error(
            format!("scoring.model '{}' can't be used: {error}", folder.display()),
            "save the model there again (CLIPModel.save_pretrained, CLIPProcessor.save_pretrained), or set scoring.model \
             to \"\" for the embedded one",
        ),
    }
}
