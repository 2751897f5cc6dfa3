//! Sources of questions.

use std::path::Path;

use anyhow::{Result, bail};

use super::Ask;
use crate::cli::app::read_text;
use crate::cli::failure::Failure;

/// Returns true if a question is read from stdin.
pub fn are_on_stdin(args: &Ask) -> bool {
    let is_stdin = |file: &std::path::PathBuf| file.as_os_str() == "-";
    match &args.questions_file {
        Some(file) => is_stdin(file),
        None => args.questions().is_empty() || args.questions().iter().any(|text| text == "-"),
    }
}

/// The question that stdin is. It can be read once: a second one is empty.
fn of_stdin() -> Result<String> {
    Ok(read_text(Path::new("-"))?.trim_end_matches(['\n', '\r']).to_owned())
}

/// The questions from the arguments, a file with one a line, or stdin as one.
pub fn read(args: &Ask) -> Result<Vec<String>> {
    let questions: Vec<String> = match &args.questions_file {
        Some(file) => read_text(file)?.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned).collect(),
        None if args.questions().is_empty() => vec![of_stdin()?],
        None => args
            .questions()
            .into_iter()
            .map(|text| if text == "-" { of_stdin() } else { Ok(text) })
            .collect::<Result<_>>()?,
    };
    if let Some(file) = args.questions_file.as_ref().filter(|_| questions.is_empty()) {
        bail!(Failure::Usage(format!("{} has no questions", file.display())));
    }
    if questions.is_empty() || questions.iter().any(|q| q.trim().is_empty()) {
        let place = if are_on_stdin(args) { " on stdin" } else { "" };
        bail!(Failure::Usage(format!("a question{place} is empty")));
    }
    Ok(questions)
}
