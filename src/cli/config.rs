//! `pcache config`: every setting, and where its value comes from.

use anyhow::Result;
use clap::CommandFactory;

use super::app::App;
use crate::cli::args::config::{self, Config};
use crate::cli::args::{Cli, Output};
use crate::text::table;

pub fn run(app: &App) -> Result<()> {
    let config = Config::of_user()?;
    let mut settings = config.effective(&Cli::command());
    if let Some(setting) = settings.iter_mut().find(|s| s.name == "cache-dir" && s.value.is_none()) {
        setting.value = Some(app.cache_dir()?.display().to_string());
    }
    if let Some(setting) = settings.iter_mut().find(|s| s.name == "threads" && s.value.is_none()) {
        setting.value = Some(app.threads().to_string());
    }
    let path = config::shown(config.path.as_deref());
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
