//! The stages of saving, each on its own, and all of them as a build does it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::limits::{self, Buffers};
use super::{go_on, timed};
use crate::commands::app::App;
use crate::commands::job::Job;
use crate::commands::saving;
use crate::engine::session::Session;
use crate::key::Segment;
use crate::report::bench::results::{Length, Stage};
use crate::store::Store;

/// Where saving is measured.
pub struct Place<'s> {
    pub store: &'s mut Store,
    /// Memory that is used again from sample to sample.
    pub state: Vec<u8>,
    pub buffers: Buffers,
}

/// Takes `runs` samples of the stages of saving `job`, which the session has just evaluated, and one before them that
/// does not count. In the end the job's state is in the store.
pub fn measure(
    app: &App,
    place: &mut Place<'_>,
    session: &mut Session<'_>,
    job: &Job,
    length: &mut Length,
    runs: usize,
) -> Result<()> {
    for run in 0..=runs {
        go_on(app)?;
        let mut sample = Length::new(job.tokens.len());
        stages(place, session, job, &mut sample)?;
        let (saved, seconds) = timed(|| save_all(place.store, session, job));
        saved?;
        sample.add(Stage::Save, seconds);
        limits::measure(&mut sample, &place.store.staging_path("limit"), &mut place.buffers)?;
        (length.objects, length.state_bytes) = (sample.objects, sample.state_bytes);
        length.stored_bytes = sample.stored_bytes;
        for timed in sample.stages.iter().filter(|_| run > 0) {
            timed.samples_s.iter().for_each(|s| length.add(timed.stage, *s));
        }
    }
    Ok(())
}

/// Saves all pieces of a job whose tokens are in the session.
pub fn save_all(store: &mut Store, session: &mut Session<'_>, job: &Job) -> Result<()> {
    let all = saving::while_saving(store, job, |saver| {
        job.pieces().iter().try_for_each(|piece| saver.save(session, piece))
    });
    all.map(drop)
}

/// One sample of each stage, summed over the pieces.
fn stages(place: &mut Place<'_>, session: &mut Session<'_>, job: &Job, sample: &mut Length) -> Result<()> {
    let mut sums = [0.0; 5];
    for piece in job.pieces() {
        let path = place.store.staging_path("sample");
        let times = one(&mut place.state, &path, session, job, &piece, sample);
        let _ = std::fs::remove_file(&path);
        sums.iter_mut().zip(times?).for_each(|(sum, time)| *sum += time);
    }
    let stages = [Stage::Snapshot, Stage::Encode, Stage::Hash, Stage::Write, Stage::Sync];
    stages.into_iter().zip(sums).for_each(|(stage, seconds)| sample.add(stage, seconds));
    Ok(())
}

fn one(
    state: &mut Vec<u8>,
    path: &Path,
    session: &mut Session<'_>,
    job: &Job,
    piece: &Segment,
    sample: &mut Length,
) -> Result<[f64; 5]> {
    let (taken, snapshot) = timed(|| session.snapshot(piece, state));
    taken?;
    let (encoded, encode) = timed(|| saving::encoded(job, piece, state));
    let (_, hash) = timed(|| std::hint::black_box(encoded.id()));
    let (written, write) = timed(|| written(path, &encoded.parts()));
    let file = written?;
    let (synced, sync) = timed(|| file.sync_all());
    synced?;
    sample.objects += 1;
    sample.state_bytes += state.len() as u64;
    sample.stored_bytes += encoded.len();
    Ok([snapshot, encode, hash, write, sync])
}

fn written(path: &Path, parts: &[&[u8]]) -> std::io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    Ok(file)
}

/// The files of a job's objects.
pub fn object_files(store: &Store, job: &Job) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for piece in job.pieces() {
        let row = store.index().segment(&piece.chain)?;
        files.extend(row.map(|row| store.object_path(&row.object)));
    }
    Ok(files)
}
