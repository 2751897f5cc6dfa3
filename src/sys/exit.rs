//! Ending the process while other threads are at work.

/// Ends the process at once. `std::process::exit` runs what C libraries registered for the end, which takes llama.cpp's
/// memory away from threads that are still computing in it.
pub fn at_once(code: i32) -> ! {
    // SAFETY: the call takes a number, touches no memory of the program and does not return.
    unsafe { libc::_exit(code) }
}
