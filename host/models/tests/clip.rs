//! The text encoders against transformers, for tiny random models.

mod random_weights;

use random_weights::Golden;
use reverie_kernels::{Backend, cpu::CpuBackend};
use reverie_models::{
    CLIPTextConfig, Error, LayerCache, Loader,
    clip::{CLIPTextModel, TextLayer},
};

type Case = Golden<CLIPTextConfig>;

/// Sums in another order than PyTorch's.
const LIMIT: f32 = 1e-5;

fn load(golden: &Case, config: &CLIPTextConfig) -> Result<CLIPTextModel<CpuBackend>, Error> {
    let backend = CpuBackend::new(2);
    let cache = LayerCache::default();
    CLIPTextModel::load(&Loader::new(&backend, golden.weights.clone(), &cache), config)
}

#[test]
fn every_layer_matches_transformers() {
    let backend = CpuBackend::new(2);
    for (name, projection) in [("sd15", false), ("sd2", false), ("sdxl2", true)] {
        println!("{name}");
        let golden = Case::open("clip", name);
        let model = load(&golden, &golden.config).unwrap();
        let tokens: Vec<u32> = golden.values("tokens").iter().map(|&token| token as u32).collect();
        let sequences: Vec<&[u32]> = tokens.chunks_exact(77).collect();
        let made = model.forward(&backend, &sequences).unwrap();
        let check = |name: &str, tensor| golden.check(name, &backend.to_vec(tensor).unwrap(), LIMIT);
        assert_eq!(made.hidden_states.len(), golden.config.num_hidden_layers + 1);
        for (i, state) in made.hidden_states.iter().enumerate() {
            check(&format!("hidden_states.{i}"), state);
        }
        check("last_hidden_state", &made.last_hidden_state);
        check("pooler_output", &made.pooler_output);
        assert_eq!(made.text_embeds.is_some(), projection);
        if let Some(embeds) = &made.text_embeds {
            check("text_embeds", embeds);
        }
    }
}

#[test]
fn wrong_input_is_refused() {
    let golden = Case::open("clip", "sd2");
    let model = load(&golden, &golden.config).unwrap();
    let backend = CpuBackend::new(1);
    let refused = |sequences: &[&[u32]]| match model.forward(&backend, sequences) {
        Err(Error::Invalid(message)) => message,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    };
    assert!(refused(&[]).contains("1 to 77 tokens"));
    assert!(refused(&[&[]]).contains("1 to 77 tokens"));
    assert!(refused(&[&[1; 78]]).contains("1 to 77 tokens"));
    assert!(refused(&[&[1, 2], &[1]]).contains("equal length"));
    assert!(refused(&[&[49408]]).contains("token 49408"));

    let output = model.forward(&backend, &[&[1, 2]]).unwrap();
    let select = |layer| model.select(&backend, &output, layer);
    assert!(select(TextLayer::Normed { clip_skip: 2 }).is_ok());
    assert!(select(TextLayer::Penultimate { clip_skip: 1 }).is_ok());
    let message = |layer| select(layer).err().unwrap().to_string();
    assert!(message(TextLayer::Normed { clip_skip: 3 }).contains("accepted are 0 to 2"));
    assert!(message(TextLayer::Penultimate { clip_skip: 2 }).contains("accepted are 0 to 1"));
    assert!(message(TextLayer::Penultimate { clip_skip: usize::MAX }).contains("accepted are 0 to 1"));
}

#[test]
fn a_checkpoint_that_does_not_fit_is_named() {
    let golden = Case::open("clip", "sd2");
    let message = |change: &dyn Fn(&mut CLIPTextConfig)| {
        let mut config = golden.config.clone();
        change(&mut config);
        load(&golden, &config).err().unwrap().to_string()
    };
    assert!(message(&|config| config.hidden_act = "relu".to_owned()).contains("'hidden_act' is 'relu'"));
    assert!(message(&|config| config.vocab_size = 1).contains("token_embedding.weight"));
    assert!(message(&|config| config.num_hidden_layers = 3).contains("encoder.layers.2"));
    assert!(message(&|config| config.intermediate_size = 71).contains("mlp.fc1.weight"));
    assert!(message(&|config| config.max_position_embeddings = 7).contains("position_embedding"));
}
