//! Building: finding what is saved of a prompt, evaluating and saving the rest, and committing its state.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::explain::Explanation;
use super::prefill::{self, PrefillStats};
use super::source::{Origin, Source, check_length};
use super::target::Target;
use super::timings::Timings;
use super::verdict::{self, Status, Verdict};
use super::{Call, budget};
use crate::text::human;
use pcache_engine::model::Model;
use pcache_engine::prompt::Prompt;
use pcache_engine::session::Session;
use pcache_format::{Codec, KvType, RenderedWith, StateKey, StateKind};
use pcache_store::{
    Built, Claim, Description, Expiry, Prefix, SharedGuard, State, Store, StoreError, VerifiedPrefix,
};

/// Options for keeping states.
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// Name, pin and expiry.
    pub claim: Claim,
    /// Bytes of the whole folder at most.
    pub max_size: Option<u64>,
    /// Codec of the segments that are evaluated.
    pub codec: Codec,
}

/// Result of a build.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Key of the state.
    pub key: String,
    /// Name that it was given, or its oldest.
    pub name: Option<String>,
    /// File name of the model.
    pub model: String,
    /// Share that came from the cache.
    pub cache: Verdict,
    /// Tokens of the state.
    pub tokens: usize,
    /// Its objects.
    pub segments: SegmentCounts,
    /// Size of the state's objects.
    pub bytes: u64,
    /// Bytes of the objects that were written.
    pub bytes_written: u64,
    /// Times of the stages.
    pub timings: Timings,
    /// The prompt file, to tell several results apart.
    pub prompt: String,
}

/// The objects of a state.
#[derive(Debug, Serialize)]
pub struct SegmentCounts {
    /// All of them.
    pub total: usize,
    /// Those that were saved before.
    pub reused: usize,
    /// Those that were written now.
    pub written: usize,
}

/// Everything that stays the same from prompt to prompt.
pub struct Builder<'a> {
    call: Call<'a>,
    keep: &'a Keep,
    store: &'a Store,
    target: &'a Target,
    /// The states of this run.
    built: HashSet<StateKey>,
    /// It was told that a prompt is too short to gain.
    warned: bool,
}

impl<'a> Builder<'a> {
    /// Nothing is built yet.
    pub fn new(call: Call<'a>, keep: &'a Keep, store: &'a Store, target: &'a Target) -> Self {
        Self { call, keep, store, target, built: HashSet::new(), warned: false }
    }

    /// Evicts what the budget leaves no room for, but for the states of this run.
    pub fn enforce_budget(self) -> Result<()> {
        budget::enforce(self.call, self.store, self.keep.max_size, self.built)
    }
}

