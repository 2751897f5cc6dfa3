//! The config file: other defaults for options.
//!
//! A setting is named after its flag. Those of every command stand at the top of the file, those of one command in
//! a table with its name. A value goes through the same check as the flag's. Flags and environment variables
//! come first.

use std::path::{Path, PathBuf};

use clap::builder::{OsStr, Resettable};
use clap::{Arg, Command};
use etcetera::BaseStrategy;
use serde::Serialize;

use crate::text::similar::similar;
use toml::Value;

/// A setting: the table it stands in (none for the top), its name, and the commands whose flag it is.
struct Setting {
    table: Option<&'static str>,
    name: &'static str,
    commands: &'static [&'static str],
}

const fn top(name: &'static str) -> Setting {
    Setting { table: None, name, commands: &[] }
}

const fn in_table(table: &'static str, name: &'static str, commands: &'static [&'static str]) -> Setting {
    Setting { table: Some(table), name, commands }
}

/// The commands that take a prompt and evaluate, or would.
const PROMPTING: &[&str] = &["build", "explain", "tokens"];
/// The commands that choose the parameters of the states that they build.
const CHOOSING: &[&str] = &["build", "explain", "tokens", "eval"];
/// The commands that sample answers.
const ASKING: &[&str] = &["ask", "map", "chat"];

/// Everything that can be set, in the order in which `pcache config` shows it.
const SETTINGS: &[Setting] = &[
    top("cache-dir"),
    top("model"),
    top("threads"),
    top("gpu-layers"),
    top("format"),
    Setting { table: None, name: "max-size", commands: &["build", "extend", "gc"] },
    in_table("build", "ttl", &["build", "extend"]),
    in_table("build", "kv-type", CHOOSING),
    in_table("build", "flash-attn", CHOOSING),
    in_table("build", "template", PROMPTING),
    in_table("build", "date", PROMPTING),
    in_table("build", "template-arg", PROMPTING),
    in_table("ask", "max-tokens", ASKING),
    in_table("ask", "temp", ASKING),
    in_table("ask", "top-k", ASKING),
    in_table("ask", "top-p", ASKING),
    in_table("ask", "min-p", ASKING),
    in_table("ask", "repeat-penalty", ASKING),
    in_table("ask", "seed", ASKING),
    in_table("ask", "stop", ASKING),
    in_table("gc", "max-age", &["gc"]),
    in_table("gc", "keep", &["gc"]),
    in_table("ls", "sort", &["ls"]),
];

/// Error in a config file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        reason: String,
    },
    /// It is not TOML.
    #[error("{} is not TOML: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Error and its place.
        reason: String,
    },
    /// It has a setting that there is not.
    #[error("{}: there is no setting {name:?}; {known}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The setting.
        name: String,
        /// The nearest one, or all.
        known: String,
    },
    /// A value is refused.
    #[error("{}: {name} = {value}: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The setting.
        name: String,
        /// Its value.
        value: String,
        /// Why not.
        reason: String,
    },
}

/// The values of a config file; of no file, none.
#[derive(Debug, Default)]
pub struct Config {
    /// The file that was read, or would be.
    pub path: Option<PathBuf>,
    values: toml::Table,
}

/// A setting's value and where it comes from.
#[derive(Debug, Serialize)]
pub struct Effective {
    /// The setting, as `ask.temp`.
    pub name: String,
    /// Its value; nothing if pcache decides case by case.
    pub value: Option<String>,
    /// `default`, the file, or the environment variable.
    pub source: String,
}

/// The folder of a file may not be entered.
fn is_out_of_reach(path: &Path) -> bool {
    let denied = |e: std::io::Error| e.kind() == std::io::ErrorKind::PermissionDenied;
    path.symlink_metadata().err().is_some_and(denied)
}

