//! Prompt files, and how the command line says that they are put before the model.

use std::path::Path;

use anyhow::Result;

use super::app::read_text;
use super::models;
use crate::cache::source::{self, DescribedFormat, Source};
use crate::cli::args::PromptFormatArgs;
use pcache_engine::prompt::ChatFormat;
use pcache_format::{ChainKey, TextDigest};

/// Reads the files that the arguments name.
pub fn framed(args: &PromptFormatArgs) -> Result<DescribedFormat> {
    if args.raw {
        return Ok(DescribedFormat::raw(args.question_format.clone()));
    }
    let template = args.template.as_deref().map(read_text).transpose()?;
    let system = args.system.as_deref().map(text_or_file).transpose()?;
    let name = args.template.as_deref().map(models::file_name);
    let chat = ChatFormat {
        template,
        arguments: args.template_args.clone(),
        date: args.date,
        ..ChatFormat::new(system, args.user)
    };
    Ok(DescribedFormat::chat(chat, name.as_deref()))
}

/// The text itself, or with `@` before it that of a file.
fn text_or_file(text: &str) -> Result<String> {
    match text.strip_prefix('@') {
        Some(file) => Ok(source::of_file(&read_text(Path::new(file))?).to_owned()),
        None => Ok(text.to_owned()),
    }
}

/// Returns the hash of a prompt file's text.
///
/// # Errors
/// When it cannot be read.
pub fn text_digest(path: &Path) -> Result<TextDigest> {
    let text = read_text(path)?;
    Ok(source::text_digest(&text))
}

/// Reads a prompt that is to be evaluated under `root`.
pub fn read<'a>(path: &'a Path, root: &ChainKey, framed: &'a DescribedFormat) -> Result<Source<'a>> {
    Source::of_text(path, read_text(path)?, root, framed)
}
