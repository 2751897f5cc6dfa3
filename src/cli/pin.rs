//! `pcache pin` and `unpin`.

use anyhow::Result;
use clap::Args;

use super::app::App;
use super::rename::{found, tell};
use super::states;
use crate::cli::Run;
use pcache_format::Label;

/// Arguments of `pin`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache pin menu                         stays, even when it has expired
  pcache unpin menu

Pinning by name pins the name, pinning by key the state. A state stays as long
as one pin is left.")]
pub struct Pin {
    /// Keys or names of states
    #[arg(required = true, value_name = "KEY")]
    pub keys: Vec<String>,
}

/// Arguments of `unpin`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache unpin menu

Pinning by name pins the name, pinning by key the state. A state stays as long
as one pin is left.")]
pub struct Unpin {
    /// Keys or names of states
    #[arg(required = true, value_name = "KEY")]
    pub keys: Vec<String>,
}

impl Run for Pin {
    fn run(&self, app: &App) -> Result<()> {
        pin(app, &self.keys, true)
    }
}

impl Run for Unpin {
    fn run(&self, app: &App) -> Result<()> {
        pin(app, &self.keys, false)
    }
}

/// Pins states, or unpins them: the name that was given, or where a key was, whatever its names want.
fn pin(app: &App, texts: &[String], pinned: bool) -> Result<()> {
    let store = states::store_with(app, &texts[0])?;
    let keys = texts.iter().map(|text| states::key(&store, text)).collect::<Result<Vec<_>>>()?;
    let guard = app.lock_shared(&store)?;
    for (key, text) in keys.iter().zip(texts) {
        let (mut before, mut name) = (false, "");
        let saved = store.relabel(&guard, key, |label| {
            let pin = match named(label, text) {
                Some(found) => {
                    name = text;
                    &mut found.pinned
                }
                None => &mut label.pinned,
            };
            before = std::mem::replace(pin, pinned);
        })?;
        let saved = found(saved, key)?;
        let already = match (before == pinned, pinned) {
            (true, true) => ": it was already",
            (true, false) => ": it was not pinned",
            _ => "",
        };
        tell(app, &saved, name, if pinned { "pinned" } else { "unpinned" }, already)?;
        let by: Vec<&str> = saved.label.names.iter().filter(|n| n.pinned).map(|n| n.name.as_str()).collect();
        if !pinned && saved.label.is_pinned() {
            let by = if by.is_empty() { key.short() } else { by.join(", ") };
            app.say(format!("it is still pinned as {by}; pcache unpin {by} changes that"));
        }
    }
    Ok(())
}

/// The name of a label that a text is.
fn named<'l>(label: &'l mut Label, text: &str) -> Option<&'l mut pcache_format::label::Name> {
    label.names.iter_mut().find(|name| name.name == text)
}
