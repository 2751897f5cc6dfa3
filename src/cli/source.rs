//! Prompt files, and how the command line says that they are put before the model.

use std::path::Path;

use anyhow::Result;

use super::app::read_text;
use super::models;
use crate::cache::source::{Framed, Source};
use crate::cli::args::FramingArgs;
use pcache_engine::prompt::ChatFraming;
use pcache_format::ChainKey;

/// Reads the files that the arguments name.
pub fn framed(args: &FramingArgs) -> Result<Framed> {
    if args.raw {
        return Ok(Framed::raw(args.question_format.clone()));
    }
    let template = args.template.as_deref().map(read_text).transpose()?;
    let system = args.system.as_deref().map(text_or_file).transpose()?;
    let name = args.template.as_deref().map(models::file_name);
    let chat = ChatFraming {
        template,
        arguments: args.template_args.clone(),
        date: args.date,
        ..ChatFraming::of(system, args.user)
    };
    Ok(Framed::chat(chat, name.as_deref()))
}

/// The text itself, or with `@` before it that of a file.
fn text_or_file(text: &str) -> Result<String> {
    text.strip_prefix('@').map_or_else(|| Ok(text.to_owned()), |file| read_text(Path::new(file)))
}

/// Reads a prompt that is to be evaluated under `root`.
pub fn read<'a>(path: &'a Path, root: &ChainKey, framed: &'a Framed) -> Result<Source<'a>> {
    Source::of_text(path, read_text(path)?, root, framed)
}
