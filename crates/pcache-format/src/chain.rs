//! Cutting tokens into segments and naming each prefix.

use super::id::{ChainKey, StateKey};

/// Tokens in a segment, and in an evaluation batch: the two are the same so that a prefix that was
/// restored is continued exactly as if it had been evaluated.
pub const SEGMENT_TOKENS: usize = 256;

/// More tokens than any model reads; a file with more is no prompt.
pub const MAX_TOKENS: usize = 1 << 24;

/// First number of a link over an ending, where one over tokens has their count (at most 256).
const ENDING_MARK: u32 = u32::MAX;

/// One segment: the positions `first..first + count` of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Position of the first token.
    pub first: usize,
    /// Number of tokens, 1 to 256.
    pub count: usize,
    /// Key of everything before the segment.
    pub parent: ChainKey,
    /// Key of everything up to the segment's end.
    pub chain: ChainKey,
}

impl Segment {
    /// The position after the last token.
    pub fn end(&self) -> usize {
        self.first + self.count
    }

    /// Its positions.
    pub fn positions(&self) -> std::ops::Range<usize> {
        self.first..self.end()
    }
}

/// The segments of a prompt, with the key of each prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    root: ChainKey,
    segments: Vec<Segment>,
}

impl Chain {
    /// Cuts `tokens` into segments of [`SEGMENT_TOKENS`]; the last one is what is left.
    pub fn new(root: ChainKey, tokens: &[i32]) -> Self {
        let mut parent = root;
        let segments = tokens
            .chunks(SEGMENT_TOKENS)
            .enumerate()
            .map(|(i, ids)| {
                let chain = link(&parent, ids);
                let segment = Segment { first: i * SEGMENT_TOKENS, count: ids.len(), parent, chain };
                parent = chain;
                segment
            })
            .collect();
        Self { root, segments }
    }

    /// The segments in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The first `n` segments as one.
    pub fn prefix(&self, n: usize) -> Option<Segment> {
        let last = self.segments.get(n.checked_sub(1)?)?;
        Some(Segment { first: 0, count: last.end(), parent: self.root, chain: last.chain })
    }

    /// The key of all tokens: the last link, or the root when there are none.
    pub fn last(&self) -> ChainKey {
        self.segments.last().map_or(self.root, |s| s.chain)
    }

    /// The key of the state that these tokens are, with the text that an ask puts around a question:
    /// `pending` text before it (the end of the prompt, where tokens could still merge with the question) and
    /// `suffix` after it (the template's ending). Without either it is the last link itself; with them it
    /// is one more link, so that prompts that differ only there share all segments and are two states.
    pub fn state_key(&self, pending: &str, suffix: &str) -> StateKey {
        let last = self.last();
        if pending.is_empty() && suffix.is_empty() {
            return StateKey::from(*last.as_bytes());
        }
        let mut hasher = blake3::Hasher::new_keyed(last.as_bytes());
        hasher.update(&ENDING_MARK.to_le_bytes());
        for text in [pending, suffix] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        StateKey::from(hasher.finalize())
    }
}

fn link(parent: &ChainKey, ids: &[i32]) -> ChainKey {
    let mut hasher = blake3::Hasher::new_keyed(parent.as_bytes());
    hasher.update(&(ids.len() as u32).to_le_bytes());
    for id in ids {
        hasher.update(&id.to_le_bytes());
    }
    ChainKey::from(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOT: [u8; 32] = [9; 32];

    fn chain(tokens: &[i32]) -> Chain {
        Chain::new(ChainKey::from(ROOT), tokens)
    }

    #[test]
    fn the_chain_is_the_formula() {
        let tokens: Vec<i32> = (0..300).collect();
        let mut expected = ROOT;
        for part in tokens.chunks(256) {
            let mut bytes = (part.len() as u32).to_le_bytes().to_vec();
            part.iter().for_each(|t| bytes.extend(t.to_le_bytes()));
            expected = *blake3::keyed_hash(&expected, &bytes).as_bytes();
        }
        let chain = chain(&tokens);
        assert_eq!(chain.last().as_bytes(), &expected);
        assert_eq!(chain.state_key("", "").as_bytes(), &expected);
        assert_eq!(chain.segments().iter().map(|s| s.count).collect::<Vec<_>>(), [256, 44]);
    }

    /// Keys are a promise: computed apart from this program, these never change.
    #[test]
    fn golden_keys() {
        let tokens: Vec<i32> = (0..300).collect();
        let chain = chain(&tokens);
        let links: Vec<_> = chain.segments().iter().map(|s| s.chain.to_hex()).collect();
        assert_eq!(
            links,
            [
                "c07d145c3135369ef1d1dcfb784d5335ec8a3c2990af45510f91439d0af1ae3b",
                "c60a002a6a75401fc2c8cc92a93aaec7f97c643a53c4b173dc5db061cc3759d7"
            ]
        );
        let key = chain.state_key(" tail", "\n<end>").to_hex();
        assert_eq!(key, "66cd6d8fcc633873b569976f3b132f19deff42eedab363c0886901831ba1e3c3");
    }

    #[test]
    fn an_ending_makes_another_state_on_the_same_segments() {
        let chain = chain(&[1, 2, 3]);
        let keys = [
            chain.state_key("", ""),
            chain.state_key("a", ""),
            chain.state_key("", "a"),
            chain.state_key("ab", "c"),
            chain.state_key("a", "bc"),
        ];
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    proptest! {
        #[test]
        fn a_prefix_shares_its_full_segments(
            tokens in prop::collection::vec(any::<i32>(), 1..900),
            cut in 0usize..900,
        ) {
            let cut = cut.min(tokens.len());
            let whole = chain(&tokens);
            let prefix = chain(&tokens[..cut]);
            let full = cut / SEGMENT_TOKENS;
            prop_assert_eq!(&whole.segments()[..full], &prefix.segments()[..full]);
            prop_assert_eq!(whole.segments().iter().map(|s| s.count).sum::<usize>(), tokens.len());
        }

        #[test]
        fn changing_any_token_changes_the_key(
            tokens in prop::collection::vec(any::<i32>(), 1..700),
            at in any::<prop::sample::Index>(),
            delta in 1i32..i32::MAX,
        ) {
            let mut other = tokens.clone();
            let i = at.index(other.len());
            other[i] = other[i].wrapping_add(delta);
            prop_assert_ne!(chain(&tokens).last(), chain(&other).last());
            other.truncate(i);
            prop_assert_ne!(chain(&tokens).last(), chain(&other).last());
        }
    }
}
