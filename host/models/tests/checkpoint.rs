//! Single files and folders, as diffusers reads them.

mod random_weights;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use random_weights::uniform;
use reverie_models::{Error, ModelFiles, ModelKind, OneOrMany, UNet2DConditionConfig, VaeConfig, Weights};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;

/// Names of tensors with their shapes.
type Shapes = BTreeMap<String, Vec<usize>>;

/// Components' tensors: shape and checksum.
type Expected = BTreeMap<String, BTreeMap<String, (Vec<usize>, u64)>>;

#[derive(serde::Deserialize)]
struct Case {
    file: Shapes,
    configs: BTreeMap<String, Value>,
    tensors: Expected,
}

impl Case {
    fn open(name: &str) -> Self {
        serde_json::from_slice(&std::fs::read(fixtures().join(format!("{name}.json"))).unwrap()).unwrap()
    }
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/diffusion/checkpoint")
}

/// A checkpoint of these tensors, whose values follow from their names, in a folder of its own.
struct File {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl File {
    fn new(shapes: &Shapes) -> Self {
        Self::with_header(shapes, "model.safetensors", &[])
    }

    fn with_header(shapes: &Shapes, name: &str, header: &[(&str, &str)]) -> Self {
        let bytes = |(name, shape): (&String, &Vec<usize>)| {
            let values = uniform(name, shape.iter().product(), 1.0, 0.0);
            (name.clone(), shape.clone(), values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
        };
        let data: Vec<_> = shapes.iter().map(bytes).collect();
        let views = data
            .iter()
            .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        let header = header.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, safetensors::serialize(views, Some(header)).unwrap()).unwrap();
        Self { folder, path }
    }

