//! What modes accept and what pages show of them, and the names that later clients have for parameters, through the real server
//! with tiny models of random weights.

use std::time::{Duration, Instant};

use reverie_tests::{Server, picture};
use serde_json::{Value, json};

const PROMPT: &str = "a photo of a cat";

fn made(server: &Server, params: &Value) -> Vec<u8> {
    let made = server.post_json("/generate", params);
    assert_eq!(made.status, 200, "{params}: {}", made.text());
    made.body
}

/// The text of a PNG's `tEXt` chunk.
fn text(png: &[u8], keyword: &str) -> Option<String> {
    let mut at = 8;
    while at + 8 <= png.len() {
        let length = u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize;
        let content = png[at + 4..at + 8 + length].strip_prefix(format!("tEXt{keyword}\0").as_bytes());
        if let Some(content) = content {
            return Some(content.iter().map(|byte| char::from(*byte)).collect());
        }
        at += 12 + length;
    }
    None
}

fn recipe(png: &[u8]) -> Value {
    serde_json::from_str(&text(png, "lcm").expect("a chunk 'lcm'")).unwrap()
}

#[test]
fn names_of_later_clients_do_what_they_say() {
    let server = Server::with_models(&[], &["sd"]);
    let image = server.upload(&picture(64, 64));
    let own = json!({"prompt": PROMPT, "steps": 4, "seed": 4_294_967_295_u32, "size": "64x64", "image": image, "strength": 0.5,
        "scheduler": "Euler a"});
    let later = json!({"prompt": PROMPT, "steps": 4, "seed": "4294967295", "size": "64x64", "scheduler_id": "euler_a",
        "init_image_ref": format!("fileRef:{image}"), "denoise_strength": "0.5", "controlnets": [], "style_lora": {"style": null, "level": 0}});
    let expected = made(&server, &own);
    assert!(expected == made(&server, &later), "the names differ");
    let mut other = later.clone();
    other["denoise_strength"] = json!(0.9);
    assert!(expected != made(&server, &other), "denoise_strength changes nothing");
    other = later.clone();
    other["scheduler_id"] = json!("dpmpp_2m");
    assert!(expected != made(&server, &other), "scheduler_id changes nothing");
    // Nothing may change.
    other["denoise_strength"] = json!(0);
    let same = image::load_from_memory(&made(&server, &other)).unwrap();
    assert_eq!(same.to_rgb8(), image::load_from_memory(&picture(64, 64)).unwrap().to_rgb8());
}

#[test]
fn what_is_not_known_is_told_and_changes_nothing() {
    let server = Server::with_models(&[], &["sd"]);
    let mut client = server.connect();
    let params = json!({"prompt": PROMPT, "size": "64x64", "steps": 2, "seed": 1, "negativeprompt": "x", "frobnicate": null});
    let job = client.submit(json!({"jobType": "generate", "priority": 1, "cgf": 7, "params": params}));
    let complete = client.finish(&job);
    let warnings = complete["meta"]["warnings"].as_array().unwrap_or_else(|| panic!("{complete}"));
    let told: Vec<&str> = warnings.iter().filter_map(Value::as_str).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    for part in ["'cgf'", "'cfg'", "'negativeprompt'", "'negative_prompt'", "'frobnicate'"] {
        assert!(told.iter().any(|text| text.contains(part)), "{part}: {told:?}");
    }
    let made_so = server.get(complete["outputs"][0]["url"].as_str().unwrap()).body;
    let without = json!({"prompt": PROMPT, "size": "64x64", "steps": 2, "seed": 1});
    assert!(made_so == made(&server, &without));
}

