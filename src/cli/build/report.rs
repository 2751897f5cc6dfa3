//! What a build prints.

use anyhow::Result;

use crate::cache::build::Report;
use crate::cli::app::App;
use crate::cli::args::Output;
use crate::text::human;

/// Prints the key, or the report as an object; and says on stderr what happened.
pub fn print(app: &App, report: &Report, several: bool, stats: bool) -> Result<()> {
    let label = if several { format!("{}: ", report.prompt) } else { String::new() };
    app.say(format!("{label}{}", summary(report)));
    if let Some(computed_by) = &report.cache.computed_by {
        app.say(format!("computed by {computed_by}; --same-compute evaluates it here"));
    }
    if stats {
        app.say(report.timings.table().trim_end());
    }
    app.named_event("build", report)?;
    match app.output() {
        Output::Text => app.print(&report.key[..12]),
        Output::Json => app.print_json(report),
        _ => Ok(()),
    }
}

/// What happened, in a line.
fn summary(report: &Report) -> String {
    let (tokens, size) = (human::count(report.tokens, "token"), human::bytes(report.bytes));
    let evaluated = report.cache.evaluated_tokens;
    if evaluated == 0 {
        return format!("hit: {tokens} are saved ({size}) and intact");
    }
    let rows = report.timings.rows();
    let seconds = rows.iter().find(|r| r.key == "eval_time").map_or(0.0, |r| r.time_s);
    let reused = match report.tokens - evaluated {
        0 => String::new(),
        n => format!(", {} of them saved before", human::thousands(n)),
    };
    let (evaluated, wrote) = (human::thousands(evaluated), human::bytes(report.bytes_written));
    format!("saved {tokens} ({size}){reused}; evaluated {evaluated} in {seconds:.1} s, wrote {wrote}")
}
