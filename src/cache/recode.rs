//! Storing states in another codec.
//!
//! Segment by segment: the new object is published and its row switched, which is one step; the old object goes when
//! no other process can be about to read it. Whatever stops this, each segment is in one codec or the other, and what is left over
//! is removed by the next collection.

use anyhow::{Result, bail};
use serde::Serialize;

use super::{Call, Failure};
use crate::cache;
use crate::text::human;
use pcache_format::{Codec, StateKey};
use pcache_store::{Prefix, ReadBuffers, Replaced, Store};

/// Result for a state.
#[derive(Debug, Serialize)]
pub struct Recoded {
    /// Its key.
    pub key: StateKey,
    /// Its oldest name.
    pub name: Option<String>,
    /// The codec.
    pub codec: &'static str,
    /// Its segments.
    pub segments: usize,
    /// Those that are stored in another way now.
    pub recoded: usize,
    /// Their size before.
    pub bytes_before: u64,
    /// Their size now.
    pub bytes_after: u64,
}

/// Stores a state in another codec. Segments that others share are stored anew with it.
///
/// # Errors
/// [`Failure::NotFound`] where it is gone, [`Failure::Corrupt`] where it is damaged; when it is cancelled, or the disk fails.
pub fn recode(call: Call<'_>, store: &Store, key: &StateKey, codec: Codec) -> Result<Recoded> {
    // Under the lock: it may be removed while this waits.
    let guard = call.lock_shared(store)?;
    let state = cache::state(store, key)?;
    let label = human::label(key, state.label.name());
    let damaged = |why: String| Failure::Corrupt(format!("state {label} is not intact: {why}"));
    let prefix = Prefix::of_manifest(&state.manifest);
    let found = store.find(&guard, &prefix, call.same_compute)?.verify(&prefix).proved();
    if !state.is_whole() || found.tokens() < prefix.tokens.len() {
        let why = found.reason(&prefix).unwrap_or_else(|| "its manifest is damaged".into());
        bail!(damaged(why));
    }
    let bytes =
        |store: &Store| -> Result<u64> { Ok(store.segments_of(key)?.iter().map(|row| row.file_bytes).sum()) };
    let bytes_before = bytes(store)?;
    let (mut buffers, mut replaced, mut all) = (ReadBuffers::default(), Vec::<Replaced>::new(), true);
    let other = found.parts.iter().filter(|(_, object)| object.stored().codec() != codec.name());
    for (piece, object) in other {
        if call.is_cancelled() {
            all = false;
            break;
        }
        let recoded = store.recode(&guard, &prefix, (piece, object), codec, &mut buffers)?;
        replaced.extend(recoded.map_err(|miss| damaged(miss.to_string()))?);
    }
    let segments = found.parts.len();
    drop((found, guard));
    if !replaced.is_empty() {
        let guard = call.lock_exclusive(store)?;
        store.remove_replaced(&guard, &replaced)?;
    }
    if !all {
        bail!(Failure::Interrupted(format!(
            "interrupted; {} of {label} are recoded; the same command continues",
            human::count(replaced.len(), "segment")
        )));
    }
    Ok(Recoded {
        key: *key,
        name: state.label.name().map(str::to_owned),
        codec: codec.name(),
        segments,
        recoded: replaced.len(),
        bytes_before,
        bytes_after: bytes(store)?,
    })
}
