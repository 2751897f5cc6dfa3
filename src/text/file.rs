//! Text files.

use std::io::{self, BufRead, Cursor, Read};
use std::path::{Path, PathBuf};

use anyhow::Result;

/// The byte order mark that editors and shells on Windows begin texts with. It is no part of them.
pub const MARK: &str = "\u{feff}";

/// A file that was named does not exist.
#[derive(Debug, thiserror::Error)]
#[error("there is no file {}", .0.display())]
pub struct Missing(PathBuf);

impl Missing {
    /// The error of opening a file that is to be read.
    pub fn or(path: &Path, error: io::Error) -> anyhow::Error {
        match error.kind() {
            io::ErrorKind::NotFound => Self(path.to_owned()).into(),
            _ => error.into(),
        }
    }
}

/// Reads a text file.
///
/// # Errors
/// [`Missing`] where there is none; when it cannot be read, or is not UTF-8.
pub fn read(path: &Path) -> Result<String> {
    let bytes = fs_err::read(path).map_err(|e| match e.kind() {
        io::ErrorKind::IsADirectory => {
            anyhow::anyhow!("{} is a folder, expected a text file", path.display())
        }
        _ => Missing::or(path, e),
    })?;
    decoded(bytes, &path.display().to_string())
}

/// Takes bytes as text; `name` says where they are from.
///
/// # Errors
/// When they are not UTF-8.
pub fn decoded(bytes: Vec<u8>, name: &str) -> Result<String> {
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        match e.as_bytes() {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
                anyhow::anyhow!("{name} is UTF-16, and not UTF-8 text; save it as UTF-8")
            }
            _ => anyhow::anyhow!(
                "{name} is not UTF-8 text: the bytes from position {at} on are not a character"
            ),
        }
    })?;
    Ok(text.strip_prefix(MARK).map(str::to_owned).unwrap_or(text))
}

/// A text that is read as it comes.
pub type Stream = Box<dyn BufRead + Send>;

/// A text behind the mark that it may begin with, and whether it does.
///
/// # Errors
/// When it cannot be read.
pub fn without_mark(mut text: impl BufRead + Send + 'static) -> io::Result<(Stream, bool)> {
    let waiting = text.fill_buf()?;
    if waiting.starts_with(MARK.as_bytes()) {
        text.consume(MARK.len());
        return Ok((Box::new(text), true));
    }
    if waiting.is_empty() || !MARK.as_bytes().starts_with(waiting) {
        return Ok((Box::new(text), false));
    }
    // Part of a mark, perhaps.
    let mut begins = Vec::new();
    // No byte more than is needed: on a pipe the next one may come after an answer to the first.
    while begins.len() < MARK.len() && MARK.as_bytes().starts_with(&begins) {
        if text.by_ref().take(1).read_to_end(&mut begins)? == 0 {
            break;
        }
    }
    let is_marked = begins == MARK.as_bytes();
    if is_marked {
        begins.clear();
    }
    Ok((Box::new(Cursor::new(begins).chain(text)), is_marked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_no_part_of_a_text() {
        for (bytes, expected) in
            [("\u{feff}a", "a"), ("a\u{feff}", "a\u{feff}"), ("", ""), ("\u{feff}", ""), ("é", "é")]
        {
            assert_eq!(decoded(bytes.into(), "x").unwrap(), expected);
            let mut read = String::new();
            let (mut text, is_marked) = without_mark(Cursor::new(bytes.as_bytes().to_vec())).unwrap();
            assert_eq!(is_marked, bytes.starts_with(MARK));
            text.read_to_string(&mut read).unwrap();
            assert_eq!(read, expected);
        }
    }
}
