//! How answers are sampled and what shape they have, from the command line.

use std::path::Path;

use anyhow::{Context, Result};

use super::app::read_text;
use super::failure::Failure;
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

/// Sampling with nothing chosen but these; the rest is what `ask` has by default.
pub fn plain(temperature: f32, seed: u32, max_tokens: usize, stop: &[String]) -> Sampling {
    Sampling {
        temperature,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        repeat_penalty: 1.0,
        seed,
        max_tokens,
        stop: stop.to_vec(),
    }
}

/// The shape that the options ask for, if they do.
pub fn shape(args: &ShapeArgs) -> Result<Option<Shape>> {
    shape_of(args.grammar.as_deref(), args.json_schema.as_deref())
}

/// The shape that one of two files describes.
pub fn shape_of(gbnf: Option<&Path>, json_schema: Option<&Path>) -> Result<Option<Shape>> {
    match (gbnf, json_schema) {
        (Some(file), _) => grammar(file).map(Some),
        (None, Some(file)) => schema(file).map(Some),
        (None, None) => Ok(None),
    }
}

fn grammar(file: &Path) -> Result<Shape> {
    let text = read_text(file).context("the grammar cannot be read")?;
    let shape = Shape::grammar(&text).map_err(|e| Failure::Usage(e.to_string()));
    shape.with_context(|| file.display().to_string())
}

fn schema(file: &Path) -> Result<Shape> {
    let text = read_text(file).context("the JSON schema cannot be read")?;
    let value = serde_json::from_str(&text).map_err(|e| Failure::Usage(format!("not JSON: {e}")));
    Ok(Shape::schema(value.with_context(|| file.display().to_string())?))
}
