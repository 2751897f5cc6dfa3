//! Sampling an answer.

use std::time::{Duration, Instant};

use llama_cpp_2::sampling::LlamaSampler;

use super::Result;
use super::constraint::Matcher;
use super::model::Model;
use super::session::Session;
use super::utf8::Utf8Stream;

/// Choice of the next token, and the conditions to stop.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// Only the K likeliest tokens; 0 for all.
    pub top_k: i32,
    /// Only the likeliest tokens that together have this probability.
    pub top_p: f32,
    /// Only tokens at least this fraction as likely as the likeliest.
    pub min_p: f32,
    /// Above 1, tokens of the last 64 of the answer become less likely.
    pub repeat_penalty: f32,
    /// For the random choice; any but the largest number, which would not be repeatable.
    pub seed: u32,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// Texts at which an answer ends; they are not part of it.
    pub stop: Vec<String>,
}

impl Sampling {
    /// Always the likeliest token; `max_tokens` of them at most.
    pub fn greedy(max_tokens: usize) -> Self {
        Self::at(0.0, 0, max_tokens)
    }

    /// At this temperature, with this seed; `max_tokens` tokens at most.
    pub fn at(temperature: f32, seed: u32, max_tokens: usize) -> Self {
        Self {
            temperature,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            seed,
            max_tokens,
            stop: Vec::new(),
        }
    }
}

/// Below this a temperature is 0: dividing by it would overflow.
const GREEDY_BELOW: f32 = 1e-5;
/// llama.cpp takes this seed as a wish for a random one.
const RANDOM_SEED: u32 = u32::MAX;
/// Number of tokens of the answer that the repeat penalty covers.
const PENALTY_WINDOW: i32 = 64;

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model ended it.
    Eos,
    /// The allowed number of tokens was reached.
    MaxTokens,
    /// One of the stop texts came up.
    StopString,
    /// The model's context is full.
    ContextFull,
    /// The user interrupted it.
    Interrupted,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The text, without the stop text.
    pub text: String,
    /// Why it ended.
    pub stop: StopReason,
    /// The tokens, without the one that ended it.
    pub tokens: Vec<i32>,
    /// Until the first token was chosen.
    pub first_token: Duration,
    /// For all of it.
    pub elapsed: Duration,
}

/// Generates an answer from the session's logits, under the constraint of `matcher`; `emit` gets the text as it becomes
/// certain, and ends the generation by saying false. The context ends at `limit` positions.
///
/// # Errors
/// When llama.cpp fails, or nothing fits the constraint.
pub fn answer(
    session: &mut Session,
    sampling: &Sampling,
    matcher: Option<Matcher>,
    limit: usize,
    mut emit: impl FnMut(&str) -> bool,
) -> Result<Answer> {
    let mut growing = Generation::new(session.model(), sampling, matcher);
    let stop = loop {
        if !session.has_logits() {
            break StopReason::Interrupted;
        }
        let (text, next) = growing.next(session, LAST)?;
        if !emit(&text) {
            break StopReason::Interrupted;
        }
        match next {
            Step::Stop(reason) => break reason,
            Step::Decode(_) if session.position() >= limit => break StopReason::ContextFull,
            Step::Decode(token) => session.evaluate(&[token], true)?,
        }
    };
    let (answer, rest) = growing.finish(stop);
    emit(&rest);
    answer
}

/// The logits of the last token that was evaluated with logits.
const LAST: i32 = -1;

/// An answer that is being generated.
pub struct Generation<'s> {
    sampler: LlamaSampler,
    matcher: Option<Matcher>,
    text: Stream<'s>,
    max_tokens: usize,
    tokens: Vec<i32>,
    start: Instant,
    first_token: Option<Duration>,
}

/// Next step of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Decode this token, after which the next one can be chosen.
    Decode(i32),
    /// End the answer.
    Stop(StopReason),
}

