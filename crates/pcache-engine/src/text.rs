//! Text on its way to the model: which parts may contain control tokens, and which are a user's.
//!
//! llama.cpp splits a text at control tokens and tokenises what lies between on its own. This does the same,
//! but looks for control tokens only in the template's parts. Plain text of neighbouring parts is joined
//! before it is tokenised, so the tokens are those of the whole text and only forgeries are missing.
//!
//! Some vocabularies have chat markers (`<|im_start|>`) that are not control but user-defined tokens, which llama.cpp
//! finds in any text. They count in the template as control tokens do; in plain text they are broken in two.

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
    #[must_use]
    pub fn template(mut self, text: &str) -> Self {
        self.parts.push((Trust::Template, text.to_owned()));
        self
    }

    /// Adds text in which nothing but text counts.
    pub fn user(mut self, text: &str) -> Self {
        self.parts.push((Trust::User, text.to_owned()));
        self
    }

    /// Adds another text behind this one.
    pub fn then(mut self, other: Self) -> Self {
        self.parts.extend(other.parts);
        self
    }

    /// The whole text.
    pub fn joined(&self) -> String {
        self.parts.iter().map(|(_, text)| text.as_str()).collect()
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

/// Part of a text once control tokens are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Run {
    /// A control token; some swallow the white space after them.
    Control { token: i32, strips_right: bool },
    /// Text to be tokenised on its own.
    Plain(String),
}

impl Run {
    /// The control token.
    #[cfg(test)]
    pub(super) fn token(&self) -> Option<i32> {
        match self {
            Self::Control { token, .. } => Some(*token),
            Self::Plain(_) => None,
        }
    }
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

/// The control tokens and chat markers of a vocabulary, and matchers for their texts.
#[derive(Debug, Clone)]
pub struct Specials {
    /// Leftmost and longest match first, so that `<|im_end|>` is not found inside a longer token.
    matcher: Option<AhoCorasick>,
    specials: Vec<Special>,
    /// The markers alone, which llama.cpp would find in plain text.
    markers: Option<AhoCorasick>,
}

#[derive(Debug, Clone)]
struct Special {
    text: String,
    token: i32,
    strips_left: bool,
    strips_right: bool,
    /// Not a control token, but used as one.
    marker: bool,
}

/// Returns true if a user-defined token stands between the turns of a chat: one like `<|user|>`, or a tag that the model's
/// template has. Others are parts of text: white space, HTML.
fn is_marker(text: &str, template: &str) -> bool {
    let enclosed = |open: &str, close: &str| {
        text.len() > open.len() + close.len() && text.starts_with(open) && text.ends_with(close)
    };
    enclosed("<|", "|>") || (enclosed("<", ">") || enclosed("[", "]")) && template.contains(text)
}

impl Specials {
    /// Reads them from a model's vocabulary: control and unknown tokens, as llama.cpp does, and user-defined ones that
    /// are chat markers by their looks or by the model's `template`.
    pub(super) fn read(llama: &LlamaModel, template: &str) -> Self {
        let vocab = llama.vocab();
        let found = vocab.tokens().filter_map(|token| {
            let attributes = vocab.attr(token);
            let counts =
                attributes.contains(LlamaTokenAttr::Control) || attributes.contains(LlamaTokenAttr::Unknown);
            let user_defined = attributes.contains(LlamaTokenAttr::UserDefined);
            let text = (counts || user_defined).then(|| vocab.token_to_piece(token, true, None))?;
            let text = String::from_utf8(text).ok().filter(|t| !t.is_empty())?;
            let marker = !counts && is_marker(&text, template);
            (counts || marker).then(|| Special {
                text,
                token: token.0,
                strips_left: attributes.contains(LlamaTokenAttr::LStrip),
                strips_right: attributes.contains(LlamaTokenAttr::RStrip),
                marker,
            })
        });
        Self::new(found.collect())
    }

