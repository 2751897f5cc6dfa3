//! Signals beside Ctrl-C, which [`super::app::App`] handles, and the terminal that a signal leaves behind.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A flag that is set when the program is told to end, or its terminal goes: what stops an answer in a conversation is
/// then no Ctrl-C. Call it when the handler of Ctrl-C is set, which is told of these signals, too.
#[cfg(unix)]
pub fn told_to_end() -> Arc<AtomicBool> {
    let flag = Arc::default();
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        // What cannot be registered stops the answer alone.
        let _ = signal_hook::flag::register(signal, Arc::clone(&flag));
    }
    flag
}

/// There is nothing but Ctrl-C.
#[cfg(not(unix))]
pub fn told_to_end() -> Arc<AtomicBool> {
    Arc::default()
}

/// Lets a write beyond the limit of a file's size fail with an error. Without it the process would be killed without a word.
#[cfg(unix)]
pub fn survive_size_limits() {
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
}

/// There are no such limits.
#[cfg(not(unix))]
pub fn survive_size_limits() {}

/// Raises the number of files that may be open to what the system allows: a state of a long prompt has hundreds of objects,
/// which are open while they are verified.
#[cfg(unix)]
pub fn open_many_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it is refused, the state of a very long prompt cannot be read, and that is said then.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// There is no such limit.
#[cfg(not(unix))]
pub fn open_many_files() {}

/// How the terminal was before a line editor changed it; nothing where stdin is none.
pub struct Terminal {
    #[cfg(unix)]
    before: Option<rustix::termios::Termios>,
}

impl Terminal {
    /// As it is now.
    pub fn now() -> Self {
        Self {
            #[cfg(unix)]
            before: rustix::termios::tcgetattr(std::io::stdin()).ok(),
        }
    }

    /// Brings it back to how it was: a shell would show nothing of what is typed. The editor also has it mark pasted text.
    pub fn restore(&self) {
        #[cfg(unix)]
        if let Some(before) = &self.before {
            const NO_MARKS_AROUND_PASTED_TEXT: &[u8] = b"\x1b[?2004l\r\n";
            let _ =
                rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, before);
            if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
                let _ = rustix::io::write(std::io::stdout(), NO_MARKS_AROUND_PASTED_TEXT);
            }
        }
    }
}
