//! A saved state, open for questions: found, mapped and verified while the model loads, with a context that is just large
//! enough. Each question starts from the same restored state, which is never rewound.

mod answer;
mod prepare;
mod question;

use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};

use super::app::App;
use super::failure::Failure;
use super::job::{Found, Job, Recall};
use super::{models, states, target};
use crate::cli::ParamArgs;
use crate::engine::model::{Engine, Model};
use crate::engine::session::Session;
use crate::engine::shape::{Guides, Shape};
use crate::format::Record;
use crate::report::timings::Timings;
use crate::store::Store;
pub use answer::{Answered, Sampled};
pub use question::Question;

/// How the cache is used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Use {
    /// The prompt is evaluated anew; no saved state is read or written.
    pub no_cache: bool,
    /// A miss is a failure.
    pub require_hit: bool,
}

/// A state and the files that it needs, before anything is loaded.
pub struct Place {
    pub store: Store,
    pub state: Record,
    pub job: Job,
    model: PathBuf,
    lora: Option<PathBuf>,
}

impl Place {
    /// Finds the state that a name or the beginning of a key means, its model and its adapter.
    pub fn find(app: &App, text: &str, params: &ParamArgs) -> Result<Self> {
        let mut store = states::store_with(app, text)?;
        let key = states::key(&store, text)?;
        let state = states::state(&store, &key)?;
        let job = Job::of_state(&state);
        if !state.is_whole() {
            bail!(Failure::Corrupt(format!(
                "the index is damaged: the tokens of state {} have another key; pcache verify --repair mends it, as does building the prompt again",
                state.key.short()
            )));
        }
        let lora = target::adapter_of_state(app, &mut store, &state, params)?;
        let model = models::of_state(app, &mut store, &state)?;
        Ok(Self { store, state, job, model, lora })
    }

    /// Opens the state and lets `work` do something with it. `size` says what the context has to hold, once the
    /// vocabulary is known.
    pub fn open<S>(
        &mut self,
        app: &App,
        how: Use,
        shape: Option<&Shape>,
        size: impl FnOnce(&Model<'_>, &Record, &Job) -> Result<(Room, S)>,
        work: impl FnOnce(&mut Opened<'_, '_>, S, Timings) -> Result<()>,
    ) -> Result<()> {
        let Self { store, state, job, model, lora } = self;
        let found = if how.no_cache {
            Found::default()
        } else {
            let _lock = app.lock_shared(store)?;
            // It may have been removed while this waited.
            states::state(store, &state.key)?;
            job.find(store)?
        };
        if let Some(miss) = found.miss().filter(|_| how.require_hit) {
            bail!(Failure::Miss(format!("state {} is no hit: {miss}", state.key.short())));
        }
        thread::scope(|scope| {
            let verifying = scope.spawn(|| found.verify(job));
            let mut timings = app.timings();
            let start = Instant::now();
            let engine = Engine::start(app.shows_log())?;
            let model = models::load(app, &engine, model, state.params.gpu_layers, lora.as_deref())?;
            timings.add("model_load", start.elapsed(), None);
            let start = Instant::now();
            let guides = shape.map(|shape| Guides::new(&model, shape)).transpose();
            let guides = guides.map_err(|e| Failure::Usage(e.to_string()))?;
            if guides.is_some() {
                timings.add("shape", start.elapsed(), None);
            }
            let (room, sized) = size(&model, state, job)?;

            let start = Instant::now();
            let session = Session::with_slots(&model, &state.params, room.cells, app.threads(), room.slots)?;
            timings.add("context", start.elapsed(), None);
            let recall = verifying.join().map_err(|_| anyhow::anyhow!("the verification panicked"))?;
            if !how.no_cache {
                timings.add("verify_state", recall.took, Some(recall.tokens()));
            }
            let mut opened =
                Opened { app, how, store, state, job, recall, session, limit: room.limit, guides };
            opened.check_hit()?;
            app.stop_gently_on_ctrl_c();
            work(&mut opened, sized, timings)?;
            if !how.no_cache {
                opened.note_use();
            }
            Ok(())
        })
    }
}

/// What a context has to hold.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Positions of a sequence at most.
    pub limit: usize,
    /// Cells of all sequences together.
    pub cells: usize,
    /// Sequences that are evaluated together; none where one after the other is.
    pub slots: u32,
}

impl Room {
    /// For one sequence of so many positions.
    pub fn one(limit: usize) -> Self {
        Self { limit, cells: limit, slots: 0 }
    }
}

/// A state with its model loaded and a context to restore it into.
pub struct Opened<'a, 'm> {
    pub app: &'a App,
    pub how: Use,
    pub store: &'a mut Store,
    pub state: &'a Record,
    pub job: &'a Job,
    pub recall: Recall,
    pub session: Session<'m>,
    /// Positions that a sequence may fill.
    pub limit: usize,
    /// What keeps answers in their shape.
    pub guides: Option<Guides<'m>>,
}

impl<'a, 'm> Opened<'a, 'm> {
    /// Opens a state on a model that is loaded.
    pub fn with_model(
        app: &'a App,
        store: &'a mut Store,
        state: &'a Record,
        job: &'a Job,
        model: &'m Model<'m>,
        room: Room,
    ) -> Result<Self> {
        let recall = {
            let _lock = app.lock_shared(store)?;
            job.find(store)?.verify(job)
        };
        // For the log alone: these stages are the prompt's, and no answer's.
        let mut timings = app.timings();
        timings.add("verify_state", recall.took, Some(recall.tokens()));
        let start = Instant::now();
        let session = Session::with_slots(model, &state.params, room.cells, app.threads(), room.slots)?;
        timings.add("context", start.elapsed(), None);
        let how = Use::default();
        Ok(Self { app, how, store, state, job, recall, session, limit: room.limit, guides: None })
    }
}

impl Opened<'_, '_> {
    fn check_hit(&self) -> Result<()> {
        if self.how.require_hit && self.recall.tokens() < self.job.tokens.len() {
            let why = self.recall.reason(self.job).unwrap_or_default();
            bail!(Failure::Miss(format!("state {} is no hit: {why}", self.state.key.short())));
        }
        Ok(())
    }

    /// A failed note is no reason to fail an answer that was given.
    pub fn note_use(&mut self) {
        let (key, now) = (self.state.key, self.store.now());
        let noted = self.app.lock_shared(self.store).and_then(|_lock| {
            self.store.index_mut().touch(&key, now)?;
            // Its row may have been all that was left of it.
            Ok(self.store.mend_record(&key)?)
        });
        match noted {
            Ok(None) => {}
            Ok(Some(wrong)) => {
                self.app.warn(format!("state {}: its record: {wrong}; written again", key.short()));
            }
            // Where nothing can be written, this is no news.
            Err(_) if self.store.index().is_emergency() => {}
            Err(error) => self.app.warn(format!("the use is not noted: {error:#}")),
        }
    }
}
