//! Text on its way to the model: which parts may contain control tokens, and which are a user's.
//!
//! llama.cpp splits a text at control tokens and tokenises what lies between on its own. This does the same,
//! but looks for control tokens only in the template's parts. Plain text of neighbouring parts is joined
//! before it is tokenised, so the tokens are those of the whole text and only forgeries are missing.

use aho_corasick::{AhoCorasick, MatchKind};
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token_type::LlamaTokenAttr;

/// A text in parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    parts: Vec<(Trust, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// From the template (or a raw prompt): control tokens count.
    Template,
    /// From a user: everything is text.
    User,
}

impl Text {
    /// Adds text in which control tokens count.
    pub fn template(mut self, text: &str) -> Self {
        self.parts.push((Trust::Template, text.to_owned()));
        self
    }

    /// Adds text in which nothing but text counts.
    pub fn user(mut self, text: &str) -> Self {
        self.parts.push((Trust::User, text.to_owned()));
        self
    }

    /// The control tokens and the plain runs between them, in order.
    pub(super) fn runs(&self, specials: &Specials) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (trust, text) in &self.parts {
            match trust {
                Trust::User => push_plain(&mut runs, text),
                Trust::Template => specials.split(text, &mut runs),
            }
        }
        runs.retain(|run| !matches!(run, Run::Plain(text) if text.is_empty()));
        runs
    }

    /// The runs, with the plain one at the end (if there is one) apart.
    pub(super) fn split_tail(&self, specials: &Specials) -> (Vec<Run>, String) {
        let mut runs = self.runs(specials);
        match runs.pop() {
            Some(Run::Plain(tail)) => (runs, tail),
            last => {
                runs.extend(last);
                (runs, String::new())
            }
        }
    }
}

/// The tokens of runs; `plain` tokenises text without control tokens.
pub(super) fn tokens_of(runs: Vec<Run>, plain: impl Fn(&str) -> Vec<i32>) -> Vec<i32> {
    runs.into_iter()
        .flat_map(|run| match run {
            Run::Control { token, .. } => vec![token],
            Run::Plain(text) => plain(&text),
        })
        .collect()
}

/// What a text is made of once control tokens are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Run {
    /// A control token; some swallow the white space after them.
    Control { token: i32, strips_right: bool },
    /// Text to be tokenised on its own.
    Plain(String),
}

fn push_plain(runs: &mut Vec<Run>, text: &str) {
    let text = match runs.last() {
        Some(Run::Control { strips_right: true, .. }) => text.trim_start(),
        _ => text,
    };
    match runs.last_mut() {
        Some(Run::Plain(before)) => before.push_str(text),
        _ => runs.push(Run::Plain(text.to_owned())),
    }
}

/// The control tokens of a vocabulary, and a matcher for their texts.
#[derive(Debug, Clone)]
pub struct Specials {
    /// Leftmost and longest match first, so that `<|im_end|>` is not found inside a longer token.
    matcher: Option<AhoCorasick>,
    specials: Vec<Special>,
}

#[derive(Debug, Clone)]
struct Special {
    text: String,
    token: i32,
    strips_left: bool,
    strips_right: bool,
}

impl Specials {
    /// Reads them from a model's vocabulary: control and unknown tokens, as llama.cpp does.
    pub(super) fn of(llama: &LlamaModel) -> Self {
        let vocab = llama.vocab();
        let found = vocab.tokens().filter_map(|token| {
            let attributes = vocab.attr(token);
            let counts =
                attributes.contains(LlamaTokenAttr::Control) || attributes.contains(LlamaTokenAttr::Unknown);
            let text = counts.then(|| vocab.token_to_piece(token, true, None))?;
            Some(Special {
                text: String::from_utf8(text).ok().filter(|t| !t.is_empty())?,
                token: token.0,
                strips_left: attributes.contains(LlamaTokenAttr::LStrip),
                strips_right: attributes.contains(LlamaTokenAttr::RStrip),
            })
        });
        Self::new(found.collect())
    }

    fn new(specials: Vec<Special>) -> Self {
        let matcher = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(specials.iter().map(|s| &s.text))
            .ok();
        Self { matcher, specials }
    }

    fn split(&self, text: &str, runs: &mut Vec<Run>) {
        let mut done = 0;
        for found in self.matcher.iter().flat_map(|m| m.find_iter(text)) {
            let special = &self.specials[found.pattern().as_usize()];
            let before = &text[done..found.start()];
            push_plain(runs, if special.strips_left { before.trim_end() } else { before });
            runs.push(Run::Control { token: special.token, strips_right: special.strips_right });
            done = found.end();
        }
        push_plain(runs, &text[done..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specials() -> Specials {
        let special = |text: &str, token, strips_right| Special {
            text: text.into(),
            token,
            strips_left: false,
            strips_right,
        };
        Specials::new(vec![special("<end>", 1, false), special("<e", 2, false), special("<s>", 3, true)])
    }

    fn plain(text: &str) -> Run {
        Run::Plain(text.into())
    }

    fn control(token: i32) -> Run {
        Run::Control { token, strips_right: token == 3 }
    }

    #[test]
    fn control_tokens_count_in_the_template_only() {
        let text = Text::default().template("a<end>b").user("c<end>d").template("e<end>");
        let runs = [plain("a"), control(1), plain("bc<end>de"), control(1)];
        assert_eq!(text.runs(&specials()), runs);
    }

    #[test]
    fn a_token_cannot_be_assembled_across_a_boundary() {
        let text = Text::default().template("<e").user("nd>");
        assert_eq!(text.runs(&specials()), [control(2), plain("nd>")]);
    }

    #[test]
    fn the_longest_token_wins_and_some_swallow_white_space() {
        let text = Text::default().template("<end><s>\n x").user(" y");
        assert_eq!(text.runs(&specials()), [control(1), control(3), plain("x y")]);
    }

    #[test]
    fn empty_runs_vanish() {
        assert_eq!(Text::default().template("").user("").runs(&specials()), []);
    }
}
