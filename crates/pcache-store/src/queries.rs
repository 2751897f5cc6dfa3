//! Questions to the index that need no lock: what they answer may be of a moment ago.

use std::path::Path;

use pcache_format::{ChainKey, ComputeIdentity, Lineage, ModelHash, PromptDigest, StateKey, TextDigest};

use super::fingerprint::FileIdentity;
use super::index::{ListedState, Lookup, Relative, SegmentRow};
use super::{Result, Store};

/// All of them fail when the index does.
impl Store {
    /// All states, newest use first, and the segments that any of them use.
    ///
    /// # Errors
    /// When the index fails.
    pub fn list(&self) -> Result<(Vec<ListedState>, Vec<SegmentRow>)> {
        self.index.list()
    }

    /// Keys of all states, the last used first, `most` at most.
    ///
    /// # Errors
    /// When the index fails.
    pub fn last_used(&self, most: usize) -> Result<Vec<StateKey>> {
        self.index.last_used(most)
    }

    /// Number of states.
    ///
    /// # Errors
    /// When the index fails.
    pub fn count(&self) -> Result<usize> {
        self.index.count()
    }

    /// State that a name or a beginning of a key means.
    ///
    /// # Errors
    /// When the index fails.
    pub fn lookup(&self, text: &str) -> Result<Lookup> {
        self.settle_names()?;
        self.index.find(text)
    }

    /// State with exactly this name.
    ///
    /// # Errors
    /// When the index fails.
    pub fn named(&self, name: &str) -> Result<Option<StateKey>> {
        self.settle_names()?;
        self.index.named(name)
    }

    /// All names, in order, each with its state's key.
    ///
    /// # Errors
    /// When the index fails.
    pub fn names(&self) -> Result<Vec<(String, StateKey)>> {
        self.index.names()
    }

    /// State that a prompt's text led to before.
    ///
    /// # Errors
    /// When the index fails.
    pub fn state_of_prompt(&self, digest: &PromptDigest) -> Result<Option<StateKey>> {
        self.index.state_of_prompt(digest)
    }

    /// States that were built from this text, whatever the model and the parameters; the last used first.
    ///
    /// # Errors
    /// When the index fails.
    pub fn states_of_text(&self, text: &TextDigest) -> Result<Vec<StateKey>> {
        self.index.states_of_text(text)
    }

    /// States of a model, the last used first, `most` at most.
    ///
    /// # Errors
    /// When the index fails.
    pub fn states_of_model(&self, model: &ModelHash, most: usize) -> Result<Vec<StateKey>> {
        self.index.states_of_model(model, most)
    }

    /// States that use a segment, the last used first, `most` at most.
    ///
    /// # Errors
    /// When the index fails.
    pub fn users_of(&self, chain: &ChainKey, most: usize) -> Result<Vec<StateKey>> {
        self.index.users_of(chain, most)
    }

    /// States that share segments with this one, those that share most first, `most` at most.
    ///
    /// # Errors
    /// When the index fails.
    pub fn relatives(&self, key: &StateKey, most: usize) -> Result<Vec<Relative>> {
        self.index.relatives(key, most)
    }

    /// Segments of a state, in order.
    ///
    /// # Errors
    /// When the index fails.
    pub fn segments_of(&self, key: &StateKey) -> Result<Vec<SegmentRow>> {
        self.index.segments_of(key)
    }

    /// Segments of a state that no other state uses.
    ///
    /// # Errors
    /// When the index fails.
    pub fn own_segments(&self, key: &StateKey) -> Result<Vec<SegmentRow>> {
        self.index.own_segments(key, &[])
    }

    /// Segments of a chain key, one for each lineage.
    ///
    /// # Errors
    /// When the index fails.
    pub fn segments_of_chain(&self, chain: &ChainKey) -> Result<Vec<SegmentRow>> {
        self.index.segments_of_chain(chain)
    }

    /// Number and bytes of the segments that no state uses.
    ///
    /// # Errors
    /// When the index fails.
    pub fn unused_segments(&self) -> Result<(usize, u64)> {
        self.index.unused_segments()
    }

    /// Compute identity that a lineage ends with; empty where it is not known.
    ///
    /// # Errors
    /// When the index fails.
    pub fn identity_of(&self, lineage: Lineage) -> Result<ComputeIdentity> {
        if lineage == self.own {
            return Ok(self.compute.clone());
        }
        self.index.identity_of(lineage)
    }

    /// Notes that a state was used. Nothing is synced.
    ///
    /// # Errors
    /// When the index cannot be changed.
    pub fn touch(&self, key: &StateKey) -> Result<()> {
        self.index.touch(key, self.now())
    }

    /// Lets SQLite check the whole index.
    ///
    /// # Errors
    /// A damaged index if it finds anything.
    pub fn check_index(&self) -> Result<()> {
        self.index.check()
    }

    /// Hash of the file with this identity, if it was hashed before.
    ///
    /// # Errors
    /// When the index fails.
    pub fn model_of_file(&self, file: &FileIdentity) -> Result<Option<ModelHash>> {
        self.index.model_of_file(file)
    }

    /// Bytes of a model's file, if it was seen.
    ///
    /// # Errors
    /// When the index fails.
    pub fn model_size(&self, model: &ModelHash) -> Result<Option<u64>> {
        self.index.model_size(model)
    }

    /// Path where a model was last seen.
    ///
    /// # Errors
    /// When the index fails.
    pub fn model_path(&self, model: &ModelHash) -> Result<Option<String>> {
        self.index.model_path(model)
    }

    /// Remembers a model and that the file with this identity is it.
    ///
    /// # Errors
    /// When the index cannot be changed.
    pub fn remember_model(&self, file: &FileIdentity, path: &Path, model: &ModelHash) -> Result<()> {
        self.index.remember_model(file, path, model)
    }

    /// Prompt tokens per second measured before on this model with that many threads.
    ///
    /// # Errors
    /// When the index fails.
    pub fn speed(&self, model: &ModelHash, threads: u32) -> Result<Option<f64>> {
        self.index.speed(model, threads)
    }

    /// Adds a measurement of speed: it counts as much as all before it.
    ///
    /// # Errors
    /// When the index cannot be changed.
    pub fn record_speed(&self, model: &ModelHash, threads: u32, tokens_per_s: f64) -> Result<()> {
        self.index.record_speed(model, threads, tokens_per_s)
    }

    /// Number of tokens from which on restoring was measured to beat evaluating.
    ///
    /// # Errors
    /// When the index fails.
    pub fn break_even(&self, model: &ModelHash, threads: u32) -> Result<Option<usize>> {
        self.index.break_even(model, threads)
    }

    /// Notes such a measurement; the latest counts.
    ///
    /// # Errors
    /// When the index cannot be changed.
    pub fn record_break_even(&self, model: &ModelHash, threads: u32, tokens: usize) -> Result<()> {
        self.index.record_break_even(model, threads, tokens)
    }
}