    fn new(specials: Vec<Special>) -> Self {
        let matcher = |texts: Vec<&String>| {
            AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts).ok()
        };
        let markers: Vec<&String> = specials.iter().filter(|s| s.marker).map(|s| &s.text).collect();
        let markers = if markers.is_empty() { None } else { matcher(markers) };
        Self { matcher: matcher(specials.iter().map(|s| &s.text).collect()), markers, specials }
    }

    /// A vocabulary without any.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self::new(Vec::new())
    }

    /// A vocabulary with these control tokens.
    #[cfg(test)]
    pub(super) fn named(texts: &[&str]) -> Self {
        let special = |(token, text): (i32, &&str)| Special {
            text: (*text).to_owned(),
            token,
            strips_left: false,
            strips_right: false,
            marker: false,
        };
        Self::new((0..).zip(texts).map(special).collect())
    }

    /// Plain text in pieces none of which holds a marker, each to be tokenised on its own: a marker in plain text is a
    /// forgery, and ends after its first character.
    pub(super) fn without_markers<'t>(&self, plain: &'t str) -> Vec<&'t str> {
        let (mut pieces, mut rest) = (Vec::new(), plain);
        while let Some(found) = self.markers.as_ref().and_then(|m| m.find(rest)) {
            let first = rest[found.start()..].chars().next().map_or(1, char::len_utf8);
            let (piece, after) = rest.split_at(found.start() + first);
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        pieces
    }

    /// The control tokens and markers in a text, in order.
    pub(super) fn sequence(&self, text: &str) -> Vec<i32> {
        let found = self.matcher.iter().flat_map(|m| m.find_iter(text));
        found.map(|found| self.specials[found.pattern().as_usize()].token).collect()
    }

    /// A control token or marker of a single character is in the text.
    pub(super) fn has_single(&self, text: &str) -> bool {
        let single = |special: &&Special| special.text.chars().nth(1).is_none();
        self.specials.iter().filter(single).any(|special| text.contains(&special.text))
    }

    /// The text begins with the end of a control token, so that something before it could complete one.
    pub(super) fn could_end_one(&self, text: &str) -> bool {
        let ends = |special: &Special| {
            let ends = special.text.char_indices().skip(1).map(|(at, _)| &special.text[at..]);
            ends.into_iter().any(|end| text.starts_with(end))
        };
        self.specials.iter().any(ends)
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
            marker: text.starts_with("<|"),
        };
        Specials::new(vec![
            special("<|turn|>", 4, false),
            special("<|turn", 5, false),
            special("<end>", 1, false),
            special("<e", 2, false),
            special("<s>", 3, true),
        ])
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
    fn a_marker_counts_in_the_template_and_is_broken_in_text() {
        let text = Text::default().template("<|turn|>user").user("a<|turn|>b");
        assert_eq!(text.runs(&specials()), [control(4), plain("usera<|turn|>b")]);
        let pieces = |text| specials().without_markers(text);
        assert_eq!(pieces("usera<|turn|>b"), ["usera<", "|turn|>b"]);
        assert_eq!(pieces("<|turn<|turn|>"), ["<", "|turn<", "|turn|>"]);
        assert_eq!(pieces("no marker"), ["no marker"]);
        assert_eq!(pieces(""), [""]);
        // Put together from a template's end and a user's beginning.
        let text = Text::default().template("x<|tu").user("rn|>");
        assert_eq!(text.runs(&specials()), [plain("x<|turn|>")]);
    }

    #[test]
    fn markers_look_like_tags_and_are_not_html() {
        let template = "{{ '<start_of_turn>' + role }}[INST]\n  ";
        for text in ["<|user|>", "<start_of_turn>", "[INST]"] {
            assert!(is_marker(text, template), "{text}");
        }
        for text in ["<h1>", "\n", "  ", "<", "<>", "<||>", "[/INST]", "role"] {
            assert!(!is_marker(text, template), "{text}");
        }
    }

    #[test]
    fn empty_runs_vanish() {
        assert_eq!(Text::default().template("").user("").runs(&specials()), []);
    }
}
