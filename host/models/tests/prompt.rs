//! Prompts: their weights, their chunks, and their embeddings against diffusers' pipelines.

mod random_weights;

use std::path::Path;

use random_weights::{Golden, Tensors, check};
use reverie_kernels::{Backend, cpu::CpuBackend};
use reverie_models::{
    CLIPTextConfig, LayerCache, Loader, Tokenizer,
    clip::{CLIPTextModel, TextLayer},
    prompt::{Chunks, Encodings, Prompt, PromptInput, TextEmbedding, TextEncoder, encode_prompts},
};

const LIMIT: f32 = 1e-5;
const WEIGHTED: &str = "(red:1.4) fox, [blue] sky BREAK a (very:0.5) old tree";

/// The parts of a prompt as texts and weights.
fn parse(text: &str) -> Vec<Vec<(String, f32)>> {
    let prompt = Prompt::parse(text).unwrap();
    let part = |spans: Vec<reverie_models::prompt::Span>| {
        spans.into_iter().map(|span| (span.text, span.weight)).collect()
    };
    prompt.parts.into_iter().map(part).collect()
}

fn assert_spans(text: &str, expected: &[(&str, f64)]) {
    let parts = parse(text);
    assert_eq!(parts.len(), 1, "{text}");
    let texts: Vec<&str> = parts[0].iter().map(|(text, _)| &**text).collect();
    assert_eq!(texts, expected.iter().map(|(text, _)| *text).collect::<Vec<_>>(), "{text}");
    for ((_, weight), (_, expected)) in parts[0].iter().zip(expected) {
        assert!((f64::from(*weight) - expected).abs() < 1e-6, "{text}: {weight} instead of {expected}");
    }
}

#[test]
fn brackets_weigh() {
    assert_spans("normal text", &[("normal text", 1.0)]);
    assert_spans("", &[("", 1.0)]);
    assert_spans("an (important) word", &[("an ", 1.0), ("important", 1.1), (" word", 1.0)]);
    assert_spans("[less]", &[("less", 1.0 / 1.1)]);
    assert_spans("(a:1.3)(b: -0.5 )(c:+.5)", &[("a", 1.3), ("b", -0.5), ("c", 0.5)]);
    assert_spans(
        "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
        &[
            ("a ", 1.0),
            ("house", 1.573),
            (" ", 1.1),
            ("on", 1.0),
            (" a ", 1.1),
            ("hill", 0.55),
            (", sun, ", 1.1),
            ("sky", 1.4641),
            (".", 1.1),
        ],
    );
    assert_spans("([a)b]", &[("a", 1.0), ("b", 1.0 / 1.1)]);
    assert_spans("(unclosed [too", &[("unclosed ", 1.1), ("too", 1.0)]);
}

