//! Signals beside Ctrl-C, which [`super::app::App`] handles.

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
