//! Files of later versions at paths that this version writes, too: every command leaves them alone.

use std::path::PathBuf;

use pcache_format::{FormatError, Lineage, Manifest, StateKey, manifest, object};

use super::labels::LabelProblem;
use super::{Result, Store, StoreError, layout};

/// A file that describes a state and was written by a later version.
pub(crate) struct NewerFile {
    file: &'static str,
    path: PathBuf,
    version: FormatError,
}

impl Store {
    /// Paths of the files that the index knows to describe a state, and a later version wrote. One that it does not know is
    /// found by [`Self::survey`].
    ///
    /// # Errors
    /// When the index fails.
    pub fn newer_files(&self, key: &StateKey) -> Result<Vec<PathBuf>> {
        let usage = self.index.usage(key)?;
        let rows = usage.iter().flat_map(|usage| &usage.manifests);
        let manifests = rows.filter_map(|row| self.newer_manifest(key, row.lineage));
        Ok(self.newer_label(key).into_iter().chain(manifests).map(|newer| newer.path).collect())
    }

    /// Refuses to change a state that a later version described.
    ///
    /// # Errors
    /// [`StoreError::Newer`] then.
    pub fn refuse_newer(&self, key: &StateKey) -> Result<()> {
        let newer = self.newer_label(key).or_else(|| self.newer_manifests(key).into_iter().next());
        newer.map_or(Ok(()), |newer| Err(newer.refusal()))
    }

    /// Refuses to replace a manifest of a later version.
    pub(crate) fn refuse_newer_manifest(&self, manifest: &Manifest) -> Result<()> {
        let newer = self.newer_manifest(&manifest.key, manifest.lineage);
        newer.map_or(Ok(()), |newer| Err(newer.refusal()))
    }

    /// Refuses to replace a label of a later version.
    pub(crate) fn refuse_newer_label(&self, key: &StateKey) -> Result<()> {
        self.newer_label(key).map_or(Ok(()), |newer| Err(newer.refusal()))
    }

    fn newer_label(&self, key: &StateKey) -> Option<NewerFile> {
        match self.read_label(key) {
            Err(LabelProblem::Format(version @ FormatError::Newer(_))) => {
                Some(NewerFile { file: "label", path: layout::label(&self.root, key), version })
            }
            _ => None,
        }
    }

    /// Manifests of a state, of whatever lineage: the index may not know of them.
    fn newer_manifests(&self, key: &StateKey) -> Vec<NewerFile> {
        let lineages = self.lineages_on_disk(key).into_iter();
        lineages.filter_map(|(lineage, _)| self.newer_manifest(key, lineage)).collect()
    }

    pub(crate) fn newer_manifest(&self, key: &StateKey, lineage: Lineage) -> Option<NewerFile> {
        let path = layout::manifest(&self.root, key, lineage);
        let mut bytes = Vec::new();
        self.disk.open(&path).and_then(|file| file.read(u64::MAX, &mut bytes)).ok()?;
        // Its first words are enough: the rest costs a hash of all tokens.
        let format = object::peek(&bytes, "format")?;
        let is_newer = format.starts_with("pcache ") && format != manifest::FORMAT;
        is_newer.then_some(NewerFile { file: "manifest", path, version: FormatError::Newer(format) })
    }
}

impl NewerFile {
    fn refusal(self) -> StoreError {
        StoreError::Newer { file: self.file, path: self.path, version: self.version }
    }
}
