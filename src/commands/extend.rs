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
use crate::format::{EXTENDED_BY, Record};
use crate::key::StateKey;
use crate::store::Store;

/// How often a name that others take at the same time is tried for.
const TRIES: usize = 100;

pub fn run(app: &App, args: &Extend) -> Result<()> {
    let name = args.keep.name.as_deref();
    name.map_or(Ok(()), check_name)?;
    let update = match read_text(&args.update) {
        Err(error) if args.update.as_os_str() != "-" && !args.update.exists() => {
            return Err(error.context(hint(args)));
        }
        read => read?,
    };
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
    let (prompt, kept) = extended(&model, &old, &update, args)?;
    let family = Family { model: &model, old: &old, kept };
    let job = target.job(model.layout(), prompt.tokens.clone())?;
    let new = job.chain.state_key(&prompt.carried, &prompt.suffix);
    name.map_or(Ok(()), |name| family.holder(&store, name, &new).map(drop))?;
    // The name goes over when the new state is there.
    let keep = KeepArgs { name: None, ..args.keep.clone() };
    let mut builder = Builder::new(app, &keep, &mut store, &target);
    let mut report = builder.save(&model, &prompt, &origin(&old, args), Some(load))?;
    builder.enforce_budget()?;
    if let Some(name) = name {
        if let Some(before) = report.name.as_deref().filter(|before| *before != name) {
            app.say(format!("the state was named {before}; now it is {name}"));
        }
        give_name(app, &mut store, name, &family, &new)
            .with_context(|| format!("state {} is saved, but not named", new.short()))?;
        report.name = Some(name.to_owned());
    }
    report::print(app, &report, false, args.keep.stats)
}

/// Whoever gives a text where a file is expected should hear how that is done.
fn hint(args: &Extend) -> String {
    format!("UPDATE is a file; to add a text itself: echo \"…\" | pcache extend {} -", args.key)
}

/// The prompt with the update, and all that the model reads before it.
fn extended(model: &Model<'_>, old: &Record, update: &str, args: &Extend) -> Result<(Prompt, String)> {
    let key = old.key.short();
    let Some(own) = old.own else {
        bail!(
            "state {key} has no prompt of its own to extend: it is a conversation (pcache chat --resume {key} goes on with it), or an older pcache built it"
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
    let kept = reframe.kept(mark).unwrap_or_default();
    Ok((reframe.render(model, &text), kept))
}

/// Where the new state comes from, for people: the names of both files.
fn origin(old: &Record, args: &Extend) -> Origin {
    let update = super::models::file_name(&args.update);
    let update = if update == "-" { "stdin" } else { update.as_str() };
    let base = old.origin.split(EXTENDED_BY).next().unwrap_or_default();
    let label = format!("{base}{EXTENDED_BY}{update}");
    Origin { label, framing: old.framing.clone(), text: None, digest: None }
}

/// The old state and its extensions.
struct Family<'f> {
    model: &'f Model<'f>,
    old: &'f Record,
    /// What all of them begin with.
    kept: String,
}

impl Family<'_> {
    /// The state that a name goes over from, if one has it: the old state, or another extension of the same prompt, such as
    /// yesterday's. Any other state keeps its name.
    fn holder(&self, store: &Store, name: &str, new: &StateKey) -> Result<Option<StateKey>> {
        let Some(owner) = store.index().named(name)?.filter(|owner| owner != new) else { return Ok(None) };
        if owner != self.old.key && !store.index().state(&owner)?.is_some_and(|state| self.has(&state)) {
            states::check_name_is_free(store, name, new)?;
        }
        Ok(Some(owner))
    }

    /// Whether a state is another extension of the same prompt.
    fn has(&self, state: &Record) -> bool {
        let reads = || self.model.text_of(&state.tokens) + &state.carried;
        state.is_extension()
            && state.model == self.old.model
            && state.params == self.old.params
            && reads().starts_with(self.kept.trim_end())
    }
}

/// Moves a name to the new state. Others may do the same at the same time: the last one has it.
fn give_name(app: &App, store: &mut Store, name: &str, family: &Family<'_>, new: &StateKey) -> Result<()> {
    let _lock = app.lock_shared(store)?;
    for _ in 0..TRIES {
        match family.holder(store, name, new)? {
            Some(owner) if store.move_name(name, &owner, new)? => {
                app.say(format!("{name} is now {}; it was {}", new.short(), owner.short()));
                return Ok(());
            }
            // Another one has it by now.
            Some(_) => {}
            None => match store.change_state(new, |record| record.name = Some(name.to_owned())) {
                Err(error) if error.is_taken_name() => {}
                done => return done.map(drop).map_err(Into::into),
            },
        }
    }
    bail!("the name {name:?} went from state to state meanwhile; try again")
}
