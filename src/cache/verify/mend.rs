//! Repairs that need a model: evaluating damaged segments again, and comparing logits.

use anyhow::{Result, bail};

use super::{Checked, Compared, Status, Trouble, Wish};
use crate::cache::verdict::{computed_by, restore};
use crate::cache::{self, Call, Failure, prefill};
use crate::text::human;
use pcache_engine::model::Model;
use pcache_engine::session::Session;
use pcache_format::Codec;
use pcache_store::Prefix;
use pcache_store::State;
use pcache_store::{SharedGuard, Store, StoreError, VerifiedPrefix};

/// Loads the model of a state, with its adapter.
pub type Loader<'l> = &'l dyn Fn(&Store, &State) -> Result<Model>;

/// Everything that needs a model: evaluating again what is damaged, and comparing logits. States of one model share
/// its loading.
///
/// # Errors
/// When it is cancelled, or the store or the disk fails.
pub fn mend(
    call: Call<'_>,
    store: &Store,
    wish: Wish,
    load: Loader<'_>,
    checked: &mut [Checked],
) -> Result<()> {
    let wanted = |c: &Checked| match &c.trouble {
        Some(_) => wish.repair,
        None => wish.logits,
    };
    if !checked.iter().any(wanted) {
        return Ok(());
    }
    let described = |c: &&mut Checked| matches!(c.trouble, Some(Trouble::Description(_))) && wish.repair;
    for c in checked.iter_mut().filter(described) {
        let guard = call.lock_shared(store)?;
        match store.rewrite_description(&guard, &c.key) {
            Ok(true) => (c.status, c.trouble) = (Status::Healed, None),
            Ok(false) => c.cannot_be_mended("its tokens are lost; building the prompt again repairs it"),
            Err(newer @ StoreError::Newer { .. }) => c.cannot_be_mended(&newer.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    let mut groups: Vec<(State, Vec<&mut Checked>)> = Vec::new();
    for c in checked.iter_mut().filter(|c| wanted(c) && !matches!(c.trouble, Some(Trouble::Description(_)))) {
        let state = cache::state(store, &c.key)?;
        let same = |other: &State| {
            let of = |state: &State| (state.manifest.model, state.manifest.params.lora.clone());
            of(other) == of(&state)
        };
        match groups.iter_mut().find(|(first, _)| same(first)) {
            Some((_, group)) => group.push(c),
            None => groups.push((state, vec![c])),
        }
    }
    for (first, group) in groups {
        work_on_group(call, store, wish, load, &first, group)?;
    }
    Ok(())
}

/// States of one model. One that cannot be worked on stays as it was found, with the reason, and the others are not
/// kept waiting by it.
fn work_on_group(
    call: Call<'_>,
    store: &Store,
    wish: Wish,
    load: Loader<'_>,
    first: &State,
    group: Vec<&mut Checked>,
) -> Result<()> {
    let model = match load(store, first) {
        Ok(model) => model,
        Err(error) if group.iter().all(|checked| checked.trouble.is_none()) => return Err(error),
        Err(error) => {
            let why = as_reason(error)?;
            group.into_iter().for_each(|checked| checked.cannot_be_mended(&why));
            return Ok(());
        }
    };
    for checked in group {
        match work_on(call, store, wish, &model, checked) {
            Err(error) if checked.trouble.is_some() => checked.cannot_be_mended(&as_reason(error)?),
            other => other?,
        }
    }
    Ok(())
}

/// The words of an error that concerns one state alone. One of the store, or an interruption, concerns all.
fn as_reason(error: anyhow::Error) -> Result<String> {
    let interrupted = matches!(error.downcast_ref(), Some(Failure::Interrupted(_)));
    let of_this = |error: &StoreError| error.is_unwritable() || matches!(error, StoreError::Newer { .. });
    let concerns_all = error.downcast_ref().is_some_and(|error| !of_this(error));
    if interrupted || concerns_all { Err(error) } else { Ok(format!("{error:#}")) }
}

fn work_on(call: Call<'_>, store: &Store, wish: Wish, model: &Model, checked: &mut Checked) -> Result<()> {
    let state = cache::state(store, &checked.key)?;
    let prefix = Prefix::of_manifest(&state.manifest);
    let mut end = cache::asker(model, &state).ask(model, "").tokens;
    if end.is_empty() {
        // Logits are not part of a state: something has to follow it.
        end.extend(state.manifest.tokens.last());
    }
    let (cells, most) = (prefix.tokens.len() + end.len(), model.usable_context(&prefix.params));
    if cells > most {
        bail!("it has {} tokens, and the model reads {}", human::thousands(cells), human::thousands(most));
    }
    let mut session = Session::new(model, &prefix.params, cells, call.threads)?;
    let guard = call.lock_shared(store)?;
    if checked.trouble.is_some() {
        let mut found = store.find(&guard, &prefix, call.same_compute)?.verify(&prefix).proved();
        // What cannot be restored is evaluated; a refusal leaves the session empty.
        if restore(&found, &mut session).is_err() {
            found = VerifiedPrefix::none();
        }
        let writer = store.writer(&guard, &prefix, Codec::default(), &found);
        prefill::prefill(call, &writer, store, &mut session, &prefix, &checked.key.short())?;
        writer.heal(&state)?;
        (checked.status, checked.trouble) = (Status::Healed, None);
    }
    if wish.logits && call.same_compute && !store.missing(&prefix, true)?.is_empty() {
        checked.reason = Some("not compared: this machine and program did not compute it".into());
    } else if wish.logits {
        let (difference, compared) = largest_difference(call, store, &guard, &mut session, (&prefix, &end))?;
        checked.max_logit_difference = Some(difference);
        checked.compared = Some(compared);
    }
    Ok(())
}

/// Restores the state and evaluates what follows it; does the same after a cold evaluation; and compares.
fn largest_difference(
    call: Call<'_>,
    store: &Store,
    guard: &SharedGuard,
    session: &mut Session,
    (prefix, end): (&Prefix, &[i32]),
) -> Result<(f32, Compared)> {
    session.reset();
    let recall = store.find(guard, prefix, call.same_compute)?.verify(prefix).proved();
    let lineage = recall.lineage().unwrap_or(store.own_lineage());
    let compared = Compared { restored: computed_by(store, lineage), own: lineage == store.own_lineage() };
    restore(&recall, session).map_err(|why| anyhow::anyhow!("the state cannot be restored: {why}"))?;
    if recall.tokens() < prefix.tokens.len() {
        let why = recall.reason(prefix).unwrap_or_default();
        bail!("the state cannot be restored: {why}");
    }
    session.evaluate(end, true)?;
    let restored = session.logits().unwrap_or_default().to_vec();
    session.reset();
    prefill::evaluate_only(call, session, prefix, "without the cache")?;
    session.evaluate(end, true)?;
    let cold = session.logits().unwrap_or_default();
    // Not a number on one side only would vanish in a maximum.
    let difference = |(a, b): (&f32, &f32)| if a.to_bits() == b.to_bits() { 0.0 } else { (a - b).abs() };
    let worst = restored.iter().zip(cold).map(difference);
    let largest = worst.fold(0.0, |worst, d| if d.is_nan() { f32::INFINITY } else { worst.max(d) });
    Ok((largest, compared))
}
