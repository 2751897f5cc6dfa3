//! Constraints on answers: a GBNF grammar, or a JSON schema.
//!
//! Whatever leads an answer to its schema, it is checked against it in the end, by another library.
//!
//! A grammar is llama.cpp's own business; it is read here first, because llama.cpp tells a mistake in it with the whole
//! file on stderr, and some mistakes not at all. A schema goes to llguidance, which refuses what it cannot keep: a
//! keyword that is passed over would be a promise broken.

mod gbnf;
mod schema;

use std::sync::Arc;

pub use gbnf::GrammarError;
use jsonschema::Validator;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llguidance::ParserFactory;
use llguidance::api::TopLevelGrammar;
use serde_json::Value;

use super::model::Model;
use super::{EngineError, Result, logged_reason};

/// The rule that an answer must match.
const ROOT: &str = "root";

/// Constraint on answers, as it was written.
#[derive(Debug, Clone, PartialEq)]
pub enum Constraint {
    /// A grammar in GBNF, llama.cpp's notation.
    Grammar(String),
    /// A JSON schema.
    Schema(Value),
}

impl Constraint {
    /// A grammar whose syntax is right.
    ///
    /// # Errors
    /// A [`GrammarError`] with the line of the mistake.
    pub fn grammar(text: &str) -> Result<Self, GrammarError> {
        gbnf::check(text, ROOT)?;
        Ok(Self::Grammar(text.to_owned()))
    }

    /// Name of the kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Grammar(_) => "grammar",
            Self::Schema(_) => "schema",
        }
    }

    /// Text that it was made of; of a schema its JSON.
    pub fn source(&self) -> String {
        match self {
            Self::Grammar(text) => text.clone(),
            Self::Schema(schema) => schema.to_string(),
        }
    }

    /// A JSON schema. Between the parts of an answer there is one space at most: a model that is not sure of itself would
    /// else fill its answer with them.
    pub fn schema(mut schema: Value) -> Self {
        if let Some(keywords) = schema.as_object_mut() {
            let spaces = serde_json::json!({ "whitespace_pattern": "[ ]?" });
            keywords.entry("x-guidance").or_insert(spaces);
        }
        Self::Schema(schema)
    }
}

/// A constraint, ready for a model: makes a [`Matcher`] for each answer.
pub struct MatcherFactory {
    model: Model,
    kind: Kind,
}

enum Kind {
    Grammar(String),
    Schema(Box<ParserFactory>, Value, Arc<Validator>),
}

impl MatcherFactory {
    /// Prepares `constraint` for the vocabulary of `model`; a schema costs a walk over all of it.
    ///
    /// # Errors
    /// When the constraint is not supported, with the reason.
    pub fn new(model: &Model, constraint: &Constraint) -> Result<Self> {
        let kind = match constraint {
            Constraint::Grammar(text) => Kind::Grammar(text.clone()),
            Constraint::Schema(schema) => {
                if let Some(problem) = schema::problem(schema) {
                    return Err(not_kept(&problem));
                }
                let validator = jsonschema::validator_for(schema)
                    .map_err(|e| not_kept(&format!("it could not be checked in the end: {e}")))?;
                let vocabulary = LlamaSampler::llguidance_tok_env(&model.0.llama);
                let mut factory = ParserFactory::new_simple(&vocabulary)
                    .map_err(|e| EngineError::Constraint(format!("the vocabulary: {e:#}")))?;
                factory.quiet();
                Kind::Schema(Box::new(factory), schema.clone(), Arc::new(validator))
            }
        };
        let matchers = Self { model: model.clone(), kind };
        matchers.matcher()?;
        Ok(matchers)
    }

    /// Returns a matcher for one answer.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn matcher(&self) -> Result<Matcher> {
        match &self.kind {
            Kind::Grammar(text) => {
                LlamaSampler::grammar(&self.model.0.llama, text, ROOT).map(Matcher::Grammar).map_err(|_| {
                    EngineError::Constraint(format!(
                        "no answer can be held to the grammar: {}",
                        logged_reason()
                    ))
                })
            }
            Kind::Schema(factory, schema, validator) => {
                let parser = factory.create_parser(TopLevelGrammar::from_json_schema(schema.clone()));
                let parser = parser.map_err(|e| not_kept(&format!("{e:#}")))?;
                Ok(Matcher::Schema(Box::new(llguidance::Matcher::new(Ok(parser))), Arc::clone(validator)))
            }
        }
    }
}

