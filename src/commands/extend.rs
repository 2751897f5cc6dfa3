//! `pcache extend`: a new state from a saved one, with text added to its prompt or its end replaced.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::app::{App, read_text};
use super::build::{Builder, report};
use super::failure::Failure;
use super::source::Origin;
use super::states::{self, check_name};
use super::target::Target;
use crate::cli::{Extend, KeepArgs};
use crate::engine::model::{Engine, Model};
use crate::engine::prompt::Prompt;
use crate::engine::reframe::{Reframe, Saved};
use crate::format::Record;
use crate::key::StateKey;
use crate::store::Store;

pub fn run(app: &App, args: &Extend) -> Result<()> {
    let name = args.keep.name.as_deref();
    name.map_or(Ok(()), check_name)?;
    let update = read_text(&args.update).with_context(|| hint(args))?;
    if update.trim().is_empty() {
        bail!("{} is empty: there is nothing to add", args.update.display());
    }
    let mut store = states::store_with(app, &args.key)?;
    let old = states::state(&store, &states::key(&store, &args.key)?)?;
    let target = Target::of_state(app, &mut store, &old, &args.params)?;

    let start = Instant::now();
    let engine = Engine::start(app.shows_log())?;
    let model = target.load(app, &engine)?;
    let load = start.elapsed();
    let prompt = extended(&model, &old, &update, args)?;
    let job = target.job(model.layout(), prompt.tokens.clone())?;
    let new = job.chain.state_key(&prompt.carried, &prompt.suffix);
    if let Some(name) = name.filter(|_| old.name.as_deref() != name) {
        states::check_name_is_free(&store, name, &new)?;
    }
    // The name goes over when the new state is there.
    let keep = KeepArgs { name: None, ..args.keep.clone() };
    let mut builder = Builder::new(app, &keep, &mut store, &target);
    let mut report = builder.save(&model, &prompt, &origin(&old, args), Some(load))?;
    builder.enforce_budget()?;
    if let Some(name) = name {
        give_name(app, &mut store, name, &old, &new)
            .with_context(|| format!("state {} is saved, but not named", new.short()))?;
        report.name = Some(name.to_owned());
    }
    report::print(app, &report, false, args.keep.stats)
}

/// Whoever gives a text where a file is expected should hear how that is done.
fn hint(args: &Extend) -> String {
    format!("UPDATE is a file; to add a text itself: echo \"…\" | pcache extend {} -", args.key)
}

fn extended(model: &Model<'_>, old: &Record, update: &str, args: &Extend) -> Result<Prompt> {
    let key = old.key.short();
    let Some(own) = old.own else {
        bail!(
            "state {key} has no prompt of its own to extend: it is a conversation, or an older pcache built it"
        );
    };
    let (tokens, carried, suffix) = (&old.tokens, &old.carried, &old.suffix);
    let saved = Saved { tokens, carried, suffix, own, raw: old.is_raw() };
    let Some(reframe) = Reframe::of(model, &saved) else {
        bail!(
            "state {key} cannot be extended: its text does not give its tokens again; build the whole prompt anew"
        );
    };
    let mark = args.replace_from.as_deref();
    let text = reframe.updated(update, mark).map_err(|found| {
        let mark = mark.unwrap_or_default();
        let near =
            reframe.line_like(mark).map(|line| format!("; did you mean {line:?}? It must be the whole line"));
        Failure::Usage(match found {
            0 => {
                let near = near.unwrap_or_else(|| format!("; pcache show {key} --prompt shows it"));
                format!("no line of the prompt is {mark:?}{near}")
            }
            n => format!("{n} lines of the prompt are {mark:?}; --replace-from needs one that is there once"),
        })
    })?;
    Ok(reframe.render(model, &text))
}

/// Where the new state comes from, for people: the names of both files.
fn origin(old: &Record, args: &Extend) -> Origin {
    let update = super::models::file_name(&args.update);
    let update = if update == "-" { "stdin" } else { update.as_str() };
    let base = old.origin.split(" + ").next().unwrap_or_default();
    let label = format!("{base} + {update}");
    Origin { label, framing: old.framing.clone(), text: None, digest: None }
}

/// Moves the old state's name, or gives the new one a name that nobody has.
fn give_name(app: &App, store: &mut Store, name: &str, old: &Record, new: &StateKey) -> Result<()> {
    let _lock = app.lock_shared(store)?;
    if old.key == *new {
        store.change_state(new, |record| record.name = Some(name.to_owned()))?;
    } else if store.index().named(name)? == Some(old.key) {
        store.move_name(&old.key, new)?;
        app.say(format!("{name} is now {}; it was {}", new.short(), old.key.short()));
    } else {
        states::check_name_is_free(store, name, new)?;
        store.change_state(new, |record| record.name = Some(name.to_owned()))?;
    }
    Ok(())
}
