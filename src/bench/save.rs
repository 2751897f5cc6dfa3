//! The stages of saving, each on its own, and all of them as a build does it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::limits::{self, Buffers};
use super::results::{Length, Stage};
use super::subject::{check_cancelled, timed};
use crate::cache::Call;
use pcache_engine::session::Session;
use pcache_format::{Codec, Segment};
use pcache_store::Prefix;
use pcache_store::{Store, VerifiedPrefix};

/// Store in which saving is measured.
pub struct Place<'s> {
    pub store: &'s Store,
    /// Memory that is used again from sample to sample.
    pub state: Vec<u8>,
    pub buffers: Buffers,
}

/// Takes `runs` samples of the stages of saving `prefix`, which the session has just evaluated, and one before them that
/// does not count. In the end the prefix's state is in the store.
pub fn measure(
    call: Call<'_>,
    place: &mut Place<'_>,
    session: &mut Session,
    prefix: &Prefix,
    codec: Codec,
    length: &mut Length,
    runs: usize,
) -> Result<()> {
    for run in 0..=runs {
        check_cancelled(call)?;
        let mut sample = Length::new(prefix.tokens.len());
        stages(place, session, (prefix, codec), &mut sample)?;
        let (saved, seconds) = timed(|| save_all(place.store, session, prefix, codec));
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

/// Saves all pieces of a prefix whose tokens are in the session.
pub fn save_all(store: &Store, session: &mut Session, prefix: &Prefix, codec: Codec) -> Result<()> {
    let guard = store.lock_shared(|| ())?;
    let writer = store.writer(&guard, prefix, codec, &VerifiedPrefix::none());
    let all = writer.run(|pipeline| {
        prefix.pieces().iter().try_for_each(|piece| -> Result<()> {
            let mut buffer = pipeline.buffer()?;
            session.snapshot(&piece.positions(), &mut buffer)?;
            Ok(pipeline.save(piece, buffer)?)
        })
    });
    all.map(drop)
}

/// One sample of each stage, summed over the pieces.
fn stages(
    place: &mut Place<'_>,
    session: &mut Session,
    (prefix, codec): (&Prefix, Codec),
    sample: &mut Length,
) -> Result<()> {
    let mut sums = [0.0; 5];
    for piece in prefix.pieces() {
        let path = place.store.staging_path("sample");
        let times = one(place.store, &mut place.state, &path, session, (prefix, codec, &piece), sample);
        let _ = std::fs::remove_file(&path);
        sums.iter_mut().zip(times?).for_each(|(sum, time)| *sum += time);
    }
    let stages = [Stage::Snapshot, Stage::Encode, Stage::Hash, Stage::Write, Stage::Sync];
    stages.into_iter().zip(sums).for_each(|(stage, seconds)| sample.add(stage, seconds));
    Ok(())
}

fn one(
    store: &Store,
    state: &mut Vec<u8>,
    path: &Path,
    session: &mut Session,
    (prefix, codec, piece): (&Prefix, Codec, &Segment),
    sample: &mut Length,
) -> Result<[f64; 5]> {
    let (taken, snapshot) = timed(|| session.snapshot(&piece.positions(), state));
    taken?;
    let (encoded, encode) = timed(|| store.encoded(prefix, piece, state, codec));
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

/// The files of a prefix's objects.
pub fn object_files(store: &Store, prefix: &Prefix) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for piece in prefix.pieces() {
        let rows = store.segments_of_chain(&piece.chain)?;
        files.extend(rows.iter().map(|row| store.object_path(&row.object)));
    }
    Ok(files)
}