#[test]
fn a_png_tells_what_it_is_made_from_again() {
    let server = Server::with_models(&["diffusion.default_mode=sd"], &["sd", "lcm"]);
    let cases = [
        json!({"prompt": "a cat, \u{732b}, K\u{e4}se", "size": "64x64", "steps": 2}),
        json!({"prompt": PROMPT, "negative_prompt": "dogs \u{732b}", "size": "72x64", "steps": 3, "cfg": 3.1, "seed": 4_294_967_295_u32,
            "scheduler_id": "dpmpp_2m_karras", "superres": true, "superres_magnitude": 1}),
        json!({"prompt": PROMPT, "size": "64x64", "steps": 3, "scheduler": "DPM++ 2M", "schedule_type": "karras"}),
        json!({"prompt": PROMPT, "size": "64x64", "steps": 3, "scheduler": "euler", "schedule_type": "karras"}),
        json!({"prompt": PROMPT, "size": "64x64", "mode": "lcm"}),
    ];
    let ids = ["plms", "dpmpp_2m_karras", "dpmpp_2m_karras", "", "lcm"];
    for (asked, id) in cases.iter().zip(ids) {
        let first = made(&server, asked);
        let recipe = recipe(&first);
        for field in ["prompt", "seed", "size", "steps", "cfg", "superres", "negative_prompt", "scheduler_id"]
        {
            assert!(recipe.get(field).is_some(), "{field}: {recipe}");
        }
        assert_eq!((&recipe["prompt"], &recipe["size"]), (&asked["prompt"], &asked["size"]), "{recipe}");
        if !id.is_empty() {
            assert_eq!(recipe["scheduler_id"], id, "{recipe}");
        }
        assert!(made(&server, &recipe) == first, "{recipe}");
        if asked["prompt"] == PROMPT {
            assert!(text(&first, "parameters").is_some() || asked["negative_prompt"].is_string());
        }
    }
    let superres = server.post_json("/generate", &cases[1]);
    let picture = image::load_from_memory(&superres.body).unwrap();
    assert_eq!((picture.width(), picture.height()), (144, 128));
    for (header, value) in [
        ("x-superres", "1"),
        ("x-sr-model", "realesr-animevideov3"),
        ("x-sr-magnitude", "1"),
        ("x-sr-passes", "1"),
        ("x-sr-scale-per-pass", "2"),
        ("x-sr-format", "png"),
    ] {
        assert_eq!(superres.header(header), Some(value), "{header}");
    }
}

const LIMITED: &str = r#"
[resolution_sets]
small = ["64x64", { size = "96x64", aspect_ratio = "wide" }, "64x96"]

[modes.limited]
model = "sd"
resolution_set = "small"
recommended_size = "96x64"
num_inference_steps = 2
scheduler = "Euler a"
allowed_schedulers = ["lcm", "euler_a"]
negative_prompt = "blurry"
negative_prompt_templates = { photo = "low quality" }
allow_custom_negative_prompt = false
"#;

