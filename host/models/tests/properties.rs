//! What holds for every prompt and every size, by random ones.

use std::sync::LazyLock;

use proptest::prelude::*;
use reverie_models::{
    Tokenizer,
    clip::Preprocessor,
    pipeline::Picture,
    prompt::{Chunks, Prompt},
};

mod fixtures;

static CLIP: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::clip("!").unwrap());
static PREPROCESSOR: LazyLock<Preprocessor> =
    LazyLock::new(|| Preprocessor::open(&fixtures::folder("clip_model")).unwrap());

/// A prompt as whoever writes it means it.
#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    /// `(…)`.
    Strong(Vec<Piece>),
    /// `[…]`.
    Weak(Vec<Piece>),
    /// `(…:weight)`, in hundredths.
    Weighted(Vec<Piece>, i32),
}

impl Piece {
    fn write(&self, out: &mut String) {
        let inner = |pieces: &[Piece], out: &mut String| pieces.iter().for_each(|piece| piece.write(out));
        match self {
            Self::Text(text) => out.push_str(text),
            Self::Strong(pieces) => {
                out.push('(');
                inner(pieces, out);
                out.push(')');
            }
            Self::Weak(pieces) => {
                out.push('[');
                inner(pieces, out);
                out.push(']');
            }
            Self::Weighted(pieces, hundredths) => {
                out.push('(');
                inner(pieces, out);
                out.push_str(&format!(":{})", f64::from(*hundredths) / 100.0));
            }
        }
    }

    /// Every character with its weight.
    fn mean(&self, weight: f64, out: &mut Vec<(char, f64)>) {
        let (pieces, factor) = match self {
            Self::Text(text) => return out.extend(text.chars().map(|c| (c, weight))),
            Self::Strong(pieces) => (pieces, 1.1),
            Self::Weak(pieces) => (pieces, 1.0 / 1.1),
            Self::Weighted(pieces, hundredths) => (pieces, f64::from(*hundredths) / 100.0),
        };
        pieces.iter().for_each(|piece| piece.mean(weight * factor, out));
    }
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    // Without what has a meaning of its own.
    let text = "[a-z ,.;é灯]{1,8}".prop_map(Piece::Text);
    let piece = text.prop_recursive(5, 40, 4, |inner| {
        let inner = prop::collection::vec(inner, 1..4);
        prop_oneof![
            inner.clone().prop_map(Piece::Strong),
            inner.clone().prop_map(Piece::Weak),
            (inner, -300..300i32).prop_map(|(pieces, weight)| Piece::Weighted(pieces, weight)),
        ]
    });
    prop::collection::vec(piece, 0..6)
}

/// A text that is likely to mean something.
fn prompts() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("(".to_owned()),
        Just(")".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just("\\".to_owned()),
        Just(":1.3)".to_owned()),
        Just(" BREAK ".to_owned()),
        Just("<|endoftext|>".to_owned()),
        Just("word ".to_owned()),
        "\\PC{0,6}",
    ];
    prop_oneof![prop::collection::vec(word, 0..60).prop_map(|words| words.concat()), any::<String>()]
}

proptest! {
    #[test]
    fn weights_are_the_products_of_the_brackets_around_a_word(pieces in pieces()) {
        let (mut text, mut expected) = (String::new(), Vec::new());
        for piece in &pieces {
            piece.write(&mut text);
            piece.mean(1.0, &mut expected);
        }
        let prompt = Prompt::parse(&text).unwrap();
        prop_assert_eq!(prompt.parts.len(), 1);
        let spans = prompt.parts[0].iter();
        let found: Vec<(char, f32)> =
            spans.flat_map(|span| span.text.chars().map(|c| (c, span.weight))).collect();
        prop_assert_eq!(found.len(), expected.len(), "{}", &text);
        for ((found, weight), (c, mean)) in found.into_iter().zip(expected) {
            prop_assert_eq!(found, c, "{}", &text);
            prop_assert!((f64::from(weight) - mean).abs() <= mean.abs() * 1e-6, "{}: {} for {}", &text, weight, mean);
        }
    }

    #[test]
    fn escaped_text_means_itself(text in "[^B]{0,80}") {
        let escaped: String = text
            .chars()
            .flat_map(|c| r"()[]\".contains(c).then_some('\\').into_iter().chain([c]))
            .collect();
        let prompt = Prompt::parse(&escaped).unwrap();
        prop_assert_eq!(prompt, Prompt::plain(&text));
    }

    #[test]
    fn any_prompt_makes_whole_chunks(text in prompts()) {
        let Ok(prompt) = Prompt::parse(&text) else { return Ok(()) };
        let mut tokens = 0;
        for part in &prompt.parts {
            prop_assert!(!part.is_empty());
            for span in part {
                prop_assert!(span.weight.is_finite());
                tokens += CLIP.encode(&span.text).len();
            }
        }
        let chunks = Chunks::new(&CLIP, &prompt).chunks;
        prop_assert!(chunks.len() >= prompt.parts.len());
        prop_assert!(chunks.len() <= tokens / 75 + prompt.parts.len());
        prop_assert_eq!(chunks.iter().map(|chunk| chunk.len - 2).sum::<usize>(), tokens);
        for chunk in &chunks {
            prop_assert_eq!((chunk.tokens.len(), chunk.weights.len()), (77, 77));
            prop_assert_eq!((chunk.tokens[0], chunk.tokens[chunk.len - 1]), (CLIP.bos, CLIP.eos));
            prop_assert!(chunk.tokens[chunk.len..].iter().all(|&token| token == CLIP.pad));
            prop_assert!(chunk.tokens.iter().all(|&token| token < 49408));
        }
    }

    #[test]
    fn white_space_makes_no_tokens(words in prop::collection::vec("[a-zé]{1,9}", 0..12), space in "[ \t\n]{1,4}") {
        prop_assert_eq!(CLIP.encode(&words.join(&space)), CLIP.encode(&words.join(" ")));
        prop_assert_eq!(CLIP.encode(&format!("{space}{}{space}", words.join(" "))), CLIP.encode(&words.join(" ")));
    }

    #[test]
    fn a_picture_of_any_size_is_seen_or_refused(width in 1usize..300, height in 1usize..300, grey: u8) {
        let picture = Picture { width, height, rgb: vec![grey; 3 * width * height] };
        let side = PREPROCESSOR.side();
        let values = PREPROCESSOR.values(&picture).unwrap();
        prop_assert_eq!(values.len(), 3 * side * side);
        // One colour stays one.
        for channel in values.chunks(side * side) {
            prop_assert!(channel.iter().all(|value| *value == channel[0]));
        }
    }
}
