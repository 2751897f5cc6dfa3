//! The library: what programs call. See the [crate's page](crate) for a first program.

use std::path::Path;
use std::sync::Arc;

use crate::cache::build::{Builder, Keep, Report};
use crate::cache::fingerprint::fingerprint;
use crate::cache::opened::{Opened, Question, Room, Sampled};
use crate::cache::source::{Framed, Source};
use crate::cache::target::Target;
use crate::cache::timings::Timings;
use crate::cache::verdict::Verdict;
use crate::cache::{self, Call, CancelToken, Failure, Observer};
use crate::error::{Error, Result};
use pcache_engine::generate::{Sampling, StopReason};
use pcache_engine::prompt::{ChatFraming, Framing};
use pcache_format::{KvType, Params, StateKey};
use pcache_store::evict::Limits;
use pcache_store::gc::Outcome;
use pcache_store::{Claim, ListedState, Lookup, Options, Prefix, Reindexed, Store};

/// How a [`Cache`] is opened.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct CacheOptions {
    threads: Option<u32>,
    gpu_layers: u32,
    same_compute: bool,
}

impl CacheOptions {
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
}

impl Model {
    /// BLAKE3 of its file, in hex: what its states are known by.
    pub fn blake3(&self) -> String {
        self.target.model.to_hex()
    }
}

/// What a state is made of.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Prompt {
    text: String,
    raw: bool,
}

impl Prompt {
    /// A system message, in the model's own chat template. Nothing in the text can be a control token.
    pub fn system(text: impl Into<String>) -> Self {
        Self { text: text.into(), raw: false }
    }

    /// A text that the model reads as it is, control tokens included.
    pub fn raw(text: impl Into<String>) -> Self {
        Self { text: text.into(), raw: true }
    }

    fn framed(&self) -> Framed {
        let (framing, description) = match self.raw {
            true => (Framing::Raw(None), "raw"),
            false => (Framing::Chat(ChatFraming::default()), "chat template"),
        };
        Framed { framing, description: description.into() }
    }
}

/// A state that was built, or found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct State {
    /// Its key.
    pub key: StateKey,
    /// How much of it came from the cache.
    pub verdict: Verdict,
    /// Its tokens.
    pub tokens: usize,
    /// Bytes that were written.
    pub bytes_written: u64,
    /// What the stages took.
    pub timings: Timings,
}

/// An answer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// Why it ended.
    pub stop: StopReason,
    /// Its tokens, without the one that ended it.
    pub tokens: Vec<i32>,
    /// How much of what was before it came from the cache.
    pub verdict: Verdict,
    /// What the stages took.
    pub timings: Timings,
}

/// Hears nothing.
struct Silence;

impl Observer for Silence {}

