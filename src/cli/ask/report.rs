//! What an ask prints.

use anyhow::Result;
use serde::Serialize;

use crate::cache::timings::Timings;
use crate::cache::verdict::{Status, Verdict};
use crate::cli::app::App;
use crate::cli::args::Output;
use crate::text::human;
use pcache_engine::generate::StopReason;

/// What `--json` prints for each answer.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    pub key: String,
    pub question: &'a str,
    pub answer: &'a str,
    pub stop_reason: StopReason,
    pub answer_tokens: usize,
    pub seed: u32,
    pub cache: &'a Verdict,
    pub time_to_first_token_s: f64,
    pub timings: &'a Timings,
}

/// Prints what tells an answer from the others, before it streams.
pub fn announce(app: &App, labels: Vec<String>) -> Result<()> {
    if app.output() == Output::Text { labels.iter().try_for_each(|l| app.print(l)) } else { Ok(()) }
}

/// Ends an answer that was streamed, or prints it as an object; and says on stderr what happened.
pub fn print(app: &App, report: &Report<'_>, several: bool, stats: bool) -> Result<()> {
    print_with(app, report, several, stats, true)
}

/// As [`print`], with or without the line that says what happened.
pub fn print_with(app: &App, report: &Report<'_>, several: bool, stats: bool, tells: bool) -> Result<()> {
    app.named_event("answer", report)?;
    match app.output() {
        Output::Text => app.write(if several { "\n\n" } else { "\n" })?,
        Output::Json => app.print_json(report)?,
        _ => {}
    }
    app.say_if(tells.then(|| summary(report)));
    if stats {
        app.say(report.timings.table().trim_end());
    }
    Ok(())
}

/// What happened, in a line.
fn summary(report: &Report<'_>) -> String {
    let cache = report.cache;
    let status = match cache.status {
        Status::Hit => "hit",
        Status::Partial => "partial hit",
        Status::Miss => "miss",
    };
    let stop = match report.stop_reason {
        StopReason::Eos => "the model ended it",
        StopReason::MaxTokens => "--max-tokens reached",
        StopReason::StopString => "a stop text came up",
        StopReason::ContextFull => "the model's context is full",
        StopReason::Interrupted => "interrupted",
    };
    let computed = cache.computed_by.as_ref().map(|by| format!("; computed by {by}")).unwrap_or_default();
    format!(
        "{status}: {} restored, {} evaluated; first token after {:.2} s; {} answered: {stop}{computed}",
        human::count(cache.restored_tokens, "token"),
        human::thousands(cache.evaluated_tokens),
        report.time_to_first_token_s,
        human::count(report.answer_tokens, "token")
    )
}