impl Config {
    /// Reads the file that `PCACHE_CONFIG` names (one that must exist), else `pcache/config.toml` in the user's config
    /// folder, if there is one.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the file and what is wrong with it.
    pub fn of_user() -> Result<Self, ConfigError> {
        let named = std::env::var_os("PCACHE_CONFIG").filter(|v| !v.is_empty()).map(PathBuf::from);
        let usual = || {
            let strategy = etcetera::choose_base_strategy().ok()?;
            Some(strategy.config_dir().join("pcache/config.toml"))
        };
        let must_exist = named.is_some();
        let Some(path) = named.or_else(usual) else { return Ok(Self::default()) };
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(path, &text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !must_exist => {
                Ok(Self { path: Some(path), values: toml::Table::new() })
            }
            // A home folder that is another's, as under sudo or in a container: nobody knows whether there is such a file.
            Err(e)
                if e.kind() == std::io::ErrorKind::PermissionDenied
                    && !must_exist
                    && is_out_of_reach(&path) =>
            {
                Ok(Self { path: Some(path), values: toml::Table::new() })
            }
            Err(e) => Err(ConfigError::Unreadable { path, reason: e.to_string() }),
        }
    }

    fn parse(path: PathBuf, text: &str) -> Result<Self, ConfigError> {
        let values: toml::Table = text.parse().map_err(|e: toml::de::Error| ConfigError::Syntax {
            path: path.clone(),
            reason: e.to_string(),
        })?;
        let config = Self { path: Some(path), values };
        config.check(&<super::Cli as clap::CommandFactory>::command())?;
        Ok(config)
    }

    /// `command` with the file's values as defaults.
    pub fn applied_to(&self, mut command: Command) -> Command {
        for setting in SETTINGS {
            let id = id(setting);
            // A variable that is set to nothing is as good as unset.
            let given = argument(setting, &command).and_then(|a| a.get_env().map(std::env::var_os)).flatten();
            // And one that keeps nothing is meant to limit nothing: gc would remove everything.
            let is_none =
                |value: &std::ffi::OsStr| value.is_empty() || setting.name == "max-size" && value == "0";
            if given.is_some_and(|value| is_none(&value)) {
                command = changed(command, setting, &id, &|arg| arg.env(Resettable::Reset));
            }
            let Some(values) = self.get(setting) else { continue };
            if setting.name == "max-size" && values == ["0"] {
                continue;
            }
            command = changed(command, setting, &id, &|arg| with_default(arg, values.clone()));
        }
        command
    }

    /// Every setting with its value and where that comes from; `command` is the plain definition.
    pub fn effective(&self, command: &Command) -> Vec<Effective> {
        SETTINGS.iter().filter_map(|setting| self.effective_value(setting, command)).collect()
    }

    fn effective_value(&self, setting: &Setting, command: &Command) -> Option<Effective> {
        let arg = argument(setting, command)?;
        let from_env = arg.get_env().and_then(|name| {
            let value = std::env::var_os(name).filter(|v| !v.is_empty())?;
            Some((value.to_string_lossy().into_owned(), name.to_string_lossy().into_owned()))
        });
        let from_file = || {
            let path = self.path.as_ref()?.display().to_string();
            Some((self.get(setting)?.join(", "), path))
        };
        let (value, source) = match from_env.or_else(from_file) {
            Some((value, source)) => (Some(value), source),
            None => {
                let values = arg.get_default_values();
                let text: Vec<_> = values.iter().map(|v| v.to_string_lossy()).collect();
                let value =
                    if values.is_empty() { unsaid_default(setting.name) } else { Some(text.join(", ")) };
                (value, "default".to_owned())
            }
        };
        Some(Effective { name: full_name(setting), value, source })
    }

    /// The values of a setting, as the command line would have them.
    fn get(&self, setting: &Setting) -> Option<Vec<String>> {
        let table = match setting.table {
            None => &self.values,
            Some(table) => self.values.get(table)?.as_table()?,
        };
        Some(match table.get(setting.name)? {
            Value::Array(values) => values.iter().map(plain).collect(),
            value => vec![plain(value)],
        })
    }

