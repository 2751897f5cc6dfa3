//! Context of every command: the store, output and messages, and signals.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ColorChoice;
use etcetera::BaseStrategy;
use serde::Serialize;

use super::failure::Failure;
use super::signals::{At, Signals};
use crate::cache::progress::{Progress, Silent, Unit};
use crate::cache::timings::Timings;
use crate::cache::{Call, CancelToken};
use crate::cli::args::{Format, Global, Output};
use crate::cli::log::{self, Log};
use crate::cli::progress::Bar;
use crate::cli::terminal::{MIN_WIDTH, for_stderr, harmless, stdout_was_closed, width_of_stdout};
use crate::text::wrap::Wrapper;
use crate::text::{file, human};
use pcache_engine as engine;
use pcache_format::epoch::LLAMA_CPP_BUILD;
use pcache_store::{ExclusiveGuard, Options, Reindexed, SharedGuard, Store, check_owner};

/// Time between two looks at how far a reindexing is.
const BAR_PAUSE: Duration = Duration::from_millis(10);

/// The running program.
pub struct App {
    pub global: Global,
    /// Beginning of the process.
    pub started: Instant,
    log: Option<Log>,
    cancel: CancelToken,
    /// Signals that stop it.
    pub signals: Arc<Signals>,
    /// File that results go to instead of stdout.
    file: OnceLock<Mutex<fs_err::File>>,
    /// Breaks the lines of an answer that streams.
    wrapper: OnceLock<Mutex<Wrapper>>,
}

impl App {
    pub fn new(global: Global, started: Instant) -> Self {
        let cancel = CancelToken::default();
        let signals = Signals::new(cancel.clone(), global.quiet);
        match global.color {
            ColorChoice::Auto => {}
            choice => console::set_colors_enabled_stderr(choice == ColorChoice::Always),
        }
        Self { global, started, log: None, cancel, signals, file: OnceLock::new(), wrapper: OnceLock::new() }
    }

    /// Opens the full log, if there is to be one, and begins it with what was called.
    pub fn start_log(&mut self) -> Result<()> {
        let Some(path) = &self.global.log else { return Ok(()) };
        self.log = Some(Log::open(path, self.started).context("the log cannot be written")?);
        let arguments: Vec<_> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
        self.record(
            "start",
            &serde_json::json!({
                "schema": log::SCHEMA,
                "pcache": env!("CARGO_PKG_VERSION"),
                "llama_cpp": LLAMA_CPP_BUILD,
                "time": jiff::Timestamp::now().to_string(),
                "arguments": arguments,
                "threads": self.threads(),
            }),
        );
        Ok(())
    }

    /// Ends the log with how the program ends.
    pub fn end_log(&self, result: &Result<()>, code: u8) {
        if let Err(error) = result {
            self.record("error", &serde_json::json!({ "message": format!("{error:#}") }));
        }
        self.record("end", &serde_json::json!({ "exit_code": code }));
    }

    /// Writes an event into the full log, if there is one.
    pub fn record(&self, name: &str, value: &impl Serialize) {
        if let Some(Err(error)) = self.log.as_ref().map(|log| log.event(name, value)) {
            let _ = writeln!(io::stderr(), "pcache: warning: the log cannot be written any more: {error}");
        }
    }

    /// A table of stages that are also logged.
    pub fn timings(&self) -> Timings {
        match self.log.clone() {
            None => Timings::default(),
            // That the log has ended is told at the next event.
            Some(log) => Timings::heard_by(move |row| drop(log.event("stage", row))),
        }
    }

