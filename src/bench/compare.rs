//! Differences between measurements, told apart from noise.

use serde::Serialize;

use super::results::{Length, Results, Setup, Stage, Summary};
use super::tables::Table;
use crate::text::human;

/// Stages that are compared by default: those that people wait for, and the sums at the longest prompt.
const MAIN: [Stage; 9] = [
    Stage::Prefill,
    Stage::Save,
    Stage::ReadCold,
    Stage::Verify,
    Stage::Decode,
    Stage::Restore,
    Stage::Context,
    Stage::Question,
    Stage::ModelLoad,
];
/// Stages that are compared at every length.
const EVERYWHERE: [Stage; 3] = [Stage::FirstTokenEvaluated, Stage::FirstTokenCold, Stage::FirstTokenWarm];

/// Fewer samples than this show little of how much they vary.
const MIN_SAMPLES: usize = 3;

/// Times of the first measurement, and of each other one with its ratio to them. `names` are those of the files.
/// Nothing if they have no setup and length in common.
pub fn table(all: &[Results], names: &[String], everything: bool) -> Option<Table> {
    let (first, others) = all.split_first()?;
    let mut rows = Vec::new();
    for setup in &first.setups {
        let longest = setup.lengths.iter().rfind(|l| others.iter().any(|o| same(o, setup, l).is_some()));
        for length in &setup.lengths {
            let is_longest = longest.is_some_and(|l| l.tokens == length.tokens);
            for timed in &length.stages {
                let wanted = everything
                    || EVERYWHERE.contains(&timed.stage)
                    || is_longest && MAIN.contains(&timed.stage);
                rows.extend(wanted.then(|| row(setup, length, timed.stage, others)).flatten());
            }
        }
    }
    if rows.is_empty() {
        return None;
    }
    let mut header: Vec<String> =
        ["SETUP", "TOKENS", "STAGE"].into_iter().map(str::to_owned).chain([heading(names, 0)]).collect();
    header.extend((1..all.len()).flat_map(|i| [heading(names, i), "RATIO".into()]));
    Some(Table {
        title: "Times, and their ratios to those of the first file: below 1 is faster".into(),
        header,
        rows,
        texts: vec![0, 2],
        notes: notes(first, others),
    })
}

fn heading(names: &[String], i: usize) -> String {
    names.get(i).cloned().unwrap_or_default()
}

/// The same setup and length in another measurement.
fn same<'r>(other: &'r Results, setup: &Setup, length: &Length) -> Option<&'r Length> {
    let alike = |s: &&Setup| {
        (&s.kv_type, &s.codec, s.flash_attention) == (&setup.kv_type, &setup.codec, setup.flash_attention)
    };
    other.setups.iter().find(alike)?.lengths.iter().find(|l| l.tokens == length.tokens)
}

fn row(setup: &Setup, length: &Length, stage: Stage, others: &[Results]) -> Option<Vec<String>> {
    let base = length.summary(stage)?;
    let found: Vec<Option<Summary>> =
        others.iter().map(|other| same(other, setup, length)?.summary(stage)).collect();
    found.iter().any(Option::is_some).then_some(())?;
    let mut row = vec![
        setup.label(),
        human::thousands(length.tokens),
        stage.name().replace('_', " "),
        human::precise(base.median),
    ];
    for other in found {
        match other {
            Some(other) => row.extend([human::precise(other.median), ratio(&base, &other)]),
            None => row.extend(["-".to_owned(), "-".to_owned()]),
        }
    }
    Some(row)
}

/// A stage in all files, for programs.
#[derive(Debug, Serialize)]
pub struct Difference {
    kv_type: String,
    codec: String,
    tokens: usize,
    stage: Stage,
    /// In the order of the files; nothing where one has no such stage.
    files: Vec<Option<Times>>,
}

/// Times of a stage in one file.
#[derive(Debug, Serialize)]
struct Times {
    median_s: f64,
    min_s: f64,
    max_s: f64,
    /// To the median of the first file.
    ratio: Option<f64>,
    /// The difference to the first file lies within the spread of both.
    noise: bool,
}