#[test]
fn what_is_not_a_weight_is_text() {
    for text in ["a:1.3", "a) b]", "time 10:30", "C:\\x", "a \\ b", "end\\"] {
        assert_spans(text, &[(text, 1.0)]);
    }
    assert_spans(r"\(a\) \[b\] \\", &[(r"(a) [b] \", 1.0)]);
    assert_spans("(a:b)", &[("a:b", 1.1)]);
    assert_spans("(a:1.2.3)", &[("a:1.2.3", 1.1)]);
    assert_spans("(a:inf)(b:1e3)", &[("a:infb:1e3", 1.1)]);
    assert_spans("(a:b:1.5)", &[("a:b", 1.5)]);
    assert_spans("(a", &[("a", 1.1)]);
    assert_spans("[a:0.5]", &[("a:0.5", 1.0 / 1.1)]);
}

#[test]
fn a_bracket_without_effect_does_not_cut_a_word() {
    assert_spans("sun(flow:1)er", &[("sunflower", 1.0)]);
    assert_spans("sun()flower", &[("sunflower", 1.0)]);
}

#[test]
fn break_separates_parts() {
    let one = |text: &str| vec![(text.to_owned(), 1.0)];
    assert_eq!(parse("a BREAK b"), [one("a"), one("b")]);
    assert_eq!(parse("a\nBREAK,b BREAK"), [one("a"), one(",b"), one("")]);
    assert_eq!(parse("BREAK"), [one(""), one("")]);
    assert_eq!(parse("a OUTBREAK, BREAKING, a_BREAK"), [one("a OUTBREAK, BREAKING, a_BREAK")]);
    assert_eq!(parse("(a BREAK b:2)"), [vec![("a".to_owned(), 2.0)], vec![("b".to_owned(), 2.0)]]);
    assert_eq!(Prompt::plain("(a) BREAK").parts.len(), 1);
}

#[test]
fn what_has_no_bounds_is_refused() {
    let message = |text: &str| Prompt::parse(text).unwrap_err().to_string();
    assert!(message(&"(".repeat(100_000)).contains("nest deeper than 100"));
    assert!(message(&format!("(sky:{})", "9".repeat(50))).contains("the weight of 'sky' is too large"));
}

#[test]
fn long_prompts_are_cut_into_chunks() {
    let tokenizer = Tokenizer::clip("!").unwrap();
    let chunks = |text: &str| Chunks::new(&tokenizer, &Prompt::parse(text).unwrap());
    for (words, count) in [(0, 1), (1, 1), (75, 1), (76, 2), (150, 2), (151, 3)] {
        let made = chunks(&"cat ".repeat(words));
        assert_eq!(made.chunks.len(), count, "{words} words");
        let cat = tokenizer.encode("cat")[0];
        for (i, chunk) in made.chunks.iter().enumerate() {
            let text = (words - 75 * i).min(75);
            let expected = [vec![49406], vec![cat; text], vec![49407], vec![0; 75 - text]].concat();
            assert_eq!(chunk.tokens, expected);
            assert!(chunk.weights.iter().all(|&weight| weight == 1.0));
        }
    }
    let weighted = chunks("a (cat:1.5)");
    assert_eq!(weighted.chunks[0].weights[..5], [1.0, 1.0, 1.5, 1.0, 1.0]);
    let mut padded = chunks("a BREAK b");
    assert_eq!(padded.chunks.len(), 2);
    padded.pad_to(3);
    padded.pad_to(1);
    assert_eq!(padded.chunks.len(), 3);
    assert_eq!(padded.chunks[2], chunks("").chunks[0]);
}

/// The tiny models of the goldens.
struct Models {
    backend: CpuBackend,
    tokenizers: [Tokenizer; 2],
    models: [CLIPTextModel<CpuBackend>; 2],
    goldens: Tensors,
    texts: serde_json::Value,
}

impl Models {
    fn open() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/diffusion/clip");
        let backend = CpuBackend::new(2);
        let models = ["sd15", "sdxl2"].map(|name| {
            let golden = Golden::<CLIPTextConfig>::open("clip", name);
            let cache = LayerCache::default();
            CLIPTextModel::load(&Loader::new(&backend, golden.weights.clone(), &cache), &golden.config)
                .unwrap()
        });
        Self {
            backend,
            tokenizers: ["<|endoftext|>", "!"].map(|pad| Tokenizer::clip(pad).unwrap()),
            models,
            goldens: Tensors::open(&folder.join("prompts.safetensors")),
            texts: serde_json::from_slice(&std::fs::read(folder.join("prompts.json")).unwrap()).unwrap(),
        }
    }

    fn text(&self, name: &str) -> &str {
        self.texts[name].as_str().unwrap()
    }

    fn encode(&self, encoders: usize, texts: &[&str], layer: TextLayer) -> Vec<TextEmbedding<CpuBackend>> {
        let encoders = self.tokenizers.iter().zip(&self.models).take(encoders);
        let encoders: Vec<_> = encoders.map(|(tokenizer, model)| TextEncoder { tokenizer, model }).collect();
        let prompts: Vec<Prompt> = texts.iter().map(|text| Prompt::parse(text).unwrap()).collect();
        encode_prompts(
            &self.backend,
            &encoders,
            &prompts
                .iter()
                .map(|text| PromptInput { texts: std::slice::from_ref(text), layer })
                .collect::<Vec<_>>(),
            &Encodings::new(0),
        )
        .unwrap()
    }

    fn check(&self, name: &str, tensor: &<CpuBackend as Backend>::Tensor) {
        check(name, &self.backend.to_vec(tensor).unwrap(), self.goldens.values(name), LIMIT);
    }
}

#[test]
fn embeddings_match_diffusers() {
    let models = Models::open();
    let texts = [models.text("plain"), models.text("negative")];
    let made = models.encode(1, &texts, TextLayer::Normed { clip_skip: 0 });
    models.check("sd/plain", &made[0].hidden_states);
    models.check("sd/negative", &made[1].hidden_states);
    assert!(made[0].pooled.is_none());
    let made = models.encode(1, &texts[..1], TextLayer::Normed { clip_skip: 1 });
    models.check("sd/clip_skip", &made[0].hidden_states);

    let made = models.encode(2, &texts, TextLayer::Penultimate { clip_skip: 0 });
    for (name, made) in ["plain", "negative"].iter().zip(&made) {
        models.check(&format!("sdxl/{name}"), &made.hidden_states);
        models.check(&format!("sdxl/{name}_pooled"), made.pooled.as_ref().unwrap());
    }
    let made = models.encode(2, &texts[..1], TextLayer::Penultimate { clip_skip: 1 });
    models.check("sdxl/clip_skip", &made[0].hidden_states);
}

#[test]
fn weighted_and_long_embeddings_match_the_formula() {
    let models = Models::open();
    let made = models.encode(1, &[WEIGHTED], TextLayer::Normed { clip_skip: 0 });
    models.check("sd/weighted", &made[0].hidden_states);
    let made = models.encode(1, &[models.text("long")], TextLayer::Normed { clip_skip: 0 });
    models.check("sd/long", &made[0].hidden_states);
    let made = models.encode(2, &[WEIGHTED], TextLayer::Penultimate { clip_skip: 0 });
    models.check("sdxl/weighted", &made[0].hidden_states);
    models.check("sdxl/weighted_pooled", made[0].pooled.as_ref().unwrap());
}

#[test]
fn prompts_of_a_batch_are_equally_long() {
    let models = Models::open();
    let made = models.encode(2, &["a", models.text("long")], TextLayer::Penultimate { clip_skip: 0 });
    let [short, long] = [0, 1].map(|i| models.backend.shape(&made[i].hidden_states));
    assert_eq!(short, long);
    assert_eq!(short[2] % 77, 0);
    assert!(short[2] > 77);
}
