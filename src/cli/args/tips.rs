//! Tips for words that other programs have, and this one has in another way or not at all.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};

/// Options of llama.cpp's programs and others, with what to do instead.
const OPTIONS: [(&[&str], &str); 21] = [
    (&["--output"], "--format FORMAT is the format of results; map, eval and bench report write files"),
    (
        &["-f", "--file", "--prompt-file"],
        "a prompt file is named without an option: pcache build FILE, pcache ask FILE",
    ),
    (&["-c", "--ctx-size", "--context-size", "--n-ctx"], "the context is made as large as it needs to be"),
    (&["-ngl", "--n-gpu-layers"], "--gpu-layers N puts layers on the GPU"),
    (&["-ctk", "-ctv", "--cache-type-k", "--cache-type-v"], "--kv-type TYPE is the data type of K and V"),
    (&["-fa", "--flash-attention"], "--flash-attn on, off or auto"),
    (
        &["-hf", "-hfr", "--hf-repo", "-mu", "--model-url"],
        "nothing is downloaded: pass -m FILE.gguf, or a name that `pcache models` lists",
    ),
    (&["-p", "--prompt"], "a prompt is a file, and a question follows the key: pcache ask KEY \"question\""),
    (&["-sys", "--system-prompt"], "--system TEXT is a system message beside the prompt (build)"),
    (&["-s"], "--seed N"),
    (&["-b", "-ub", "--batch-size", "--ubatch-size"], "prompts are evaluated in segments of 256 tokens"),
    (&["-r", "--reverse-prompt"], "--stop TEXT is a stop sequence"),
    (&["-j"], "--json-schema FILE constrains answers"),
    (&["-o"], "only map, eval and bench report write files; elsewhere: > FILE"),
    (&["--jinja"], "chat templates are always rendered with Jinja"),
    (
        &["--prompt-cache", "--prompt-cache-ro", "--prompt-cache-all"],
        "states are kept by themselves: pcache build FILE, then pcache ask",
    ),
    (&["--stream", "--no-stream"], "answers stream by themselves; --format jsonl prints events"),
    (
        &["--parallel", "-np"],
        "map answers several questions at once: pcache map KEY --input FILE --parallel N",
    ),
    (&["--raw", "--system", "--user"], "that is an option of build; a state has its prompt format"),
    (&["-l"], "-v shows more"),
    (&["--samplers"], "--temp, --top-k, --top-p, --min-p and --repeat-penalty are there"),
];

/// Commands of other programs, with those that do the same.
const COMMANDS: [(&[&str], &str); 9] = [
    (&["run", "prompt", "generate", "query", "complete"], "pcache ask KEY \"question\""),
    (&["create", "add", "save", "backup", "cache"], "pcache build FILE"),
    (&["ps", "images", "snapshots", "df", "status"], "pcache ls"),
    (&["check", "fsck", "repair"], "pcache verify"),
    (&["forget", "clean", "clear"], "pcache gc evicts by limits, pcache rm removes a state"),
    (&["mv", "tag", "move", "name"], "pcache rename KEY NAME"),
    (&["pull", "download", "fetch"], "nothing is downloaded; pcache models lists the models of this machine"),
    (&["serve", "server"], "there is no server yet; pcache map answers a stream of questions"),
    (&["version"], "pcache --version"),
];

/// Options behind which any text may stand.
const TAKE_TEXT: [&str; 4] = ["--stop", "--system", "--question", "--template"];

/// Returns the tip for an option that pcache has not, of a command line that it might misread: `-ngl` begins as `-n` does.
pub fn foreign_option(arguments: impl Iterator<Item = String>) -> Option<(String, &'static str)> {
    let is_short =
        |argument: &String| argument.starts_with('-') && !argument.starts_with("--") && argument.len() > 2;
    let mut is_value = false;
    arguments
        .filter(|argument| {
            // The text that an option of pcache's is given may look like one of another's.
            let was_value = std::mem::replace(&mut is_value, TAKE_TEXT.contains(&argument.as_str()));
            !was_value && is_short(argument)
        })
        .filter_map(|argument| tip(&OPTIONS, &argument).map(|tip| (argument, tip)))
        .next()
}

/// Replaces clap's tips, of which one takes an unknown option for a question and another suggests commands that delete, by
/// tips that help.
pub fn with_tip(mut error: Error, command: &Command) -> Error {
    let (context, kept) = match error.kind() {
        ErrorKind::UnknownArgument => (ContextKind::InvalidArg, ContextKind::SuggestedArg),
        ErrorKind::InvalidSubcommand => (ContextKind::InvalidSubcommand, ContextKind::SuggestedSubcommand),
        _ => return error,
    };
    let Some(ContextValue::String(word)) = error.get(context) else { return error };
    let word = word.split(['=', ' ']).next().unwrap_or_default().to_owned();
    let tip = match context {
        ContextKind::InvalidArg => tip(&OPTIONS, &word).map(str::to_owned),
        _ => tip(&COMMANDS, &word).map(str::to_owned).or_else(|| nearest(command, &word)),
    };
    error.remove(ContextKind::Suggested);
    if tip.is_some() || context == ContextKind::InvalidSubcommand {
        error.remove(kept);
    }
    if let Some(tip) = tip {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

fn tip(known: &[(&[&'static str], &'static str)], word: &str) -> Option<&'static str> {
    known.iter().find(|(words, _)| words.contains(&word)).map(|(_, tip)| *tip)
}

/// The command that a typing error may have meant. Aliases are left out: a wrong guess should not be one that deletes.
fn nearest(command: &Command, word: &str) -> Option<String> {
    let names = command.get_subcommands().map(Command::get_name);
    let scored = names.map(|name| (strsim::damerau_levenshtein(word, name), name));
    let most = if word.len() > 5 { 2 } else { 1 };
    let (_, name) = scored.filter(|(distance, _)| *distance <= most).min()?;
    Some(format!("did you mean `pcache {name}`?"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn tip_of(args: &[&str]) -> String {
        let mut command = Cli::command();
        let error = command.try_get_matches_from_mut(args).unwrap_err();
        with_tip(error, &command).to_string()
    }

    #[test]
    fn words_of_other_programs_lead_on() {
        for (args, expected) in [
            (&["pcache", "ask", "k", "q", "-c", "5"][..], "as large as it needs"),
            (&["pcache", "build", "-f", "x"], "named without an option"),
            (&["pcache", "ask", "k", "q", "--parallel", "4"], "pcache map KEY"),
            (&["pcache", "run", "x"], "pcache ask KEY"),
            (&["pcache", "aks", "x"], "did you mean `pcache ask`?"),
            (&["pcache", "verfy"], "did you mean `pcache verify`?"),
        ] {
            let text = tip_of(args);
            assert!(text.contains(expected) && !text.contains("as a value"), "{args:?}: {text}");
        }
        let text = tip_of(&["pcache", "remote"]);
        assert!(
            !text.contains("remove"),
            "nothing that removes is suggested for a word that was meant otherwise: {text}"
        );
    }

    #[test]
    fn options_that_would_be_misread_are_seen_first() {
        let seen = |line: &str| foreign_option(line.split(' ').map(str::to_owned)).map(|(option, _)| option);
        assert_eq!(seen("build x -ngl 99").as_deref(), Some("-ngl"));
        assert_eq!(seen("build -hf repo x").as_deref(), Some("-hf"));
        assert_eq!(seen("ask k -n 3 --ngl"), None);
        assert_eq!(seen("ls -vv -q"), None);
    }
}