/// Leads one answer: says which token may come next.
pub enum Matcher {
    /// By llama.cpp's grammar.
    Grammar(LlamaSampler),
    /// By a JSON schema, against which the whole answer is checked in the end.
    Schema(Box<llguidance::Matcher>, Arc<Validator>),
}

impl Matcher {
    /// Chooses the next token by `sampler` among those that the constraint allows after what came so far.
    ///
    /// # Errors
    /// When the constraint allows none.
    pub fn choose(&mut self, logits: &[f32], sampler: &mut LlamaSampler) -> Result<LlamaToken> {
        let all = LlamaTokenDataArray::from_iter(
            logits.iter().zip(0..).map(|(logit, id)| LlamaTokenData::new(LlamaToken(id), *logit, 0.0)),
            false,
        );
        let chosen = match self {
            // Looking at every token of the vocabulary is slow, and mostly the model's choice is right.
            Self::Grammar(grammar) => selected(all.clone(), sampler)
                .filter(|token| allows(grammar, *token))
                .or_else(|| selected(all.with_sampler(grammar), sampler)),
            Self::Schema(matcher, _) => {
                let allowed = matcher.compute_mask_or_eos().map_err(|e| stuck(&e.to_string()))?;
                let allowed = all.data.into_iter().filter(|d| allowed.is_allowed(d.id().0.cast_unsigned()));
                selected(LlamaTokenDataArray::from_iter(allowed, false), sampler)
            }
        };
        chosen.ok_or_else(|| stuck("no token of the vocabulary fits"))
    }

    /// Goes on by a token that does not end the answer.
    ///
    /// # Errors
    /// When it is none that [`Self::choose`] would give.
    pub fn accept(&mut self, token: LlamaToken) -> Result<()> {
        match self {
            Self::Grammar(grammar) => {
                grammar.accept(token);
                Ok(())
            }
            Self::Schema(matcher, _) => {
                matcher.consume_token(token.0.cast_unsigned()).map_err(|e| stuck(&e.to_string()))
            }
        }
    }

    /// Refuses the whole of an answer that ended by itself and does not satisfy its constraint.
    ///
    /// # Errors
    /// In what it does not.
    pub fn check(&self, answer: &str) -> Result<()> {
        match self {
            Self::Grammar(_) => Ok(()),
            Self::Schema(_, validator) => check(validator, answer),
        }
    }

    /// Returns true if nothing can follow but the end.
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Schema(matcher, _) if matcher.is_stopped())
    }
}

/// Refuses an answer that ended and is no value of its schema.
fn check(validator: &Validator, answer: &str) -> Result<()> {
    let broken =
        |why: String| EngineError::Constraint(format!("the answer does not keep its JSON schema: {why}"));
    let value: Value = serde_json::from_str(answer).map_err(|e| broken(e.to_string()))?;
    validator.validate(&value).map_err(|e| {
        let place = e.instance_path().to_string();
        let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
        // The words around a value, and not the value: it may be a user's.
        broken(format!("{place}{}", e.masked()))
    })
}

fn not_kept(reason: &str) -> EngineError {
    // A regular expression is drawn over several lines, and what is wrong with it stands in the last one.
    let reason: Vec<&str> = reason.split("<state>").next().unwrap_or_default().split_whitespace().collect();
    let reason = reason.join(" ");
    EngineError::Constraint(format!("no answer can be held to the JSON schema: {reason}"))
}

/// The first line of a reason, without the parser's own state behind it.
fn stuck(reason: &str) -> EngineError {
    let reason = reason.lines().next().unwrap_or_default();
    let reason = reason.split("<state>").next().unwrap_or_default().trim();
    // The library's name for that.
    let reason = if reason == "NoExtensionBias" { "nothing may follow what is there" } else { reason };
    EngineError::Constraint(format!("no token continues the answer under its constraint: {reason}"))
}

fn allows(grammar: &mut LlamaSampler, token: LlamaToken) -> bool {
    let one = LlamaTokenDataArray::new(vec![LlamaTokenData::new(token, 1.0, 0.0)], false);
    one.with_sampler(grammar).data.iter().all(|d| d.logit() > f32::NEG_INFINITY)
}

/// The sampler's choice, if it is a possible one.
fn selected(candidates: LlamaTokenDataArray, sampler: &mut LlamaSampler) -> Option<LlamaToken> {
    let mut candidates = candidates;
    candidates.data.retain(|d| d.logit() > f32::NEG_INFINITY);
    if candidates.data.is_empty() {
        return None;
    }
    candidates.with_sampler(sampler).selected_token()
}