impl Builder<'_> {
    /// The hit that needs no model: the same text was built before, and every object of its state is intact.
    ///
    /// # Errors
    /// When the store fails.
    pub fn known(&mut self, source: &Source<'_>) -> Result<Option<Report>> {
        let digests = self.target.roots().into_iter().map(|root| source.digest_under(&root));
        for digest in digests {
            let Some(key) = self.store.state_of_prompt(&digest)? else { continue };
            let Some(state) = self.store.state(&key)? else { continue };
            if let Some(report) = self.known_state(source, &key, &state)? {
                return Ok(Some(report));
            }
        }
        Ok(None)
    }

    fn known_state(&mut self, source: &Source<'_>, key: &StateKey, state: &State) -> Result<Option<Report>> {
        self.built.insert(*key);
        if !state.is_whole() {
            let why = state.damage.as_ref().map(ToString::to_string).unwrap_or_default();
            self.call.warn(format!("state {}: {why}; building it again", key.short()));
            return Ok(None);
        }
        let prefix = Prefix::of_manifest(&state.manifest);
        let guard = self.call.lock_shared(self.store)?;
        // It may have been removed while this waited, though another state may still have all of its segments.
        if self.store.state(key)?.is_none() {
            return Ok(None);
        }
        let found = self.store.find(&guard, &prefix, self.call.same_compute)?.verify(&prefix);
        if found.tokens() < prefix.tokens.len() {
            // What another computed is no damage.
            if !self.call.same_compute {
                let why = found.reason(&prefix).unwrap_or_default();
                self.call.warn(format!("state {}: {why}; evaluating it again", key.short()));
            }
            return Ok(None);
        }
        unless_unwritable(self.store.touch(key))?;
        if let Some(why) = &state.damage {
            self.call.warn(format!("state {}: {why}; written again", key.short()));
            unless_unwritable(self.store.rewrite_description(&guard, key))?;
        }
        self.call.observer.other_attention(&prefix.params, &self.target.params);
        let name = self.claim(&guard, key, state)?;
        drop(guard);
        let mut timings = self.call.observer.timings();
        timings.add("verify_state", found.took, Some(prefix.tokens.len()));
        let mut verdict = Verdict { status: Status::Hit, ..Verdict::miss() };
        verdict.note_compute(self.store, &found);
        let written = (PrefillStats::default(), timings);
        Ok(Some(self.report(&source.label(), &prefix, *key, name, verdict, written)?))
    }

    /// Gives a state that is a hit the name, pin and expiry that were asked for. Where nothing can be written a hit without
    /// wishes is a hit all the same.
    fn claim(&self, guard: &SharedGuard, key: &StateKey, state: &State) -> Result<Option<String>> {
        let claim = self.keep.claim.clone();
        let wishes = claim.name.is_some() || claim.pin || claim.expiry != Expiry::Unsaid;
        match self.store.claim_again(guard, key, &claim) {
            Err(error) if error.is_unwritable() && !wishes => {}
            saved => {
                if let Some(saved) = saved? {
                    self.call.observer.labelled(&saved, claim.name.as_deref(), Some(&state.label));
                    return Ok(claim.name.or_else(|| saved.label.name().map(str::to_owned)));
                }
            }
        }
        Ok(state.label.name().map(str::to_owned))
    }

    /// Builds a prompt with a model that is loaded.
    pub fn build(&mut self, model: &Model, source: &Source<'_>, load: Option<Duration>) -> Result<Report> {
        let prompt = source.tokenize(self.call.observer, model)?;
        if self.call.observer.wants_explanation() {
            let prefix = self.prefix(model, &prompt)?;
            let explained = Explanation::new(self.call, Some(self.store), model, &prefix, &prompt, source)?;
            self.call.observer.explained(&prefix, &explained);
        }
        self.save(model, &prompt, &source.origin(&prompt), load)
    }

    /// Evaluates and saves what is not saved of a prompt, and commits its state.
    pub fn save(
        &mut self,
        model: &Model,
        prompt: &Prompt,
        origin: &Origin,
        load: Option<Duration>,
    ) -> Result<Report> {
        let prefix = self.prefix(model, prompt)?;
        check_length(&origin.label, prefix.tokens.len(), model.usable_context(&prefix.params))?;
        let key = prefix.chain.state_key(&prompt.pending_text, &prompt.suffix);
        // Not after minutes of evaluation.
        self.store.refuse_newer(&key)?;
        let named = self.keep.claim.name.as_deref().map(|name| self.store.named(name)).transpose()?.flatten();
        named.map_or(Ok(()), |owner| self.store.refuse_newer(&owner))?;
        self.built.insert(key);
        let mut timings = self.call.observer.timings();
        if let Some(load) = load {
            timings.add("model_load", load, None);
        }
        self.warn_if_too_short(&prefix)?;
        let _lock = self.call.lock_build(self.store, &prefix)?;
        if let Some(limit) = self.keep.max_size {
            budget::make_room(self.call, self.store, model, &prefix, limit)?;
        }

        budget::check_disk(self.call, self.store, model, &prefix, self.keep.codec)?;
        let guard = self.call.lock_shared(self.store)?;
        let found = self.store.find(&guard, &prefix, self.call.same_compute)?.verify(&prefix);
        let (filled, verdict, name) =
            self.complete(&guard, model, (&prefix, found), (origin, prompt), &mut timings)?;
        self.report(&origin.label, &prefix, key, name, verdict, (filled, timings))
    }

    /// The tokens under the parameters of this run; where flash attention may be on or off, under those of a state that is
    /// saved whole.
    fn prefix(&self, model: &Model, prompt: &Prompt) -> Result<Prefix> {
        let own = self.target.prefix(model.layout(), prompt.tokens.clone())?;
        let Some(other) = self.target.with_other_attention() else { return Ok(own) };
        let other = other.prefix(model.layout(), prompt.tokens.clone())?;
        let key = |prefix: &Prefix| prefix.chain.state_key(&prompt.pending_text, &prompt.suffix);
        let saved = |prefix: &Prefix| -> Result<bool> {
            let known = self.store.usage_of(&key(prefix))?.is_some();
            Ok(known && self.store.missing(prefix, self.call.same_compute)?.is_empty())
        };
        if !saved(&own)? && saved(&other)? {
            self.call.observer.other_attention(&other.params, &self.target.params);
            return Ok(other);
        }
        Ok(own)
    }

    /// Says once that a prompt is shorter than what was measured to pay on this machine.
    fn warn_if_too_short(&mut self, prefix: &Prefix) -> Result<()> {
        if prefix.params.kv_type != KvType::F16 {
            // Measured with the usual cache only.
            return Ok(());
        }
        let pays_from = self.store.break_even(&prefix.model, self.call.threads)?;
        let Some(pays_from) = pays_from.filter(|n| prefix.tokens.len() < *n && !self.warned) else {
            return Ok(());
        };
        self.warned = true;
        self.call.warn(format!(
            "{} are evaluated as fast as they are restored: a measurement on this machine found that saving pays from {} on",
            human::count(prefix.tokens.len(), "token"),
            human::count(pays_from, "token")
        ));
        Ok(())
    }

    /// Evaluates and saves what is not saved of the prefix, and commits the state. Returns its name, too.
    fn complete(
        &mut self,
        guard: &SharedGuard,
        model: &Model,
        (prefix, found): (&Prefix, VerifiedPrefix),
        (origin, prompt): (&Origin, &Prompt),
        timings: &mut Timings,
    ) -> Result<(PrefillStats, Verdict, Option<String>)> {
        let total = prefix.tokens.len();
        let mut verdict = Verdict { reason: found.reason(prefix), ..Verdict::miss() };
        let mut restored = found;
        let mut session = None;
        if restored.tokens() < total {
            let start = Instant::now();
            let mut made = Session::new(model, &prefix.params, total, self.call.threads)?;
            if let Err(why) = verdict::restore(&restored, &mut made) {
                verdict.reason = Some(why);
                restored = VerifiedPrefix::none();
            }
            verdict.restored_tokens = restored.tokens();
            timings.add("reset", start.elapsed(), None);
            session = Some(made);
        }
        let writer = self.store.writer(guard, prefix, self.keep.codec, &restored);
        let fill = |mut session| {
            prefill::prefill(self.call, &writer, self.store, &mut session, prefix, &origin.label)
        };
        let filled = session.map(fill).transpose()?.unwrap_or_default();
        let name = self.commit(writer, origin, prompt, prefix, &filled)?;
        timings.add("eval_time", filled.evaluating, Some(filled.tokens));
        timings.add("save_state", filled.saving, None);
        verdict.status = Status::new(total - filled.tokens, total);
        verdict.evaluated_tokens = filled.tokens;
        verdict.note_compute(self.store, &restored);
        Ok((filled, verdict, name))
    }

    fn commit(
        &mut self,
        writer: pcache_store::Writer<'_>,
        origin: &Origin,
        prompt: &Prompt,
        prefix: &Prefix,
        filled: &PrefillStats,
    ) -> Result<Option<String>> {
        let key = prefix.chain.state_key(&prompt.pending_text, &prompt.suffix);
        let before = self.store.state(&key)?;
        let rendered_with = self.rendered_with(before.as_ref(), prompt, origin);
        // What a state was extended from stays known when its whole prompt is built.
        let extended = before.as_ref().filter(|state| state.manifest.kind == StateKind::Extension);
        let kind = extended.map_or(origin.kind, |state| state.manifest.kind);
        let prompt_format = match &before {
            Some(state) if rendered_with != prompt.rendered_with => state.label.prompt_format.clone(),
            _ => origin.framing.clone(),
        };
        let description = Description {
            kind,
            pending_text: prompt.pending_text.clone(),
            suffix: prompt.suffix.clone(),
            prompt_span: prompt.own.map(|(first, bytes)| first..first + bytes),
            raw: prompt.raw,
            rendered_with,
        };
        let built = Built {
            origin: extended.map_or_else(|| origin.label.clone(), |state| state.label.origin.clone()),
            prompt_format,
            // The name that it was given, and not the hash that a link leads to.
            model_path: std::path::absolute(&self.target.model_path)?.to_string_lossy().into_owned(),
            text: origin.text,
            prompt: origin.digest,
            build_s: filled.evaluating.as_secs_f64(),
            evaluated: filled.tokens,
            claim: self.keep.claim.clone(),
        };
        let saved = writer.finish(&description, &built)?;
        self.call.observer.labelled(&saved, self.keep.claim.name.as_deref(), None);
        Ok(self.keep.claim.name.clone().or_else(|| saved.label.name().map(str::to_owned)))
    }

    /// Template and arguments of the state. Two templates may render a prompt alike and a question otherwise: the state that is
    /// there keeps its own, or it would answer in another way because somebody built the same prompt.
    fn rendered_with(&self, before: Option<&State>, prompt: &Prompt, origin: &Origin) -> RenderedWith {
        let own = before.filter(|state| state.is_whole() && !state.manifest.raw && !prompt.raw);
        // What an older version built says nothing of its template but its name.
        let known = |state: &&State| {
            state.manifest.rendered_with != RenderedWith::default()
                || state.label.prompt_format == "chat template"
        };
        let Some(with) = own.filter(known).map(|state| &state.manifest.rendered_with) else {
            return prompt.rendered_with.clone();
        };
        let new = &prompt.rendered_with;
        if (&with.template, &with.arguments, &with.date) != (&new.template, &new.arguments, &new.date) {
            self.call.warn(format!(
                "the same state was built before in another way than {}: its questions are rendered as they were",
                origin.framing
            ));
        }
        with.clone()
    }

    fn report(
        &self,
        label: &str,
        prefix: &Prefix,
        key: StateKey,
        name: Option<String>,
        cache: Verdict,
        (filled, timings): (PrefillStats, Timings),
    ) -> Result<Report> {
        let pieces = prefix.pieces().len();
        let rows = self.store.segments_of(&key)?;
        let description = self.store.usage_of(&key)?.map_or(0, |usage| usage.bytes());
        Ok(Report {
            key: key.to_hex(),
            name,
            model: self.target.model_name.clone(),
            cache,
            tokens: prefix.tokens.len(),
            segments: SegmentCounts {
                total: pieces,
                reused: pieces - filled.objects,
                written: filled.objects,
            },
            bytes: rows.iter().map(|r| r.file_bytes).sum::<u64>() + description,
            bytes_written: filled.bytes,
            timings,
            prompt: label.to_owned(),
        })
    }
}

/// A hit is a hit where nothing can be written, too.
fn unless_unwritable<T>(result: Result<T, StoreError>) -> Result<()> {
    match result {
        Err(error) if !error.is_unwritable() => Err(error.into()),
        _ => Ok(()),
    }
}
