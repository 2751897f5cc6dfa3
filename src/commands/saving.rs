//! Saving pieces of a prompt beside the work that makes them.
//!
//! One thread evaluates and copies finished pieces out of llama.cpp. Others encode, hash, write and sync them, several at
//! once where the model is faster than the disk; and one commits their rows, in order, as many in one transaction as
//! are ready. Buffers go back and forth: they are fresh memory once, and when none is left the evaluation waits.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Result, bail};

use super::job::Job;
use crate::engine::session::Session;
use crate::format::{Encoded, Meta};
use crate::key::{ObjectId, Segment};
use crate::store::Store;
use crate::store::index::SegmentRow;
use crate::store::objects::Publisher;

/// Threads that encode, hash, write and sync: while one of them waits for the disk another one computes.
const PUBLISHERS: usize = 3;
/// One more than there are publishers: the evaluation fills it meanwhile.
const BUFFERS: usize = PUBLISHERS + 1;

/// A piece's number, itself and its state.
type Piece = (usize, Segment, Vec<u8>);
/// A piece's number and the row that it is to have.
type Published = (usize, Result<SegmentRow>);

/// Takes finished pieces out of a session and passes them on to be saved.
pub struct Saver {
    pieces: Sender<Piece>,
    buffers: Receiver<Vec<u8>>,
    passed: std::cell::Cell<usize>,
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
        let number = self.passed.replace(self.passed.get() + 1);
        if self.pieces.send((number, *piece, buffer)).is_err() {
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
    let (pieces, to_publish) = channel();
    let (published, to_commit) = channel();
    let (back, buffers) = channel();
    for _ in 0..BUFFERS {
        back.send(Vec::new())?;
    }
    let (publisher, to_publish) = (store.publisher(), Mutex::new(to_publish));
    thread::scope(|scope| {
        for _ in 0..PUBLISHERS {
            let (publisher, to_publish) = (&publisher, &to_publish);
            let (published, back) = (published.clone(), back.clone());
            scope.spawn(move || publish_all(publisher, job, to_publish, &published, &back));
        }
        // What is left of these ends the threads when the others are done.
        drop((published, back));
        let committing = scope.spawn(move || commit_all(store, to_commit));
        let saver = Saver { pieces, buffers, passed: std::cell::Cell::new(0) };
        let done = work(&saver);
        drop(saver);
        let saved = committing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((done?, saved))
    })
}

/// Publishes pieces until there are no more, or nobody wants to hear of them.
fn publish_all(
    publisher: &Publisher,
    job: &Job,
    pieces: &Mutex<Receiver<Piece>>,
    published: &Sender<Published>,
    back: &Sender<Vec<u8>>,
) {
    loop {
        let next = pieces.lock().unwrap_or_else(|e| e.into_inner()).recv();
        let Ok((number, piece, state)) = next else { return };
        let row = publish(publisher, job, &piece, &state);
        // Nobody takes it any more after the last piece.
        let _ = back.send(state);
        if published.send((number, row)).is_err() {
            return;
        }
    }
}

/// Commits rows in the order of their pieces. After a failure nothing more is committed, and all ends.
fn commit_all(store: &mut Store, published: Receiver<Published>) -> Result<Total> {
    let mut total = Total::default();
    let mut early = std::collections::BTreeMap::new();
    while let Ok((number, row)) = published.recv() {
        early.insert(number, row?);
        while let Ok((number, row)) = published.try_recv() {
            early.insert(number, row?);
        }
        let mut ready = Vec::new();
        while let Some(row) = early.remove(&(total.objects + ready.len())) {
            ready.push(row);
        }
        let now = store.now();
        store.index_mut().put_segments(&ready, now)?;
        total.objects += ready.len();
        total.bytes += ready.iter().map(|row| row.file_bytes).sum::<u64>();
    }
    Ok(total)
}

/// Publishes a piece in the job's codec; gives the row that names it.
fn publish(publisher: &Publisher, job: &Job, piece: &Segment, state: &[u8]) -> Result<SegmentRow> {
    let encoded = encoded(job, piece, state);
    Ok(SegmentRow {
        chain: piece.chain,
        parent: piece.parent,
        object: publisher.publish(&encoded)?,
        layout: job.layout,
        first: piece.first,
        count: piece.count,
        raw_bytes: state.len() as u64,
        file_bytes: encoded.len(),
    })
}

/// What saving a piece did.
pub struct Saved {
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
    let row = publish(&store.publisher(), job, piece, state)?;
    let now = store.now();
    let before = store.index_mut().put_segment(&row, now, None)?;
    Ok(Saved { replaced: before.filter(|before| *before != row.object) })
}