    /// Refuses settings that there are not, and values that their flags would refuse.
    fn check(&self, command: &Command) -> Result<(), ConfigError> {
        let path = self.path.clone().unwrap_or_default();
        let known = |name: &str| SETTINGS.iter().any(|s| full_name(s) == name);
        for (key, value) in &self.values {
            let table = value.as_table().filter(|_| SETTINGS.iter().any(|s| s.table == Some(key)));
            let names = match table {
                Some(table) => table.keys().map(|k| format!("{key}.{k}")).collect(),
                None => vec![key.clone()],
            };
            if let Some(name) = names.into_iter().find(|n| !known(n)) {
                let all: Vec<_> = SETTINGS.iter().map(full_name).collect();
                let near = similar(&name, all.iter().cloned());
                let known = if name == "output" { Some("format".to_owned()) } else { near };
                return Err(ConfigError::Unknown {
                    path,
                    name,
                    known: known.map_or_else(
                        || format!("there are {}", all.join(", ")),
                        |near| format!("did you mean {near}?"),
                    ),
                });
            }
        }
        for setting in SETTINGS {
            let (Some(values), Some(arg)) = (self.get(setting), argument(setting, command)) else { continue };
            if values.len() > 1 && !matches!(arg.get_action(), clap::ArgAction::Append) {
                let (path, name, value) = (path.clone(), full_name(setting), values.join(", "));
                return Err(ConfigError::Value { path, name, value, reason: "expected one value".into() });
            }
            for value in values {
                if let Some(reason) = refusal(&arg, &value) {
                    let (path, name) = (path.clone(), full_name(setting));
                    return Err(ConfigError::Value { path, name, value, reason });
                }
            }
        }
        Ok(())
    }
}

/// Why an option would refuse a value.
fn refusal(arg: &Arg, value: &str) -> Option<String> {
    let id = arg.get_id().clone();
    let probe = Arg::new(id.clone())
        .long("value")
        .allow_hyphen_values(true)
        .value_parser(arg.get_value_parser().clone());
    let command = Command::new("config").no_binary_name(true).arg(probe);
    let error = command.try_get_matches_from([format!("--value={value}")]).err()?;
    let text = error.to_string();
    // "error: invalid value 'x' for '--value <…>': why" and hints; only the why is of use here.
    let line = text.lines().next().unwrap_or_default();
    let why = line.split_once(">': ").or_else(|| line.split_once("': ")).map_or(line, |(_, why)| why);
    let possible = text.lines().find(|l| l.trim_start().starts_with("[possible values"));
    Some(possible.map_or_else(|| why.to_owned(), |p| format!("not among {}", p.trim())))
}

/// Defaults that the definition leaves open, because for some commands no value means another thing.
fn unsaid_default(name: &str) -> Option<String> {
    let value = match name {
        "gpu-layers" => "0",
        "kv-type" => "f16",
        "flash-attn" => "auto",
        _ => return None,
    };
    Some(value.into())
}

fn argument(setting: &Setting, command: &Command) -> Option<Arg> {
    let holder = match setting.commands.first() {
        None => command,
        Some(name) => command.find_subcommand(name)?,
    };
    holder.get_arguments().find(|a| a.get_long() == Some(setting.name)).cloned()
}

/// The option's name among clap's.
fn id(setting: &Setting) -> String {
    match setting.name {
        "template-arg" => "template_args".into(),
        name => name.replace('-', "_"),
    }
}

fn full_name(setting: &Setting) -> String {
    setting.table.map_or_else(|| setting.name.to_owned(), |table| format!("{table}.{}", setting.name))
}

/// The definition with a setting's option changed, in every command that has it.
fn changed(command: Command, setting: &Setting, id: &str, change: &dyn Fn(Arg) -> Arg) -> Command {
    let id = || id.to_owned();
    if setting.commands.is_empty() {
        return command.mut_arg(id(), change);
    }
    setting.commands.iter().fold(command, |c, name| c.mut_subcommand(*name, |c| c.mut_arg(id(), change)))
}

fn with_default(arg: Arg, values: Vec<String>) -> Arg {
    let values: Vec<OsStr> = values.into_iter().map(OsStr::from).collect();
    match values.as_slice() {
        [one] => arg.default_value(Resettable::Value(one.clone())),
        _ => arg.default_values(values),
    }
}

