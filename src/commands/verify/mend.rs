//! What needs a model: evaluating again what is damaged, and comparing logits.

use anyhow::{Result, bail};

use super::super::app::App;
use super::super::failure::Failure;
use super::super::job::Job;
use super::super::states;
use super::super::{models, prefill, target};
use super::{Checked, Status, Trouble};
use crate::cli::{ParamArgs, Verify};
use crate::engine::model::{Engine, Model};
use crate::engine::prompt::question_tokens;
use crate::engine::session::Session;
use crate::format::Record;
use crate::report::human;
use crate::store::{Store, StoreError};

/// Everything that needs a model: evaluating again what is damaged, and comparing logits. States of one model share
/// its loading.
pub(super) fn work_on_models(app: &App, args: &Verify, checked: &mut [Checked]) -> Result<()> {
    let wanted = |c: &Checked| match &c.trouble {
        Some(_) => args.repair,
        None => args.logits,
    };
    if !checked.iter().any(wanted) {
        return Ok(());
    }
    let mut store = app.store()?;
    for c in checked.iter_mut().filter(|c| matches!(c.trouble, Some(Trouble::Record(_))) && args.repair) {
        let _lock = app.lock_shared(&store)?;
        store.rewrite_record(&c.key)?;
        (c.status, c.trouble) = (Status::Healed, None);
    }
    let mut groups: Vec<(Record, Vec<&mut Checked>)> = Vec::new();
    for c in checked.iter_mut().filter(|c| wanted(c) && c.trouble != Some(Trouble::Row)) {
        let state = states::state(&store, &c.key)?;
        let same = |other: &Record| {
            (other.model, other.params.gpu_layers, &other.params.lora)
                == (state.model, state.params.gpu_layers, &state.params.lora)
        };
        match groups.iter_mut().find(|(first, _)| same(first)) {
            Some((_, group)) => group.push(c),
            None => groups.push((state, vec![c])),
        }
    }
    let engine = Engine::start(app.shows_log())?;
    for (first, group) in groups {
        work_on_group(app, args, &mut store, &engine, &first, group)?;
    }
    Ok(())
}

/// States of one model. One that cannot be worked on stays as it was found, with the reason, and the others are not
/// kept waiting by it.
fn work_on_group(
    app: &App,
    args: &Verify,
    store: &mut Store,
    engine: &Engine,
    first: &Record,
    group: Vec<&mut Checked>,
) -> Result<()> {
    let loaded = target::adapter_of_state(app, store, first, &ParamArgs::default()).and_then(|lora| {
        let path = models::of_state(app, store, first)?;
        models::load(app, engine, &path, first.params.gpu_layers, lora.as_deref())
    });
    let model = match loaded {
        Ok(model) => model,
        Err(error) if group.iter().all(|checked| checked.trouble.is_none()) => return Err(error),
        Err(error) => {
            let why = harmless(error)?;
            group.into_iter().for_each(|checked| checked.cannot_be_mended(&why));
            return Ok(());
        }
    };
    for checked in group {
        match work_on(app, args, store, &model, checked) {
            Err(error) if checked.trouble.is_some() => checked.cannot_be_mended(&harmless(error)?),
            other => other?,
        }
    }
    Ok(())
}

/// The words of an error that concerns one state alone. One of the store, or an interruption, concerns all.
fn harmless(error: anyhow::Error) -> Result<String> {
    let interrupted = matches!(error.downcast_ref(), Some(Failure::Interrupted(_)));
    let concerns_all = error.downcast_ref().is_some_and(|error: &StoreError| !error.is_unwritable());
    if interrupted || concerns_all { Err(error) } else { Ok(format!("{error:#}")) }
}

fn work_on(
    app: &App,
    args: &Verify,
    store: &mut Store,
    model: &Model<'_>,
    checked: &mut Checked,
) -> Result<()> {
    let state = states::state(store, &checked.key)?;
    let job = Job::of_state(&state);
    let mut end = question_tokens(model, &state.carried, "", &state.suffix);
    if end.is_empty() {
        // Logits are not part of a state: something has to follow it.
        end.extend(state.tokens.last());
    }
    let (cells, most) = (job.tokens.len() + end.len(), model.usable_context(&job.params));
    if cells > most {
        bail!("it has {} tokens, and the model reads {}", human::thousands(cells), human::thousands(most));
    }
    let mut session = Session::new(model, &job.params, cells, app.threads())?;
    let _lock = app.lock_shared(store)?;
    if checked.trouble.is_some() {
        let recall = job.find(store)?.verify(&job).proved();
        // What cannot be restored is evaluated; a refusal leaves the session empty.
        let _ = recall.restore(&mut session);
        prefill::fill(app, store, &mut session, &job, &state.key.short())?;
        (checked.status, checked.trouble) = (Status::Healed, None);
        if let Some(miss) = store.check_record(&state.key)? {
            app.warn(format!("state {}: its record: {miss}; written again", state.key.short()));
            store.rewrite_record(&state.key)?;
        }
    }
    if args.logits {
        checked.max_logit_difference = Some(largest_difference(app, store, &mut session, &job, &end)?);
    }
    Ok(())
}

/// Restores the state and evaluates what follows it; does the same after a cold evaluation; and compares.
fn largest_difference(
    app: &App,
    store: &Store,
    session: &mut Session<'_>,
    job: &Job,
    end: &[i32],
) -> Result<f32> {
    session.reset();
    let recall = job.find(store)?.verify(job).proved();
    recall.restore(session).map_err(|why| anyhow::anyhow!("the state cannot be restored: {why}"))?;
    if recall.tokens() < job.tokens.len() {
        let why = recall.reason(job).unwrap_or_default();
        bail!("the state cannot be restored: {why}");
    }
    session.evaluate(end, true)?;
    let restored = session.logits().unwrap_or_default().to_vec();
    session.reset();
    prefill::evaluate_only(app, session, job, "without the cache")?;
    session.evaluate(end, true)?;
    let cold = session.logits().unwrap_or_default();
    // Not a number on one side only would vanish in a maximum.
    let difference = |(a, b): (&f32, &f32)| if a.to_bits() == b.to_bits() { 0.0 } else { (a - b).abs() };
    let worst = restored.iter().zip(cold).map(difference);
    Ok(worst.fold(0.0, |worst, d| if d.is_nan() { f32::INFINITY } else { worst.max(d) }))
}
