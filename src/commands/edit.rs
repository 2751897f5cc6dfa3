//! `pcache pin`, `unpin` and `rename`: changes to a state that leave its bytes alone.

use anyhow::{Result, bail};

use super::app::App;
use super::failure::Failure;
use super::states::{self, label};
use crate::cli::{Output, Pin, Rename};
use crate::format::Record;
use crate::key::StateKey;
use crate::store::Store;

/// Pins states, or unpins them.
pub fn pin(app: &App, args: &Pin, pinned: bool) -> Result<()> {
    let mut store = states::store_with(app, &args.keys[0])?;
    let keys = states::keys(&store, &args.keys)?;
    let _lock = app.lock_shared(&store)?;
    for key in &keys {
        change(&mut store, key, |record| record.pinned = pinned)?;
        tell(app, &store, key, if pinned { "pinned" } else { "unpinned" }, None)?;
    }
    Ok(())
}

/// Gives a state another name, or takes its name away.
pub fn rename(app: &App, args: &Rename) -> Result<()> {
    let mut store = states::store_with(app, &args.key)?;
    let key = states::key(&store, &args.key)?;
    let _lock = app.lock_shared(&store)?;
    if let Some(name) = &args.name {
        states::check_name(name)?;
        states::check_name_is_free(&store, name, &key)?;
    }
    let before = states::state(&store, &key)?.name;
    change(&mut store, &key, |record| record.name = args.name.clone())?;
    tell(app, &store, &key, "renamed", before)
}

fn change(store: &mut Store, key: &StateKey, change: impl Fn(&mut Record)) -> Result<()> {
    match store.change_state(key, change) {
        Ok(true) => Ok(()),
        Ok(false) => bail!(Failure::NotFound(format!("state {} was removed in between", key.short()))),
        Err(error) if error.is_taken_name() => {
            bail!(Failure::Usage("the name was taken by another state in between; choose another one".into()))
        }
        Err(other) => Err(other.into()),
    }
}

fn tell(app: &App, store: &Store, key: &StateKey, what: &str, before: Option<String>) -> Result<()> {
    let state = states::state(store, key)?;
    let report = serde_json::json!({ "key": key, "name": state.name, "pinned": state.pinned });
    app.named_event(what, &report)?;
    match app.output() {
        Output::Text => {
            let was = match (before.filter(|old| Some(old) != state.name.as_ref()), &state.name) {
                (Some(old), Some(_)) => format!(", which was {old}"),
                (Some(old), None) => format!(": it is no longer {old}"),
                (None, _) => String::new(),
            };
            app.say(format!("{what} {}{was}", label(key, state.name.as_deref())));
        }
        Output::Json => app.print_json(&serde_json::json!({
            "event": what, "key": key, "name": state.name, "pinned": state.pinned,
        }))?,
        Output::Jsonl => {}
    }
    Ok(())
}
