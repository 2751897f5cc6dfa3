//! The tokens of a prompt, and what of them is saved and intact.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use pcache_format::{Chain, ChainKey, Layout, Lineage, Manifest, ModelHash, Params, Segment};
use rayon::prelude::*;

use super::index::SegmentRow;
use super::lock::SharedGuard;
use super::memory::Memory;
use super::objects::{FoundObject, Miss, ReadBuffers, VerifiedObject, Wanted};
use super::{Result, Store};

/// Tokens under a model and parameters.
#[derive(Debug, Clone)]
pub struct Prefix {
    /// BLAKE3 of the model file.
    pub model: ModelHash,
    /// Parameters of the state.
    pub params: Params,
    /// Segments or one snapshot.
    pub layout: Layout,
    /// All tokens.
    pub tokens: Vec<i32>,
    /// Their chain keys.
    pub chain: Chain,
}

impl Prefix {
    /// Computes the chain keys of `tokens`.
    pub fn new(model: ModelHash, params: Params, layout: Layout, tokens: Vec<i32>) -> Self {
        let chain = Chain::new(params.root(&model), &tokens);
        Self { model, params, layout, tokens, chain }
    }

    /// Prefix that a state is.
    pub fn of_manifest(manifest: &Manifest) -> Self {
        Self::new(manifest.model, manifest.params.clone(), manifest.layout, manifest.tokens.clone())
    }

    /// Parts that are saved as objects.
    pub fn pieces(&self) -> Vec<Segment> {
        self.layout.pieces(&self.chain)
    }
}

/// Open objects of a prefix whose hashes have not been checked.
#[derive(Default)]
pub struct FoundPrefix {
    parts: Vec<(Segment, FoundObject)>,
    miss: Option<Miss>,
    /// Memory that verified objects may keep, in bytes.
    keep_bytes: u64,
}

/// Segments of a prefix that are saved and intact, in order and without a gap.
pub struct VerifiedPrefix {
    /// Each segment with its object.
    pub parts: Vec<(Segment, VerifiedObject)>,
    /// Why it ends before the prompt does.
    pub miss: Option<Miss>,
    /// Time that the verification took.
    pub took: Duration,
}

impl FoundPrefix {
    /// Why it is no hit, as far as that is known before anything is verified.
    pub fn miss(&self) -> Option<&Miss> {
        self.miss.as_ref()
    }

    /// Reads every byte, on all cores, and looks at nothing: for measurements.
    pub fn touch(&self) {
        self.parts.par_iter().for_each_init(Memory::default, |buffer, (_, object)| object.touch(buffer));
    }

    /// Compares every byte with its hash, on all cores; ends at the first object that is not as it should be.
    pub fn verify(self, prefix: &Prefix) -> VerifiedPrefix {
        let start = Instant::now();
        let params = prefix.params.canonical();
        let mut left = self.keep_bytes;
        let kept = self.parts.into_iter().map(|(piece, object)| {
            let keep = object.bytes() <= left;
            left = if keep { left - object.bytes() } else { 0 };
            (piece, object, keep)
        });
        let kept: Vec<_> = kept.collect();
        let checked: Vec<_> = kept
            .into_par_iter()
            .map_init(Memory::default, |buffer, (piece, object, keep)| {
                let tokens = &prefix.tokens[piece.first..piece.end()];
                let wanted = Wanted { tokens, model: &prefix.model, params: &params };
                object.verify(wanted, keep, buffer).map(|verified| (piece, verified))
            })
            .collect();
        let (mut parts, mut miss) = (Vec::with_capacity(checked.len()), self.miss);
        for result in checked {
            match result {
                Ok(part) => parts.push(part),
                Err(first) => {
                    miss = Some(first);
                    break;
                }
            }
        }
        VerifiedPrefix { parts, miss, took: start.elapsed() }
    }
}

impl VerifiedPrefix {
    /// Nothing is saved, or wanted.
    pub fn none() -> Self {
        Self { parts: Vec::new(), miss: None, took: Duration::ZERO }
    }

    /// Why it ends where it does, for people; nothing if it covers all of the prefix.
    pub fn reason(&self, prefix: &Prefix) -> Option<String> {
        let miss = self.miss.as_ref().filter(|_| self.tokens() < prefix.tokens.len())?;
        Some(match self.tokens() {
            0 => miss.to_string(),
            n => format!("from token {n} on: {miss}"),
        })
    }

    /// Ends where a state, decoded, is not the one that was stored: looks closer than an ask does.
    pub fn proved(mut self) -> Self {
        let wrong: Vec<Option<Miss>> = self
            .parts
            .par_iter()
            .map_init(ReadBuffers::default, |buffers, (_, object)| object.prove(buffers).err())
            .collect();
        if let Some(first) = wrong.iter().position(Option::is_some) {
            self.parts.truncate(first);
            self.miss = wrong.into_iter().nth(first).flatten();
        }
        self
    }

    /// Number of tokens that are covered.
    pub fn tokens(&self) -> usize {
        self.parts.last().map_or(0, |(piece, _)| piece.end())
    }

    /// Lineage of the last part.
    pub fn lineage(&self) -> Option<Lineage> {
        self.parts.last().map(|(_, object)| object.row.lineage)
    }
}

