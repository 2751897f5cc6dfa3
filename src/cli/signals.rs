//! Signals: one thread hears those that end a program; and the terminal that one leaves behind.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, Once};

use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals as Incoming;

use crate::cache::CancelToken;

/// Activity during which a signal arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum At {
    /// Work that the first signal stops after the batch at hand, and the second one at once.
    Work,
    /// An answer in a conversation: Ctrl-C stops it and never the program.
    Answer,
    /// Waiting for the user to say something: there is nothing else that could be stopped.
    Listening,
}

/// The signals that end a program, and what they find.
pub struct Signals {
    cancel: CancelToken,
    quiet: bool,
    at: AtomicU8,
    /// The last one; 0 before the first.
    last: AtomicI32,
    /// Temporary folders, removed when the program is stopped at once.
    scratch: Mutex<Vec<PathBuf>>,
    heard: Once,
}

impl Signals {
    /// They cancel `cancel`, once [`Self::hear`] was called.
    pub fn new(cancel: CancelToken, quiet: bool) -> Arc<Self> {
        Arc::new(Self {
            cancel,
            quiet,
            at: AtomicU8::new(At::Work as u8),
            last: AtomicI32::new(0),
            scratch: Mutex::default(),
            heard: Once::new(),
        })
    }

    /// From now on signals stop what is at hand instead of the process. Those that were ignored when the program began stay
    /// ignored: that is what `nohup` and a shell's `&` ask for.
    pub fn hear(self: &Arc<Self>) {
        self.heard.call_once(|| {
            let ignored = ignored_at_start();
            let wanted =
                [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
            let terminal = Terminal::now();
            // Where that is refused, a signal simply ends the process.
            let Ok(mut incoming) = Incoming::new(wanted.collect::<Vec<_>>()) else { return };
            let signals = Arc::clone(self);
            std::thread::spawn(move || {
                incoming.forever().for_each(|signal| signals.take(signal, &terminal));
            });
        });
    }

    fn take(&self, signal: i32, terminal: &Terminal) {
        self.last.store(signal, Ordering::SeqCst);
        let again = self.cancel.cancel();
        let at = self.at.load(Ordering::SeqCst);
        if at == At::Answer as u8 {
            return;
        }
        if again || at == At::Listening as u8 {
            let folders = self.scratch.lock().unwrap_or_else(|e| e.into_inner());
            folders.iter().for_each(|folder| drop(std::fs::remove_dir_all(folder)));
            if at == At::Listening as u8 {
                terminal.restore();
            }
            // Not by way of what C libraries registered for the end: other threads are still computing in llama.cpp.
            signal_hook::low_level::exit(128 + signal);
        }
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "\nstopping; Ctrl-C again stops at once");
        }
    }

    /// Says what a signal finds the program at from now on.
    pub fn set(&self, at: At) {
        self.at.store(at as u8, Ordering::SeqCst);
    }

    /// The program was told to end, or its terminal has gone: not by Ctrl-C.
    pub fn told_to_end(&self) -> bool {
        [SIGTERM, SIGHUP].contains(&self.last.load(Ordering::SeqCst))
    }

    /// Exit code of a program that a signal stopped, as a shell reports it.
    pub fn exit_code(&self) -> u8 {
        match self.last.load(Ordering::SeqCst) {
            0 => 130,
            signal => u8::try_from(128 + signal).unwrap_or(130),
        }
    }

    /// Has a folder removed when the program is stopped at once.
    pub fn remove_if_stopped(&self, folder: &Path) {
        self.scratch.lock().unwrap_or_else(|e| e.into_inner()).push(folder.to_owned());
    }
}

/// Signals that were ignored when the program began, as a mask with a bit for each. Linux tells it; elsewhere none is known.
fn ignored_at_start() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Lets a write beyond the limit of a file's size fail with an error. Without it the process would be killed without a word.
pub fn survive_size_limits() {
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
}

/// Raises the number of files that may be open to what the system allows: a state of a long prompt has hundreds of objects,
/// which are open while they are verified.
pub fn open_many_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it is refused, the state of a very long prompt cannot be read, and that is said then.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Terminal settings before a line editor changed them; nothing where stdin is none.
struct Terminal {
    before: Option<rustix::termios::Termios>,
}

impl Terminal {
    /// As it is now.
    fn now() -> Self {
        Self { before: rustix::termios::tcgetattr(std::io::stdin()).ok() }
    }

    /// Brings it back to how it was: a shell would show nothing of what is typed. The editor also has it mark pasted text.
    fn restore(&self) {
        const NO_MARKS_AROUND_PASTED_TEXT: &[u8] = b"\x1b[?2004l\r\n";
        let Some(before) = &self.before else { return };
        let _ = rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, before);
        if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
            let _ = rustix::io::write(std::io::stdout(), NO_MARKS_AROUND_PASTED_TEXT);
        }
    }
}
