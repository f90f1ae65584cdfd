//! Files that a model can't be made of, or that add nothing to one: what is said of them.

use std::{fs, path::Path, sync::Arc};

use reverie_kernels::cpu::CpuBackend;
use reverie_models::{Adapters, Error, LayerCache, Lora, ModelFiles, Weights, pipeline::Pipeline};
use safetensors::{Dtype, tensor::TensorView};

mod fixtures;

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// A copy of a small model.
fn model() -> tempfile::TempDir {
    fixtures::copy("pipelines/sd")
}

/// The message of what is refused, which a host gives to whoever asked.
fn refusal<T>(result: Result<T, Error>) -> String {
    match result.err() {
        Some(Error::Unsupported(message)) => message,
        other => panic!("{other:?}"),
    }
}

fn load(folder: &Path) -> Result<Pipeline<CpuBackend>, Error> {
    let files = ModelFiles::open(folder)?;
    Pipeline::load(&CpuBackend::default(), &files, &LayerCache::default(), &Adapters::default())
}

#[test]
fn numbers_of_eight_bits_are_refused_with_what_is_accepted() {
    let folder = model();
    fixtures::rewrite(&folder.path().join(UNET), "conv_in.weight", |view| {
        (Dtype::F8_E4M3, vec![0x38; view.data().len() / 2])
    });
    let message = refusal(ModelFiles::open(folder.path()));
    for part in ["conv_in.weight", "F8_E4M3", "accepted are F32, F16 and BF16"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_part_of_a_file_is_refused() {
    let folder = model();
    let path = folder.path().join(UNET);
    let whole = fs::read(&path).unwrap();
    for len in [0, 4, 100, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        let message = refusal(ModelFiles::open(folder.path()));
        assert!(message.contains(UNET) && message.contains("accepted are whole"), "{len}: {message}");
    }
}

#[test]
fn values_that_are_no_numbers_are_named() {
    for (component, tensor) in [
        (UNET, "mid_block.resnets.0.conv1.weight"),
        (UNET, "conv_out.bias"),
        ("vae/diffusion_pytorch_model.safetensors", "decoder.conv_norm_out.weight"),
        ("text_encoder/model.safetensors", "text_model.embeddings.token_embedding.weight"),
        ("text_encoder/model.safetensors", "text_model.encoder.layers.1.mlp.fc2.weight"),
    ] {
        let folder = model();
        fixtures::rewrite(&folder.path().join(component), tensor, |view| {
            let mut bytes = view.data().to_vec();
            // fp16's NaN in the last place.
            let last = bytes.len() - 2;
            bytes[last..].copy_from_slice(&0x7e00u16.to_le_bytes());
            (view.dtype(), bytes)
        });
        let message = refusal(load(folder.path()));
        assert!(message.contains(tensor) && message.contains("NaN"), "{message}");
    }
}

fn lora(folder: &Path, modules: &[(&str, usize, usize)]) -> Arc<Lora> {
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = modules
        .iter()
        .flat_map(|&(module, outputs, inputs)| {
            [("down", vec![1, inputs]), ("up", vec![outputs, 1])].map(|(part, shape)| {
                let bytes = vec![0; shape.iter().product::<usize>() * 4];
                (format!("lora_unet_{module}.lora_{part}.weight"), shape, bytes)
            })
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    let path = folder.join("lora.safetensors");
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    Arc::new(Lora::open(&path).unwrap())
}

#[test]
fn adapters_say_what_they_lose() {
    let files = ModelFiles::open(&fixtures::folder("pipelines/sd")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let fits = ("time_embedding_linear_1", 32, 8);
    assert_eq!(files.unet.weights.shape("time_embedding.linear_1.weight").unwrap(), [32, 8]);
    let warnings = |modules: &[(&str, usize, usize)]| -> Vec<String> {
        let adapters = Adapters::for_model(&files, &[(lora(folder.path(), modules), 1.0)]).unwrap();
        let pipeline =
            Pipeline::load(&CpuBackend::default(), &files, &LayerCache::default(), &adapters).unwrap();
        assert_eq!(pipeline.warnings(), adapters.warnings().collect::<Vec<_>>());
        pipeline.warnings().to_vec()
    };
    assert!(warnings(&[fits]).is_empty());
    let lost = warnings(&[fits, ("joint_blocks_0", 4, 4)]);
    assert!(lost.len() == 1 && lost[0].contains("1 of its parts") && lost[0].contains("joint_blocks_0"));
    let nothing = warnings(&[("joint_blocks_0", 4, 4), ("joint_blocks_1", 4, 4)]);
    assert!(nothing.len() == 1 && nothing[0].contains("none of its 2 parts"), "{nothing:?}");
    let weights = Weights::open(&[folder.path().join("lora.safetensors")]).unwrap();
    assert_eq!(weights.names().count(), 4);
}
