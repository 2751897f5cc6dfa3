//! Files of measurements.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::results::{Results, SCHEMA};
use crate::text::human::{self, file_name};

/// The measurements in files.
///
/// # Errors
/// When one cannot be read, or holds none.
pub fn read_all(files: &[PathBuf]) -> Result<Vec<Results>> {
    files.iter().map(|file| read(file).with_context(|| format!("cannot use {}", file.display()))).collect()
}

fn read(file: &Path) -> Result<Results> {
    let text = crate::text::file::read(file)?;
    let value: serde_json::Value = serde_json::from_str(&text).context("it is not JSON")?;
    match value.get("schema").and_then(serde_json::Value::as_u64) {
        Some(schema) if schema == u64::from(SCHEMA) => {}
        Some(schema) => bail!("its schema is {schema}, and this pcache reads {SCHEMA}"),
        None => bail!("it is no measurement of pcache bench: it has no schema"),
    }
    let results: Results =
        serde_json::from_value(sanitized(value)).context("it is no measurement of pcache bench")?;
    match results.problem() {
        Some(problem) => bail!("it is no measurement of pcache bench: {problem}"),
        None => Ok(results),
    }
}

/// The same without what a terminal would obey and a picture could not hold: a file may come from anywhere.
fn sanitized(value: Value) -> Value {
    match value {
        Value::String(text) => human::sanitize(&text).into(),
        Value::Array(all) => all.into_iter().map(sanitized).collect(),
        Value::Object(all) => all.into_iter().map(|(name, value)| (name, sanitized(value))).collect(),
        other => other,
    }
}

/// Returns names of files for tables: without folder and ending, or with them where names are alike.
pub fn names(files: &[PathBuf]) -> Vec<String> {
    let short = short_names(files);
    let alike = |name: &String| short.iter().filter(|other| *other == name).count() > 1;
    let name = |(short, file): (&String, &PathBuf)| {
        human::sanitize(&if alike(short) { file.display().to_string() } else { short.clone() })
    };
    short.iter().zip(files).map(name).collect()
}

fn short_names(files: &[PathBuf]) -> Vec<String> {
    let stem = |file: &PathBuf| {
        file.file_stem().map_or_else(|| file_name(file), |s| s.to_string_lossy().into_owned())
    };
    files.iter().map(stem).collect()
}
