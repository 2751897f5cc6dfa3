//! `pcache bench report`.

use anyhow::{Result, bail};

use super::compare::{names, read_all};
use crate::bench::{html, markdown, pictures};
use crate::cli::app::App;
use crate::cli::args::Report;
use crate::cli::failure::Failure;

pub fn run(app: &App, args: &Report) -> Result<()> {
    let all = read_all(&args.files)?;
    let names = names(&args.files);
    let ending = args.out.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let text = match ending.as_str() {
        "html" | "htm" => html::page(&all, &names),
        "md" => markdown::page(&all, &names),
        "svg" => pictures::first_tokens(&all, &names).standalone(),
        _ => bail!(Failure::Usage(format!(
            "{} says no kind of report; -o FILE ends with .html, .svg or .md",
            args.out.display()
        ))),
    };
    fs_err::write(&args.out, text)?;
    app.say(format!("wrote {}", args.out.display()));
    Ok(())
}
