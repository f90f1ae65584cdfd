//! The server on a GPU: an emulated one, whose kernels run in the PTX interpreter. What is tested is the way from a client to the
//! kernels and back; speed is none.
#![cfg(target_os = "linux")]

use image::RgbImage;
use reverie_tests::{Server, picture};
use serde_json::json;

/// A server whose driver is the emulator.
fn server(settings: &[&str]) -> Server {
    let emulator = std::env::current_exe().unwrap().with_file_name("libreverie_cuda_emulator.so");
    assert!(emulator.exists(), "built with this test");
    let settings = [&["execution.backend=cuda:0"], settings].concat();
    Server::start_with(&[("LD_PRELOAD", emulator.to_str().unwrap())], &settings, &[])
}

fn read(content: &[u8]) -> RgbImage {
    image::load_from_memory(content).expect("a picture").to_rgb8()
}

/// A picture from words, and a small one enlarged, made at the same time.
fn pictures(server: &Server) -> [RgbImage; 2] {
    // Of the steps the second is recorded, and the third one replayed.
    std::thread::scope(|scope| {
        let drawn = scope.spawn(|| {
            let request = json!({"prompt": "a red apple on a blue background", "seed": 5, "steps": 3});
            server.post_json("/generate", &request)
        });
        let fields = [("scale", "2"), ("out_format", "png")];
        let enlarged = server.post("/superres", Some(&picture(12, 9)), &fields);
        [drawn.join().unwrap(), enlarged].map(|answer| {
            assert_eq!(answer.status, 200, "{}", answer.text());
            read(&answer.body)
        })
    })
}

#[test]
fn its_pictures_are_those_of_the_cpu() {
    let (gpu, cpu) = (server(&[]), Server::start(&["execution.backend=cpu"], &[]));
    assert_eq!(gpu.connect().greeting["backend"], "emulated GPU (CUDA device 0)");
    for (on_gpu, on_cpu) in pictures(&gpu).iter().zip(&pictures(&cpu)) {
        assert_eq!(on_gpu.dimensions(), on_cpu.dimensions());
        let apart = |(a, b): (&u8, &u8)| f64::from(a.abs_diff(*b));
        let apart: Vec<f64> = on_gpu.iter().zip(on_cpu.iter()).map(apart).collect();
        let (mean, most) =
            (apart.iter().sum::<f64>() / apart.len() as f64, apart.iter().copied().fold(0.0, f64::max));
        println!("{:?}: {mean:.3} of 255 apart on average, {most} at most", on_gpu.dimensions());
        assert!(mean < 0.2 && most <= 3.0, "{mean} {most}");
    }
}

#[test]
fn what_does_not_fit_costs_its_own_job_alone() {
    let server = server(&["execution.vram_budget_mb=8"]);
    let mut client = server.connect();
    let refused = server.post_json("/generate", &json!({"prompt": "a red apple", "steps": 1}));
    assert_eq!(refused.status, 503, "{}", refused.text());
    for part in ["emoji", "no memory left", "8388608", "execution.vram_budget_mb"] {
        assert!(refused.text().contains(part), "{}", refused.text());
    }
    let fields = [("scale", "2")];
    assert_eq!(server.post("/superres", Some(&picture(6, 5)), &fields).status, 200);
    assert_eq!(client.ask(json!({"type": "ping"}))["type"], "pong");
}
