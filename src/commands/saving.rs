//! Saving pieces of a prompt beside the work that makes them.
//!
//! One thread evaluates and copies finished pieces out of llama.cpp, another one encodes, hashes, writes, syncs and
//! commits them, in order. Two buffers go back and forth between them: they are fresh memory once, and when the disk is
//! slower than the model the evaluation waits for one of them.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Result, bail};

use super::job::Job;
use crate::engine::session::Session;
use crate::format::{Encoded, Meta};
use crate::key::{ObjectId, Segment};
use crate::store::Store;
use crate::store::index::SegmentRow;

/// Pieces that are on their way at once.
const BUFFERS: usize = 2;

/// Takes finished pieces out of a session and passes them on to be saved.
pub struct Saver {
    pieces: Sender<(Segment, Vec<u8>)>,
    buffers: Receiver<Vec<u8>>,
}

/// What was saved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Total {
    /// Objects written.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Saver {
    /// Saves the state of `piece`, sooner or later.
    ///
    /// # Errors
    /// When llama.cpp does not give it, or when an earlier one could not be saved; [`while_saving`] then says why.
    pub fn save(&self, session: &mut Session<'_>, piece: &Segment) -> Result<()> {
        let Ok(mut buffer) = self.buffers.recv() else { bail!("saving has failed") };
        session.snapshot(piece, &mut buffer)?;
        if self.pieces.send((*piece, buffer)).is_err() {
            bail!("saving has failed");
        }
        Ok(())
    }
}

/// Does `work`, which passes pieces of `job` to a [`Saver`], and comes back when all of them are committed. Also when the
/// work fails or is interrupted: what was passed on by then is saved. The caller holds the shared lock.
///
/// # Errors
/// Why a piece could not be saved, else why the work failed.
pub fn while_saving<T>(
    store: &mut Store,
    job: &Job,
    work: impl FnOnce(&Saver) -> Result<T>,
) -> Result<(T, Total)> {
    let (pieces, to_save) = channel();
    let (back, buffers) = channel();
    for _ in 0..BUFFERS {
        back.send(Vec::new())?;
    }
    thread::scope(|scope| {
        let saving = scope.spawn(move || save_all(store, job, &to_save, &back));
        let done = work(&Saver { pieces, buffers });
        let saved = saving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((done?, saved))
    })
}

fn save_all(
    store: &mut Store,
    job: &Job,
    pieces: &Receiver<(Segment, Vec<u8>)>,
    back: &Sender<Vec<u8>>,
) -> Result<Total> {
    let mut total = Total::default();
    for (piece, buffer) in pieces {
        total.bytes += save(store, job, &piece, &buffer)?.bytes;
        total.objects += 1;
        // Nobody takes it any more after the last piece.
        let _ = back.send(buffer);
    }
    Ok(total)
}

/// What saving a piece did.
pub struct Saved {
    /// Bytes of its object.
    pub bytes: u64,
    /// The object that its row named before, if that was another one. Nobody needs it any more, but somebody may have
    /// just looked it up, so it may only go under the exclusive lock.
    pub replaced: Option<ObjectId>,
}

/// A piece as an object of the job's codec, ready to be published.
pub fn encoded<'a>(job: &Job, piece: &Segment, state: &'a [u8]) -> Encoded<'a> {
    let meta = Meta {
        chain: piece.chain,
        parent: piece.parent,
        model: job.model,
        params: job.params.canonical(),
        layout: job.layout,
        first: piece.first,
    };
    Encoded::with(job.codec, &meta, &job.tokens[piece.first..piece.end()], state)
}

/// Publishes a piece in the job's codec and commits its row: from then on every build can use it.
pub fn save(store: &mut Store, job: &Job, piece: &Segment, state: &[u8]) -> Result<Saved> {
    let encoded = encoded(job, piece, state);
    let object = store.publish(&encoded)?;
    let row = SegmentRow {
        chain: piece.chain,
        parent: piece.parent,
        object,
        layout: job.layout,
        first: piece.first,
        count: piece.count,
        raw_bytes: state.len() as u64,
        file_bytes: encoded.len(),
    };
    let now = store.now();
    let before = store.index_mut().put_segment(&row, now, None)?;
    Ok(Saved { bytes: encoded.len(), replaced: before.filter(|before| *before != object) })
}
