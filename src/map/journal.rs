//! A file of answers and the journal beside it (`FILE.progress`): which run it belongs to, and after each answer which record it was, and how long the file was then and what its hash was. What a
//! crash left half-written behind the last such line is cut off; a file that was edited is not continued.

use std::fs::{File, TryLockError};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use same_file::Handle;
use serde::{Deserialize, Serialize};

use super::records::Record;
use crate::cache::{Failure, Hint};

/// An output file with its journal.
pub struct JournaledFile {
    path: PathBuf,
    file: fs_err::File,
    length: u64,
    /// Of all that is written.
    hash: blake3::Hasher,
    /// Locked for as long as the run lives: two of them would write into each other's lines.
    journal: File,
    /// Digests of the records that are done, in order.
    done: Vec<String>,
    /// Number of them that could not be answered.
    failed: usize,
}

/// The first line of a journal.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    run: String,
    begins_at: u64,
}

/// A line of a journal.
#[derive(Debug, Serialize, Deserialize)]
struct Step {
    record: String,
    end: u64,
    /// Of the output up to there: what was changed since is not gone on with.
    output: String,
    /// The record could not be answered.
    failed: bool,
}

/// Line of a journal behind the last step of a run that came to its end: no crash has left anything behind it.
#[derive(Debug, Serialize, Deserialize)]
struct Closed {
    closed_at: u64,
}

impl JournaledFile {
    /// A file behind whose answers the same run goes on, or an empty one that begins with `head`. `run` names the state and
    /// the options.
    pub fn open(path: &Path, run: &str, head: &str, overwrite: bool) -> Result<Self> {
        let journal = Journal::lock(path)?;
        if !overwrite && let Some(sink) = journal.resumed(path, run)? {
            return Ok(sink);
        }
        if !overwrite && fs_err::metadata(path).is_ok_and(|meta| meta.len() > 0) {
            journal.withdrawn();
            bail!(Hint::BeginAnew.with(format!(
                "{} already exists, and there is no journal of a run beside it",
                path.display()
            )));
        }
        let length = head.len() as u64;
        // First, so that no file is without its journal.
        let mut journal = journal.emptied()?;
        write_line(&mut journal, &Head { run: run.to_owned(), begins_at: length })
            .with_context(|| format!("cannot write {}", journal_of(path).display()))?;
        let mut file = fs_err::File::create(path)?;
        file.write_all(head.as_bytes())?;
        let path = path.to_owned();
        let mut hash = blake3::Hasher::new();
        hash.update(head.as_bytes());
        Ok(Self { path, file, length, hash, journal, done: Vec::new(), failed: 0 })
    }

    /// Number of records that are done.
    pub fn done(&self) -> usize {
        self.done.len()
    }

    /// Number of them that could not be answered.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// Refuses a record that is not the one that was answered in its place.
    pub fn check_done(&self, record: &Record) -> Result<()> {
        if self.done.get(record.number - 1).is_some_and(|done| *done != record.digest()) {
            bail!(Hint::BeginAnew.with(format!(
                "record {} is not the one that {} has an answer to",
                record.number,
                self.path.display()
            )));
        }
        Ok(())
    }

    /// The run is over. The journal stays: records that come later are answered by the same command.
    pub fn close(mut self) -> Result<()> {
        self.file.sync_all()?;
        write_line(&mut self.journal, &Closed { closed_at: self.length })
            .with_context(|| format!("cannot write {}", journal_of(&self.path).display()))?;
        let written = Handle::from_file(self.file.into_parts().0)?;
        if !Handle::from_path(&self.path).is_ok_and(|found| found == written) {
            bail!(
                "{} was removed or replaced while it was written: the answers are lost",
                self.path.display()
            );
        }
        Ok(())
    }

    /// Writes what became of a record, and then that it did.
    pub fn write(&mut self, line: &str, record: &Record, failed: bool) -> Result<()> {
        self.file.write_all(line.as_bytes()).context("what is answered so far is kept")?;
        self.length += line.len() as u64;
        self.hash.update(line.as_bytes());
        let step = Step { record: record.digest(), end: self.length, output: short(&self.hash), failed };
        let journal =
            || format!("cannot write {}; what is answered so far is kept", journal_of(&self.path).display());
        write_line(&mut self.journal, &step).with_context(journal)
    }
}

/// Name of a hash in a journal.
fn short(hash: &blake3::Hasher) -> String {
    hash.finalize().to_hex()[..16].to_owned()
}

fn write_line(file: &mut File, value: &impl Serialize) -> Result<()> {
    Ok(file.write_all(format!("{}\n", serde_json::to_string(value)?).as_bytes())?)
}

/// The journal of an output file.
pub fn journal_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".progress");
    name.into()
}

/// A journal that no other process has.
struct Journal {
    path: PathBuf,
    file: File,
    text: String,
}

