//! Saving: the only way into a store.
//!
//! A [`Writer`] saves the segments of one prefix, in order, each published before its row is committed, and then the state:
//! manifest, label, row. Segments are saved beside the work that makes them: others encode, hash, write and sync, several at
//! once where the model is faster than the disk, and rows are committed in order, as many in one transaction as are ready.
//! Buffers go back and forth: they are fresh memory once, and when none is left the work waits.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use pcache_format::manifest::ManifestSegment;
use pcache_format::{
    ChainKey, Codec, Encoded, Layout, Lineage, Manifest, Meta, ObjectId, RenderedWith, Segment, StateKind,
};

use super::index::SegmentRow;
use super::labels::{Built, Saved};
use super::lock::SharedGuard;
use super::objects::{Miss, ReadBuffers, VerifiedObject};
use super::prefix::{Prefix, VerifiedPrefix};
use super::states::State;
use super::{Result, Store, StoreError};

/// Threads that encode, hash, write and sync: while one of them waits for the disk another one computes.
const PUBLISHERS: usize = 3;
/// One more than there are publishers: the work fills it meanwhile.
const BUFFERS: usize = PUBLISHERS + 1;

/// Objects that were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Their number.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Properties of a state that do not follow from its tokens, model and parameters.
#[derive(Debug, Clone)]
pub struct Description {
    /// Origin of the tokens.
    pub kind: StateKind,
    /// Text behind the tokens that is tokenised again with each question.
    pub pending_text: String,
    /// Text that the template puts behind a question.
    pub suffix: String,
    /// Place of the prompt's own text, in bytes.
    pub prompt_span: Option<Range<usize>>,
    /// The prompt was taken as it is, control tokens included.
    pub raw: bool,
    /// Template, arguments, date and roles that it was rendered with.
    pub rendered_with: RenderedWith,
}

/// Saves the segments of a prefix and the state that it is. While it lives nothing is collected.
pub struct Writer<'s> {
    store: &'s Store,
    guard: &'s SharedGuard,
    prefix: &'s Prefix,
    codec: Codec,
    /// Rows of the segments so far: those that were restored, then those that were saved.
    rows: Mutex<Vec<(Segment, SegmentRow)>>,
    /// Number of those that were restored.
    restored: usize,
    /// Something of the prefix is saved and was not as it should be.
    damaged: bool,
}

impl Store {
    /// Begins to save what of a prefix comes behind `restored`.
    pub fn writer<'s>(
        &'s self,
        guard: &'s SharedGuard,
        prefix: &'s Prefix,
        codec: Codec,
        restored: &VerifiedPrefix,
    ) -> Writer<'s> {
        let rows: Vec<_> =
            restored.parts.iter().map(|(piece, object)| (*piece, object.row().clone())).collect();
        let damaged =
            restored.miss.as_ref().is_some_and(|miss| !matches!(miss, Miss::NotSaved | Miss::Foreign));
        let restored = rows.len();
        Writer { store: self, guard, prefix, codec, rows: Mutex::new(rows), restored, damaged }
    }

    /// Stores a segment that was verified in another codec. Returns the object that it was before, if that was another
    /// one: no one needs it any more, but another process may have just looked it up, so it may only go under the
    /// exclusive lock.
    ///
    /// # Errors
    /// When the disk or the index fails; the segment stays as it was, then.
    pub fn recode(
        &self,
        _: &SharedGuard,
        prefix: &Prefix,
        (piece, object): (&Segment, &VerifiedObject),
        codec: Codec,
        buffers: &mut ReadBuffers,
    ) -> Result<std::result::Result<Option<Replaced>, Miss>> {
        let before = object.row();
        let state = match object.state(buffers) {
            Ok(state) => state,
            Err(miss) => return Ok(Err(miss)),
        };
        let lineages = (before.lineage, before.parent_lineage);
        let encoded = encode(prefix, piece, state, codec, lineages);
        let row = self.publish_segment(prefix, piece, state, &encoded, lineages)?;
        let now = self.now();
        let replaced = self.index.put_segments(std::slice::from_ref(&row), now)?.pop().flatten();
        Ok(Ok(replaced.map(|object| Replaced { segment: row.id(), object })))
    }

    /// A segment as an object, ready to be published: for measurements.
    pub fn encoded<'a>(
        &self,
        prefix: &Prefix,
        piece: &Segment,
        state: &'a [u8],
        codec: Codec,
    ) -> Encoded<'a> {
        encode(prefix, piece, state, codec, (self.own_lineage(), self.own_lineage()))
    }

    fn publish_segment(
        &self,
        prefix: &Prefix,
        piece: &Segment,
        state: &[u8],
        encoded: &Encoded<'_>,
        (lineage, parent_lineage): (Lineage, Lineage),
    ) -> Result<SegmentRow> {
        Ok(SegmentRow {
            chain: piece.chain,
            lineage,
            parent: piece.parent,
            parent_lineage,
            object: self.publisher.object(encoded)?,
            raw_blake3: Some(encoded.raw_blake3()),
            layout: prefix.layout,
            first: piece.first,
            count: piece.count,
            raw_bytes: state.len() as u64,
            file_bytes: encoded.len(),
        })
    }
}

