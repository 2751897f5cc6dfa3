//! Output of an ask.

use anyhow::Result;
use serde::Serialize;

use crate::cache::timings::Timings;
use crate::cache::verdict::{Status, Verdict};
use crate::cli::app::App;
use crate::cli::args::Output;
use crate::text::human;
use pcache_engine::generate::StopReason;

/// JSON object of an answer.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    pub key: String,
    pub question: &'a str,
    /// The text; under a JSON schema its value.
    pub answer: serde_json::Value,
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

/// Ends an answer that was streamed, or prints it as an object; and says on stderr what happened, if it `tells`. `label` tells
/// one of several answers from the others.
pub fn print(app: &App, report: &Report<'_>, label: Option<&str>, stats: bool, tells: bool) -> Result<()> {
    app.named_event("answer", report)?;
    match app.output() {
        Output::Text => app.end_stream(if label.is_some() { "\n\n" } else { "\n" })?,
        Output::Json => app.print_json(report)?,
        _ => {}
    }
    let label = label.map(|label| format!("{label}: ")).unwrap_or_default();
    app.say_if(tells.then(|| label + &summary(report)));
    if stats {
        app.say(report.timings.table().trim_end());
    }
    Ok(())
}

/// Summarises an answer in a line.
fn summary(report: &Report<'_>) -> String {
    let cache = report.cache;
    let status = match cache.status {
        Status::Hit => "hit",
        Status::Partial => "partial hit",
        Status::Miss => "miss",
    };
    let stop = match report.stop_reason {
        StopReason::Eos => "end of answer",
        StopReason::MaxTokens => "--max-tokens reached",
        StopReason::StopString => "stop sequence",
        StopReason::ContextFull => "context full",
        StopReason::Interrupted => "interrupted",
    };
    let computed = cache.computed_by.as_ref().map(|by| format!("; computed by {by}")).unwrap_or_default();
    format!(
        "{status}: {} restored, {} evaluated; first token after {:.2} s; generated {} ({stop}){computed}",
        human::count(cache.restored_tokens, "token"),
        human::thousands(cache.evaluated_tokens),
        report.time_to_first_token_s,
        human::count(report.answer_tokens, "token")
    )
}
