//! How results are printed, or where to.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Error, ValueEnum};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One object per result, one a line.
    Json,
    /// One object per event.
    Jsonl,
}

/// Stdout in a format, or a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputTo {
    /// Stdout.
    Format(Output),
    /// Stdout, as a report that continuous integration reads.
    Junit,
    /// A file, whose name says what it holds.
    File(PathBuf),
}

const JUNIT: &str = "junit";

/// Takes a format for what it is, and for a file what looks like one.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutputParser;

impl TypedValueParser for OutputParser {
    type Value = OutputTo;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<OutputTo, Error> {
        let text = value.to_string_lossy();
        if text == JUNIT {
            return Ok(OutputTo::Junit);
        }
        if let Ok(format) = Output::from_str(&text, false) {
            return Ok(OutputTo::Format(format));
        }
        if text.contains(['.', std::path::MAIN_SEPARATOR]) {
            return Ok(OutputTo::File(PathBuf::from(value)));
        }
        let mut error = Error::new(ErrorKind::InvalidValue).with_cmd(command);
        let names = self.possible_values().into_iter().flatten().map(|v| v.get_name().to_owned()).collect();
        if let Some(arg) = arg {
            error.insert(ContextKind::InvalidArg, ContextValue::String(arg.to_string()));
        }
        error.insert(ContextKind::InvalidValue, ContextValue::String(text.into_owned()));
        error.insert(ContextKind::ValidValue, ContextValue::Strings(names));
        let tip = "for a file, its name needs a dot or a slash: ./answers or answers.jsonl";
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
        Err(error)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let formats = Output::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        Some(Box::new(formats.chain([PossibleValue::new(JUNIT).help("For eval: what CI reads")])))
    }
}
