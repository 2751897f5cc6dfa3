//! Text files.

use std::path::Path;

use anyhow::Result;

/// Reads a text file.
///
/// # Errors
/// When it cannot be read, or is not UTF-8.
pub fn read(path: &Path) -> Result<String> {
    decoded(fs_err::read(path)?, &path.display().to_string())
}

/// Takes bytes as text; `name` says where they are from.
///
/// # Errors
/// When they are not UTF-8.
pub fn decoded(bytes: Vec<u8>, name: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow::anyhow!("{name} is not UTF-8 text: the bytes from position {at} on are not a character")
    })
}
