//! Changing what may change about a state.
//!
//! The index is told first which labels are about to be replaced (an *intent*), then the files are, then the rows follow
//! and the intents go. If a process dies in between, the files count: the next change of a label, or collection, reads
//! them. Labels change one after the other, under a lock of their own, so no change is lost among several processes.

use pcache_format::label::{MAX_BYTES as MAX_LABEL_BYTES, MAX_REVISION, MAX_TIME, NEVER, Name, Provenance};
use pcache_format::{FormatError, Label, Manifest, PromptDigest, StateKey, TextDigest};

use super::index::{Described, ManifestRow, StateChange, StateRow};
use super::lock::{self, LABEL_LOCK, SharedGuard, StagingLock};
use super::{Result, Store, layout};

/// Name, pin and expiry that a build gives a state.
#[derive(Debug, Clone, Default)]
pub struct Claim {
    /// Name that it is to have.
    pub name: Option<String>,
    /// Keep it, whatever gc is told.
    pub pin: bool,
    /// Time after which it is no longer wanted.
    pub expiry: Expiry,
}

/// Time after which a state is no longer wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Expiry {
    /// As before.
    #[default]
    Unsaid,
    /// Never.
    Never,
    /// At this time, in seconds since 1970.
    At(i64),
}

/// Facts about a build beside the manifest.
#[derive(Debug, Clone)]
pub struct Built {
    /// Prompt file, for people.
    pub origin: String,
    /// Way in which the prompt was put before the model, for people.
    pub prompt_format: String,
    /// Path of the model.
    pub model_path: String,
    /// Hash of the prompt's text alone.
    pub text: Option<TextDigest>,
    /// Hash of everything that the tokens follow from, where the same text always gives them.
    pub prompt: Option<PromptDigest>,
    /// Seconds spent evaluating.
    pub build_s: f64,
    /// Number of tokens evaluated in that time.
    pub evaluated: usize,
    /// Name, pin and expiry.
    pub claim: Claim,
}

/// A state whose label was written.
#[derive(Debug, Clone)]
pub struct Saved {
    /// Label as it is now.
    pub label: Label,
    /// State that had the name before, if another one had.
    pub moved_from: Option<StateKey>,
}

/// Why a label cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LabelProblem {
    /// The disk or the system does not let it be read.
    #[error("{0}")]
    Unreadable(std::io::Error),
    /// Its content makes no sense, or is of a later version.
    #[error("{0}")]
    Format(#[from] FormatError),
}

/// A label that is to be written.
struct Edit<'m> {
    label: Label,
    before: Option<StateRow>,
    /// Manifest that is to be published with it.
    manifest: Option<&'m Manifest>,
    /// The state was just built.
    used: bool,
}

impl Store {
    /// Commits a state that was built.
    pub(crate) fn commit_built(&self, _: &SharedGuard, manifest: &Manifest, built: &Built) -> Result<Saved> {
        let _lock = self.lock_labels()?;
        let now = self.now();
        let before = self.index.state(&manifest.key)?;
        // A label that the index lost counts all the same.
        let file = self.read_label(&manifest.key).ok().flatten().map(|(label, _)| label);
        let known = before.as_ref().map(|row| &row.label).or(file.as_ref());
        let mut label = merged(known, manifest.key, built, now);
        let mut edits = Vec::new();
        let moved_from = self.claim(&mut label, &built.claim, now, &mut edits)?;
        edits.insert(0, Edit { label, before, manifest: Some(manifest), used: true });
        let label = self.write(edits)?;
        Ok(Saved { label, moved_from })
    }

    /// Commits what healing a state wrote: segments, and its manifest where that changed.
    pub(crate) fn commit_healed(&self, _: &SharedGuard, manifest: &Manifest) -> Result<()> {
        let _lock = self.lock_labels()?;
        let Some(before) = self.index.state(&manifest.key)? else { return Ok(()) };
        let label = before.label.clone();
        self.write(vec![Edit { label, before: Some(before), manifest: Some(manifest), used: false }])
            .map(drop)
    }

    /// Notes that a state that is there was built again. Returns `None` if there is no such state.
    ///
    /// # Errors
    /// When the disk or the index fails, or the label is of a later version. The state is as it was, then.
    pub fn claim_again(&self, guard: &SharedGuard, key: &StateKey, claim: &Claim) -> Result<Option<Saved>> {
        let now = self.now();
        self.edit(guard, key, |store, label, others| {
            revive(label, claim, now);
            store.claim(label, claim, now, others)
        })
    }

