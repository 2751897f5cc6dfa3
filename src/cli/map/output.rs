//! Where answers go, in the order of their records: stdout, a pipe or a device, or a file that a run can go on with.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};
use same_file::Handle;

use super::input;
use super::journal::{Sink, journal_of};
use super::layout::{Layout, Outcome};
use super::records::Record;
use crate::cli::app::App;
use crate::cli::args::{Map, OutputTo};
use crate::cli::failure::Failure;

/// Where answers go.
pub struct Output<'a> {
    app: &'a App,
    layout: Layout,
    file: Option<Sink>,
    /// A pipe or a device that was named.
    stream: Option<fs_err::File>,
}

impl<'a> Output<'a> {
    /// Answers go to stdout.
    pub fn to_stdout(app: &'a App, layout: Layout) -> Result<Self> {
        app.write(&layout.head())?;
        Ok(Self { app, layout, file: None, stream: None })
    }

    /// Answers go to a file, behind those that the same run has put there already. `run` names the state and the options.
    pub fn to_file(app: &'a App, layout: Layout, path: &Path, run: &str, overwrite: bool) -> Result<Self> {
        if fs_err::metadata(path).is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
            // A pipe or a device keeps nothing to go on with.
            let mut file = fs_err::OpenOptions::new().write(true).open(path)?;
            file.write_all(layout.head().as_bytes())?;
            return Ok(Self { app, layout, file: None, stream: Some(file) });
        }
        let file = Some(Sink::open(path, run, &layout.head(), overwrite)?);
        Ok(Self { app, layout, file, stream: None })
    }

    /// Whether an interrupted run can be gone on with.
    pub fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// How many records are answered already.
    pub fn done(&self) -> usize {
        self.file.as_ref().map_or(0, Sink::done)
    }

    /// How many of them could not be answered.
    pub fn failed(&self) -> usize {
        self.file.as_ref().map_or(0, Sink::failed)
    }

    /// Refuses a record that is not the one that was answered in its place.
    pub fn check_done(&self, record: &Record) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), |sink| sink.check_done(record))
    }

    /// Why a record has no place in the output, if it has none.
    pub fn check(&self, record: &Record) -> Result<(), String> {
        self.layout.check(record)
    }

    /// Writes what became of the next record.
    pub fn write(&mut self, record: &Record, outcome: &Outcome) -> Result<()> {
        let line = self.layout.line(record, outcome);
        match (&mut self.file, &mut self.stream) {
            (Some(sink), _) => sink.write(&line, record, matches!(outcome, Outcome::Problem(_))),
            (None, Some(stream)) => Ok(stream.write_all(line.as_bytes())?),
            (None, None) => self.app.write(&line),
        }
    }

    /// The run is over. When all records are answered the journal goes; else the same command goes on.
    pub fn close(self, is_complete: bool) -> Result<()> {
        self.file.map_or(Ok(()), |sink| sink.close(is_complete))
    }
}

/// Refuses what cannot be written, and what would be written into the input, before anything is loaded.
pub fn check(app: &App, args: &Map) -> Result<()> {
    let input = if args.input.as_os_str() == "-" { Handle::stdin() } else { Handle::from_path(&args.input) };
    // Of devices and pipes, what is written does not come back.
    let is_file = |handle: &Handle| handle.as_file().metadata().is_ok_and(|meta| meta.is_file());
    let input = input.ok().filter(is_file);
    let log = app.global.log.as_ref().and_then(|log| Handle::from_path(log).ok()).filter(is_file);
    let mut written: Vec<Handle> = Vec::new();
    match &app.global.output {
        OutputTo::File(path) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir());
            if let Some(folder) = folder {
                bail!("cannot write {}: there is no folder {}", path.display(), folder.display());
            }
            let names = [path, &journal_of(path)];
            written.extend(names.into_iter().filter_map(|name| Handle::from_path(name).ok()));
        }
        _ => written.extend(Handle::stdout().ok()),
    }
    if log.as_ref().is_some_and(|log| written.contains(log)) {
        bail!(Failure::Usage("the log and the output would be one file; choose another name for one".into()));
    }
    written.extend(log);
    if input.is_some_and(|input| written.contains(&input)) {
        let input = input::name(&args.input);
        bail!(Failure::Usage(format!("{input} would be read and written at once; choose another output")));
    }
    Ok(())
}
