//! Progress of long work: a parameter of everything that takes time, so that nothing below the command line sees a bar.

/// Hears how far a piece of work has come.
pub trait Progress {
    /// Work of `total` units begins.
    fn start(&self, what: &str, total: u64, unit: Unit);
    /// `done` units are done.
    fn set(&self, done: u64);
    /// Runs `talk`, which may print lines, with the bar out of the way.
    fn aside(&self, talk: &mut dyn FnMut());
    /// The work is over; nothing of the bar stays.
    fn finish(&self);
}

/// Unit of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Tokens of a prompt.
    Tokens,
    /// Bytes of a file.
    Bytes,
    /// Hundredths of the whole.
    Percent,
    /// Saved states.
    States,
    /// Object files.
    Objects,
    /// Records of a file.
    Records,
    /// Answers.
    Answers,
}

/// Shows nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: &str, _: u64, _: Unit) {}
    fn set(&self, _: u64) {}
    fn aside(&self, talk: &mut dyn FnMut()) {
        talk();
    }
    fn finish(&self) {}
}