    /// Gives a state a name, or takes `instead` away for it. Returns `None` if there is no such state.
    ///
    /// # Errors
    /// As [`Self::claim_again`].
    pub fn rename(
        &self,
        guard: &SharedGuard,
        key: &StateKey,
        instead: Option<&str>,
        name: &str,
    ) -> Result<Option<Saved>> {
        let now = self.now();
        self.edit(guard, key, |store, label, others| {
            let (had, nameless) = (label.named(name).is_some(), label.names.is_empty());
            let old = instead.filter(|old| *old != name).and_then(|old| label.take(old));
            let claim = Claim { name: Some(name.to_owned()), ..Claim::default() };
            let moved_from = store.claim(label, &claim, now, others)?;
            if nameless && moved_from.is_none() {
                // What was wanted without a name is wanted under the first one.
                let (pinned, expires) = (std::mem::take(&mut label.pinned), label.expires.take());
                let new = label.give(name, now);
                (new.pinned, new.expires) = (new.pinned || pinned, expires);
            }
            if let Some(old) = old {
                // What the old name wanted, the new one wants; of two wishes that meet, the longer one.
                let met = moved_from.is_some() || had;
                let new = label.give(name, now);
                new.pinned |= old.pinned;
                new.expires = match (new.expires, old.expires) {
                    (Some(new), Some(old)) => Some(new.max(old)),
                    (None, old) if !met => old,
                    _ => None,
                };
            }
            Ok(moved_from)
        })
    }

    /// Changes a state's label. Returns `None` if there is no such state.
    ///
    /// # Errors
    /// As [`Self::claim_again`].
    pub fn relabel(
        &self,
        guard: &SharedGuard,
        key: &StateKey,
        change: impl FnOnce(&mut Label),
    ) -> Result<Option<Saved>> {
        self.edit(guard, key, |_, label, _| {
            change(label);
            Ok(None)
        })
    }

