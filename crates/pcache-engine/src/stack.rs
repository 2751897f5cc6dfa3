//! Stack for llama.cpp's tokenizers.
//!
//! Before it merges, llama.cpp splits a text by a regular expression. For many models (`tekken`, `gpt-4o`, `deepseek-v3` and more) that
//! is a recursive engine, which takes stack for each character of what matches: a long run without a space, or of nothing but
//! spaces, ends the process.

use std::thread;

/// Stack for a character, in bytes. About 320 were measured (8 MiB for 26,000 characters), on x86-64 with optimisation.
const FOR_A_CHARACTER: usize = 2048;
/// Characters of a run that any thread has stack for: those of Rust have 2 MiB.
const FEW: usize = 512;
/// Characters of a run that are tokenised at once: 256 MiB of stack, of which only what is used takes memory. A longer run is
/// cut: no language has words like that, and what is not written in one has no right tokens.
const MOST: usize = 1 << 17;

/// Tokenises `text` with `tokenize`, on a stack that is large enough.
pub(super) fn with_enough(text: &str, tokenize: impl Fn(&str) -> Vec<i32> + Sync) -> Vec<i32> {
    let run = longest_run(text);
    match run {
        0..=FEW => tokenize(text),
        _ if run <= MOST => {
            on_a_stack_for(run, || tokenize(text)).unwrap_or_else(|| in_pieces(text, FEW, &tokenize))
        }
        _ => {
            let pieces = || in_pieces(text, MOST, &tokenize);
            on_a_stack_for(MOST, pieces).unwrap_or_else(|| in_pieces(text, FEW, &tokenize))
        }
    }
}

/// Nothing where the system has no room for such a stack, as under a limit of address space.
fn on_a_stack_for(characters: usize, work: impl FnOnce() -> Vec<i32> + Send) -> Option<Vec<i32>> {
    let builder = thread::Builder::new().stack_size(characters * FOR_A_CHARACTER);
    thread::scope(|scope| builder.spawn_scoped(scope, work).ok()?.join().ok())
}

fn in_pieces(text: &str, length: usize, tokenize: &impl Fn(&str) -> Vec<i32>) -> Vec<i32> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.char_indices().nth(length).map_or(rest.len(), |(at, _)| at);
        tokens.extend(tokenize(&rest[..end]));
        rest = &rest[end..];
    }
    tokens
}

/// Characters of the longest run of white space or of others, with the one behind it: no expression matches more at once.
fn longest_run(text: &str) -> usize {
    let (mut longest, mut before, mut run) = (0, 0, 0);
    let mut is_space = None;
    for c in text.chars() {
        if is_space != Some(c.is_whitespace()) {
            is_space = Some(c.is_whitespace());
            before = std::mem::take(&mut run);
        }
        run += 1;
        longest = longest.max(before + run);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_measured_with_their_neighbours() {
        assert_eq!(longest_run(""), 0);
        assert_eq!(longest_run("ab  cde"), 5);
        assert_eq!(longest_run(&"word ".repeat(1000)), 5);
        assert_eq!(longest_run(&"中".repeat(70)), 70);
    }

    #[test]
    fn text_is_whole_whatever_its_runs_are() {
        let letters = |text: &str| text.chars().map(|c| c as i32).collect::<Vec<_>>();
        for text in [
            "a few words".to_owned(),
            "é".repeat(FEW + 1),
            format!("a {} b", "x".repeat(MOST * 2 + 3)),
            " ".repeat(MOST + 1),
        ] {
            assert_eq!(with_enough(&text, letters), letters(&text));
        }
    }
}
