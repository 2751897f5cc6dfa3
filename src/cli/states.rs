//! From what a user typed to a state.

use anyhow::{Result, bail};

use super::app::App;
use super::failure::Failure;
pub use crate::cache::state;
use crate::text::human;
use crate::text::similar::similar;
use pcache_format::Label;
use pcache_format::StateKey;
use pcache_format::id::{MIN_PREFIX_DIGITS, name_problem};
use pcache_format::label::{NEVER, Name};
use pcache_store::Lookup;
use pcache_store::{Saved, Store};

/// The store in which `text` names a state; without a store there is none.
pub fn store_with(app: &App, text: &str) -> Result<Store> {
    match app.existing_store()? {
        Some(store) => Ok(store),
        None => {
            let folder = app.cache_dir()?;
            let gone = if folder.exists() { "" } else { ", which does not exist" };
            let folder = folder.display();
            let why = format!(
                "no state {text:?}: there is no store in {folder}{gone}; pcache build FILE makes one"
            );
            bail!(Failure::NotFound(why))
        }
    }
}

/// The key of the state that a name or the beginning of a key means.
pub fn key(store: &Store, text: &str) -> Result<StateKey> {
    match store.lookup(text)? {
        Lookup::Found(key) => Ok(key),
        Lookup::Unknown => bail!(Failure::NotFound(unknown(store, text)?)),
        Lookup::Ambiguous(keys) => {
            let keys: Vec<_> = keys.iter().map(|k| k.short()).collect();
            bail!(Failure::Usage(format!("{text} begins several keys: {}", keys.join(", "))))
        }
    }
}

/// The keys of several states, each once; all are looked up before anything happens to one.
pub fn keys(store: &Store, texts: &[String]) -> Result<Vec<StateKey>> {
    let mut keys = Vec::new();
    for text in texts {
        let key = key(store, text)?;
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    Ok(keys)
}

fn unknown(store: &Store, text: &str) -> Result<String> {
    let folder = store.root().display();
    if store.is_index_lost()? {
        return Ok(format!(
            "no state {text:?}: the index of {folder} is empty, but there are objects; pcache verify --repair finds them"
        ));
    }
    let short = text.len() < MIN_PREFIX_DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit());
    let hint = if short {
        " (a key needs 6 digits or more)".to_owned()
    } else {
        similar(text, store.names()?.into_iter().map(|(name, _)| name))
            .map(|name| format!("; did you mean {name}?"))
            .unwrap_or_default()
    };
    Ok(format!("no state {text:?} in {folder}{hint}; pcache ls lists them"))
}

/// Refuses what cannot be a name.
pub fn check_name(name: &str) -> Result<()> {
    match name_problem(name) {
        Some(problem) => bail!(Failure::Usage(format!("the name {name:?} {problem}"))),
        None => Ok(()),
    }
}

/// Says that a name went from one state to another, if it did.
pub fn tell_move(app: &App, saved: &Saved, name: Option<&str>) {
    if let (Some(before), Some(name)) = (saved.moved_from, name) {
        let wants = saved.label.named(name).map(wants).unwrap_or_default();
        app.say(format!("{name} is now {}{wants}; it was {}", saved.label.key.short(), before.short()));
    }
}

/// Describes a name's pin and expiry, which it keeps when it moves.
fn wants(name: &Name) -> String {
    let parts = wishes(name.pinned, name.expires);
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

fn wishes(pinned: bool, expires: Option<i64>) -> Vec<String> {
    let pin = pinned.then(|| "pinned".to_owned());
    let until =
        expires.map(|at| if at < NEVER { format!("until {}", human::time(at)) } else { "kept".into() });
    pin.into_iter().chain(until).collect()
}

/// Says what the wishes of a build changed about a state that was there.
pub fn tell_changes(app: &App, before: &Label, after: &Label) {
    let said = |pinned: bool, expires: Option<i64>| {
        let pin = if pinned { "is now pinned and" } else { "now" };
        match expires {
            Some(at) if at < NEVER => format!("{pin} expires {}", human::time(at)),
            _ => format!("{pin} never expires"),
        }
    };
    for name in &after.names {
        match before.named(&name.name) {
            None => app.say(format!("named {}{}", name.name, wants(name))),
            Some(was) if (was.pinned, was.expires) != (name.pinned, name.expires) => {
                app.say(format!("{} {}", name.name, said(name.pinned, name.expires)));
            }
            Some(_) => {}
        }
    }
    if (before.pinned, before.expires) == (after.pinned, after.expires) {
        return;
    }
    app.say(format!("the state {}", said(after.pinned, after.expires)));
    let longer: Vec<&str> =
        after.names.iter().filter(|n| n.expires.is_none()).map(|n| n.name.as_str()).collect();
    if after.expires.is_some() && !longer.is_empty() {
        app.say(format!("it stays as long as its other names: {} does not expire", longer.join(", ")));
    }
}

pub use crate::text::human::label;

/// Key and all names of a state, for people.
pub fn label_of_all(key: &StateKey, names: &[String]) -> String {
    label(key, (!names.is_empty()).then(|| names.join(", ")).as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_recognised() {
        let names = || ["lucia".to_owned(), "bowl".into(), "handbook".into()].into_iter();
        assert_eq!(similar("luica", names()).as_deref(), Some("lucia"));
        assert_eq!(similar("hanbook", names()).as_deref(), Some("handbook"));
        assert_eq!(similar("menu", names()), None);
    }
}
