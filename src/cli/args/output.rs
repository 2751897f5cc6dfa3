//! Format of results, and the file that they go to.

use std::path::PathBuf;

use clap::ValueEnum;

/// Format of results, as it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// One JSON object per result, one a line
    Json,
    /// One JSON object per event, as it happens
    Jsonl,
    /// For continuous integration (eval)
    #[value(hide = true)]
    Junit,
}

/// Format of results that every command has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON object per result, one a line.
    Json,
    /// One JSON object per event, as it happens.
    Jsonl,
}

/// Parses the path of a file that results are written to; refuses the name of a format, which people try first.
///
/// # Errors
/// Says which option takes a format.
pub fn file(text: &str) -> Result<PathBuf, String> {
    match <Format as ValueEnum>::from_str(text, false) {
        Ok(_) => Err(format!("that is a format; pass --format {text} (or ./{text} for a file of this name)")),
        Err(_) if text.is_empty() => Err("expected the name of a file".into()),
        Err(_) => Ok(PathBuf::from(text)),
    }
}
