//! Keeping the store under a size: room is made before anything is evaluated, by gc's own plan.

use std::collections::HashSet;

use anyhow::{Result, bail};

use super::{Call, Failure};
use crate::text::human;
use pcache_engine::model::Model;
use pcache_engine::session::Session;
use pcache_format::{Codec, Layout};
use pcache_format::{Segment, StateKey};
use pcache_store::Prefix;
use pcache_store::Store;
use pcache_store::evict::{Limits, Needed};

/// Bytes of an object beside its state and its tokens, at most: the header with its metadata.
const HEADER_BYTES: u64 = 2 << 10;
/// Bytes that a state adds to the index and as its manifest and label beside its tokens, at most.
const BOOKKEEPING_BYTES: u64 = 64 << 10;
/// Bytes of a token's number in the objects and the manifest together.
const TOKEN_BYTES: u64 = 2 * 4;

/// Evicts what has to go so that the prefix's state fits into `limit` bytes, all of the folder counted. Refuses a state
/// that could never fit, before it is evaluated. The segments that the prefix would use stay.
pub fn make_room(call: Call<'_>, store: &Store, model: &Model, prefix: &Prefix, limit: u64) -> Result<()> {
    let missing = store.missing(prefix, call.same_compute)?;
    if missing.is_empty() {
        return Ok(());
    }
    let needs = bytes_of(model, prefix, &missing)?;
    let chains = prefix.chain.segments().iter().map(|s| s.chain).collect();
    let needed = Needed { chains, ..Needed::default() };
    let rest = Limits { max_bytes: Some(limit), reserved_bytes: needs, ..Limits::default() };

    let guard = store.lock_exclusive(|| call.say("waiting for a build or gc to finish, to make room …"))?;
    let plan = store.collect_but(&guard, &needed, &rest, true)?;
    if plan.after + needs > limit {
        bail!(
            "the state needs {} and {} stay (pinned states, shared segments, the index): more than the budget of {}; \
             nothing was evaluated",
            human::bytes(needs),
            human::bytes(plan.after),
            human::bytes(limit)
        );
    }
    if plan.before + needs > limit {
        call.observer.collected(&store.collect_but(&guard, &needed, &rest, false)?)?;
    }
    Ok(())
}

/// More than any model's state takes a token: where so much is free, nothing needs to be computed.
const MAX_BYTES_PER_TOKEN: u64 = 4 << 20;

/// Refuses a state for which the disk has no room, before it is evaluated.
pub fn check_disk(call: Call<'_>, store: &Store, model: &Model, prefix: &Prefix, codec: Codec) -> Result<()> {
    let Some(free) =
        store.free_bytes().filter(|free| *free < MAX_BYTES_PER_TOKEN * prefix.tokens.len() as u64)
    else {
        return Ok(());
    };
    let missing = store.missing(prefix, call.same_compute)?;
    // What is compressed takes less, by an unknown amount.
    if missing.is_empty() || codec != Codec::Raw {
        return Ok(());
    }
    let needs = bytes_of(model, prefix, &missing)?;
    if needs > free {
        bail!(Failure::NoRoom(format!(
            "the state needs {} and the disk of {} has {} left; nothing was evaluated",
            human::bytes(needs),
            store.root().display(),
            human::bytes(free)
        )));
    }
    Ok(())
}

/// Collects what is beyond the budget in the end: another build may have used the room. The states that were just
/// built or found stay.
pub fn enforce(call: Call<'_>, store: &Store, limit: Option<u64>, built: HashSet<StateKey>) -> Result<()> {
    let Some(limit) = limit else { return Ok(()) };
    // Another process is at work; its own budget comes after it.
    let Some(guard) = store.try_lock_exclusive()? else { return Ok(()) };
    if store.folder_usage()?.total_bytes() > limit {
        let limits = Limits { max_bytes: Some(limit), ..Limits::default() };
        let needed = Needed { states: built, ..Needed::default() };
        let plan = store.collect_but(&guard, &needed, &limits, true)?;
        if plan.after > limit {
            // Evicting everything would not help: what was just built or found is too large by itself.
            call.observer.over_budget(&plan, &limits);
            return Ok(());
        }
        call.observer.collected(&store.collect_but(&guard, &needed, &limits, false)?)?;
    }
    Ok(())
}

/// Bytes that the files of `pieces` and the state's bookkeeping will take. A state's size grows evenly with its tokens,
/// so two of them tell it for any number, exactly.
fn bytes_of(model: &Model, prefix: &Prefix, pieces: &[Segment]) -> Result<u64> {
    let probe = [prefix.tokens[0], prefix.tokens[0]];
    let mut session = Session::new(model, &prefix.params, probe.len(), 1)?;
    let mut sizes = Vec::new();
    let mut buffer = Vec::new();
    for n in 1..=probe.len() {
        session.evaluate(&probe[n - 1..n], false)?;
        let mut piece = pieces[0];
        (piece.first, piece.count) = (0, n);
        session.snapshot(&piece.positions(), &mut buffer)?;
        sizes.push(buffer.len() as u64);
    }
    let each = sizes[1].saturating_sub(sizes[0]);
    let fixed = sizes[0].saturating_sub(each);
    let state = |count: usize| fixed + each * count as u64 + HEADER_BYTES;
    let objects: u64 = match prefix.layout {
        Layout::Segment => pieces.iter().map(|p| state(p.count)).sum(),
        Layout::Snapshot => state(prefix.tokens.len()),
    };
    Ok(objects + BOOKKEEPING_BYTES + TOKEN_BYTES * prefix.tokens.len() as u64)
}
