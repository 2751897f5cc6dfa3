//! The library: what programs call. See the [crate's page](crate) for a first program.

mod prompt;
mod session;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::bail;
pub use session::{Answer, Conversation, Session};

use crate::cache::build::{Builder, Keep, Report};
use crate::cache::explain::{Explanation, with_saved_attention};
use crate::cache::extend::{Update, extended, origin};
use crate::cache::fingerprint::{fingerprint, fingerprint_adapter};
use crate::cache::open_state::{ContextSize, OpenState, Question};
use crate::cache::recode::{Recoded, recode};
use crate::cache::target::Target;
use crate::cache::timings::Timings;
use crate::cache::verdict::Verdict;
use crate::cache::verify::{self, Checked, Wish};
use crate::cache::{self, Call, CancelToken, Failure, Observer};
use crate::error::{Error, Result};
use pcache_format::id::name_problem;
use pcache_format::{Codec, KvType, Lora, ModelHash, Params, StateKey};
use pcache_store::evict::Limits;
use pcache_store::fingerprint::FileIdentity;
use pcache_store::gc::Outcome;
use pcache_store::{Claim, ListedState, Lookup, Options, Prefix, Reindexed, Store};
pub use prompt::Prompt;

/// Options for opening a [`Cache`].
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct CacheOptions {
    threads: Option<u32>,
    gpu_layers: u32,
    same_compute: bool,
    trust_owner: bool,
}

impl CacheOptions {
    /// Uses a folder that belongs to another user, who could put forged states into it.
    pub fn trust_owner(mut self) -> Self {
        self.trust_owner = true;
        self
    }

    /// Evaluates with so many threads, and not with the physical cores.
    pub fn threads(mut self, threads: u32) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Puts so many layers of each model on a GPU.
    pub fn gpu_layers(mut self, layers: u32) -> Self {
        self.gpu_layers = layers;
        self
    }

    /// Uses only what this machine and program computed alone: then a hit has the bits of a miss.
    pub fn same_compute(mut self) -> Self {
        self.same_compute = true;
        self
    }
}

/// Options for loading a model, and parameters of its states.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ModelOptions {
    kv_type: KvType,
    adapter: Option<(PathBuf, f32)>,
}

impl ModelOptions {
    /// Keeps the cache's numbers in this type: smaller is less exact.
    pub fn kv_type(mut self, kv_type: KvType) -> Self {
        self.kv_type = kv_type;
        self
    }

    /// Puts the LoRA adapter at `path` on top of the model, with a scale.
    pub fn adapter(mut self, path: impl Into<PathBuf>, scale: f32) -> Self {
        self.adapter = Some((path.into(), scale));
        self
    }
}

/// A folder of saved states. A clone is the same one, and threads can share it.
#[derive(Clone)]
pub struct Cache(Arc<Inner>);

struct Inner {
    store: Store,
    threads: u32,
    gpu_layers: u32,
    same_compute: bool,
}

/// A loaded model whose file's hash is known. A clone is the same model, and threads can share it.
#[derive(Clone)]
pub struct Model {
    loaded: pcache_engine::model::Model,
    target: Arc<Target>,
    /// Its file and its adapter's, as they were when they were hashed.
    files: Arc<[(PathBuf, FileIdentity, ModelHash)]>,
}

impl Model {
    /// BLAKE3 of its file, in hex: what its states are known by.
    pub fn blake3(&self) -> String {
        self.target.model.to_hex()
    }

    /// Refuses a state of another model, or of another adapter on top of it.
    fn check(&self, state: &pcache_store::State) -> anyhow::Result<()> {
        let (key, manifest) = (state.key().short(), &state.manifest);
        if manifest.model != self.target.model {
            bail!(Failure::Usage(format!(
                "state {key} needs the model with the hash {}…, not {}…",
                manifest.model.short(),
                self.target.model.short()
            )));
        }
        if manifest.params.lora != self.target.params.lora {
            bail!(Failure::Usage(format!(
                "state {key} was built with another adapter, or another scale of it"
            )));
        }
        Ok(())
    }
}

/// A state that was built, or found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct State {
    /// Its key.
    pub key: StateKey,
    /// Share that came from the cache.
    pub verdict: Verdict,
    /// Its tokens.
    pub tokens: usize,
    /// Bytes that were written.
    pub bytes_written: u64,
    /// Times of the stages.
    pub timings: Timings,
    /// The states that were saved on the way, the shortest first: see [`Prompt::save_after`].
    pub on_the_way: Vec<StateKey>,
}

