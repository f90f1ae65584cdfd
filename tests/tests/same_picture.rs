//! Through the real server: the pictures of diffusers, whatever the request; and what is not done as asked is said or refused.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reverie_tests::{Server, lora, picture};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/diffusion")
}

/// A copy of the model `sd` among the server's, whose files may be changed.
fn copy(server: &Server, name: &str) -> PathBuf {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
            if path.is_dir() { copy(&path, &to) } else { _ = fs::copy(path, to).unwrap() }
        }
    }
    let to = server.dir.path().join("reverie-data/checkpoints").join(name);
    copy(&fixtures().join("pipelines/sd"), &to);
    to
}

fn reload(server: &Server) {
    assert_eq!(server.post("/api/modes/reload", None, &[]).status, 200);
}

#[test]
fn requests_give_the_pictures_of_diffusers() {
    let server = Server::with_models(&[], &["sd", "sdxl", "inpaint"]);
    let folder = fixtures().join("server");
    let cases: Value = serde_json::from_slice(&fs::read(folder.join("cases.json")).unwrap()).unwrap();
    for case in cases.as_object().unwrap().values().filter(|case| case["scheduler"].is_object()) {
        let model = copy(&server, case["model"].as_str().unwrap());
        fs::write(model.join("scheduler/scheduler_config.json"), case["scheduler"].to_string()).unwrap();
    }
    reload(&server);
    let mut wrong = Vec::new();
    for (name, case) in cases.as_object().unwrap() {
        let mut params = case["request"].clone();
        params["mode"] = case["model"].clone();
        let fields = params.as_object_mut().unwrap();
        if let (Some(width), Some(height)) = (fields.remove("width"), fields.remove("height")) {
            fields.insert("size".into(), format!("{width}x{height}").into());
        }
        for key in ["image", "mask"] {
            if let Some(file) = case["request"][key].as_str() {
                fields.insert(key.into(), server.upload(&fs::read(folder.join(file)).unwrap()).into());
            }
        }
        let made = server.post_json("/generate", &params);
        assert_eq!(made.status, 200, "{name}: {}", made.text());
        assert_eq!(made.header("x-warnings"), None, "{name}");
        let made = image::load_from_memory(&made.body).unwrap().to_rgb8();
        let expected = image::open(folder.join(format!("{name}.png"))).unwrap().to_rgb8();
        assert_eq!(made.dimensions(), expected.dimensions(), "{name}");
        let off = made.as_raw().iter().zip(expected.as_raw()).filter(|(a, b)| a.abs_diff(**b) > 2).count();
        let share = off as f64 / expected.as_raw().len() as f64;
        if share > 1e-3 {
            wrong.push(format!("{name}: {:.2} % over", 100.0 * share));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_a_request_says_is_in_meta() {
    let server = Server::with_models(&[], &["sd"]);
    let mut client = server.connect();
    let image = server.upload(&picture(64, 64));
    let params = json!({"prompt": "a cat", "steps": 10, "seed": 1, "cfg": 3.3, "image": image, "strength": 0.7,
        "scheduler": "ddim", "eta": 0.3, "guidance_rescale": 0.15, "timesteps": [1, 2]});
    let job = client.submit(json!({"params": params}));
    let complete = client.finish(&job);
    let meta = &complete["meta"];
    for (field, value) in
        [("eta", 0.3), ("guidance_rescale", 0.15), ("strength", 0.7), ("guidance_scale", 3.3)]
    {
        assert_eq!(meta[field], value, "{meta}");
    }
    assert_eq!(meta["warnings"], json!(["'timesteps' of diffusers was ignored: it is not built here"]));
    let refused =
        server.post_json("/generate", &json!({"prompt": "", "steps": 2, "scheduler": "euler", "eta": 0.5}));
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("EulerDiscreteScheduler takes none"), "{}", refused.text());
    let refused =
        server.post_json("/generate", &json!({"prompt": "", "steps": 2, "strict": true, "sigmas": [1]}));
    assert!(refused.status == 422 && refused.text().contains("'sigmas' of diffusers"), "{}", refused.text());
}

#[test]
fn adapters_that_lose_parts_are_told_or_with_strict_refused() {
    let server = Server::with_models(&[], &["sd"]);
    let folder = server.dir.path().join("reverie-data/loras");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("fits.safetensors"), lora()).unwrap();
    // As long a name as before, of no layer.
    let other = String::from_utf8_lossy(&lora()).contains("attn1_to_v");
    assert!(other);
    let mut lost = lora();
    for at in 0..lost.len() - 10 {
        if lost[at..].starts_with(b"attn1_to_v") {
            lost[at..at + 10].copy_from_slice(b"attn9_to_v");
        }
    }
    fs::write(folder.join("lost.safetensors"), lost).unwrap();
    let ask = |name: &str, strict: bool| {
        let params = json!({"prompt": "a cat", "size": "64x64", "steps": 2, "seed": 1, "strict": strict,
            "loras": [{"name": name, "strength": 0.8}]});
        server.post_json("/generate", &params)
    };
    let plain = ask("fits", true);
    assert_eq!((plain.status, plain.header("x-warnings")), (200, None));
    let told = ask("lost", false);
    let warning = told.header("x-warnings").unwrap_or_default();
    assert!(
        told.status == 200 && warning.contains("lost.safetensors") && warning.contains("no effect"),
        "{warning}"
    );
    let refused = ask("lost", true);
    assert!(refused.status == 422 && refused.text().contains("lost.safetensors"), "{}", refused.text());
}

#[test]
fn files_that_no_model_can_be_made_of_are_told_with_what_is_accepted() {
    let server = Server::with_models(&[], &["sd"]);
    let unet = "unet/diffusion_pytorch_model.safetensors";
    let whole = fs::read(fixtures().join("pipelines/sd").join(unet)).unwrap();
    let path = copy(&server, "cut").join(unet);
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    fs::remove_file(copy(&server, "without").join(unet)).unwrap();
    let name = |from: &str, to: &str, content: &[u8]| {
        let at = content.windows(from.len()).position(|bytes| bytes == from.as_bytes()).expect("there");
        [&content[..at], to.as_bytes(), &content[at + from.len()..]].concat()
    };
    fs::write(copy(&server, "renamed").join(unet), name("conv_in.weight", "conv_in.weighs", &whole)).unwrap();
    let config = copy(&server, "misshapen").join("unet/config.json");
    let mut fields: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    fields["cross_attention_dim"] = 24.into();
    fs::write(&config, fields.to_string()).unwrap();
    let config = copy(&server, "no_json").join("unet/config.json");
    fs::write(config, "{").unwrap();
    let config = copy(&server, "own").join("scheduler/scheduler_config.json");
    fs::write(config, r#"{"_class_name": "SASolverScheduler"}"#).unwrap();
    reload(&server);
    for (mode, said) in [
        ("cut", unet),
        ("without", "diffusion_pytorch_model.safetensors"),
        ("renamed", "conv_in.weight"),
        ("misshapen", "expected"),
        ("no_json", "config.json"),
        ("own", "SASolverScheduler"),
    ] {
        let refused =
            server.post_json("/generate", &json!({"prompt": "", "mode": mode, "steps": 1, "size": "64x64"}));
        let text = refused.text();
        assert!(refused.status == 422 && text.contains(said) && text.contains("accepted"), "{mode}: {text}");
    }
}

#[test]
fn loading_is_told() {
    let server = Server::with_models(&[], &["sdxl"]);
    let mut client = server.connect();
    let job =
        client.submit(json!({"params": {"prompt": "a cat", "mode": "sdxl", "steps": 1, "size": "64x64"}}));
    let mut told = Vec::new();
    loop {
        let message = client.receive_where(|m| m["jobId"] == job.as_str());
        match message["type"].as_str().unwrap() {
            "job:progress" if message["stage"] == "loading" => {
                told.extend(message["progress"]["loaded"].as_f64())
            }
            "job:progress" | "job:preview" => {}
            _ => break assert_eq!(message["type"], "job:complete", "{message}"),
        }
    }
    assert!(
        !told.is_empty() && told.is_sorted() && told.iter().all(|part| (0.0..=1.0).contains(part)),
        "{told:?}"
    );
}

#[test]
fn a_jpeg_without_its_end_is_refused() {
    let server = Server::with_models(&[], &["sd"]);
    let jpeg =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/pictures/progressive.jpg")).unwrap();
    let ask = |content: &[u8]| {
        let image = server.upload(content);
        server.post_json("/generate", &json!({"prompt": "", "steps": 2, "image": image, "seed": 1}))
    };
    assert_eq!(ask(&jpeg).status, 200);
    let refused = ask(&jpeg[..jpeg.len() - 40]);
    assert!(refused.status == 422 && refused.text().contains("without its end"), "{}", refused.text());
}

#[test]
fn other_apis_say_what_they_leave_out() {
    let server = Server::with_models(&[], &["sd", "sdxl"]);
    let base = json!({"prompt": "a cat", "steps": 2, "width": 64, "height": 64, "seed": 1});
    let ask = |more: Value| {
        let mut asked = base.clone();
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = server.post_json("/sdapi/v1/txt2img", &asked);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let plain = ask(json!({"override_settings": {"sd_model_checkpoint": "sdxl"}}));
    assert_eq!(plain["warnings"], Value::Null);
    // SDXL takes its own layer, there as here.
    let skipped =
        ask(json!({"override_settings": {"sd_model_checkpoint": "sdxl", "CLIP_stop_at_last_layers": 2}}));
    assert_eq!(skipped["images"], plain["images"]);
    assert!(
        skipped["warnings"][0].as_str().unwrap().contains("CLIP_stop_at_last_layers"),
        "{}",
        skipped["warnings"]
    );
    let info: Value = serde_json::from_str(skipped["info"].as_str().unwrap()).unwrap();
    assert_eq!(info["warnings"], skipped["warnings"]);
    let told = ask(json!({"frobnicate": 1, "s_churn": 4, "eta": 1, "sampler_name": "Euler a"}));
    assert_eq!(
        told["warnings"],
        json!(["frobnicate: ignored: no such field is known", "s_churn: ignored: it is not supported here"])
    );
    // What the model's files say is in there, too.
    let config = copy(&server, "says").join("unet/config.json");
    let mut fields: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    fields["sharpness"] = 3.into();
    fs::write(&config, fields.to_string()).unwrap();
    reload(&server);
    let told = ask(json!({"override_settings": {"sd_model_checkpoint": "says"}}));
    assert!(told["warnings"][0].as_str().unwrap().contains("'sharpness'"), "{}", told["warnings"]);
    let openai = json!({"prompt": "a cat", "size": "64x64", "steps": 2, "model": "says", "style": "vivid"});
    let made = server.post_json("/v1/images/generations", &openai).json();
    let warnings = made["warnings"].to_string();
    assert!(warnings.contains("style: ignored") && warnings.contains("'sharpness'"), "{made}");
}

#[test]
fn a_mask_in_colour_is_the_same_inverted() {
    let server = Server::with_models(&[], &["inpaint"]);
    let folder = fixtures().join("server");
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let encoded = |content: &[u8]| BASE64_STANDARD.encode(content);
    let mut inverted = image::load_from_memory(&read("mask.png")).unwrap();
    inverted.invert();
    let mut png = std::io::Cursor::new(Vec::new());
    inverted.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let ask = |mask: &[u8], invert: u32| {
        let asked = json!({"prompt": "a cat", "steps": 2, "seed": 1, "width": 72, "height": 48, "init_images": [encoded(&read("photo.png"))],
            "mask": encoded(mask), "inpainting_mask_invert": invert, "denoising_strength": 1});
        let answer = server.post_json("/sdapi/v1/img2img", &asked);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["images"][0].clone()
    };
    let expected = ask(&read("mask.png"), 0);
    assert_eq!(ask(png.get_ref(), 1), expected);
    assert_ne!(ask(png.get_ref(), 0), expected);
}