/// An object that its segment's row no longer names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    /// Chain key and lineage.
    pub segment: (ChainKey, Lineage),
    /// The object.
    pub object: ObjectId,
}

fn encode<'a>(
    prefix: &Prefix,
    piece: &Segment,
    state: &'a [u8],
    codec: Codec,
    (lineage, parent_lineage): (Lineage, Lineage),
) -> Encoded<'a> {
    let meta = Meta {
        chain: piece.chain,
        parent: piece.parent,
        model: prefix.model,
        params: prefix.params.canonical(),
        layout: prefix.layout,
        first: piece.first,
        lineage,
        parent_lineage,
    };
    Encoded::with(codec, &meta, &prefix.tokens[piece.first..piece.end()], state)
}

/// A piece's number, itself, its lineages and its state.
type Piece = (usize, Segment, (Lineage, Lineage), Vec<u8>);

/// Takes the states of finished segments and passes them on to be saved.
pub struct Pipeline {
    pieces: Sender<Piece>,
    buffers: Receiver<Vec<u8>>,
    passed: std::cell::Cell<usize>,
    own: Lineage,
    /// Lineage of what was restored or passed on last, and the position after it.
    last: std::cell::Cell<Option<(Lineage, usize)>>,
    layout: Layout,
}

impl Pipeline {
    /// A buffer for the next state; waits for one.
    ///
    /// # Errors
    /// When an earlier segment could not be saved; [`Writer::run`] then says why.
    pub fn buffer(&self) -> Result<Vec<u8>> {
        self.buffers.recv().map_err(|_| StoreError::Ended)
    }

    /// Saves the state of `piece`, sooner or later.
    ///
    /// # Errors
    /// As [`Self::buffer`].
    pub fn save(&self, piece: &Segment, state: Vec<u8>) -> Result<()> {
        let number = self.passed.replace(self.passed.get() + 1);
        let lineages = self.lineages(piece);
        self.last.set(Some((lineages.0, piece.end())));
        self.pieces.send((number, *piece, lineages, state)).map_err(|_| StoreError::Ended)
    }

    /// Lineage of a piece that is computed here, and of the prefix before it.
    fn lineages(&self, piece: &Segment) -> (Lineage, Lineage) {
        let Some((before, end)) = self.last.get() else { return (self.own, self.own) };
        let Lineage::Known(own) = self.own else { return (self.own, before) };
        let own = pcache_format::ComputeId::from_bytes(own);
        // A snapshot stands for all segments since the one that was restored.
        let segments = piece.end().saturating_sub(end).div_ceil(pcache_format::SEGMENT_TOKENS).max(1);
        let lineage = (0..segments).fold(before, |lineage, _| lineage.continued_by(own));
        match self.layout {
            Layout::Segment => (lineage, before),
            Layout::Snapshot => (lineage, lineage),
        }
    }
}

