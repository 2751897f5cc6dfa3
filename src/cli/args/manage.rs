//! Arguments of the commands that look after what is saved.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::values::{seconds, size};
use pcache_format::Codec;

/// Arguments of `ls`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache ls
  pcache ls --sort size
  pcache ls --model smollm2 --json        models with this in their file name

SIZE is all a state needs, OWN what would be freed without it; the rest is
shared with other states. A state without a name shows its prompt file in
parentheses; * marks a pinned state, ! one that has expired, + one with more names.")]
pub struct Ls {
    /// Order of the rows; newest, largest or most first
    #[arg(long, value_enum, value_name = "BY", default_value = "used")]
    pub sort: Sort,
}

/// Orders of `ls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// By last use.
    Used,
    /// By when it was built.
    Created,
    /// By size.
    Size,
    /// By number of tokens.
    Tokens,
    /// By number of hits.
    Hits,
    /// By name, then key.
    Name,
}

/// Arguments of `gc`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache gc --dry-run                     what lies there, what nobody needs
  pcache gc --max-age 30d                 states not used for 30 days go
  pcache gc --max-size 10GiB              the least recently used go until it fits
  pcache gc --keep 20                     the 20 most recently used stay

Without limits only leftovers and expired states go: segments of interrupted
builds, staging files. Pinned states always stay; limits go before a --ttl that
has not ended.")]
pub struct Gc {
    /// Bytes of the whole folder, as 10GiB or 500MB
    #[arg(long, env = "PCACHE_MAX_SIZE", value_name = "SIZE", value_parser = size)]
    pub max_size: Option<u64>,
    /// Time since a state's last use, as 30d or 12h
    #[arg(long, value_name = "AGE", value_parser = seconds)]
    pub max_age: Option<i64>,
    /// Keep at most N states, the most recently used
    #[arg(long, value_name = "N")]
    pub keep: Option<usize>,
    /// Say what would go, and let it stay
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Arguments of `show`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache show menu                        model, parameters, segments, costs
  pcache show 4f2a91 --prompt > menu.txt  the prompt that it was built from
  pcache show menu --json | jq .segments")]
pub struct Show {
    /// Key of the state (6 digits or more), or its name
    #[arg(value_name = "KEY")]
    pub key: String,
    /// Print the prompt and nothing else; loads the model's vocabulary
    #[arg(long)]
    pub prompt: bool,
    /// With --prompt: all that the model reads, the chat template's text included
    #[arg(long, requires = "prompt")]
    pub all: bool,
}

/// Arguments of `rm`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache rm menu 4f2a91
  pcache rm --dry-run menu                what it would free

A state goes with all of its names; pcache rename NAME --clear takes a name
away and leaves the state.")]
pub struct Rm {
    /// Keys or names of states
    #[arg(required = true, value_name = "KEY")]
    pub keys: Vec<String>,
    /// Remove pinned states, too
    #[arg(short, long)]
    pub force: bool,
    /// Say what would go, and let it stay
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Arguments of `pin` and of `unpin`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache pin menu                         stays, even when it has expired
  pcache unpin menu

A pin of a name goes with the name; a pin of a key is the state's own. A
state stays as long as one of them is pinned.")]
pub struct Pin {
    /// Keys or names of states
    #[arg(required = true, value_name = "KEY")]
    pub keys: Vec<String>,
}

/// Arguments of `rename`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache rename 4f2a91 menu               the state has this name, too
  pcache rename menu lunch                lunch takes the place of menu
  pcache rename menu --clear              this name is taken away

A state can have several names. A name that another state has moves here,
and that is said.")]
pub struct Rename {
    /// Key of the state (6 digits or more), or its name
    #[arg(value_name = "KEY", index = 1)]
    pub key: String,
    /// The new name
    #[arg(value_name = "NAME", index = 2, required_unless_present = "clear", conflicts_with = "clear")]
    pub name: Option<String>,
    /// Take the name away
    #[arg(long)]
    pub clear: bool,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache verify                           hashes every object of every state
  pcache verify menu --logits             compares with a cold evaluation
  pcache verify --repair                  evaluates again what is damaged, and
                                          rebuilds a lost index

Exit code 4 when something is damaged and was not repaired.")]
pub struct Verify {
    /// Keys or names of states; without any, all of them
    #[arg(value_name = "KEY")]
    pub keys: Vec<String>,
    /// All states (as without any key)
    #[arg(long, conflicts_with = "keys")]
    pub all: bool,
    /// Compare the logits after a restore with those after a cold evaluation; takes as long as a build
    #[arg(long)]
    pub logits: bool,
    /// Evaluate again what is damaged, and rebuild the index from the objects where it is lost
    #[arg(long)]
    pub repair: bool,
}

/// Arguments of `models`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache models                           every model that -m finds by name
  pcache models qwen                      only those with this in their name

Looked for in pcache's models folder and in what Ollama, LM Studio, the Hugging
Face cache and llama.cpp have downloaded. Nothing is copied.")]
pub struct Models {
    /// A part of the name
    #[arg(value_name = "TEXT")]
    pub filter: Option<String>,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache completions bash >> ~/.bashrc
  pcache completions zsh > ~/.zfunc/_pcache
  pcache completions fish > ~/.config/fish/completions/pcache.fish

Keys and names of states are completed, too.")]
pub struct Completions {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// Shells with completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache man | man -l -                   reads the page of pcache itself
  pcache man ~/.local/share/man/man1      writes a page for each command there")]
pub struct Man {
    /// The folder to write the pages into; without it, the main page is printed
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Arguments of `recode`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache recode menu --codec zstd         a seventh smaller; restored slower
  pcache recode --all --codec raw         restored without decoding again

A state has the same key and gives the same answers in every codec. Segments
that others share are recoded with it. What a codec does not make smaller, such
as a quantised cache that hardly compresses, stays as it is.")]
pub struct Recode {
    /// Keys or names
    #[arg(value_name = "KEY", required_unless_present = "all")]
    pub keys: Vec<String>,
    /// All states
    #[arg(long, conflicts_with = "keys")]
    pub all: bool,
    /// raw, zstd or zstd:LEVEL; what is in zstd already keeps its level
    #[arg(long, value_name = "CODEC", value_parser = str::parse::<Codec>)]
    pub codec: Codec,
}
