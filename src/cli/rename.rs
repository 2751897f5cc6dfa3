//! `pcache rename`: names of states.

use anyhow::{Result, bail};
use clap::Args;

use super::app::App;
use super::failure::Failure;
use super::states::{self, label, tell_move};
use crate::cli::Run;
use crate::cli::args::Output;
use pcache_format::{Label, StateKey};
use pcache_store::Saved;

/// Arguments of `rename`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache rename 4f2a91 menu               adds a name
  pcache rename menu lunch                replaces a name
  pcache rename menu --clear              removes a name

A state can have several names. If another state has the name, it moves to this
one, and a message says so.")]
pub struct Rename {
    /// Key (at least 6 digits) or name of a state
    #[arg(value_name = "KEY", index = 1)]
    pub key: String,
    /// New name
    #[arg(value_name = "NAME", index = 2, required_unless_present = "clear", conflicts_with = "clear")]
    pub name: Option<String>,
    /// Remove the name
    #[arg(long)]
    pub clear: bool,
}

impl Run for Rename {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }
}

/// Gives a state another name, one more where it is named by its key, or takes a name away.
fn run(app: &App, args: &Rename) -> Result<()> {
    let store = states::store_with(app, &args.key)?;
    let key = states::key(&store, &args.key)?;
    let guard = app.lock_shared(&store)?;
    let before = states::state(&store, &key)?.label;
    let instead = before.named(&args.key).map(|name| name.name.as_str());
    let Some(name) = &args.name else {
        let name = name_to_clear(&before, &args.key)?;
        let mut taken = None;
        let saved = store.relabel(&guard, &key, |label| taken = name.and_then(|name| label.take(&name)))?;
        let was = match taken {
            None => ": it has no name".to_owned(),
            Some(name) if name.pinned => {
                format!(": it is no longer {}, and no longer pinned by that name", name.name)
            }
            Some(name) => format!(": it is no longer {}", name.name),
        };
        return tell(app, &found(saved, &key)?, "", "renamed", &was);
    };
    states::check_name(name)?;
    let saved = found(store.rename(&guard, &key, instead, name)?, &key)?;
    tell_move(app, &saved, Some(name));
    let others: Vec<&str> = saved.label.names.iter().map(|n| n.name.as_str()).filter(|n| n != name).collect();
    let was = match (instead.filter(|old| *old != name.as_str()), others.is_empty()) {
        (Some(old), _) => format!(", which was {old}"),
        (None, false) => format!(", which is also {}", others.join(", ")),
        (None, true) => String::new(),
    };
    tell(app, &saved, name, "renamed", &was)
}

/// The name that is to be taken away: the one that was said, or the only one.
fn name_to_clear(label: &Label, text: &str) -> Result<Option<String>> {
    let names: Vec<&str> = label.names.iter().map(|n| n.name.as_str()).collect();
    match names.as_slice() {
        _ if names.contains(&text) => Ok(Some(text.to_owned())),
        [] => Ok(None),
        [only] => Ok(Some((*only).to_owned())),
        _ => bail!(Failure::Usage(format!(
            "state {} has the names {}; say which one to take away: pcache rename NAME --clear",
            label.key.short(),
            names.join(", ")
        ))),
    }
}

pub fn found(saved: Option<Saved>, key: &StateKey) -> Result<Saved> {
    match saved {
        Some(saved) => Ok(saved),
        None => bail!(Failure::NotFound(format!("state {} was removed in between", key.short()))),
    }
}

/// Says what was done, under the name that was meant; an empty one is the key.
pub fn tell(app: &App, saved: &Saved, name: &str, what: &str, was: &str) -> Result<()> {
    let Saved { label: state, .. } = saved;
    let names: Vec<&str> = state.names.iter().map(|n| n.name.as_str()).collect();
    let meant = if name.is_empty() { state.name() } else { Some(name) };
    let report = serde_json::json!({
        "key": state.key, "name": meant, "names": names, "pinned": state.is_pinned(),
    });
    app.named_event(what, &report)?;
    match app.output() {
        Output::Text => {
            let name = (!name.is_empty()).then_some(name);
            app.say(format!("{what} {}{was}", label(&state.key, name)));
        }
        Output::Json => {
            let mut event = serde_json::json!({ "event": what });
            if let (Some(event), serde_json::Value::Object(report)) = (event.as_object_mut(), report) {
                event.extend(report);
            }
            app.print_json(&event)?;
        }
        Output::Jsonl => {}
    }
    Ok(())
}