/// Every stage that the first measurement has in common with another one.
pub fn differences(all: &[Results]) -> Vec<Difference> {
    let Some((first, others)) = all.split_first() else { return Vec::new() };
    let mut differences = Vec::new();
    for setup in &first.setups {
        for length in &setup.lengths {
            for timed in &length.stages {
                differences.extend(difference(setup, length, timed.stage, others));
            }
        }
    }
    differences
}

fn difference(setup: &Setup, length: &Length, stage: Stage, others: &[Results]) -> Option<Difference> {
    let base = length.summary(stage)?;
    let others: Vec<_> = others.iter().map(|o| same(o, setup, length)?.summary(stage)).collect();
    others.iter().any(Option::is_some).then_some(())?;
    let times = |summary: Summary| Times {
        median_s: summary.median,
        min_s: summary.min,
        max_s: summary.max,
        ratio: (base.median > 0.0).then(|| summary.median / base.median),
        noise: is_noise(&base, &summary),
    };
    let files = std::iter::once(Some(base)).chain(others).map(|s| s.map(times)).collect();
    let (kv_type, codec) = (setup.kv_type.clone(), setup.codec.clone());
    Some(Difference { kv_type, codec, tokens: length.tokens, stage, files })
}

/// The ratio of the medians, marked where the samples of both overlap.
fn ratio(base: &Summary, other: &Summary) -> String {
    if base.median <= 0.0 {
        return "-".into();
    }
    let mark = if is_noise(base, other) { "~" } else { "" };
    format!("{mark}{:.2}", other.median / base.median)
}

/// Returns true if a difference could be chance: the samples of one are not all faster than those of the other.
fn is_noise(a: &Summary, b: &Summary) -> bool {
    a.samples == 1 || b.samples == 1 || a.min <= b.max && b.min <= a.max
}

fn notes(first: &Results, others: &[Results]) -> Vec<String> {
    let mut notes = vec!["~ lies within the spread of the samples: it may be noise.".to_owned()];
    let runs = std::iter::once(first).chain(others).map(|r| r.settings.runs).min().unwrap_or_default();
    if runs < MIN_SAMPLES {
        notes.push(format!(
            "With {} a spread says little; more runs take more.",
            human::count(runs, "sample")
        ));
    }
    type Part = fn(&Results) -> String;
    let parts: [(&str, Part); 7] = [
        ("models", |r| format!("{} ({})", r.model.name, r.model.blake3.chars().take(12).collect::<String>())),
        ("machines", |r| {
            let file_system = r.machine.file_system.clone().unwrap_or_default();
            format!("{}, {} cores, {}, {file_system}", r.machine.cpu, r.machine.cores, r.machine.system)
        }),
        ("questions", |r| human::count(r.settings.question_tokens, "token")),
        ("numbers of samples", |r| r.settings.runs.to_string()),
        ("threads", |r| r.settings.threads.to_string()),
        ("versions", |r| r.build.pcache.clone()),
        ("llama.cpp builds", |r| r.build.llama_cpp.clone()),
    ];
    for (what, part) in parts {
        let base = part(first);
        let other: Vec<String> = others.iter().map(part).filter(|o| *o != base).collect();
        if !other.is_empty() {
            notes.push(format!("The {what} differ: {base}; {}.", other.join("; ")));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(min: f64, median: f64, max: f64) -> Summary {
        Summary { min, median, max, samples: 5 }
    }

    #[test]
    fn what_overlaps_is_noise() {
        let base = summary(1.0, 1.1, 1.2);
        assert_eq!(ratio(&base, &summary(0.9, 1.0, 1.05)), "~0.91");
        assert_eq!(ratio(&base, &summary(0.4, 0.55, 0.6)), "0.50");
        assert_eq!(ratio(&base, &summary(2.0, 2.2, 3.0)), "2.00");
        let once = Summary { samples: 1, ..summary(2.0, 2.0, 2.0) };
        assert_eq!(ratio(&base, &once), "~1.82", "one sample says nothing of the spread");
        assert_eq!(ratio(&summary(0.0, 0.0, 0.0), &base), "-");
    }
}