impl Writer<'_> {
    /// Does `work`, which passes segments to a [`Pipeline`], and comes back when all of them are committed. Also when the
    /// work fails or is interrupted: what was passed on by then is saved.
    ///
    /// # Errors
    /// Why a segment could not be saved, else why the work failed.
    pub fn run<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&Pipeline) -> Result<T, E>,
    ) -> Result<(T, Written), E> {
        let (pieces, to_publish) = channel();
        let (published, to_commit) = channel();
        let (back, buffers) = channel();
        for _ in 0..BUFFERS {
            let _ = back.send(Vec::new());
        }
        let to_publish = Mutex::new(to_publish);
        let last = self.rows().last().map(|(piece, row)| (row.lineage, piece.end()));
        thread::scope(|scope| {
            for _ in 0..PUBLISHERS {
                let (published, back, to_publish) = (published.clone(), back.clone(), &to_publish);
                scope.spawn(move || self.publish_all(to_publish, &published, &back));
            }
            // What is left of these ends the threads when the others are done.
            drop((published, back));
            let committing = scope.spawn(|| self.commit_all(to_commit));
            let pipeline = Pipeline {
                pieces,
                buffers,
                passed: std::cell::Cell::new(0),
                own: self.store.own_lineage(),
                last: std::cell::Cell::new(last),
                layout: self.prefix.layout,
            };
            let done = work(&pipeline);
            drop(pipeline);
            let written = committing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok((done?, written))
        })
    }

    fn rows(&self) -> std::sync::MutexGuard<'_, Vec<(Segment, SegmentRow)>> {
        self.rows.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Publishes pieces until there are no more, or no one wants to hear of them.
    fn publish_all(
        &self,
        pieces: &Mutex<Receiver<Piece>>,
        published: &Sender<(usize, Result<(Segment, SegmentRow)>)>,
        back: &Sender<Vec<u8>>,
    ) {
        loop {
            let next = pieces.lock().unwrap_or_else(|e| e.into_inner()).recv();
            let Ok((number, piece, lineages, state)) = next else { return };
            let encoded = encode(self.prefix, &piece, &state, self.codec, lineages);
            let row = self.store.publish_segment(self.prefix, &piece, &state, &encoded, lineages);
            drop(encoded);
            // No one takes it any more after the last piece.
            let _ = back.send(state);
            if published.send((number, row.map(|row| (piece, row)))).is_err() {
                return;
            }
        }
    }

    /// Commits rows in the order of their pieces. After a failure nothing more is committed, and all ends.
    fn commit_all(&self, published: Receiver<(usize, Result<(Segment, SegmentRow)>)>) -> Result<Written> {
        let mut written = Written::default();
        let mut early = BTreeMap::new();
        while let Ok((number, row)) = published.recv() {
            early.insert(number, row?);
            while let Ok((number, row)) = published.try_recv() {
                early.insert(number, row?);
            }
            let mut ready = Vec::new();
            while let Some(row) = early.remove(&(written.objects + ready.len())) {
                ready.push(row);
            }
            let rows: Vec<SegmentRow> = ready.iter().map(|(_, row)| row.clone()).collect();
            self.store.index.put_segments(&rows, self.store.now())?;
            written.objects += rows.len();
            written.bytes += rows.iter().map(|row| row.file_bytes).sum::<u64>();
            self.rows().extend(ready);
        }
        Ok(written)
    }

    /// Links the segments that were saved to a state that exists, and writes its manifest anew where it is damaged or does
    /// not name them: the last step of healing.
    ///
    /// # Errors
    /// When the disk or the index fails.
    pub fn heal(self, state: &State) -> Result<()> {
        let manifest = &state.manifest;
        let description = Description {
            kind: manifest.kind,
            pending_text: manifest.pending_text.clone(),
            suffix: manifest.suffix.clone(),
            prompt_span: manifest.prompt_span.clone(),
            raw: manifest.raw,
            rendered_with: manifest.rendered_with.clone(),
        };
        self.store.commit_healed(self.guard, &self.manifest(&description)?)?;
        self.bury_damaged()
    }

    /// Takes the rows of damaged objects away where a segment was saved under another lineage: they are found no more, and
    /// the next gc removes their files.
    fn bury_damaged(&self) -> Result<()> {
        let saved: HashSet<_> = self.rows().iter().map(|(_, row)| row.id()).collect();
        let mut others = Vec::new();
        for piece in self.prefix.pieces() {
            others.extend(self.store.index.segments_of_chain(&piece.chain)?);
        }
        let others: Vec<&SegmentRow> = others.iter().filter(|row| !saved.contains(&row.id())).collect();
        let proved = self.store.prove(self.guard, self.prefix, &others);
        let damaged: Vec<_> =
            proved.into_iter().filter(|(_, miss)| miss.is_some()).map(|(row, _)| row.id()).collect();
        match damaged.is_empty() {
            true => Ok(()),
            false => self.store.index.tombstone(&[], &damaged),
        }
    }

    /// Commits the state: manifest, label, row. One that exists keeps its names and pins, the time of its first build, and
    /// what that cost. Returns the label, and the state that had the name before.
    ///
    /// # Errors
    /// When the disk or the index fails, or the label is of a later version. The state is as it was, then.
    pub fn finish(self, description: &Description, built: &Built) -> Result<Saved> {
        let manifest = self.manifest(description)?;
        let saved = self.store.commit_built(self.guard, &manifest, built)?;
        if self.damaged {
            self.bury_damaged()?;
        }
        Ok(saved)
    }

    /// The manifest of what was restored and saved.
    fn manifest(&self, description: &Description) -> Result<Manifest> {
        let (prefix, rows) = (self.prefix, self.rows());
        let computed_here = rows.len() > self.restored;
        let segments = prefix.pieces().into_iter().filter_map(|piece| {
            let (_, row) = rows.iter().rev().find(|(saved, _)| saved.chain == piece.chain)?;
            Some(ManifestSegment {
                chain: row.chain,
                tokens: row.count,
                lineage: row.lineage,
                raw_blake3: row.raw_blake3?,
                raw_bytes: row.raw_bytes,
                object: row.object,
                object_bytes: row.file_bytes,
            })
        });
        let segments: Vec<ManifestSegment> = segments.collect();
        let lineage = segments.last().map_or(self.store.own_lineage(), |last| last.lineage);
        let Description { kind, pending_text, suffix, prompt_span, raw, rendered_with } = description.clone();
        Ok(Manifest {
            key: prefix.chain.state_key(&pending_text, &suffix),
            model: prefix.model,
            params: prefix.params.clone(),
            lineage,
            computed_by: match computed_here {
                true => self.store.own_identity().clone(),
                false => self.store.identity_of(lineage)?,
            },
            kind,
            layout: prefix.layout,
            pending_text,
            suffix,
            prompt_span,
            raw,
            rendered_with,
            tokens: prefix.tokens.clone(),
            segments,
        })
    }
}