impl State {
    fn from_report(report: Report) -> anyhow::Result<Self> {
        let Report { cache: verdict, tokens, bytes_written, timings, key, .. } = report;
        let key = key.parse().map_err(|_| anyhow::anyhow!("{key} is no key"))?;
        Ok(Self { key, verdict, tokens, bytes_written, timings, on_the_way: Vec::new() })
    }
}

/// Hears nothing.
struct Silence;

impl Observer for Silence {}

/// Observer and cancel token of an operation; by default there is neither.
#[derive(Clone, Copy)]
pub struct Watch<'w> {
    observer: &'w dyn Observer,
    cancel: &'w CancelToken,
}

impl Default for Watch<'_> {
    fn default() -> Self {
        static NEVER: std::sync::OnceLock<CancelToken> = std::sync::OnceLock::new();
        Self { observer: &Silence, cancel: NEVER.get_or_init(CancelToken::default) }
    }
}

impl<'w> Watch<'w> {
    /// Tells `observer` what happens; stops when `cancel` is cancelled.
    pub fn new(observer: &'w dyn Observer, cancel: &'w CancelToken) -> Self {
        Self { observer, cancel }
    }
}

impl Cache {
    /// Opens the folder `dir`, and makes it where there is none.
    ///
    /// # Errors
    /// When it cannot be opened, or belongs to another user.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir, CacheOptions::default())
    }

    /// As [`Self::open`], with options.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(dir: impl AsRef<Path>, options: CacheOptions) -> Result<Self> {
        let CacheOptions { threads, gpu_layers, same_compute, trust_owner } = options;
        let compute = pcache_engine::compute::identity(gpu_layers).map_err(anyhow::Error::from)?;
        if !trust_owner {
            pcache_store::check_owner(dir.as_ref())?;
        }
        let store = Store::open(dir.as_ref(), &Options::new(compute))?;
        let threads = threads.unwrap_or_else(cache::usual_threads);
        Ok(Self(Arc::new(Inner { store, threads, gpu_layers, same_compute })))
    }

    /// The index is gone, and there are saved states all the same: [`Self::reindex`] finds them.
    ///
    /// # Errors
    /// When the index or the disk fails.
    pub fn is_index_lost(&self) -> Result<bool> {
        Ok(self.0.store.is_index_lost()?)
    }

    /// Gives the index what it lost. Reads every file that has no row.
    ///
    /// # Errors
    /// When the lock, the index or the disk fails.
    pub fn reindex(&self) -> Result<Reindexed> {
        let guard = self.0.store.lock_exclusive(|| ())?;
        Ok(self.0.store.reindex(&guard, &|_, _| ())?)
    }

    /// The store, for everything that needs no model.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    fn call<'a>(&self, watch: Watch<'a>) -> Call<'a> {
        let Inner { threads, same_compute, .. } = *self.0;
        Call { observer: watch.observer, cancel: watch.cancel, threads, same_compute }
    }

    /// Loads the model at `path`. Its file is hashed where it is new.
    ///
    /// # Errors
    /// When it cannot be read, or llama.cpp refuses it.
    pub fn load(&self, path: impl AsRef<Path>, watch: Watch<'_>) -> Result<Model> {
        self.load_with(path, &ModelOptions::default(), watch)
    }

    /// As [`Self::load`], with options.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(
        &self,
        path: impl AsRef<Path>,
        options: &ModelOptions,
        watch: Watch<'_>,
    ) -> Result<Model> {
        let Inner { store, gpu_layers, .. } = &*self.0;
        let missing = |e| crate::text::file::Missing::or(path.as_ref(), e);
        let model_path = fs_err::canonicalize(path.as_ref()).map_err(missing)?;
        let identity = |path: &Path| FileIdentity::read(path).map_err(anyhow::Error::from);
        let file = identity(&model_path)?;
        let model = fingerprint(watch.observer, Some(store), &model_path)?;
        let mut files = vec![(model_path.clone(), file, model)];
        let mut params = Params::new(options.kv_type, *gpu_layers > 0);
        if let Some((path, scale)) = &options.adapter {
            let file = identity(path)?;
            let hash = fingerprint_adapter(watch.observer, Some(store), path)?;
            files.push((path.clone(), file, hash));
            params.lora = Some(Lora { hash, scale: *scale });
        }
        let lora = options.adapter.as_ref().map(|(path, _)| path.clone());
        let gpu_layers = *gpu_layers;
        let model_name = crate::text::human::file_name(&model_path);
        let target = Target { model_path, model_name, model, params, any_attention: true, lora, gpu_layers };
        let loaded = target.load(watch.observer)?;
        Ok(Model { loaded, target: Arc::new(target), files: files.into() })
    }

    /// Makes sure that the state of `prompt` is saved: what is missing of it is evaluated and saved on the way. With
    /// `claim` it gets a name, a pin or an expiry; states on the way get none.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`](crate::ErrorKind::Refused) for what cannot be a name; when the template refuses the prompt, the model's context is too short for it, or nothing can be saved.
    pub fn build(&self, model: &Model, prompt: &Prompt, claim: Claim, watch: Watch<'_>) -> Result<State> {
        check_name(&claim)?;
        let shorter = prompt.on_the_way();
        let build = |shorter| self.build_one(model, shorter, Claim::default(), watch).map(|state| state.key);
        let on_the_way = shorter.iter().map(build).collect::<Result<_>>()?;
        Ok(State { on_the_way, ..self.build_one(model, prompt, claim, watch)? })
    }

    /// Notes a model that another cache has loaded.
    fn know(&self, model: &Model) -> Result<()> {
        for (path, file, hash) in model.files.iter() {
            if self.0.store.model_path(hash)?.is_none() {
                self.0.store.remember_model(file, path, hash)?;
            }
        }
        Ok(())
    }

    fn build_one(&self, model: &Model, prompt: &Prompt, claim: Claim, watch: Watch<'_>) -> Result<State> {
        self.know(model)?;
        let (framed, root) = (prompt.framed(), model.target.params.root(&model.target.model));
        let source = prompt.source(&root, &framed)?;
        let keep = Keep { claim, ..Keep::default() };
        let mut builder = Builder::new(self.call(watch), &keep, &self.0.store, &model.target);
        let report = match builder.known(&source)? {
            Some(report) => report,
            None => builder.build(&model.loaded, &source, None)?,
        };
        Ok(State::from_report(report)?)
    }

    /// Explains what of a prompt is saved, and why not more. Evaluates nothing.
    ///
    /// # Errors
    /// When the template refuses the prompt, or the index fails.
    pub fn explain(&self, model: &Model, prompt: &Prompt, watch: Watch<'_>) -> Result<Explanation> {
        let (framed, target) = (prompt.framed(), &model.target);
        let source = prompt.source(&target.params.root(&target.model), &framed)?;
        let (call, store) = (self.call(watch), Some(&self.0.store));
        let rendered = source.tokenize(watch.observer, &model.loaded)?;
        let prefix = target.prefix(model.loaded.layout(), rendered.tokens.clone())?;
        let target = Target::clone(target);
        let (prefix, _) = with_saved_attention(call, store, &model.loaded, prefix, target, &rendered)?;
        Ok(Explanation::new(call, store, &model.loaded, &prefix, &rendered, &source)?)
    }

    /// Builds a new state from a saved one, with text behind its prompt (its last message), or in the place of all that follows a line of it.
    ///
    /// # Errors
    /// As [`Self::build`]; when the state has no prompt of its own, or the line is not there once.
    pub fn extend(
        &self,
        model: &Model,
        key: &StateKey,
        update: Update<'_>,
        claim: Claim,
        watch: Watch<'_>,
    ) -> Result<State> {
        let Inner { store, .. } = &*self.0;
        check_name(&claim)?;
        let old = cache::whole_state(store, key)?;
        model.check(&old)?;
        // What it was built with, whatever the model would take for a new one.
        let params = Params { rope_factors: None, ..old.manifest.params.clone() };
        let target = Target { params, any_attention: false, ..Target::clone(&model.target) };
        let prompt = extended(&model.loaded, &old, update)?;
        let keep = Keep { claim, ..Keep::default() };
        let mut builder = Builder::new(self.call(watch), &keep, store, &target);
        Ok(State::from_report(builder.save(&model.loaded, &prompt, &origin(&old, "an update"), None)?)?)
    }

    /// Stores a state in another codec.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where it is gone, [`ErrorKind::Corrupt`] where it is damaged; when it is cancelled, or the disk fails.
    pub fn recode(&self, key: &StateKey, codec: Codec, watch: Watch<'_>) -> Result<Recoded> {
        Ok(recode(self.call(watch), &self.0.store, key, codec)?)
    }

    /// Checks every file of these states, each once, and evaluates nothing: [`Self::states`] gives the keys of all. What is gone by now
    /// is not among the results.
    ///
    /// # Errors
    /// When the index or the disk fails.
    pub fn verify(&self, keys: &[StateKey], watch: Watch<'_>) -> Result<Vec<Checked>> {
        Ok(verify::check(self.call(watch), &self.0.store, keys, false)?)
    }

    /// As [`Self::verify`], and what is damaged is evaluated again, or what is intact compared with a cold evaluation, as it is
    /// wished. States of another model than this stay as they are found, with the reason.
    ///
    /// # Errors
    /// When it is cancelled, or the index or the disk fails.
    pub fn mend(
        &self,
        model: &Model,
        keys: &[StateKey],
        wish: Wish,
        watch: Watch<'_>,
    ) -> Result<Vec<Checked>> {
        let (call, store) = (self.call(watch), &self.0.store);
        let mut checked = verify::check(call, store, keys, wish.repair)?;
        let load = |_: &Store, state: &pcache_store::State| {
            model.check(state)?;
            Ok(model.loaded.clone())
        };
        verify::mend(call, store, wish, &load, &mut checked)?;
        Ok(checked)
    }

    /// The state that a name or the beginning of a key means.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is none, [`ErrorKind::Refused`] where there are several.
    pub fn find(&self, text: &str) -> Result<StateKey> {
        let refused = |failure: Failure| Error::from(anyhow::Error::from(failure));
        match self.0.store.lookup(text)? {
            Lookup::Found(key) => Ok(key),
            Lookup::Ambiguous(_) => Err(refused(Failure::Usage(format!("{text} begins several keys")))),
            _ => Err(refused(Failure::NotFound(format!("there is no state {text}")))),
        }
    }

    /// Opens a state for questions: found, verified and ready to be restored. `room` is the number of tokens that a
    /// question and its answer take at most.
    ///
    /// # Errors
    /// When there is no such state, it is of another model, or there is no memory for its context.
    pub fn session(&self, model: &Model, key: &StateKey, room: usize, watch: Watch<'_>) -> Result<Session> {
        let Inner { store, .. } = &*self.0;
        let state = Arc::new(cache::whole_state(store, key)?);
        model.check(&state)?;
        let prefix = Arc::new(Prefix::of_manifest(&state.manifest));
        let limit = Question::limit(&model.loaded, &prefix, room, 0);
        let room = ContextSize::one(limit);
        let opened = OpenState::with_model(self.call(watch), store, state, prefix, &model.loaded, room)?;
        Ok(Session { cache: self.clone(), model: model.clone(), kept: Some(opened.kept()) })
    }

    /// States that are saved, the last used first.
    ///
    /// # Errors
    /// When the index fails.
    pub fn states(&self) -> Result<Vec<ListedState>> {
        Ok(self.0.store.list()?.0)
    }

    /// Plans a collection by `limits`. It waits for builds, and holds nothing when it comes back: [`GcPlan::apply`] goes by
    /// what is there then.
    ///
    /// # Errors
    /// When the lock, the index or the disk fails.
    pub fn plan_gc(&self, limits: Limits) -> Result<GcPlan<'_>> {
        let store = &self.0.store;
        let guard = store.lock_exclusive(|| ())?;
        let outcome = store.collect(&guard, &limits, true)?;
        Ok(GcPlan { store, limits, outcome })
    }
}

/// Refuses what cannot be a name.
fn check_name(claim: &Claim) -> Result<()> {
    let problem = claim.name.as_deref().and_then(|name| Some((name, name_problem(name)?)));
    match problem {
        Some((name, problem)) => Err(Failure::Usage(format!("the name {name:?} {problem}")).into()),
        None => Ok(()),
    }
}

/// Plan of a collection.
pub struct GcPlan<'c> {
    store: &'c Store,
    limits: Limits,
    outcome: Outcome,
}

impl GcPlan<'_> {
    /// Returns the states and files that would go, and those that would stay.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Collects, by what is there now.
    ///
    /// # Errors
    /// When the lock, the index or the disk fails.
    pub fn apply(self) -> Result<Outcome> {
        let guard = self.store.lock_exclusive(|| ())?;
        Ok(self.store.collect(&guard, &self.limits, false)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_can_be_shared() {
        fn shared<T: Send + Sync + 'static>() {}
        fn sent<T: Send + 'static>() {}
        shared::<Cache>();
        shared::<Model>();
        shared::<CancelToken>();
        shared::<Error>();
        shared::<Prompt>();
        sent::<Session>();
        sent::<Conversation>();
    }
}