impl Store {
    /// Looks up and opens what is saved of a prefix, as far as it goes: of the own lineage, or of another that reaches
    /// further. With `same_compute` only the own one counts.
    ///
    /// # Errors
    /// When the index fails.
    pub fn find(&self, guard: &SharedGuard, prefix: &Prefix, same_compute: bool) -> Result<FoundPrefix> {
        let path = Paths { store: self, rows: RefCell::default(), same_compute }.best(prefix)?;
        let mut found = FoundPrefix { keep_bytes: self.keep_bytes, ..FoundPrefix::default() };
        for (piece, row) in &path {
            match self.open_row(guard, row) {
                Ok(object) => found.parts.push((*piece, object)),
                Err(miss) => {
                    found.miss = Some(miss);
                    return Ok(found);
                }
            }
        }
        let end = path.last().map_or(0, |(piece, _)| piece.end());
        if end < prefix.tokens.len() {
            let of_others = same_compute && self.missing(prefix, false)?.is_empty();
            found.miss = Some(if of_others { Miss::Foreign } else { Miss::NotSaved });
        }
        Ok(found)
    }

    /// Proves objects of a prefix, whichever lineage they are of: reads, decodes and hashes all of them, on all cores.
    /// Returns for each row what is wrong with its object, if anything is.
    pub fn prove<'r>(
        &self,
        guard: &SharedGuard,
        prefix: &Prefix,
        rows: &[&'r SegmentRow],
    ) -> Vec<(&'r SegmentRow, Option<Miss>)> {
        let params = prefix.params.canonical();
        rows.par_iter()
            .map_init(ReadBuffers::default, |buffers, row| {
                let tokens = prefix.tokens.get(row.first..row.first + row.count).unwrap_or_default();
                let wanted = Wanted { tokens, model: &prefix.model, params: &params };
                let object = self
                    .open_row(guard, row)
                    .and_then(|object| object.verify(wanted, true, &mut Memory::default()));
                (*row, object.and_then(|object| object.prove(buffers)).err())
            })
            .collect()
    }

    /// An object stays where it is while nothing is collected.
    fn open_row(&self, _: &SharedGuard, row: &SegmentRow) -> Result<FoundObject, Miss> {
        self.open_object(row)
    }

    /// Parts of a prefix that no row names.
    ///
    /// # Errors
    /// When the index fails.
    pub fn missing(&self, prefix: &Prefix, same_compute: bool) -> Result<Vec<Segment>> {
        let path = Paths { store: self, rows: RefCell::default(), same_compute }.best(prefix)?;
        let end = path.last().map_or(0, |(piece, _)| piece.end());
        Ok(prefix.pieces().into_iter().filter(|piece| piece.end() > end).collect())
    }
}

/// A prefix's segments with their rows.
type Path = Vec<(Segment, SegmentRow)>;

/// Ways through the rows of a prefix in which each segment continues the one before it.
struct Paths<'s> {
    store: &'s Store,
    rows: RefCell<HashMap<ChainKey, Vec<SegmentRow>>>,
    same_compute: bool,
}

impl Paths<'_> {
    /// The pure own path as far as it goes, or another one that reaches further.
    fn best(&self, prefix: &Prefix) -> Result<Path> {
        match prefix.layout {
            Layout::Segment => self.best_of_segments(&prefix.pieces()),
            // Of the prefixes that have a snapshot the longest; shorter ones are of no use beside it.
            Layout::Snapshot => {
                for n in (1..=prefix.chain.segments().len()).rev() {
                    let Some(piece) = prefix.chain.prefix(n) else { continue };
                    let rows = self.rows(&piece)?;
                    let own = rows.iter().find(|row| row.lineage == self.own());
                    if let Some(row) = own.or_else(|| rows.first().filter(|_| !self.same_compute)) {
                        return Ok(vec![(piece, row.clone())]);
                    }
                }
                Ok(Vec::new())
            }
        }
    }

    fn own(&self) -> Lineage {
        self.store.own_lineage()
    }

    fn rows(&self, piece: &Segment) -> Result<Vec<SegmentRow>> {
        if let Some(known) = self.rows.borrow().get(&piece.chain) {
            return Ok(known.clone());
        }
        let found = self.store.index.segments_of_chain(&piece.chain)?;
        self.rows.borrow_mut().insert(piece.chain, found.clone());
        Ok(found)
    }

    fn best_of_segments(&self, pieces: &[Segment]) -> Result<Path> {
        let own = self.follow(pieces, self.own())?;
        if own.len() == pieces.len() || self.same_compute {
            return Ok(own);
        }
        let others = self.longest(pieces)?;
        Ok(if others.len() > own.len() { others } else { own })
    }

    /// The path that one lineage computed alone.
    fn follow(&self, pieces: &[Segment], lineage: Lineage) -> Result<Path> {
        let mut path = Vec::new();
        for piece in pieces {
            let alone = |row: &&SegmentRow| row.lineage == lineage && row.parent_lineage == lineage;
            match self.rows(piece)?.iter().find(alone) {
                Some(row) => path.push((*piece, row.clone())),
                None => break,
            }
        }
        Ok(path)
    }

    /// The longest path of any lineages.
    fn longest(&self, pieces: &[Segment]) -> Result<Path> {
        // For each piece its rows that continue one of the piece before, with the number of that one.
        let mut levels: Vec<Vec<(SegmentRow, usize)>> = Vec::new();
        for piece in pieces {
            let rows = self.rows(piece)?.into_iter();
            let level: Vec<(SegmentRow, usize)> = match levels.last() {
                None => rows.map(|row| (row, 0)).collect(),
                Some(before) => {
                    let continued =
                        |row: &SegmentRow| before.iter().position(|(b, _)| b.lineage == row.parent_lineage);
                    rows.filter_map(|row| continued(&row).map(|n| (row, n))).collect()
                }
            };
            if level.is_empty() {
                break;
            }
            levels.push(level);
        }
        let (mut path, mut n) = (Vec::new(), 0);
        for (level, piece) in levels.iter().zip(pieces).rev() {
            path.push((*piece, level[n].0.clone()));
            n = level[n].1;
        }
        path.reverse();
        Ok(path)
    }
}