impl Journal {
    /// Opens and locks the journal of an output file; one that another run holds, or that is no journal, is refused.
    fn lock(output: &Path) -> Result<Self> {
        let path = journal_of(output);
        let file =
            fs_err::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let mut file = file.into_parts().0;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                bail!(Failure::Usage(format!("another map is writing {}", output.display())))
            }
            // Without locks no other process is kept out.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let first = text.lines().next().unwrap_or_default();
        if !bytes.is_empty() && serde_json::from_str::<Head>(first).is_err() && text.contains('\n') {
            bail!(Failure::Usage(format!(
                "{} is in the way: it is no journal of pcache map; choose another name for the output",
                path.display()
            )));
        }
        Ok(Self { path, file, text })
    }

    /// No run begins: a journal that was made for it goes.
    fn withdrawn(self) {
        if self.text.is_empty() {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// The journal with nothing in it.
    fn emptied(mut self) -> Result<File> {
        self.file.set_len(0).with_context(|| format!("cannot empty {}", self.path.display()))?;
        self.file.seek(SeekFrom::Start(0))?;
        Ok(self.file)
    }

    /// The output and its journal as a run that was cut short left them, with what is half-written cut off.
    fn resumed(&self, path: &Path, run: &str) -> Result<Option<JournaledFile>> {
        resumed(path, self, run)
    }
}

fn resumed(path: &Path, journal: &Journal, run: &str) -> Result<Option<JournaledFile>> {
    if journal.text.is_empty() || !path.exists() {
        return Ok(None);
    }
    let text = &journal.text;
    // A line without its end was cut short.
    let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let Some((first, head)) = lines.next().and_then(|l| Some((l, serde_json::from_str::<Head>(l).ok()?)))
    else {
        return Ok(None);
    };
    if head.run != run && lines.clone().next().is_none() {
        // Nothing was answered yet, so nothing is lost.
        fs_err::File::create(path)?;
        return Ok(None);
    }
    if head.run != run {
        bail!(Hint::BeginAnew.with(format!(
            "{} was begun with another state or other options, and only the same ones continue it",
            path.display()
        )));
    }
    let mut file = fs_err::OpenOptions::new().read(true).write(true).open(path)?;
    let written = file.metadata()?.len();
    if written < head.begins_at {
        file.set_len(0)?;
        return Ok(None);
    }
    let mut read = Reread::new(&mut file, head.begins_at)?;
    let (mut done, mut failed, mut valid) = (Vec::new(), 0, first.len());
    let mut is_closed = false;
    for line in lines {
        if serde_json::from_str(line).is_ok_and(|closed: Closed| closed.closed_at == read.length) {
            is_closed = true;
            valid += line.len();
            continue;
        }
        let Ok(step) = serde_json::from_str::<Step>(line) else { break };
        is_closed = false;
        if !(read.length..=written).contains(&step.end) {
            break;
        }
        let (part, hash) = read.up_to(step.end)?;
        if short(&hash) != step.output {
            // A file that was not written to its end when the power went has zeros there.
            if part.contains(&0) {
                break;
            }
            bail!(Hint::BeginAnew.with(format!(
                "{} was changed since it was written: record {} is not what it was",
                path.display(),
                done.len() + 1
            )));
        }
        read.hash = hash;
        read.length = step.end;
        valid += line.len();
        failed += usize::from(step.failed);
        done.push(step.record);
    }
    let (length, hash) = (read.length, read.hash);
    if is_closed && written > length {
        bail!(Hint::BeginAnew.with(format!(
            "{} was changed since it was written: there is more behind record {}",
            path.display(),
            done.len()
        )));
    }
    file.set_len(length)?;
    file.seek(SeekFrom::Start(length))?;
    let mut journal = journal.file.try_clone()?;
    journal.set_len(valid as u64)?;
    journal.seek(SeekFrom::End(0))?;
    Ok(Some(JournaledFile { path: path.to_owned(), file, length, hash, journal, done, failed }))
}

/// An output that is read again, to see whether it is what was written.
struct Reread<'f> {
    file: BufReader<&'f mut fs_err::File>,
    length: u64,
    hash: blake3::Hasher,
}

impl<'f> Reread<'f> {
    /// Reads what stands before the first answer.
    fn new(file: &'f mut fs_err::File, begins_at: u64) -> Result<Self> {
        let mut read = Self { file: BufReader::new(file), length: 0, hash: blake3::Hasher::new() };
        read.hash = read.up_to(begins_at)?.1;
        read.length = begins_at;
        Ok(read)
    }

    /// The bytes up to a place, and the hash with them.
    fn up_to(&mut self, end: u64) -> Result<(Vec<u8>, blake3::Hasher)> {
        let mut part = vec![0; usize::try_from(end - self.length)?];
        self.file.read_exact(&mut part)?;
        let mut hash = self.hash.clone();
        hash.update(&part);
        Ok((part, hash))
    }
}