/// Who hears of an operation, and what cancels it; by default nobody and nothing.
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
        let CacheOptions { threads, gpu_layers, same_compute } = options;
        let compute = pcache_engine::compute::identity(gpu_layers).map_err(anyhow::Error::from)?;
        pcache_store::check_owner(dir.as_ref())?;
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
        let Inner { store, gpu_layers, .. } = &*self.0;
        let model_path = fs_err::canonicalize(path.as_ref()).map_err(anyhow::Error::from)?;
        let model = fingerprint(watch.observer, Some(store), &model_path)?;
        let params = Params::new(KvType::F16, *gpu_layers > 0);
        let gpu_layers = *gpu_layers;
        let target = Target { model_path, model, params, any_attention: true, lora: None, gpu_layers };
        let loaded = target.load(watch.observer)?;
        Ok(Model { loaded, target: Arc::new(target) })
    }

    /// Makes sure that the state of `prompt` is saved: what is missing of it is evaluated and saved on the way. With
    /// `claim` it gets a name, a pin or an expiry.
    ///
    /// # Errors
    /// When the template refuses the prompt, the model's context is too short for it, or nothing can be saved.
    pub fn build(&self, model: &Model, prompt: &Prompt, claim: Claim, watch: Watch<'_>) -> Result<State> {
        let Inner { store, .. } = &*self.0;
        let target = &model.target;
        let (framed, root) = (prompt.framed(), target.params.root(&target.model));
        let source = Source::of_text(Path::new("the prompt"), prompt.text.clone(), &root, &framed)?;
        let keep = Keep { claim, ..Keep::default() };
        let mut builder = Builder::new(self.call(watch), &keep, store, target);
        let report = match builder.known(&source)? {
            Some(report) => report,
            None => builder.build(&model.loaded, &source, None)?,
        };
        let Report { cache: verdict, tokens, bytes_written, timings, key, .. } = report;
        let key = key.parse().map_err(|_| anyhow::anyhow!("{key} is no key"))?;
        Ok(State { key, verdict, tokens, bytes_written, timings })
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
    pub fn session<'a>(
        &'a self,
        model: &Model,
        key: &StateKey,
        room: usize,
        watch: Watch<'a>,
    ) -> Result<Session<'a>> {
        let Inner { store, .. } = &*self.0;
        let state = Arc::new(cache::whole_state(store, key)?);
        if state.manifest.model != model.target.model {
            let (key, needs) = (key.short(), state.manifest.model.short());
            let why =
                format!("state {key} needs the model with the hash {needs}…, not {}…", &model.blake3()[..12]);
            return Err(anyhow::Error::from(Failure::Usage(why)).into());
        }
        let prefix = Arc::new(Prefix::of_manifest(&state.manifest));
        let limit = Question::limit(&model.loaded, &prefix, room, 0);
        let room = Room::one(limit);
        let opened = Opened::with_model(self.call(watch), store, state, prefix, &model.loaded, room)?;
        Ok(Session { opened })
    }

    /// States that are saved, the last used first.
    ///
    /// # Errors
    /// When the index fails.
    pub fn states(&self) -> Result<Vec<ListedState>> {
        Ok(self.0.store.list()?.0)
    }

    /// What a collection by `limits` would do.
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

/// What a collection would do.
pub struct GcPlan<'c> {
    store: &'c Store,
    limits: Limits,
    outcome: Outcome,
}

impl GcPlan<'_> {
    /// What would go, and what would stay.
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

/// A state that is open for questions. Each of them starts from the same state.
pub struct Session<'c> {
    opened: Opened<'c>,
}

impl Session<'_> {
    /// Answers a question; `emit` gets the text as it becomes certain. What is damaged of the state is evaluated and saved
    /// again first.
    ///
    /// # Errors
    /// When the question does not fit, or llama.cpp fails.
    pub fn ask(&mut self, question: &str, sampling: &Sampling, mut emit: impl FnMut(&str)) -> Result<Answer> {
        let Opened { session, state, prefix, call, .. } = &self.opened;
        let question = Question::fitting(session.model(), state, prefix, question.to_owned())?;
        let room = self.opened.limit.saturating_sub(prefix.tokens.len());
        if question.tokens.len() >= room {
            let why = format!(
                "the question has {} tokens, and the session has room for {room} with an answer",
                question.tokens.len()
            );
            return Err(anyhow::Error::from(Failure::Usage(why)).into());
        }
        let how = Sampled { sampling, since: std::time::Instant::now(), timings: call.observer.timings() };
        let answered = self.opened.answer(&question, how, |text| {
            emit(text);
            Ok(())
        })?;
        self.opened.note_use();
        let pcache_engine::generate::Answer { text, stop, tokens, .. } = answered.answer;
        Ok(Answer { text, stop, tokens, verdict: answered.verdict, timings: answered.timings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_can_be_shared() {
        fn shared<T: Send + Sync + 'static>() {}
        fn sent<T: Send>() {}
        shared::<Cache>();
        shared::<Model>();
        shared::<CancelToken>();
        shared::<Error>();
        sent::<pcache_engine::session::Session>();
    }
}
