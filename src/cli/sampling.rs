//! Sampling and constraints from the command line.

use anyhow::{Context, Result};

use super::app::read_text;
use crate::cache::constraint;
use crate::cli::args::{ConstraintArgs, SamplingArgs};
use pcache_engine::constraint::Constraint;
use pcache_engine::generate::Sampling;

/// Reads the options, with this seed.
pub fn of_args(args: &SamplingArgs, seed: u32) -> Sampling {
    Sampling {
        temperature: args.temp,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repeat_penalty: args.repeat_penalty,
        seed,
        max_tokens: args.max_tokens,
        stop: args.stop.clone(),
    }
}

/// The constraint that the options ask for, if they do.
pub fn constraint(args: &ConstraintArgs) -> Result<Option<Constraint>> {
    match (&args.grammar, &args.json_schema) {
        (Some(file), _) => {
            constraint::grammar(file, &read_text(file).context("the grammar cannot be read")?).map(Some)
        }
        (None, Some(file)) => {
            constraint::schema(file, &read_text(file).context("the JSON schema cannot be read")?).map(Some)
        }
        (None, None) => Ok(None),
    }
}
