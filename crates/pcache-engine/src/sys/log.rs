//! llama.cpp's log: silent, or on stderr, and always with its last error line kept for error messages.

use std::ffi::{CStr, c_char, c_void};
use std::io::Write;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

static VERBOSE: AtomicBool = AtomicBool::new(false);
static LAST_ERROR: Mutex<String> = Mutex::new(String::new());

/// From now on every line of the log goes to stderr as it comes, or none.
pub fn show(verbose: bool) {
    VERBOSE.store(verbose, Ordering::Relaxed);
}

/// Takes over the log of llama.cpp and ggml.
pub fn install() {
    // SAFETY: `receive` lives as long as the program, matches the callback's signature and ignores the
    // user data, so a null pointer is fine there.
    unsafe {
        llama_cpp_sys_2::llama_log_set(Some(receive), ptr::null_mut());
        llama_cpp_sys_2::ggml_log_set(Some(receive), ptr::null_mut());
    }
}

/// The last error that llama.cpp logged, and forgets it.
pub fn take_last_error() -> Option<String> {
    let mut last = LAST_ERROR.lock().unwrap_or_else(|e| e.into_inner());
    let text = std::mem::take(&mut *last);
    (!text.is_empty()).then_some(text)
}

unsafe extern "C" fn receive(
    level: llama_cpp_sys_2::ggml_log_level,
    text: *const c_char,
    _user: *mut c_void,
) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated string that lives for the duration of the call.
    let line = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    if level == llama_cpp_sys_2::GGML_LOG_LEVEL_ERROR {
        let mut last = LAST_ERROR.lock().unwrap_or_else(|e| e.into_inner());
        // The first error is the cause; those that follow only say that loading failed.
        if last.is_empty() {
            *last = line.trim().to_owned();
        }
    }
    if VERBOSE.load(Ordering::Relaxed) {
        // A stderr that went away must not unwind into C.
        let _ = write!(std::io::stderr(), "{line}");
    }
}
