//! Text files.

use std::io::{self, BufRead, Cursor, Read};
use std::path::{Path, PathBuf};

use anyhow::Result;

/// The byte order mark that editors and shells on Windows begin texts with. It is no part of them.
const MARK: &str = "\u{feff}";

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
    let bytes = fs_err::read(path).map_err(|e| Missing::or(path, e))?;
    decoded(bytes, &path.display().to_string())
}

/// Takes bytes as text; `name` says where they are from.
///
/// # Errors
/// When they are not UTF-8.
pub fn decoded(bytes: Vec<u8>, name: &str) -> Result<String> {
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow::anyhow!("{name} is not UTF-8 text: the bytes from position {at} on are not a character")
    })?;
    Ok(text.strip_prefix(MARK).map(str::to_owned).unwrap_or(text))
}

/// A text behind the mark that it may begin with.
///
/// # Errors
/// When it cannot be read.
pub fn without_mark(mut text: impl BufRead + Send + 'static) -> io::Result<Box<dyn BufRead + Send>> {
    let waiting = text.fill_buf()?;
    if waiting.starts_with(MARK.as_bytes()) {
        text.consume(MARK.len());
        return Ok(Box::new(text));
    }
    if waiting.is_empty() || !MARK.as_bytes().starts_with(waiting) {
        return Ok(Box::new(text));
    }
    // Part of a mark, perhaps.
    let mut begins = Vec::new();
    // No byte more than is needed: on a pipe the next one may come after an answer to the first.
    while begins.len() < MARK.len() && MARK.as_bytes().starts_with(&begins) {
        if text.by_ref().take(1).read_to_end(&mut begins)? == 0 {
            break;
        }
    }
    if begins == MARK.as_bytes() {
        begins.clear();
    }
    Ok(Box::new(Cursor::new(begins).chain(text)))
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
            let mut text = without_mark(Cursor::new(bytes.as_bytes().to_vec())).unwrap();
            text.read_to_string(&mut read).unwrap();
            assert_eq!(read, expected);
        }
    }
}