/// A value as one would type it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Returns the path of the config file, for people.
pub fn render(path: Option<&Path>) -> String {
    path.map_or_else(|| "none: no home folder is known".to_owned(), |p| p.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command as Sub;
    use crate::cli::args::Cli;
    use clap::{CommandFactory, FromArgMatches};

    fn config(text: &str) -> Result<Config, String> {
        Config::parse("config.toml".into(), text).map_err(|e| e.to_string())
    }

    fn parse(config: &Config, args: &[&str]) -> Cli {
        let matches = config.applied_to(Cli::command()).try_get_matches_from(args).unwrap();
        Cli::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn every_setting_is_a_flag() {
        let command = Cli::command();
        for setting in SETTINGS {
            for name in setting.commands.iter().map(Some).chain(setting.commands.is_empty().then_some(None)) {
                let holder = name.map_or(&command, |n| command.find_subcommand(n).unwrap());
                let arg = holder.get_arguments().find(|a| a.get_long() == Some(setting.name)).unwrap();
                assert_eq!(arg.get_id().as_str(), id(setting));
            }
        }
    }

    /// A command that has a flag of a setting takes its value, but where the flag means something else there.
    #[test]
    fn no_command_with_the_flag_of_a_setting_is_forgotten() {
        // A saved state has its parameters, a suite its answers' length and seeds; bench measures what it is told to.
        let saved = ["ask", "map", "chat", "extend"];
        let excepted = |command: &str, setting: &Setting| match setting.name {
            "kv-type" | "flash-attn" => saved.contains(&command) || command == "bench",
            "max-tokens" | "temp" | "seed" => ["eval", "bench"].contains(&command),
            // Which one it was built with, and which one it is told apart by.
            "template" | "date" | "template-arg" => ["chat", "map"].contains(&command),
            _ => false,
        };
        for command in Cli::command().get_subcommands() {
            for setting in SETTINGS.iter().filter(|setting| !setting.commands.is_empty()) {
                let has = command.get_arguments().any(|arg| arg.get_long() == Some(setting.name));
                let name = command.get_name();
                assert!(
                    !has || setting.commands.contains(&name) || excepted(name, setting),
                    "{name} does not take {}",
                    full_name(setting)
                );
            }
        }
    }

    #[test]
    fn a_file_gives_defaults_and_flags_come_first() {
        let text =
            "threads = 3\nmax-size = '1GiB'\n[build]\nkv-type = 'q8_0'\n[ask]\ntemp = 0.5\nstop = ['a', 'b']";
        let config = config(text).unwrap();
        let cli = parse(&config, &["pcache", "build", "x"]);
        let Sub::Build(build) = cli.command else { panic!() };
        assert_eq!((cli.global.threads, build.keep.max_size), (Some(3), Some(1 << 30)));
        assert_eq!(build.params.kv_type, Some(pcache_format::KvType::Q8_0));
        let Sub::Ask(ask) = parse(&config, &["pcache", "ask", "k", "q"]).command else { panic!() };
        assert_eq!((ask.sampling.temp, ask.sampling.stop), (0.5, vec!["a".to_owned(), "b".into()]));
        let Sub::Ask(ask) = parse(&config, &["pcache", "ask", "k", "q", "--temp", "1"]).command else {
            panic!()
        };
        assert_eq!(ask.sampling.temp, 1.0);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert!(config("thread = 3").unwrap_err().contains("no setting \"thread\""));
        assert!(config("[ask]\ntemperature = 1").unwrap_err().contains("\"ask.temperature\""));
        assert!(config("[rm]\nforce = true").unwrap_err().contains("no setting \"rm\""));
        let error = config("max-size = 'much'").unwrap_err();
        assert!(error.contains("max-size = much: expected a size"), "{error}");
        let error = config("[build]\nkv-type = 'q2'").unwrap_err();
        assert!(error.contains("q8_0"), "{error}");
        assert!(config("threads = 0").unwrap_err().contains("threads = 0"));
        assert!(config("threads = [1, 2]").unwrap_err().contains("expected one value"));
        assert!(config("threads = ").unwrap_err().contains("not TOML"));
    }
}