    fn edit(
        &self,
        _: &SharedGuard,
        key: &StateKey,
        change: impl FnOnce(&Self, &mut Label, &mut Vec<Edit<'_>>) -> Result<Option<StateKey>>,
    ) -> Result<Option<Saved>> {
        let _lock = self.lock_labels()?;
        let Some(before) = self.index.state(key)? else { return Ok(None) };
        let (mut label, mut edits) = (before.label.clone(), Vec::new());
        let moved_from = change(self, &mut label, &mut edits)?;
        if label == before.label && before.usage.label_bytes > 0 {
            return Ok(Some(Saved { label, moved_from }));
        }
        // A record of version 0.1 is split as soon as its state changes.
        let split = self.split(&before)?;
        edits.insert(0, Edit { label, before: Some(before), manifest: split.as_ref(), used: false });
        Ok(Some(Saved { label: self.write(edits)?, moved_from }))
    }

    /// Waits until no one else changes labels, and finishes what a process began that died.
    pub(crate) fn lock_labels(&self) -> Result<StagingLock> {
        layout::make_folder(self.disk.as_ref(), &self.root.join(layout::STAGING))?;
        let lock = StagingLock::wait(&self.disk, &self.staging_path(LABEL_LOCK), || ())?;
        let unfinished = self.index.intents()?;
        for key in &unfinished {
            match self.index.state(key)? {
                Some(row) => self.take_from_files(key, row)?,
                None => self.commit_unfinished(key)?,
            }
        }
        for key in &unfinished {
            self.take_moved_names(key)?;
        }
        Ok(lock)
    }

    /// Waits until no one changes labels, and keeps them as they are until the file is closed; nothing if no one is about to.
    /// For a store that cannot be written.
    pub(crate) fn wait_for_labels(&self) -> Option<std::fs::File> {
        lock::wait_beside(&self.staging_path(LABEL_LOCK))
    }

    /// Finishes what processes began that died, so that names mean what they will mean. Where nothing can be written, they
    /// mean what the index says.
    pub(crate) fn settle_names(&self) -> Result<()> {
        if self.index.intents()?.is_empty() {
            return Ok(());
        }
        match self.lock_labels() {
            Err(error) if !error.is_unwritable() => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes names out of a label's file that went to another state while its own file was not yet written: who removed that
    /// one would find them here again.
    fn take_moved_names(&self, key: &StateKey) -> Result<()> {
        let (Some(row), Ok(Some((file, _)))) = (self.index.state(key)?, self.read_label(key)) else {
            return Ok(());
        };
        let moved = file.names.iter().any(|name| row.label.named(&name.name).is_none());
        if !moved {
            return Ok(());
        }
        let edit = Edit { label: row.label.clone(), before: Some(row), manifest: None, used: false };
        self.write(vec![edit]).map(drop)
    }

    /// Commits a state whose build died when all of its files were there. Without a label they are left to reindexing.
    fn commit_unfinished(&self, key: &StateKey) -> Result<()> {
        let Ok(Some((label, label_bytes))) = self.read_label(key) else { return Ok(()) };
        let manifests = self.manifests_on_disk(key);
        let links: Vec<_> = manifests.iter().map(|(manifest, _)| manifest.links()).collect();
        let change = |((manifest, row), links): (&'_ (Manifest, ManifestRow), &'_ Vec<_>)| {
            let described = Some(Described { manifest, row: Some(*row), segments: links });
            let change =
                StateChange { label: &label, label_bytes, described, used: Some(self.now()), record: None };
            self.index.commit_states(&[change])
        };
        manifests.iter().zip(&links).try_for_each(change)
    }

    /// Gives a state's row what its label's file says.
    fn take_from_files(&self, key: &StateKey, row: StateRow) -> Result<()> {
        let (label, label_bytes) = match self.read_label(key) {
            Ok(Some((label, bytes))) => (label, bytes),
            // Another time.
            Err(LabelProblem::Unreadable(_)) => return Ok(()),
            // The file never came to be, or is of no use: the row is what is left.
            _ => (row.label, row.usage.label_bytes),
        };
        let record = row.usage.record;
        let change = StateChange { label: &label, label_bytes, described: None, used: None, record };
        self.index.commit_states(&[change])
    }

    /// Label of a state, as its file says, with its size.
    pub(crate) fn read_label(&self, key: &StateKey) -> Result<Option<(Label, u64)>, LabelProblem> {
        let path = layout::label(&self.root, key);
        let mut bytes = Vec::new();
        match self.disk.open(&path).and_then(|file| file.read(MAX_LABEL_BYTES as u64 + 1, &mut bytes)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            // A pipe, a link, a folder: it will never be read.
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                return Err(FormatError::Label(e.to_string()).into());
            }
            read => read.map_err(LabelProblem::Unreadable)?,
        }
        let label = Label::decode(&bytes)?;
        match label.key == *key {
            true => Ok(Some((label, bytes.len() as u64))),
            false => Err(FormatError::Label("it is another state's".into()).into()),
        }
    }

    /// Gives a label a name and what comes with it. The label of a state that has the name is edited, too.
    fn claim(
        &self,
        label: &mut Label,
        claim: &Claim,
        now: i64,
        others: &mut Vec<Edit<'_>>,
    ) -> Result<Option<StateKey>> {
        let Some(name) = &claim.name else {
            label.pinned |= claim.pin;
            match claim.expiry {
                // Said, and so it counts beside names that expire.
                Expiry::Never => label.expires = Some(NEVER),
                expiry => apply(expiry, &mut label.expires),
            }
            return Ok(None);
        };
        let owner = self.index.named(name)?.filter(|owner| *owner != label.key);
        if let Some(before) = owner.map(|owner| self.index.state(&owner)).transpose()?.flatten() {
            let mut other = before.label.clone();
            if let Some(taken) = other.take(name) {
                let given = label.give(name, now);
                // Of two files that claim the name the later one has it, also where both are of this second.
                given.given = given.given.max(taken.given + 1).min(MAX_TIME as i64);
                given.pinned = taken.pinned;
                given.expires = taken.expires.filter(|at| *at > now);
            }
            others.push(Edit { label: other, before: Some(before), manifest: None, used: false });
        }
        let given = label.give(name, now);
        given.pinned |= claim.pin;
        apply(claim.expiry, &mut given.expires);
        Ok(owner)
    }

    /// Writes labels, those that get a name first: between the two files both have it, and never none.
    fn write(&self, edits: Vec<Edit<'_>>) -> Result<Label> {
        for edit in &edits {
            self.refuse_newer_label(&edit.label.key)?;
            edit.manifest.map_or(Ok(()), |manifest| self.refuse_newer_manifest(manifest))?;
        }
        let keys: Vec<StateKey> = edits.iter().map(|edit| edit.label.key).collect();
        self.index.intend(&keys)?;
        let mut written: Vec<(Label, u64, Option<ManifestRow>, &Edit<'_>)> = Vec::new();
        for edit in &edits {
            let row = edit.manifest.map(|manifest| self.publisher.manifest(manifest)).transpose()?;
            let revision = edit.before.as_ref().map_or(edit.label.revision, |row| row.label.revision);
            let label = Label { revision: (revision + 1).min(MAX_REVISION), ..edit.label.clone() };
            let bytes = self.publisher.label(&label)?;
            written.push((label, bytes, row, edit));
        }
        let all_links: Vec<_> =
            edits.iter().map(|e| e.manifest.map(Manifest::links).unwrap_or_default()).collect();
        let now = self.now();
        let changes: Vec<StateChange<'_>> = written
            .iter()
            .zip(&all_links)
            .map(|((label, bytes, row, edit), links)| StateChange {
                label,
                label_bytes: *bytes,
                described: edit.manifest.map(|manifest| Described { manifest, row: *row, segments: links }),
                used: edit.used.then_some(now),
                record: edit.record(),
            })
            .collect();
        self.index.commit_states(&changes)?;
        for edit in edits.iter().filter(|edit| edit.record().is_none()) {
            if let Some((record, _)) = edit.before.as_ref().and_then(|row| row.usage.record) {
                // What cannot be removed now is removed by the next gc.
                let _ = self.remove(&layout::object(&self.root, &record));
            }
        }
        drop(changes);
        Ok(written.swap_remove(0).0)
    }

    /// Manifest that a record of version 0.1 and its segments give; none where there is a manifest, or a segment is not
    /// there to be described.
    fn split(&self, before: &StateRow) -> Result<Option<Manifest>> {
        if before.usage.record.is_none() || !before.usage.manifests.is_empty() {
            return Ok(None);
        }
        let Some(state) = self.state(&before.label.key)? else { return Ok(None) };
        self.with_segments(state.manifest)
    }
}

impl Edit<'_> {
    /// Record that stays: where no manifest takes its place.
    fn record(&self) -> Option<(pcache_format::ObjectId, u64)> {
        let before = self.before.as_ref()?;
        let replaced = self.manifest.is_some() || !before.usage.manifests.is_empty();
        before.usage.record.filter(|_| !replaced)
    }
}

fn apply(expiry: Expiry, expires: &mut Option<i64>) {
    match expiry {
        Expiry::Unsaid => {}
        Expiry::Never => *expires = None,
        Expiry::At(time) => *expires = Some(time),
    }
}

/// Renews the claims on a state that is built again. An expiry that is past is replaced by the build's. Where a name is
/// given it is that name's expiry; without one, all of them, if no claim on the state is left.
fn revive(label: &mut Label, claim: &Claim, now: i64) {
    let given = match claim.expiry {
        Expiry::At(time) => Some(time),
        Expiry::Unsaid | Expiry::Never => None,
    };
    let over = label.latest_expiry().is_some_and(|at| at <= now);
    let meant = |name: &Name| claim.name.as_ref().map_or(over, |claimed| *claimed == name.name);
    let names = label.names.iter_mut().filter(|name| meant(name)).map(|name| &mut name.expires);
    let nameless = claim.name.is_none().then_some(&mut label.expires);
    let all = names.chain(nameless);
    all.filter(|expires| expires.is_some_and(|at| at <= now)).for_each(|expires| *expires = given);
}

/// Label of a state that was built, perhaps again.
fn merged(before: Option<&Label>, key: StateKey, built: &Built, now: i64) -> Label {
    let new = Label {
        key,
        revision: 0,
        names: Vec::new(),
        pinned: false,
        expires: None,
        origin: built.origin.clone(),
        prompt_format: built.prompt_format.clone(),
        model_path: built.model_path.clone(),
        text: built.text,
        prompt: built.prompt,
        created: now,
        build_s: built.build_s,
        evaluated: built.evaluated,
        provenance: Provenance::Built,
    };
    let Some(before) = before else { return new };
    // A rebuild of what was damaged says nothing about the cost of the whole.
    let (build_s, evaluated) = match built.evaluated > before.evaluated {
        true => (built.build_s, built.evaluated),
        false => (before.build_s, before.evaluated),
    };
    let mut label = Label {
        build_s,
        evaluated,
        created: before.created,
        names: before.names.clone(),
        pinned: before.pinned,
        expires: before.expires,
        text: built.text.or(before.text),
        prompt: built.prompt.or(before.prompt),
        provenance: before.provenance.clone(),
        revision: before.revision,
        ..new
    };
    revive(&mut label, &built.claim, now);
    label
}
