//! Lines of a conversation: typed with a history, or read from a pipe.

use std::io::{BufRead, ErrorKind, IsTerminal};
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, DefaultEditor, Editor};

/// Messages that the history keeps.
const MAX_REMEMBERED: usize = 1000;

/// One thing that the user did.
pub enum Input {
    /// A message or a command.
    Line(String),
    /// Bytes that are no text.
    Unreadable,
    /// Ctrl-C at the prompt.
    Interrupt,
    /// Ctrl-D, or the end of the pipe.
    End,
}

/// Source of lines.
pub enum Lines {
    /// A person at a terminal.
    Typed { editor: Box<Editor<(), FileHistory>>, history: Option<PathBuf> },
    /// A file or another program.
    Piped,
}

impl Lines {
    /// From stdin. Lines that are typed can be called back in the same conversation, and in later ones where a file `history`
    /// keeps them.
    pub fn of_stdin(history: Option<PathBuf>) -> Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Piped);
        }
        let config = Config::builder().max_history_size(MAX_REMEMBERED)?.history_ignore_dups(true)?.build();
        let mut editor = DefaultEditor::with_config(config).context("cannot read from the terminal")?;
        if let Some(file) = &history {
            // There is none the first time.
            let _ = editor.load_history(file);
        }
        Ok(Self::Typed { editor: Box::new(editor), history })
    }

    /// Returns true if a person types.
    pub fn are_typed(&self) -> bool {
        matches!(self, Self::Typed { .. })
    }

    /// The next message or command; a line that ends with `\` goes on in the next one.
    pub fn next(&mut self) -> Result<Input> {
        let mut whole = String::new();
        loop {
            let prompt = if whole.is_empty() { "> " } else { "… " };
            let line = match self.line(prompt)? {
                Input::Line(line) => line,
                Input::End if !whole.is_empty() => String::new(),
                other => return Ok(other),
            };
            match line.strip_suffix('\\') {
                Some(line) => whole.extend([line, "\n"]),
                None => {
                    whole.push_str(&line);
                    self.remember(&whole);
                    return Ok(Input::Line(whole));
                }
            }
        }
    }

    fn line(&mut self, prompt: &str) -> Result<Input> {
        match self {
            Self::Typed { editor, .. } => match editor.readline(prompt) {
                Ok(line) => Ok(Input::Line(line)),
                Err(ReadlineError::Interrupted) => Ok(Input::Interrupt),
                Err(ReadlineError::Eof) => Ok(Input::End),
                Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                    Ok(Input::Unreadable)
                }
                Err(error) => Err(error).context("cannot read from the terminal"),
            },
            Self::Piped => {
                let mut line = Vec::new();
                let read =
                    std::io::stdin().lock().read_until(b'\n', &mut line).context("cannot read stdin")?;
                Ok(match String::from_utf8(line) {
                    _ if read == 0 => Input::End,
                    Ok(line) => Input::Line(line.trim_end_matches(['\n', '\r']).to_owned()),
                    Err(_) => Input::Unreadable,
                })
            }
        }
    }

    fn remember(&mut self, line: &str) {
        let Self::Typed { editor, history } = self else { return };
        let _ = editor.add_history_entry(line);
        // A history that cannot be kept is no reason to end a conversation.
        if let Some(file) = history {
            let _ = file.parent().map(std::fs::create_dir_all);
            let _ = editor.append_history(file);
        }
    }
}
