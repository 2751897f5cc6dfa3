//! The stages of restoring: read, verify, decode, restore; and the question behind it.

use std::fs::File;

use anyhow::{Result, bail};

use super::results::{Length, Stage};
use super::save::object_files;
use super::subject::{Subject, check_cancelled, timed};
use crate::cache::verdict::restore;
use pcache_engine::session::Session;
use pcache_format::Codec;
use pcache_store::Prefix;
use pcache_store::sys::pages;
use pcache_store::{FoundPrefix, Store};

/// Takes the samples of a length whose state is in the store, and one before them that does not count. Says whether the
/// page cache could be dropped.
pub fn measure(
    subject: &Subject<'_>,
    store: &Store,
    prefix: &Prefix,
    codec: Codec,
    length: &mut Length,
    runs: usize,
) -> Result<bool> {
    let mut cold = true;
    for run in 0..=runs {
        check_cancelled(subject.call)?;
        let mut sample = Length::new(prefix.tokens.len());
        cold &= one(subject, store, prefix, codec, &mut sample)?;
        for timed in sample.stages.iter().filter(|_| run > 0) {
            timed.samples_s.iter().for_each(|s| length.add(timed.stage, *s));
        }
    }
    Ok(cold)
}

fn one(
    subject: &Subject<'_>,
    store: &Store,
    prefix: &Prefix,
    codec: Codec,
    sample: &mut Length,
) -> Result<bool> {
    let cold = drop_objects(store, prefix)?;
    if cold {
        sample.add(Stage::ReadCold, read(store, prefix)?);
    }
    sample.add(Stage::ReadWarm, read(store, prefix)?);

    let (recall, seconds) = timed(|| found(store, prefix).map(|found| found.verify(prefix)));
    let recall = recall?;
    sample.add(Stage::Verify, seconds);
    let cells = subject.cells(prefix.tokens.len());
    let threads = subject.call.threads;
    let (session, seconds) = timed(|| Session::new(subject.model, &prefix.params, cells, threads));
    let mut session = session?;
    sample.add(Stage::Context, seconds);
    match restore(&recall, &mut session) {
        Ok(took) if recall.tokens() == prefix.tokens.len() => {
            let (decoding, loading) = (took.decoding.as_secs_f64(), took.loading.as_secs_f64());
            if codec == Codec::Raw {
                sample.add(Stage::Restore, decoding + loading);
            } else {
                sample.add(Stage::Decode, decoding);
                sample.add(Stage::Restore, loading);
            }
        }
        Ok(_) => {
            bail!("a state that was just saved is a miss: {}", recall.reason(prefix).unwrap_or_default())
        }
        Err(why) => bail!("a state that was just saved cannot be restored: {why}"),
    }
    let (evaluated, seconds) = timed(|| {
        session.evaluate(subject.question, true)?;
        session.wait();
        Ok::<(), pcache_engine::EngineError>(())
    });
    evaluated?;
    sample.add(Stage::Question, seconds);
    Ok(cold)
}

/// Drives the prefix's objects out of the page cache; says whether none of them is left in it.
pub fn drop_objects(store: &Store, prefix: &Prefix) -> Result<bool> {
    let mut dropped = true;
    for path in object_files(store, prefix)? {
        dropped &= pages::drop_pages(&File::open(path)?)?;
    }
    Ok(dropped)
}

/// Looks up the saved segments of a prefix as an ask does it.
fn found(store: &Store, prefix: &Prefix) -> Result<FoundPrefix> {
    let guard = store.lock_shared(|| ())?;
    Ok(store.find(&guard, prefix, false)?)
}

/// Brings all of the prefix's objects into memory as an ask does, and says how many seconds that took.
fn read(store: &Store, prefix: &Prefix) -> Result<f64> {
    let (found, seconds) = timed(|| found(store, prefix).map(|found| found.touch()));
    found?;
    Ok(seconds)
}