impl<'s> Generation<'s> {
    /// An answer of which nothing is there yet; its clock starts.
    pub fn new(model: &Model, sampling: &'s Sampling, matcher: Option<Matcher>) -> Self {
        Self {
            sampler: sampler(model.vocabulary(), sampling),
            matcher,
            text: Stream::new(&sampling.stop),
            max_tokens: sampling.max_tokens,
            tokens: Vec::new(),
            start: Instant::now(),
            first_token: None,
        }
    }

    /// Returns true if no token of it was chosen yet.
    pub fn is_new(&self) -> bool {
        self.first_token.is_none()
    }

    /// Chooses the next token by the logits number `index` of the last batch. Gives the text that is certain by now.
    ///
    /// # Errors
    /// When nothing fits the constraint.
    pub fn next(&mut self, session: &Session, index: i32) -> Result<(String, Step)> {
        if self.tokens.len() == self.max_tokens {
            return Ok((String::new(), Step::Stop(StopReason::MaxTokens)));
        }
        let token = match &mut self.matcher {
            None => self.sampler.sample(session.context(), index),
            Some(matcher) => {
                let token = matcher.choose(session.logits_at(index), &mut self.sampler)?;
                self.sampler.accept(token);
                token
            }
        };
        self.first_token.get_or_insert_with(|| self.start.elapsed());
        if session.model().ends_answer(token.0) {
            return Ok((String::new(), Step::Stop(StopReason::Eos)));
        }
        self.matcher.as_mut().map_or(Ok(()), |matcher| matcher.accept(token))?;
        self.tokens.push(token.0);
        let (text, stopped) = self.text.push(&session.model().piece(token.0));
        let complete = self.matcher.as_ref().is_some_and(Matcher::is_complete);
        let next = if stopped {
            Step::Stop(StopReason::StopString)
        } else if complete {
            Step::Stop(StopReason::Eos)
        } else if self.tokens.len() == self.max_tokens {
            Step::Stop(StopReason::MaxTokens)
        } else {
            Step::Decode(token.0)
        };
        Ok((text, next))
    }

    /// The answer, and what of its text was held back until now. In the answer's place there is an error where it ended by itself
    /// and does not satisfy its constraint.
    pub fn finish(mut self, stop: StopReason) -> (Result<Answer>, String) {
        let rest = self.text.finish();
        let matcher = self.matcher.filter(|_| stop == StopReason::Eos);
        if let Some(Err(broken)) = matcher.map(|matcher| matcher.check(&self.text.out)) {
            return (Err(broken), rest);
        }
        let answer = Answer {
            text: self.text.out,
            stop,
            tokens: self.tokens,
            first_token: self.first_token.unwrap_or_default(),
            elapsed: self.start.elapsed(),
        };
        (Ok(answer), rest)
    }
}

/// The seed of trial `trial` after `first`: each is repeatable.
pub fn trial_seed(first: u32, trial: u32) -> u32 {
    let seed = u64::from(first) + u64::from(trial);
    u32::try_from(seed % u64::from(RANDOM_SEED)).unwrap_or(0)
}

fn sampler(vocabulary: i32, sampling: &Sampling) -> LlamaSampler {
    let mut steps = Vec::new();
    if sampling.repeat_penalty != 1.0 {
        let (penalty, window) = (sampling.repeat_penalty, PENALTY_WINDOW);
        steps.push(LlamaSampler::penalties(vocabulary, window, penalty, 0.0, 0.0));
    }
    if sampling.temperature < GREEDY_BELOW {
        steps.push(LlamaSampler::greedy());
    } else {
        steps.extend([
            LlamaSampler::top_k(sampling.top_k),
            LlamaSampler::top_p(sampling.top_p, 1),
            LlamaSampler::min_p(sampling.min_p, 1),
            LlamaSampler::temp(sampling.temperature),
            LlamaSampler::dist(trial_seed(sampling.seed, 0)),
        ]);
    }
    LlamaSampler::chain(steps, true)
}

