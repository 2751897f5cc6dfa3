//! Tips for arguments that other programs have, and this one has in another way or not at all.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};

/// Arguments of llama.cpp's programs and others, with what to do instead.
const FOREIGN: [(&[&str], &str); 9] = [
    (&["--output"], "--format FORMAT is the format of results; only map, eval and bench report write a file"),
    (&["--file", "--prompt-file"], "the prompt's file is an argument without a flag: pcache build FILE"),
    (&["--ctx-size", "-c"], "the context is made as large as the state, the question and --max-tokens need"),
    (&["--n-gpu-layers", "-ngl", "-l"], "--gpu-layers N puts layers on the GPU"),
    (&["--cache-type-k", "--cache-type-v", "-ctk", "-ctv"], "--kv-type TYPE is the data type of K and V"),
    (&["--flash-attention", "-fa"], "--flash-attn on, off or auto"),
    (&["--prompt", "-p"], "write the prompt to a file, or pipe it in: … | pcache build -"),
    (&["--system-prompt", "-sys"], "--system TEXT is a system message beside the prompt"),
    (
        &["--context", "--n-ctx"],
        "the context is made as large as the state, the question and --max-tokens need",
    ),
];

/// Replaces clap's tip about an unknown argument, which is to take it for a question, by one that helps.
pub fn with_tip(mut error: Error, command: &Command) -> Error {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return error };
    let name = argument.split(['=', ' ']).next().unwrap_or_default().to_owned();
    let tip = match error.kind() {
        // What stands before a value's error is the option's own usage: `-n` of `-ngl`.
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => tip_for_value(&error),
        ErrorKind::UnknownArgument => tip_for(&name),
        _ => None,
    };
    if let Some(tip) = tip {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
        return error.with_cmd(command);
    }
    error
}

fn tip_for(name: &str) -> Option<&'static str> {
    FOREIGN.iter().find(|(names, _)| names.contains(&name)).map(|(_, tip)| *tip)
}

/// `-ngl 99` is read as `-n gl`.
fn tip_for_value(error: &Error) -> Option<&'static str> {
    match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) if value == "gl" => tip_for("-ngl"),
        _ => None,
    }
}
