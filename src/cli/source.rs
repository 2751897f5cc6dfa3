//! Prompt files, and how the command line says that they are put before the model.

use std::path::Path;

use anyhow::Result;

use super::app::read_text;
use super::models;
use crate::cache::source::{Framed, Source};
use crate::cli::args::FramingArgs;
use pcache_engine::prompt::{ChatFraming, Framing, QuestionFormat};
use pcache_format::ChainKey;

/// Reads the files that the arguments name.
pub fn framed(args: &FramingArgs) -> Result<Framed> {
    if args.raw {
        let format = args.question_format.clone();
        let description = if format.is_some() { "raw, with a question format" } else { "raw" };
        let format = format.map(|(before, after)| QuestionFormat { before, after });
        return Ok(Framed { framing: Framing::Raw(format), description: description.into() });
    }
    let template = args.template.as_deref().map(read_text).transpose()?;
    let system = args.system.as_deref().map(text_or_file).transpose()?;
    let chat = ChatFraming {
        template,
        said_by_user: args.user,
        system,
        arguments: args.template_args.clone(),
        date: args.date,
    };
    Ok(Framed { description: description(args), framing: Framing::Chat(chat) })
}

fn description(args: &FramingArgs) -> String {
    let template = args.template.as_deref().map(models::file_name);
    let mut parts = vec![template.map_or_else(|| "chat template".into(), |t| format!("template {t}"))];
    match (&args.system, args.user) {
        (Some(_), _) => parts.push("as the user's, after a system message".into()),
        (None, true) => parts.push("as the user's".into()),
        (None, false) => {}
    }
    parts.extend(args.template_args.iter().map(|(name, value)| format!("{name}={value}")));
    parts.extend(args.date.map(|d| format!("dated {d}")));
    parts.join(", ")
}

/// The text itself, or with `@` before it that of a file.
fn text_or_file(text: &str) -> Result<String> {
    text.strip_prefix('@').map_or_else(|| Ok(text.to_owned()), |file| read_text(Path::new(file)))
}

/// Reads a prompt that is to be evaluated under `root`.
pub fn read<'a>(path: &'a Path, root: &ChainKey, framed: &'a Framed) -> Result<Source<'a>> {
    Source::of_text(path, read_text(path)?, root, framed)
}