#[test]
fn a_mode_accepts_what_it_lists_and_says_so() {
    let server = Server::with_models(&[], &["sd", "lcm"]);
    let modes = || server.get("/api/modes").json();
    let free = modes();
    assert_eq!(free["resolution_sets"], json!({}));
    let sd = &free["modes"]["sd"];
    for (field, value) in [
        ("loras", json!([])),
        ("default_steps", json!(25)),
        ("default_guidance", json!(7.5)),
        ("resolution_set", Value::Null),
        ("resolution_options", json!([{"size": "64x64", "aspect_ratio": "1:1"}])),
        ("default_scheduler_id", json!("plms")),
        ("negative_prompt_templates", json!({})),
        ("allow_custom_negative_prompt", json!(true)),
        ("controlnet_policy", json!({"enabled": false, "max_attachments": 0, "allowed_control_types": []})),
    ] {
        assert_eq!(sd[field], value, "{field}: {sd}");
    }
    let ids = sd["allowed_scheduler_ids"].as_array().unwrap();
    assert!(["lcm", "euler_a", "dpmpp_2m"].iter().all(|id| ids.contains(&json!(id))), "{sd}");
    assert_eq!(free["modes"]["lcm"]["default_scheduler_id"], "lcm");
    // What it says is what is done, of models that were not in memory.
    for mode in ["sd", "lcm"] {
        let shown = &free["modes"][mode];
        assert_eq!(shown["loaded"], false);
        let recipe = recipe(&made(&server, &json!({"prompt": PROMPT, "mode": mode})));
        for (field, said) in [
            ("size", "default_size"),
            ("steps", "default_steps"),
            ("cfg", "default_guidance"),
            ("scheduler_id", "default_scheduler_id"),
        ] {
            assert_eq!(recipe[field], shown[said], "{mode}: {field}");
        }
    }

    // On save.
    let file = server.dir.path().join("reverie.toml");
    std::fs::write(&file, LIMITED).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while modes()["modes"]["limited"].is_null() {
        assert!(Instant::now() < deadline, "the file is not read again: {}", modes());
        std::thread::sleep(Duration::from_millis(50));
    }
    let told = modes();
    let set = json!([{"size": "64x64", "aspect_ratio": "1:1"}, {"size": "96x64", "aspect_ratio": "wide"},
        {"size": "64x96", "aspect_ratio": "2:3"}]);
    assert_eq!(told["resolution_sets"], json!({"small": set}));
    let limited = &told["modes"]["limited"];
    for (field, value) in [
        ("resolution_set", json!("small")),
        ("resolution_options", set.clone()),
        ("recommended_size", json!("96x64")),
        ("default_size", json!("96x64")),
        ("default_steps", json!(2)),
        ("allowed_scheduler_ids", json!(["lcm", "euler_a"])),
        ("default_scheduler_id", json!("euler_a")),
        ("negative_prompt_templates", json!({"photo": "low quality"})),
        ("allow_custom_negative_prompt", json!(false)),
    ] {
        assert_eq!(limited[field], value, "{field}: {limited}");
    }
    let ask = |more: Value| {
        let mut params = json!({"prompt": PROMPT, "mode": "limited", "seed": 1});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post_json("/generate", &params)
    };
    let plain = ask(json!({}));
    let from_the_mode = recipe(&plain.body);
    assert_eq!(
        (&from_the_mode["size"], &from_the_mode["negative_prompt"], &from_the_mode["scheduler_id"]),
        (&json!("96x64"), &json!("blurry"), &json!("euler_a"))
    );
    for accepted in [
        json!({"size": "64x96", "scheduler_id": "lcm", "negative_prompt": "low quality"}),
        json!({"scheduler": "EulerAncestralDiscreteScheduler", "negative_prompt": "blurry"}),
        json!({"negative_prompt": ""}),
    ] {
        let made = ask(accepted.clone());
        assert_eq!(made.status, 200, "{accepted}: {}", made.text());
    }
    for (refused, parts) in [
        (json!({"size": "128x64"}), &["size: ", "64x64, 96x64, 64x96"][..]),
        (json!({"scheduler_id": "ddim"}), &["scheduler_id: ", "lcm, euler_a", "'ddim'"]),
        (json!({"negative_prompt": "mine"}), &["negative_prompt: ", "'low quality' (photo)", "'blurry'"]),
    ] {
        let answer = ask(refused.clone());
        assert_eq!(answer.status, 422, "{refused}: {}", answer.text());
        let said = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
    // A picture to begin with is brought to the most similar size.
    let tall = ask(json!({"image": server.upload(&picture(50, 80))}));
    assert_eq!(image::load_from_memory(&tall.body).unwrap().height(), 96);

    // A broken file changes nothing and is reported.
    for (broken, said) in [
        (LIMITED.replace("\"small\"", "\"large\""), "there are: small"),
        (
            LIMITED.replace("scheduler = \"Euler a\"", "native_size = \"64x64\"\nenlarge = \"nope\""),
            "realesr-animevideov3",
        ),
    ] {
        std::fs::write(&file, broken).unwrap();
        let reloaded = server.post_json("/api/modes/reload", &json!({}));
        assert!(reloaded.status == 422 && reloaded.text().contains(said), "{}", reloaded.text());
    }
    assert_eq!(modes()["modes"]["limited"]["resolution_set"], "small");
}
