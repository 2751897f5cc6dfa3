//! `pcache models`: what `-m` finds by name.

use std::ops::RangeInclusive;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::catalog::{Found, Places, named};
use crate::cli::Run;
use crate::cli::app::App;
use crate::cli::args::Output;
use crate::cli::table::fitted;
use crate::text::human;
use pcache_engine::gguf::Header;

/// Arguments of `models`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache models                           all models that -m finds by name
  pcache models qwen                      those whose name contains qwen

Looks in ~/.cache/pcache/models, in the downloads of Ollama, LM Studio and
llama.cpp, and in the Hugging Face cache; copies nothing.")]
pub struct Models {
    /// Part of a name
    #[arg(value_name = "TEXT")]
    pub filter: Option<String>,
}

/// JSON object of a model.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    place: &'static str,
    path: String,
    bytes: u64,
    architecture: String,
    quantisation: String,
    context: Option<u64>,
    /// Why pcache cannot use it, if it cannot.
    problem: Option<String>,
}

impl Run for Models {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }
}

fn run(app: &App, args: &Models) -> Result<()> {
    let places = Places::of_user()?;
    let all = places.models();
    let shown = args.filter.as_ref().map_or_else(|| all.clone(), |text| named(&all, text));
    for folder in places.unreadable() {
        app.warn(format!("{} may not be looked into: permission denied", folder.display()));
    }
    let listed: Vec<Listed> = shown.iter().map(|found| listed(found, &all)).collect();
    listed.iter().try_for_each(|m| app.named_event("model", m))?;
    match app.output() {
        Output::Json => app.print_json(&serde_json::json!({ "models": listed })),
        Output::Jsonl => Ok(()),
        Output::Text if listed.is_empty() => {
            app.say(match &args.filter {
                Some(text) if !all.is_empty() => {
                    format!("none of {} has {text:?} in its name", human::count(all.len(), "model"))
                }
                _ => format!(
                    "no models; put a GGUF file into {}, or name one with --model",
                    places.own().display()
                ),
            });
            Ok(())
        }
        Output::Text => {
            app.print(text(&listed))?;
            for m in listed.iter().filter(|m| m.problem.is_some()) {
                app.say(format!("{} cannot be used: {}", m.name, m.problem.as_deref().unwrap_or_default()));
            }
            Ok(())
        }
    }
}

fn listed(found: &Found, all: &[Found]) -> Listed {
    // A name that several have is none that finds one.
    let is_shared = all.iter().filter(|other| other.name == found.name).count() > 1;
    let name = if is_shared { found.full.clone() } else { found.name.clone() };
    let bytes = std::fs::metadata(&found.path).map_or(0, |m| m.len());
    let header = Header::read(&found.path).ok();
    let problem = found.problem();
    Listed {
        name,
        place: found.place,
        path: found.path.display().to_string(),
        bytes,
        architecture: header.as_ref().map_or_else(|| "-".into(), |h| h.architecture().to_owned()),
        quantisation: header.as_ref().map_or_else(|| "-".into(), Header::quantisation),
        context: header.as_ref().and_then(Header::context),
        problem,
    }
}

/// Letters of a path that are shown at least, and at most.
const PATH_WIDTH: RangeInclusive<usize> = 16..=200;

fn text(models: &[Listed]) -> String {
    let row = |m: &Listed, path_width: usize| {
        vec![
            human::sanitize(&m.name),
            human::sanitize(&m.architecture),
            m.quantisation.clone(),
            m.context.map_or_else(|| "-".into(), |n| human::thousands(n as usize)),
            human::bytes(m.bytes),
            m.place.into(),
            human::shortened_at_start(&human::sanitize(&m.path), path_width),
        ]
    };
    let header = ["NAME", "ARCH", "QUANT", "CONTEXT", "SIZE", "FROM", "PATH"];
    fitted(&header, &[3, 4], PATH_WIDTH, |width| models.iter().map(|m| row(m, width)).collect())
}
