//! Constraints from files.

use std::path::Path;

use anyhow::{Context, Result};

use super::Failure;
use pcache_engine::constraint::Constraint;

/// The grammar, in llama.cpp's GBNF, that is the text of `file`.
///
/// # Errors
/// When it is no grammar.
pub fn grammar(file: &Path, text: &str) -> Result<Constraint> {
    let constraint = Constraint::grammar(text).map_err(|e| Failure::Usage(e.to_string()));
    constraint.with_context(|| file.display().to_string())
}

/// The JSON schema that is the text of `file`.
///
/// # Errors
/// When it is not JSON.
pub fn schema(file: &Path, text: &str) -> Result<Constraint> {
    let value = serde_json::from_str(text).map_err(|e| Failure::Usage(format!("not JSON: {e}")));
    Ok(Constraint::schema(value.with_context(|| file.display().to_string())?))
}
