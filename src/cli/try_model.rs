//! A model is tried in a process of its own before it is used for the first time: llama.cpp ends the process on some files whose
//! header looks right.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Result, bail};

use super::failure::Failure;
use crate::cli::terminal::harmless;
use pcache_engine::model::{Model, ModelOptions};
use pcache_engine::session::Session;
use pcache_engine::text::Text;
use pcache_format::{KvType, Params};

/// Tokens that are evaluated.
const CELLS: usize = 16;

/// First argument of the process that tries a model; the model and the layers on a GPU follow.
const ARGUMENT: &str = "__try";

/// Tries a model for the process that started this one, and ends the program; does nothing otherwise.
pub fn try_for_another_process() {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(first), Some(path), Some(layers)) = (arguments.next(), arguments.next(), arguments.next())
    else {
        return;
    };
    if first == ARGUMENT {
        let layers = layers.to_str().and_then(|layers| layers.parse().ok()).unwrap_or(0);
        std::process::exit(i32::from(evaluated(Path::new(&path), layers).is_err()));
    }
}

fn evaluated(path: &Path, gpu_layers: u32) -> Result<()> {
    let model = Model::load(path, ModelOptions::default().gpu_layers(gpu_layers))?;
    let mut tokens = model.tokenize(&Text::default().user("Is there soup? 1 2 3"));
    tokens.truncate(CELLS / 2);
    let mut session = Session::new(&model, &Params::new(KvType::F16, false), CELLS, 1)?;
    session.evaluate(&tokens, true)?;
    session.wait();
    Ok(())
}

/// Tries a model. What else is wrong with it than that it ends the process is found and said when it is used.
///
/// # Errors
/// When the process was ended by a signal, with the last thing that it said.
pub fn in_another_process(path: &Path, gpu_layers: u32) -> Result<()> {
    let Ok(program) = std::env::current_exe() else { return Ok(()) };
    let tried = Command::new(program)
        .arg(ARGUMENT)
        .arg(path)
        .arg(gpu_layers.to_string())
        // A debugger that llama.cpp would start says nothing of use, for seconds.
        .env("GGML_NO_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output();
    let Ok(tried) = tried else { return Ok(()) };
    match (tried.status.code(), signal_of(&tried.status)) {
        (Some(code), _) if code != PANICKED => return Ok(()),
        (None, Some(signals::INTERRUPT | signals::TERMINATE | signals::HANG_UP)) => {
            bail!(Failure::Interrupted("interrupted".into()))
        }
        (None, Some(signals::KILL)) => {
            bail!("{} cannot be loaded: its process was killed; is there memory enough?", path.display())
        }
        _ => {}
    }
    let said = String::from_utf8_lossy(&tried.stderr);
    let lines = || said.lines().rev().filter(|line| !line.trim().is_empty() && !line.starts_with("note:"));
    let why = lines().find(|line| line.contains("GGML_")).or(lines().next()).unwrap_or("it does not say why");
    // The path of a source file on the machine where it was compiled helps nobody.
    let why = why.rsplit_once("llama.cpp/").map_or(why, |(_, end)| end);
    bail!("{} is not a model that can be used: llama.cpp gives up on it: {}", path.display(), harmless(why))
}

#[cfg(unix)]
fn signal_of(status: &ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(status)
}

#[cfg(not(unix))]
fn signal_of(_status: &ExitStatus) -> Option<i32> {
    None
}

/// Signals that end a process from outside; their numbers are the same on all systems.
mod signals {
    pub const HANG_UP: i32 = 1;
    pub const INTERRUPT: i32 = 2;
    pub const KILL: i32 = 9;
    pub const TERMINATE: i32 = 15;
}

/// Exit code of a program that panicked, as its binding does on numbers that it does not expect.
const PANICKED: i32 = 101;