    /// Returns the context that operations are given.
    pub fn call(&self) -> Call<'_> {
        Call {
            observer: self,
            cancel: &self.cancel,
            threads: self.threads(),
            same_compute: self.global.same_compute,
        }
    }

    /// While `wait` waits for the user, a signal ends the program: there is nothing else that it could stop.
    ///
    /// # Errors
    /// When a signal told the program to end just before.
    pub fn listen<T>(&self, wait: impl FnOnce() -> Result<T>) -> Result<T> {
        self.signals.set(At::Listening);
        // One that came between the answer's end and this found an answer, and left the program to it.
        let heard = match self.signals.told_to_end() {
            true => Err(Failure::Interrupted("interrupted".into()).into()),
            false => wait(),
        };
        self.signals.set(At::Answer);
        heard
    }

    /// Forgets a Ctrl-C that has had its effect. Says whether there was one.
    pub fn take_interrupt(&self) -> bool {
        self.cancel.renew()
    }

    /// Threads that evaluate: as asked for, or the physical cores that this process may use.
    pub fn threads(&self) -> u32 {
        self.global.threads.unwrap_or_else(crate::cache::usual_threads)
    }

    /// Layers to put on a GPU; refused where this build has none.
    pub fn gpu_layers(&self) -> Result<u32> {
        const HAS_GPU: bool = cfg!(any(
            feature = "cuda",
            feature = "vulkan",
            feature = "metal",
            feature = "rocm",
            all(target_os = "macos", target_arch = "aarch64")
        ));
        let layers = self.global.gpu_layers.unwrap_or(0);
        if layers > 0 && !HAS_GPU {
            bail!(Failure::Usage(
                "this pcache was built without GPU support; build it with --features cuda, vulkan, metal or rocm"
                    .into()
            ));
        }
        Ok(layers)
    }

    /// The folder of the store.
    pub fn cache_dir(&self) -> Result<PathBuf> {
        match &self.global.cache_dir {
            Some(dir) => Ok(dir.clone()),
            None => Ok(user_cache()?.join("states")),
        }
    }

    /// The folder of the store, if it is the user's own.
    fn own_dir(&self) -> Result<PathBuf> {
        let dir = self.cache_dir()?;
        if !self.global.trust_owner {
            check_owner(&dir)?;
        }
        Ok(dir)
    }

    /// Opens the store, and makes it when there is none. What a lost index knew is put back.
    pub fn store(&self) -> Result<Store> {
        let store = Store::open(&self.own_dir()?, &self.options()?)?;
        if store.is_index_lost()? {
            let guard = self.lock_exclusive(&store)?;
            if store.is_index_lost()? {
                let found = self.reindex(&store, &guard)?;
                let (states, segments) =
                    (human::count(found.states, "state"), human::count(found.segments, "segment"));
                self.warn(format!(
                    "the index was lost; found on disk and put into a new one: {states}, {segments}"
                ));
            }
        }
        Ok(store)
    }

    /// Gives the index what it lost, with a progress bar.
    pub fn reindex(&self, store: &Store, guard: &ExclusiveGuard) -> Result<Reindexed> {
        // Read by several threads; the bar is this one's.
        let (done, all) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let progress = self.progress();
        let found = std::thread::scope(|scope| {
            let note = |n, of| {
                done.store(n, Ordering::Relaxed);
                all.store(of, Ordering::Relaxed);
            };
            let reading = scope.spawn(move || store.reindex(guard, &note));
            let mut started = false;
            while !reading.is_finished() {
                std::thread::sleep(BAR_PAUSE);
                let all = all.load(Ordering::Relaxed) as u64;
                if all > 0 && !std::mem::replace(&mut started, true) {
                    progress.start("reading what is saved", all, Unit::Objects);
                }
                progress.set(done.load(Ordering::Relaxed) as u64);
            }
            reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        progress.finish();
        Ok(found?)
    }

    /// Opens the store if there is one.
    pub fn existing_store(&self) -> Result<Option<Store>> {
        Ok(Store::open_existing(&self.own_dir()?, &self.options()?)?)
    }

    /// Returns the options that stores are opened with.
    fn options(&self) -> Result<Options> {
        Ok(Options::new(engine::compute::identity(self.gpu_layers()?)?))
    }

    /// The store's shared lock; says so when a collection has to be waited for.
    pub fn lock_shared(&self, store: &Store) -> Result<SharedGuard> {
        self.call().lock_shared(store)
    }

    /// The store's exclusive lock; says so when it has to be waited for.
    pub fn lock_exclusive(&self, store: &Store) -> Result<ExclusiveGuard> {
        self.call().lock_exclusive(store)
    }

    /// Says something on stderr, unless told to be quiet.
    pub fn say(&self, text: impl std::fmt::Display) {
        if self.log.is_some() {
            self.record("said", &serde_json::json!({ "text": text.to_string() }));
        }
        if !self.global.quiet {
            let _ = writeln!(io::stderr(), "{}", for_stderr(&text.to_string()));
        }
    }

    /// Says something on stderr, if there is something to say.
    pub fn say_if(&self, text: Option<String>) {
        text.into_iter().for_each(|text| self.say(text));
    }

    /// Returns true if misses are explained.
    pub fn explains(&self) -> bool {
        self.global.verbose > 0
    }

    /// Returns true if llama.cpp's log is shown.
    pub fn shows_log(&self) -> bool {
        self.global.verbose > 1
    }

    /// Warns on stderr, even when told to be quiet: something is not as it should be.
    pub fn warn(&self, text: impl std::fmt::Display) {
        self.record("warning", &serde_json::json!({ "text": text.to_string() }));
        let _ = writeln!(io::stderr(), "{}", for_stderr(&format!("pcache: warning: {text}")));
    }

    /// Prints a line of data.
    pub fn print(&self, text: impl std::fmt::Display) -> Result<()> {
        self.write(&format!("{text}\n"))
    }

    /// Sends all results to a file instead of stdout.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn print_to(&self, path: &Path) -> Result<()> {
        let file = fs_err::File::create(path)?;
        self.file.get_or_init(|| Mutex::new(file));
        Ok(())
    }

    /// Prints data as it comes.
    pub fn write(&self, text: &str) -> Result<()> {
        if let Some(file) = self.file.get() {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            return Ok(file.write_all(text.as_bytes())?);
        }
        if stdout_was_closed() {
            bail!("cannot write to stdout: it is closed");
        }
        let text = if self.is_terminal() { harmless(text) } else { text.into() };
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to stdout")
    }

    /// Prints text of an answer as it comes; on a terminal, lines break at spaces.
    pub fn stream(&self, text: &str) -> Result<()> {
        let text = if self.is_terminal() { harmless(text) } else { text.into() };
        let text = self.wrapper().push(&text);
        self.write(&text)
    }

    /// Ends an answer that was streamed.
    pub fn end_stream(&self, end: &str) -> Result<()> {
        let mut wrapper = self.wrapper();
        let rest = wrapper.finish();
        *wrapper = Wrapper::new(self.width());
        self.write(&(rest + end))
    }

    fn wrapper(&self) -> MutexGuard<'_, Wrapper> {
        let wrapper = self.wrapper.get_or_init(|| Mutex::new(Wrapper::new(self.width())));
        wrapper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Results go to a terminal.
    fn is_terminal(&self) -> bool {
        io::stdout().is_terminal() && self.file.get().is_none()
    }

    /// Columns of the terminal that results go to, if it is one.
    fn width(&self) -> Option<usize> {
        width_of_stdout().filter(|_| self.file.get().is_none()).filter(|width| *width >= MIN_WIDTH)
    }

    /// Prints an object on a line of its own.
    pub fn print_json(&self, value: &impl Serialize) -> Result<()> {
        self.print(serde_json::to_string(value)?)
    }

    /// Prints `value` as an event of that name, when events are wanted; the log gets it in any case.
    pub fn named_event(&self, name: &str, value: &impl Serialize) -> Result<()> {
        #[derive(Serialize)]
        struct Event<'a, T> {
            event: &'a str,
            #[serde(flatten)]
            value: &'a T,
        }
        self.record(name, value);
        match self.output() {
            Output::Jsonl => self.print_json(&Event { event: name, value }),
            _ => Ok(()),
        }
    }

    /// Returns the format of results.
    pub fn output(&self) -> Output {
        match self.global.format {
            _ if self.global.json => Output::Json,
            Format::Json => Output::Json,
            Format::Jsonl => Output::Jsonl,
            Format::Text | Format::Junit => Output::Text,
        }
    }

    /// A progress bar, or none when told to be quiet.
    pub fn progress(&self) -> Box<dyn Progress> {
        if self.global.quiet { Box::new(Silent) } else { Box::new(Bar::default()) }
    }
}

/// pcache's own folder in the user's cache folder.
pub fn user_cache() -> Result<PathBuf> {
    let strategy = etcetera::choose_base_strategy()
        .map_err(|_| Failure::Usage("no home folder is known; pass --cache-dir and --model".into()))?;
    Ok(strategy.cache_dir().join("pcache"))
}

/// The user's home folder.
pub fn user_home() -> Result<PathBuf> {
    let home = etcetera::home_dir();
    Ok(home.map_err(|_| Failure::Usage("no home folder is known; pass --cache-dir and --model".into()))?)
}

/// Reads a text file, or stdin for `-`.
pub fn read_text(path: &Path) -> Result<String> {
    if path.as_os_str() != "-" {
        return file::read(path);
    }
    if io::stdin().is_terminal() {
        let _ = writeln!(io::stderr(), "reading from the terminal; Ctrl-D ends the text");
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::stdin().lock(), &mut bytes).context("cannot read stdin")?;
    file::decoded(bytes, "stdin")
}
