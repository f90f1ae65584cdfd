//! The model inside the binary, through the real server: no download, nothing configured.

use std::path::Path;

use image::{Rgb, RgbImage};
use reverie_tests::Server;
use serde_json::{Value, json};

fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/diffusion/emoji")
}

fn read(content: &[u8]) -> RgbImage {
    image::load_from_memory(content).expect("a picture").to_rgb8()
}

/// Whether a pixel is nearer to `colour` than to any of `others`.
fn nearest(pixel: &Rgb<u8>, colour: [i32; 3], others: &[[i32; 3]]) -> bool {
    let far = |to: &[i32; 3]| (0..3).map(|c| (i32::from(pixel[c]) - to[c]).pow(2)).sum::<i32>();
    others.iter().all(|other| far(&colour) < far(other))
}

#[test]
fn it_serves_when_nothing_else_does() {
    let server = Server::with_models(&[], &[]);
    let mut client = server.connect();
    assert_eq!(client.greeting["mode"], "emoji");
    let job = client.submit(json!({"params": {"prompt": "a red apple on a blue background"}}));
    let complete = client.finish(&job);
    let meta = &complete["meta"];
    assert_eq!(
        (&meta["mode"], &meta["model"], &meta["num_inference_steps"], &meta["guidance_scale"]),
        (&json!("emoji"), &json!("emoji"), &json!(4), &json!(1.5)),
        "{complete}"
    );
    let picture = read(&server.get(complete["outputs"][0]["url"].as_str().unwrap()).body);
    assert_eq!(picture.dimensions(), (128, 128));
    let (red, blue) = ([222, 62, 62], [70, 128, 232]);
    let others = [[250, 250, 250], [92, 190, 102], [252, 218, 82], [22, 22, 26]];
    for (x, y) in [(4, 4), (123, 4), (4, 123), (123, 123)] {
        let pixel = picture.get_pixel(x, y);
        assert!(nearest(pixel, blue, &[&others[..], &[red]].concat()), "{x} {y}: {pixel:?}");
    }
    let pixel = picture.get_pixel(64, 72);
    assert!(nearest(pixel, red, &[&others[..], &[blue]].concat()), "{pixel:?}");
    // The seed that was drawn makes it again.
    let again = server
        .post_json("/generate", &json!({"prompt": "a red apple on a blue background", "seed": meta["seed"]}));
    assert_eq!(read(&again.body), picture);
}

#[test]
fn a_seed_gives_the_picture_that_diffusers_gives() {
    let server = Server::with_models(&[], &[]);
    let requests: Value =
        serde_json::from_slice(&std::fs::read(fixtures().join("requests.json")).unwrap()).unwrap();
    for (number, request) in requests.as_array().unwrap().iter().enumerate() {
        let golden = read(&std::fs::read(fixtures().join(format!("{number}.png"))).unwrap());
        let made = server.post_json("/generate", request);
        assert_eq!(made.status, 200, "{}", made.text());
        let made = read(&made.body);
        let off = made.iter().zip(golden.iter()).filter(|(a, b)| a.abs_diff(**b) > 1).count();
        let unequal = made.iter().zip(golden.iter()).filter(|(a, b)| a != b).count();
        println!(
            "request {number}: {unequal} of {} values are not the same, {off} by more than 1",
            made.len()
        );
        assert!(off == 0 && unequal * 100 <= made.len(), "request {number}");
    }
}

/// How steep a picture's edges are: the mean difference of the luma from pixel to pixel, where it is large.
fn steepness(picture: &RgbImage) -> f64 {
    let luma = image::imageops::grayscale(picture);
    let rows = luma.rows().map(|row| row.map(|pixel| f64::from(pixel[0])).collect::<Vec<_>>());
    let mut steps: Vec<f64> = rows
        .flat_map(|row| row.windows(2).map(|pair| (pair[1] - pair[0]).abs()).collect::<Vec<_>>())
        .collect();
    steps.sort_by(|a, b| b.total_cmp(a));
    let steepest = steps.len() / 200;
    steps[..steepest].iter().sum::<f64>() / steepest as f64
}

#[test]
fn other_sizes_are_enlarged_by_the_network() {
    let set = r#"modes.smooth={native_size = "128x128", enlarge = "lanczos3", num_inference_steps = 4, guidance_scale = 1.5, model = "emoji"}"#;
    let server = Server::with_models(&[], &[]);
    let crisp =
        server.post_json("/generate", &json!({"prompt": "a dog on pink", "seed": 5, "size": "512x512"}));
    assert_eq!(crisp.status, 200, "{}", crisp.text());
    let mut client = server.connect();
    let job = client.submit(json!({"params": {"prompt": "a dog on pink", "seed": 5, "size": "512x512"}}));
    let stages = std::cell::RefCell::new(Vec::new());
    client.receive_where(|m| {
        stages.borrow_mut().extend(m["stage"].as_str().map(str::to_owned));
        m["jobId"] == job.as_str() && m["type"] == "job:complete"
    });
    assert!(stages.borrow().iter().any(|stage| stage == "upscaling"), "{stages:?}");

    // A key of the mode chooses; the model has been written to its folder by now.
    let embedded = server.dir.path().join("reverie-data/embedded");
    let folder = std::fs::read_dir(embedded).unwrap().next().unwrap().unwrap().path();
    let other =
        Server::with_models(&[&set.replace("\"emoji\"", &format!("{:?}", folder.join("emoji")))], &[]);
    let smooth = other.post_json(
        "/generate",
        &json!({"prompt": "a dog on pink", "seed": 5, "size": "512x512", "mode": "smooth"}),
    );
    assert_eq!(smooth.status, 200, "{}", smooth.text());
    let (crisp, smooth) = (steepness(&read(&crisp.body)), steepness(&read(&smooth.body)));
    println!("steepness: {crisp:.1} by the network, {smooth:.1} resampled");
    assert!(crisp > 1.3 * smooth, "{crisp} {smooth}");
}

#[test]
fn other_sizes_are_enlarged() {
    let server = Server::with_models(&[], &[]);
    let asked = |size: &str| {
        let made =
            server.post_json("/generate", &json!({"prompt": "a dog on pink", "seed": 5, "size": size}));
        assert_eq!(made.status, 200, "{}", made.text());
        read(&made.body)
    };
    let (small, large, wide) = (asked("128x128"), asked("512x512"), asked("384x250"));
    assert_eq!((large.dimensions(), wide.dimensions()), ((512, 512), (384, 250)));
    let reduced = image::imageops::resize(&large, 128, 128, image::imageops::FilterType::Triangle);
    let difference: f64 = reduced.iter().zip(small.iter()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
    assert!(difference / (small.len() as f64) < 3.0, "{}", difference / small.len() as f64);
    // The background goes on at the sides.
    let apart = (0..3).map(|c| wide.get_pixel(2, 125)[c].abs_diff(wide.get_pixel(70, 125)[c])).max();
    assert!(apart < Some(12), "{apart:?}");
    let error = server.post_json("/generate", &json!({"prompt": "x", "size": "100000x100000"}));
    assert!(error.status == 422 && error.text().contains("max_pixels"), "{}", error.text());
}
