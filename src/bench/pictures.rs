//! Pictures of measurements.

use super::results::{Length, Results, Setup, Stage};
use crate::bench::chart::Picture;
use crate::bench::chart::bars::{Bar, Bars};
use crate::bench::chart::lines::{Line, Lines};
use crate::text::human;

/// The first token over the prompt's length: evaluated, and from a saved state. With several measurements each has a
/// colour, and the lines are told apart by their dashes.
pub fn first_tokens(all: &[Results], names: &[String]) -> Picture {
    let kinds = [
        (Stage::FirstTokenEvaluated, "evaluated"),
        (Stage::FirstTokenCold, "from the disk"),
        (Stage::FirstTokenWarm, "from the page cache"),
    ];
    // With the measurement's name before it there is less room.
    let brief = ["no cache", "disk", "memory"];
    let mut lines = Vec::new();
    for (i, results) in all.iter().enumerate() {
        for (kind, (stage, what)) in kinds.iter().enumerate() {
            let points = points(results, *stage);
            if points.is_empty() {
                continue;
            }
            let (label, colour, dash) = match all.len() {
                1 => ((*what).to_owned(), kind, 0),
                _ => {
                    let name = human::shortened(names.get(i).map_or("", String::as_str), 14);
                    (format!("{name}: {}", brief[kind]), i, kind)
                }
            };
            lines.push(Line { label, colour, dash, points });
        }
    }
    let mut lengths: Vec<usize> = lines.iter().flat_map(|l| l.points.iter().map(|p| p.0 as usize)).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let chart = Lines {
        title: "Time to the first token of an answer".into(),
        subtitle: subtitle(all),
        x_label: "tokens of the prompt (both axes are logarithmic)".into(),
        x_ticks: lengths.into_iter().map(|n| (n as f64, human::thousands(n))).collect(),
        y_text: |seconds| {
            if seconds < 0.9995 {
                format!("{} ms", round(seconds * 1e3))
            } else {
                format!("{} s", round(seconds))
            }
        },
        lines,
    };
    chart.draw()
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn points(results: &Results, stage: Stage) -> Vec<(f64, f64)> {
    let Some(setup) = results.setups.first() else { return Vec::new() };
    let measured = setup.lengths.iter().filter_map(|l| Some((l.tokens as f64, l.median(stage)?)));
    measured.filter(|(_, seconds)| *seconds > 0.0).collect()
}

fn subtitle(all: &[Results]) -> String {
    match all {
        [only] => format!("{}, {}, {}", only.model.name, setup_of(only), machine(only)),
        _ => human::count(all.len(), "measurement"),
    }
}

fn setup_of(results: &Results) -> String {
    results.setups.first().map(Setup::label).unwrap_or_default()
}

fn machine(results: &Results) -> String {
    let threads = human::count(results.settings.threads as usize, "thread");
    format!("{threads} of {}", results.machine.cpu)
}

/// Returns the text before a bar: the setup, and the measurement if there are several.
fn label(all: &[Results], names: &[String], i: usize, setup: &Setup) -> String {
    let name = names.get(i).map_or("", String::as_str);
    let text = if all.len() == 1 { setup.label() } else { format!("{name} {}", setup.label()) };
    human::shortened(&text, 24)
}

/// Each setup at its longest prompt.
fn each(all: &[Results]) -> impl Iterator<Item = (usize, &Setup, &Length)> {
    all.iter().enumerate().flat_map(|(i, r)| r.setups.iter().filter_map(move |s| Some((i, s, s.longest()?))))
}

/// Draws the parts of a restore at the longest prompt.
pub fn restores(all: &[Results], names: &[String]) -> Picture {
    let stages = [
        (Stage::ReadCold, "read from the disk", 1),
        (Stage::Verify, "verify", 2),
        (Stage::Decode, "decode", 4),
        (Stage::Restore, "put into the model", 0),
    ];
    let timed = |stage: Stage| each(all).any(|(_, _, length)| length.median(stage).is_some());
    let stages: Vec<_> = stages.into_iter().filter(|(stage, ..)| timed(*stage)).collect();
    let bar = |(i, setup, length): (usize, &Setup, &Length)| {
        let parts: Vec<f64> =
            stages.iter().map(|(stage, ..)| length.median(*stage).unwrap_or_default()).collect();
        let total = human::precise(parts.iter().sum());
        Bar { label: label(all, names, i, setup), parts, total }
    };
    let lengths: Vec<String> = each(all).map(|(_, _, l)| human::thousands(l.tokens)).collect();
    let chart = Bars {
        title: "What a restore is made of".into(),
        subtitle: format!("{} tokens; an ask reads and verifies while the model loads", common(&lengths)),
        parts: stages.iter().map(|(_, name, colour)| ((*name).to_owned(), *colour)).collect(),
        bars: each(all).map(bar).collect(),
    };
    chart.draw()
}

/// Bytes of a token by KV type and codec.
pub fn sizes(all: &[Results], names: &[String]) -> Picture {
    let bar = |(i, setup, length): (usize, &Setup, &Length)| {
        let bytes = length.stored_bytes as f64 / length.tokens.max(1) as f64;
        let ratio = length.state_bytes as f64 / length.stored_bytes.max(1) as f64;
        let total = format!("{} (ratio {ratio:.2})", human::bytes(bytes as u64));
        Bar { label: label(all, names, i, setup), parts: vec![bytes], total }
    };
    let chart = Bars {
        title: "Bytes on disk for each token".into(),
        subtitle: "by KV type and codec".into(),
        parts: vec![("size".into(), 1)],
        bars: each(all).map(bar).collect(),
    };
    chart.draw()
}

/// Returns the text that all have in common, else all of them.
fn common(texts: &[String]) -> String {
    match texts {
        [first, others @ ..] if others.iter().all(|o| o == first) => first.clone(),
        several => several.join(", "),
    }
}
