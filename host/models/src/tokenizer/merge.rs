//! The merging of a word's bytes into tokens.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use super::byte_symbols;

/// Which pairs of tokens become one, and in which order.
pub(super) struct Merges {
    /// For each byte its token within a word, and at the end of one.
    bytes: Vec<[u32; 2]>,
    /// Rank and result, by pair.
    pairs: HashMap<(u32, u32), (u32, u32)>,
}

/// A token of a word while it is merged: a list linked by position, so that a merge takes constant time.
struct Symbol {
    id: u32,
    previous: Option<usize>,
    next: Option<usize>,
    /// Merged into the one before it.
    gone: bool,
}

impl Merges {
    /// A byte that the vocabulary lacks becomes the token `unk`.
    pub(super) fn new(
        vocab: &HashMap<String, u32>,
        merges: &[(String, String)],
        unk: u32,
    ) -> Result<Self, String> {
        let mut bytes = vec![[unk; 2]; 256];
        for (byte, symbol) in byte_symbols() {
            let id = |token: String| vocab.get(&token).copied().unwrap_or(unk);
            bytes[usize::from(byte)] = [id(symbol.to_string()), id(format!("{symbol}</w>"))];
        }
        let id = |token: &str| {
            vocab
                .get(token)
                .copied()
                .ok_or_else(|| format!("the vocabulary lacks '{token}', which a merge names"))
        };
        let mut pairs = HashMap::with_capacity(merges.len());
        for ((left, right), rank) in merges.iter().zip(0..) {
            pairs.insert((id(left)?, id(right)?), (rank, id(&format!("{left}{right}"))?));
        }
        Ok(Self { bytes, pairs })
    }

    /// Appends the tokens of `word`. Time grows as n log n with its length.
    pub(super) fn encode(&self, word: &str, ids: &mut Vec<u32>) {
        let last = word.len().saturating_sub(1);
        let symbol = |(at, byte): (usize, u8)| Symbol {
            id: self.bytes[usize::from(byte)][usize::from(at == last)],
            previous: at.checked_sub(1),
            next: (at < last).then_some(at + 1),
            gone: false,
        };
        let mut symbols: Vec<Symbol> = word.bytes().enumerate().map(symbol).collect();
        // The lowest rank first, and of equal ones the leftmost.
        let mut queue: BinaryHeap<_> =
            (0..last).filter_map(|at| self.candidate(&symbols, at)).map(Reverse).collect();
        while let Some(Reverse((rank, left, merged))) = queue.pop() {
            // A merge on either side may have changed the pair since it was queued.
            if self.candidate(&symbols, left) != Some((rank, left, merged)) {
                continue;
            }
            let Some(right) = symbols[left].next else { continue };
            let after = symbols[right].next;
            symbols[right].gone = true;
            symbols[left].id = merged;
            symbols[left].next = after;
            if let Some(after) = after {
                symbols[after].previous = Some(left);
            }
            let changed = symbols[left].previous.into_iter().chain([left]);
            queue.extend(changed.filter_map(|at| self.candidate(&symbols, at)).map(Reverse));
        }
        ids.extend(symbols.iter().filter(|symbol| !symbol.gone).map(|symbol| symbol.id));
    }

    /// Rank, place and result of merging the symbol at `left` with the one after it.
    fn candidate(&self, symbols: &[Symbol], left: usize) -> Option<(u32, usize, u32)> {
        let symbol = &symbols[left];
        let next = symbol.next.filter(|_| !symbol.gone)?;
        let &(rank, merged) = self.pairs.get(&(symbol.id, symbols[next].id))?;
        Some((rank, left, merged))
    }
}
