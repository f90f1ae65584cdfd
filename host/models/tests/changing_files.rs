//! Files that others write to while they are loaded and used: always an error that names them, or a right result.

use std::{
    fs::{self, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use reverie_kernels::{Activation, Backend, Conv2dDesc, cpu::CpuBackend};
use reverie_models::{
    Adapters, Error, LayerCache, Loader, Lora, ModelFiles, Weights,
    pipeline::{Pipeline, Request},
    schedulers::SchedulerConfig,
};
use safetensors::{Dtype, tensor::TensorView};

mod fixtures;

/// Of the layers' sides.
const SIDE: usize = 64;
const LAYERS: usize = 12;

/// A checkpoint whose values are all the same.
fn checkpoint(value: f32) -> Vec<u8> {
    let tensor = |shape: Vec<usize>| {
        let count = shape.iter().product();
        (shape, value.to_le_bytes().repeat(count))
    };
    let layers = (0..LAYERS).flat_map(|i| {
        [
            (format!("linear{i}.weight"), tensor(vec![SIDE, SIDE])),
            (format!("conv{i}.weight"), tensor(vec![SIDE, SIDE, 3, 3])),
            (format!("norm{i}.weight"), tensor(vec![SIDE])),
        ]
    });
    let tensors: Vec<_> = layers.collect();
    let views = tensors
        .iter()
        .map(|(name, (shape, bytes))| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

/// Everything that a layer says of its weights.
fn load(path: &Path) -> Result<Vec<f32>, Error> {
    let backend = CpuBackend::new(1);
    let cache = LayerCache::default();
    let loader = Loader::new(&backend, Weights::open(&[path])?, &cache);
    let tokens = backend.tensor(vec![1.0; SIDE], [1, 1, 1, SIDE])?;
    let pixels = backend.tensor(vec![1.0; SIDE * 9], [1, SIDE, 3, 3])?;
    let mut sums = Vec::new();
    for i in 0..LAYERS {
        let linear = loader.linear(&format!("linear{i}"), SIDE, SIDE)?;
        sums.extend(backend.to_vec(&backend.linear(&tokens, &linear)?)?.iter().map(|sum| sum / SIDE as f32));
        let desc = Conv2dDesc { padding: 0, ..Conv2dDesc::same(SIDE, SIDE, 3) };
        let conv = loader.conv2d(&format!("conv{i}"), desc, Activation::None)?;
        let made = backend.to_vec(&backend.conv2d(&pixels, &conv)?)?;
        sums.extend(made.iter().map(|sum| sum / (9 * SIDE) as f32));
        sums.extend(backend.to_vec(&loader.vector(&format!("norm{i}.weight"), SIDE)?)?);
    }
    Ok(sums)
}

/// Writes one version over the other in place, in pieces, cutting the file short first every other time, until it is told to
/// stop. Every few times the file is left alone for long enough to be read.
fn rewrite(path: &Path, versions: &[Vec<u8>; 2], stop: &AtomicBool) {
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let version = &versions[turn % 2];
        let mut file = OpenOptions::new().write(true).open(path).unwrap();
        if turn % 4 < 2 {
            file.set_len((version.len() / (1 + turn % 5)) as u64 / 2).unwrap();
        }
        file.seek(SeekFrom::Start(0)).unwrap();
        for piece in version.chunks(version.len() / 7 + 1) {
            file.write_all(piece).unwrap();
            thread::sleep(Duration::from_micros(200));
        }
        thread::sleep(Duration::from_millis([0, 25, 60, 200][turn % 4]));
    }
}

#[test]
fn a_checkpoint_rewritten_while_it_loads_is_one_version_or_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changing.safetensors");
    let versions = [checkpoint(1.0), checkpoint(2.0)];
    assert_eq!(versions[0].len(), versions[1].len());
    fs::write(&path, &versions[0]).unwrap();
    let stop = AtomicBool::new(false);
    let (mut whole, mut refused) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| rewrite(&path, &versions, &stop));
        for _ in 0..200 {
            match load(&path) {
                Ok(sums) => {
                    whole += 1;
                    let first = sums[0].round();
                    assert!(first == 1.0 || first == 2.0, "{first}");
                    assert!(sums.iter().all(|sum| (sum - first).abs() < 1e-3), "parts of both versions");
                }
                Err(error) => {
                    refused += 1;
                    let message = error.to_string();
                    assert!(message.contains("changing.safetensors"), "{message}");
                }
            }
            if whole > 20 && refused > 20 {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{whole} loaded, {refused} refused");
    assert!(whole > 0 && refused > 0, "{whole} loaded, {refused} refused");
}

/// Waits until a change of the file shows in its time.
fn settle() {
    thread::sleep(Duration::from_millis(30));
}

/// Every way in which a file that is open can change, and whether its first tensors may still be read.
fn changes() -> [fn(&Path); 3] {
    fn cut(path: &Path) {
        OpenOptions::new().write(true).open(path).unwrap().set_len(9).unwrap();
    }
    fn overwrite(path: &Path) {
        let whole = fs::read(path).unwrap();
        fs::write(path, vec![0x3c; whole.len()]).unwrap();
    }
    fn append(path: &Path) {
        OpenOptions::new().append(true).open(path).unwrap().write_all(b"more").unwrap();
    }
    [cut, overwrite, append]
}

fn changed(result: Result<(), Error>, file: &str) {
    let message = result.unwrap_err().to_string();
    assert!(message.contains(file) && message.contains("has changed"), "{message}");
}

#[test]
fn tensors_of_a_file_that_has_changed_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("once.safetensors");
    for change in changes() {
        fs::write(&path, checkpoint(1.0)).unwrap();
        let weights = Weights::open(&[&path]).unwrap();
        assert!(weights.values("linear0.weight").unwrap().iter().all(|&value| value == 1.0));
        change(&path);
        changed(weights.values("linear0.weight").map(drop), "once.safetensors");
        changed(weights.layer("conv1.weight", &[SIDE, SIDE, 3, 3]).map(drop), "once.safetensors");
        changed(weights.row("linear2.weight", 5).map(drop), "once.safetensors");
        changed(weights.check_values("linear3.weight"), "once.safetensors");
    }
}

#[test]
fn a_file_that_is_replaced_is_read_on() {
    let folder = tempfile::tempdir().unwrap();
    let [path, new] = ["old", "new"].map(|name| folder.path().join(name).with_extension("safetensors"));
    fs::write(&path, checkpoint(1.0)).unwrap();
    let weights = Weights::open(&[&path]).unwrap();
    fs::write(&new, checkpoint(2.0)).unwrap();
    fs::rename(&new, &path).unwrap();
    settle();
    assert_eq!(weights.values("norm0.weight").unwrap(), [1.0; SIDE]);
    assert_eq!(Weights::open(&[&path]).unwrap().values("norm0.weight").unwrap(), [2.0; SIDE]);
    fs::remove_file(&path).unwrap();
    assert_eq!(weights.values("norm1.weight").unwrap(), [1.0; SIDE]);
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let message = Weights::open(&[folder.path()]).err().unwrap().to_string();
    assert!(message.contains("is not a file"), "{message}");
}

fn request() -> Request {
    Request {
        prompt: "a lighthouse".into(),
        negative_prompt: None,
        prompt_2: None,
        negative_prompt_2: None,
        width: 16,
        height: 16,
        time_ids: None,
        num_inference_steps: 2,
        guidance_scale: 1.0,
        seed: 1,
        blends: Vec::new(),
        clip_skip: None,
        scheduler: None::<SchedulerConfig>,
        image: None,
        mask: None,
        strength: 1.0,
        eta: 0.0,
        guidance_rescale: 0.0,
    }
}

/// On the CPU the table of a vocabulary stays in the file: the words of a prompt are read when they are needed.
#[test]
fn a_model_whose_file_changes_after_it_is_loaded_says_so() {
    let folder = fixtures::copy("pipelines/sd");
    let encoder = folder.path().join("text_encoder/model.safetensors");
    let backend = CpuBackend::new(1);
    let whole = fs::read(&encoder).unwrap();
    for change in changes() {
        fs::write(&encoder, &whole).unwrap();
        let files = ModelFiles::open(folder.path()).unwrap();
        let pipeline =
            Pipeline::load(&backend, &files, &LayerCache::default(), &Adapters::default()).unwrap();
        pipeline.prepare(&backend, &request()).unwrap();
        change(&encoder);
        // One that was encoded before needs no file.
        pipeline.prepare(&backend, &request()).unwrap();
        let other = Request { prompt: "a harbour".into(), ..request() };
        changed(pipeline.prepare(&backend, &other).map(drop), "text_encoder/model.safetensors");
        // The files that it is loaded from again, with other adapters, are the same.
        let again = Pipeline::load(&backend, &files, &LayerCache::default(), &Adapters::default());
        changed(again.map(drop), "text_encoder/model.safetensors");
    }
}

#[test]
fn adapters_that_change_before_they_are_applied_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("style.safetensors");
    let files = ModelFiles::open(&fixtures::folder("pipelines/sd")).unwrap();
    let [outputs, inputs] = files.unet.weights.shape("time_embedding.linear_1.weight").unwrap()[..] else {
        panic!("a linear layer")
    };
    let tensors = [("down", vec![1, inputs]), ("up", vec![outputs, 1])].map(|(part, shape)| {
        let bytes = 0.5f32.to_le_bytes().repeat(shape.iter().product());
        (format!("lora_unet_time_embedding_linear_1.lora_{part}.weight"), shape, bytes)
    });
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    let whole = safetensors::serialize(views, None).unwrap();
    for change in changes() {
        fs::write(&path, &whole).unwrap();
        let lora = Arc::new(Lora::open(&path).unwrap());
        let adapters = Adapters::for_model(&files, &[(lora, 1.0)]).unwrap();
        change(&path);
        let loaded = Pipeline::load(&CpuBackend::new(1), &files, &LayerCache::default(), &adapters);
        changed(loaded.map(drop), "style.safetensors");
    }
}
