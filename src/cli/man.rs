//! `pcache man`: man pages.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, CommandFactory};

use super::app::App;
use crate::cli::Run;
use crate::cli::args::Cli;
use crate::cli::args::help::{Level, arranged};

/// Arguments of `man`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache man | man -l -                   shows the page of pcache itself
  pcache man ~/.local/share/man/man1      writes a page for each command")]
pub struct Man {
    /// Folder to write the pages to [default: print the main page]
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

impl Run for Man {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }
}

/// Prints the main man page, or writes all of them into a folder.
fn run(app: &App, args: &Man) -> Result<()> {
    let command = arranged(Cli::command(), Level::Whole);
    let Some(dir) = &args.dir else { return app.write(&page(command)?) };
    fs_err::create_dir_all(dir)?;
    let commands = command.get_subcommands().map(|c| {
        let name = format!("pcache-{}", c.get_name());
        c.clone().name(name).version(env!("CARGO_PKG_VERSION"))
    });
    for command in commands.chain([command.clone()]) {
        let file = dir.join(format!("{}.1", command.get_name()));
        fs_err::write(file, page(command)?)?;
    }
    app.say(format!("wrote the man pages into {}", dir.display()));
    Ok(())
}

/// A man page; its examples keep their columns.
fn page(command: clap::Command) -> Result<String> {
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.after_help(None)).render(&mut page)?;
    let mut page = String::from_utf8_lossy(&page).into_owned();
    page.push_str(".SH EXAMPLES\n.nf\n");
    for line in examples.lines().filter(|l| *l != "Examples:") {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        // A line that began with one of these would be a request to the formatter.
        let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
        page.push_str(&format!("{guard}{line}\n"));
    }
    page.push_str(".fi\n");
    Ok(page)
}