    fn open(&self) -> Result<ModelFiles, Error> {
        ModelFiles::open(&self.path)
    }
}

/// As `make_checkpoint_goldens.py` computes it.
fn checksum(values: &[f32]) -> u64 {
    let terms = values.iter().zip(1u64..).map(|(x, place)| u64::from(x.to_bits()).wrapping_mul(place));
    terms.fold(0, u64::wrapping_add)
}

/// The tensors have these names and no others, and these shapes and values.
fn check_tensors(weights: &Weights, expected: &BTreeMap<String, (Vec<usize>, u64)>) {
    let names: Vec<&str> = weights.names().collect();
    let expected_names: Vec<&str> = expected.keys().map(String::as_str).collect();
    assert_eq!(names, expected_names);
    for (name, (shape, sum)) in expected {
        assert_eq!(weights.shape(name).unwrap(), shape, "{name}");
        assert_eq!(checksum(&weights.values(name).unwrap()), *sum, "{name}");
    }
}

fn check_components(files: &ModelFiles, expected: &Expected) {
    check_tensors(&files.unet.weights, &expected["unet"]);
    check_tensors(&files.vae.weights, &expected["vae"]);
    check_tensors(&files.text_encoder.weights, &expected["text_encoder"]);
    match (&files.text_encoder_2, expected.get("text_encoder_2")) {
        (Some(encoder), Some(expected)) => check_tensors(&encoder.weights, expected),
        (encoder, expected) => assert_eq!(encoder.is_some(), expected.is_some()),
    }
}

/// `expected` has the fields that differ from diffusers' defaults.
fn check_config<C: serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(config: &C, expected: &Value) {
    assert_eq!(config, &serde_json::from_value::<C>(expected.clone()).unwrap());
}

fn vae(files: &ModelFiles) -> &reverie_models::AutoencoderKLConfig {
    match &files.vae.config {
        VaeConfig::Kl(config) => config,
        VaeConfig::Tiny(_) => panic!("not the tiny one"),
    }
}

#[test]
fn single_files_are_read_as_diffusers_reads_them() {
    for (name, kind, class) in [
        ("sd1", ModelKind::Sd1, "StableDiffusionPipeline"),
        ("sd2", ModelKind::Sd2, "StableDiffusionPipeline"),
        ("sdxl", ModelKind::Sdxl, "StableDiffusionXLPipeline"),
    ] {
        let case = Case::open(name);
        // Left to itself, an SD 2 model might be one of velocities, which are larger pictures' as well.
        let file =
            File::with_header(&case.file, "model.safetensors", &[("modelspec.prediction_type", "epsilon")]);
        let files = file.open().unwrap();
        assert_eq!((files.kind, files.pipeline_class.as_str()), (kind, class), "{name}");
        check_components(&files, &case.tensors);
        check_config(&files.unet.config, &case.configs["unet"]);
        check_config(vae(&files), &case.configs["vae"]);
        check_config(&files.text_encoder.config, &case.configs["text_encoder"]);
        if let Some(encoder) = &files.text_encoder_2 {
            check_config(&encoder.config, &case.configs["text_encoder_2"]);
        }
        assert_eq!(files.scheduler["prediction_type"], "epsilon");
        assert!(!files.is_inpainting() && !files.is_lcm());
    }
}

#[test]
fn a_folder_saved_by_diffusers_is_read() {
    let files = ModelFiles::open(&fixtures().join("folder")).unwrap();
    let Folder { tensors } =
        serde_json::from_slice(&std::fs::read(fixtures().join("folder.json")).unwrap()).unwrap();
    check_components(&files, &tensors);
    assert_eq!((files.kind, files.pipeline_class.as_str()), (ModelKind::Sd1, "StableDiffusionPipeline"));
    assert_eq!(files.unet.config.block_out_channels, [8, 16]);
    assert_eq!(files.unet.config.attention_head_dim, OneOrMany::One(2));
    assert_eq!(vae(&files).norm_num_groups, 4);
    assert_eq!(files.text_encoder.config.hidden_size, 16);
    assert_eq!(files.scheduler["_class_name"], "PNDMScheduler");
    assert_eq!(files.tokenizer, None);
    files.unet.config.validate().unwrap();
}

#[derive(serde::Deserialize)]
struct Folder {
    tensors: Expected,
}

#[test]
fn variants_of_stable_diffusion_are_told_apart() {
    let sd1 = Case::open("sd1").file;
    let conv_in = "model.diffusion_model.input_blocks.0.0.weight";
    let with = |name: &str, shape: &[usize]| {
        let mut shapes = sd1.clone();
        shapes.insert(name.to_owned(), shape.to_vec());
        File::new(&shapes).open()
    };
    let inpainting = with(conv_in, &[32, 9, 3, 3]).unwrap();
    assert!(inpainting.is_inpainting());
    assert_eq!(inpainting.pipeline_class, "StableDiffusionInpaintPipeline");
    let pix2pix = with(conv_in, &[32, 8, 3, 3]).err().unwrap().to_string();
    assert!(pix2pix.contains("8 channels; accepted are 4 (latents) and 9"), "{pix2pix}");
    let lcm = with("model.diffusion_model.time_embed.cond_proj.weight", &[32, 256]).unwrap();
    assert_eq!(lcm.unet.config.time_cond_proj_dim, Some(256));
    assert!(lcm.unet.weights.has("time_embedding.cond_proj.weight"));
    assert_eq!((lcm.pipeline_class.as_str(), lcm.is_lcm()), ("LatentConsistencyModelPipeline", true));
    assert_eq!(lcm.scheduler["_class_name"], "LCMScheduler");

    let sd2 = Case::open("sd2").file;
    let velocities =
        File::with_header(&sd2, "x.safetensors", &[("modelspec.prediction_type", "v")]).open().unwrap();
    assert_eq!(velocities.scheduler["prediction_type"], "v_prediction");
    assert_eq!(velocities.unet.config.sample_size, Some(OneOrMany::One(96)));
    let turbo = File::with_header(&sd2, "sd_turbo.safetensors", &[]).open().unwrap();
    assert_eq!(turbo.scheduler["prediction_type"], "epsilon");
    assert_eq!(turbo.scheduler["timestep_spacing"], "trailing");

    let mut sdxl = Case::open("sdxl").file;
    sdxl.insert("v_pred".into(), vec![0]);
    sdxl.insert("ztsnr".into(), vec![0]);
    let velocities = File::new(&sdxl).open().unwrap();
    assert_eq!(velocities.scheduler["prediction_type"], "v_prediction");
    assert_eq!(velocities.scheduler["rescale_betas_zero_snr"], true);
}

/// SD-Turbo's file has other prefixes than those of 2.0 and 2.1.
#[test]
fn the_newer_prefix_of_sd2_is_known() {
    let case = Case::open("sd2");
    let renamed = |(name, shape): (&String, &Vec<usize>)| {
        (name.replace("cond_stage_model.model.", "conditioner.embedders.0.model."), shape.clone())
    };
    let files = File::new(&case.file.iter().map(renamed).collect()).open().unwrap();
    assert_eq!(files.kind, ModelKind::Sd2);
    assert_eq!(files.text_encoder.config.num_hidden_layers, 23);
    let names: Vec<&str> = files.text_encoder.weights.names().collect();
    assert_eq!(names, case.tensors["text_encoder"].keys().collect::<Vec<_>>());
}

#[test]
fn an_autoencoder_is_read_by_itself() {
    let case = Case::open("sd1");
    let whole = ModelFiles::open_vae(&File::new(&case.file).path).unwrap();
    check_tensors(&whole.weights, &case.tensors["vae"]);
    let strip = |(name, shape): (&String, &Vec<usize>)| {
        Some((name.strip_prefix("first_stage_model.")?.to_owned(), shape.clone()))
    };
    let alone = File::new(&case.file.iter().filter_map(strip).collect());
    let alone = ModelFiles::open_vae(&alone.path).unwrap();
    assert!(alone.weights.names().eq(case.tensors["vae"].keys()));
    // Nothing tells whether fp16 holds its activations: as diffusers has it, they are taken to be too large.
    assert!(matches!(alone.config, VaeConfig::Kl(config) if config.force_upcast));
    let folder = ModelFiles::open_vae(&fixtures().join("folder/vae")).unwrap();
    assert!(matches!(folder.config, VaeConfig::Kl(config) if config.block_out_channels == [8, 8]));
}

/// diffusers renamed the attention of its autoencoder.
#[test]
fn old_names_in_folders_are_renamed() {
    let shapes: Shapes = ["query", "key", "value", "proj_attn", "group_norm"]
        .map(|name| (format!("encoder.mid_block.attentions.0.{name}.weight"), vec![2, 2]))
        .into();
    let file = File::with_header(&shapes, "diffusion_pytorch_model.safetensors", &[]);
    std::fs::write(file.folder.path().join("config.json"), r#"{"_class_name": "AutoencoderKL"}"#).unwrap();
    let vae = ModelFiles::open_vae(file.folder.path()).unwrap();
    assert!(matches!(vae.config, VaeConfig::Kl(config) if config.force_upcast), "diffusers' default");
    let names = ["group_norm", "to_k", "to_out.0", "to_q", "to_v"];
    let expected = names.map(|name| format!("encoder.mid_block.attentions.0.{name}.weight"));
    assert!(vae.weights.names().eq(expected));
}

#[test]
fn errors_name_what_is_wrong() {
    let case = Case::open("sd1");
    let message = |shapes: &Shapes| File::new(shapes).open().err().unwrap().to_string();

    let mut shapes = case.file.clone();
    shapes.remove("model.diffusion_model.input_blocks.1.0.out_layers.3.weight");
    let missing = message(&shapes);
    assert!(missing.contains("'model.diffusion_model.input_blocks.1.0.out_layers.3.weight'"), "{missing}");
    let mut shapes = case.file.clone();
    shapes.retain(|name, _| !name.starts_with("first_stage_model"));
    assert!(message(&shapes).contains("'first_stage_model.encoder"), "{}", message(&shapes));
    let mut shapes = case.file.clone();
    shapes.retain(|name, _| !name.starts_with("cond_stage_model"));
    assert!(message(&shapes).contains("cond_stage_model.*"), "{}", message(&shapes));

    let mut shapes = case.file.clone();
    shapes.insert("edm_mean".into(), vec![1]);
    assert!(message(&shapes).contains("EDM"), "{}", message(&shapes));

    // The shape of a tensor is checked when it is used; the message has the file's own name too.
    let mut shapes = case.file.clone();
    shapes.insert("model.diffusion_model.out.0.weight".into(), vec![31]);
    let files = File::new(&shapes).open().unwrap();
    let misshapen = files.unet.weights.tensor("conv_norm_out.weight", &[32]).unwrap_err().to_string();
    for part in ["conv_norm_out.weight", "model.diffusion_model.out.0.weight", "[31]", "[32]"] {
        assert!(misshapen.contains(part), "{misshapen}");
    }

    let open = |path: &Path| ModelFiles::open(path).err().unwrap().to_string();
    let pickle = open(Path::new("model.ckpt"));
    assert!(pickle.contains("convert it to .safetensors"), "{pickle}");
    let other = open(Path::new("model.gguf"));
    assert!(other.contains("neither a diffusers folder nor a .safetensors file"), "{other}");
    let absent = open(Path::new("absent.safetensors"));
    assert!(absent.starts_with("absent.safetensors: "), "{absent}");
    let empty = tempfile::tempdir().unwrap();
    assert!(open(empty.path()).contains("model_index.json"));
    let cut = empty.path().join("cut.safetensors");
    std::fs::write(&cut, [8, 0, 0, 0, 0, 0, 0, 0, b'{']).unwrap();
    assert!(open(&cut).contains("incomplete"));
}

#[test]
fn folders_with_pickles_or_shards_elsewhere_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let message = || ModelFiles::open_vae(folder.path()).err().unwrap().to_string();
    write("config.json", r#"{"_class_name": "AutoencoderKL"}"#);
    assert!(message().contains("has no diffusion_pytorch_model.safetensors"), "{}", message());
    write("diffusion_pytorch_model.bin", "");
    assert!(message().contains("pickle"), "{}", message());
    write(
        "diffusion_pytorch_model.safetensors.index.json",
        r#"{"weight_map": {"a": "../other.safetensors"}}"#,
    );
    assert!(message().contains("'../other.safetensors'"), "{}", message());
    write("config.json", r#"{"_class_name": "VQModel"}"#);
    assert!(message().contains("'VQModel'; accepted are AutoencoderKL"), "{}", message());
    write("config.json", r#"{"_class_name": "AutoencoderKL", "latent_channels": "four"}"#);
    assert!(message().contains("config.json"), "{}", message());
}

#[test]
fn a_converted_configuration_is_supported() {
    for name in ["sd1", "sd2", "sdxl"] {
        let config: UNet2DConditionConfig = File::new(&Case::open(name).file).open().unwrap().unet.config;
        config.validate().unwrap();
    }
}
