//! The stages of restoring: read, verify, decode, restore; and the question behind it.

use std::fs::File;

use anyhow::{Result, bail};

use super::save::object_files;
use super::{Subject, go_on, timed};
use crate::commands::job::Job;
use crate::engine::session::Session;
use crate::format::Codec;
use crate::report::bench::results::{Length, Stage};
use crate::store::Store;
use crate::sys::cache;

/// Takes the samples of a length whose state is in the store, and one before them that does not count. Says whether the
/// page cache could be dropped.
pub fn measure(
    subject: &Subject<'_, '_>,
    store: &Store,
    job: &Job,
    length: &mut Length,
    runs: usize,
) -> Result<bool> {
    let mut cold = true;
    for run in 0..=runs {
        go_on(subject.app)?;
        let mut sample = Length::new(job.tokens.len());
        cold &= one(subject, store, job, &mut sample)?;
        for timed in sample.stages.iter().filter(|_| run > 0) {
            timed.samples_s.iter().for_each(|s| length.add(timed.stage, *s));
        }
    }
    Ok(cold)
}

fn one(subject: &Subject<'_, '_>, store: &Store, job: &Job, sample: &mut Length) -> Result<bool> {
    let cold = drop_objects(store, job)?;
    if cold {
        sample.add(Stage::ReadCold, read(store, job)?);
    }
    sample.add(Stage::ReadWarm, read(store, job)?);

    let (recall, seconds) = timed(|| job.find(store).map(|found| found.verify(job)));
    let recall = recall?;
    sample.add(Stage::Verify, seconds);
    let cells = subject.cells(job.tokens.len());
    let threads = subject.app.threads();
    let (session, seconds) = timed(|| Session::new(subject.model, &job.params, cells, threads));
    let mut session = session?;
    sample.add(Stage::Context, seconds);
    match recall.restore(&mut session) {
        Ok(took) if recall.tokens() == job.tokens.len() => {
            let (decoding, loading) = (took.decoding.as_secs_f64(), took.loading.as_secs_f64());
            if job.codec == Codec::Raw {
                sample.add(Stage::Restore, decoding + loading);
            } else {
                sample.add(Stage::Decode, decoding);
                sample.add(Stage::Restore, loading);
            }
        }
        Ok(_) => bail!("a state that was just saved is a miss: {}", recall.reason(job).unwrap_or_default()),
        Err(why) => bail!("a state that was just saved cannot be restored: {why}"),
    }
    let (evaluated, seconds) = timed(|| {
        session.evaluate(subject.question, true)?;
        session.wait();
        Ok::<(), crate::engine::EngineError>(())
    });
    evaluated?;
    sample.add(Stage::Question, seconds);
    Ok(cold)
}

/// Drives the job's objects out of the page cache; says whether none of them is left in it.
pub fn drop_objects(store: &Store, job: &Job) -> Result<bool> {
    let mut dropped = true;
    for path in object_files(store, job)? {
        dropped &= cache::drop_pages(&File::open(path)?)?;
    }
    Ok(dropped)
}

/// Brings all of the job's objects into memory as an ask does, and says how many seconds that took.
fn read(store: &Store, job: &Job) -> Result<f64> {
    let (found, seconds) = timed(|| job.find(store).map(|found| found.touch()));
    found?;
    Ok(seconds)
}
