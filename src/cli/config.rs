//! `pcache config`: every setting, and where its value comes from.

use anyhow::Result;
use clap::{Args, CommandFactory};

use super::app::App;
use crate::cli::Run;
use crate::cli::args::config::{self, Config as File};
use crate::cli::args::{Cli, Output};
use crate::text::table;

/// `config` has no arguments of its own.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache config                           all settings and their sources
  pcache config --json

The configuration file is ~/.config/pcache/config.toml, or $PCACHE_CONFIG.
Settings are named after options:
  model = \"qwen2.5-coder-0.5b\"
  max-size = \"20GiB\"
  [build]
  ttl = \"30d\"
  [ask]
  max-tokens = 256")]
pub struct Config {}

impl Run for Config {
    fn run(&self, app: &App) -> Result<()> {
        run(app)
    }
}

fn run(app: &App) -> Result<()> {
    let config = File::of_user()?;
    let mut settings = config.effective(&Cli::command());
    if let Some(setting) = settings.iter_mut().find(|s| s.name == "cache-dir" && s.value.is_none()) {
        setting.value = Some(app.cache_dir()?.display().to_string());
    }
    if let Some(setting) = settings.iter_mut().find(|s| s.name == "threads" && s.value.is_none()) {
        setting.value = Some(app.threads().to_string());
    }
    let path = config::render(config.path.as_deref());
    let report = serde_json::json!({ "file": path, "settings": settings });
    app.record("config", &report);
    match app.output() {
        Output::Text => {
            let there = config.path.as_deref().is_some_and(std::path::Path::exists);
            app.say(format!("config file: {path}{}", if there { "" } else { " (not there)" }));
            let rows =
                settings.into_iter().map(|s| [s.name, s.value.unwrap_or_else(|| "-".into()), s.source]);
            app.print(table::plain(&["SETTING", "VALUE", "FROM"], &[], rows))
        }
        _ => app.print_json(&report),
    }
}