/// An answer's text as it grows: whole characters, and nothing that may turn out to begin a stop text.
struct Stream<'a> {
    stop: &'a [String],
    utf8: Utf8Stream,
    held: String,
    out: String,
}

impl<'a> Stream<'a> {
    fn new(stop: &'a [String]) -> Self {
        Self { stop, utf8: Utf8Stream::default(), held: String::new(), out: String::new() }
    }

    /// Adds a token's bytes. Gives what is certain by now, and whether a stop text came up.
    fn push(&mut self, bytes: &[u8]) -> (String, bool) {
        self.held.push_str(&self.utf8.push(bytes));
        let stop = self.stop.iter().filter_map(|s| self.held.find(s.as_str())).min();
        let certain = stop.unwrap_or_else(|| self.held.len() - self.beginning_of_stop());
        let text: String = self.held.drain(..certain).collect();
        if stop.is_some() {
            self.held.clear();
            // What came behind the stop text is no part of the answer.
            self.utf8 = Utf8Stream::default();
        }
        self.out.push_str(&text);
        (text, stop.is_some())
    }

    /// Returns the text that was held back for a stop sequence and is part of the answer after all.
    fn finish(&mut self) -> String {
        let mut text = std::mem::take(&mut self.held);
        text.push_str(self.utf8.finish());
        self.out.push_str(&text);
        text
    }

    /// Length of the longest end of the held text that begins a stop text.
    fn beginning_of_stop(&self) -> usize {
        let begins = |n: &usize| {
            let at = self.held.len() - n;
            self.held.is_char_boundary(at) && self.stop.iter().any(|s| s.starts_with(&self.held[at..]))
        };
        (1..=self.held.len()).rev().find(begins).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stop: &[&str], pieces: &[&str]) -> (Vec<String>, String, bool) {
        let stop: Vec<String> = stop.iter().map(|s| s.to_string()).collect();
        let mut stream = Stream::new(&stop);
        let mut out = Vec::new();
        for piece in pieces {
            let (text, stopped) = stream.push(piece.as_bytes());
            out.push(text);
            if stopped {
                return (out, stream.out, true);
            }
        }
        out.push(stream.finish());
        (out, stream.out, false)
    }

    #[test]
    fn no_trial_gets_the_seed_that_means_random() {
        assert_eq!(trial_seed(7, 2), 9);
        assert_eq!([0, 1, 2].map(|t| trial_seed(u32::MAX - 1, t)), [u32::MAX - 1, 0, 1]);
        assert_eq!(trial_seed(u32::MAX, 0), 0);
    }

    #[test]
    fn a_stop_text_across_tokens_is_never_shown() {
        let (shown, text, stopped) = run(&["\nQ:"], &["a", "b\n", "Q", ": next"]);
        assert_eq!(shown, ["a", "b", "", ""]);
        assert_eq!((text.as_str(), stopped), ("ab", true));
    }

    #[test]
    fn what_only_looked_like_a_stop_text_is_shown_in_the_end() {
        let (shown, text, stopped) = run(&["\nQ:"], &["a\n", "b", "\nQ"]);
        assert_eq!(shown, ["a", "\nb", "", "\nQ"]);
        assert_eq!((text.as_str(), stopped), ("a\nb\nQ", false));
    }

    /// An answer that ended inside a character once lost its beginning without a word.
    #[test]
    fn half_a_character_at_the_end_is_shown_as_one() {
        let mut stream = Stream::new(&[]);
        stream.push(b"caf\xc3");
        assert_eq!(stream.finish(), "\u{fffd}");
        assert_eq!(stream.out, "caf\u{fffd}");
    }

    #[test]
    fn the_earliest_of_several_stop_texts_counts() {
        assert_eq!(run(&["c", "b"], &["abc"]).1, "a");
    }
}
