//! How answers are sampled and what shape they have, from the command line.

use anyhow::{Context, Result};

use super::app::read_text;
use crate::cache::shape;
use crate::cli::args::{SamplingArgs, ShapeArgs};
use pcache_engine::generate::Sampling;
use pcache_engine::shape::Shape;

/// What the options say, with this seed.
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

/// The shape that the options ask for, if they do.
pub fn shape(args: &ShapeArgs) -> Result<Option<Shape>> {
    match (&args.grammar, &args.json_schema) {
        (Some(file), _) => {
            shape::grammar(file, &read_text(file).context("the grammar cannot be read")?).map(Some)
        }
        (None, Some(file)) => {
            shape::schema(file, &read_text(file).context("the JSON schema cannot be read")?).map(Some)
        }
        (None, None) => Ok(None),
    }
}
