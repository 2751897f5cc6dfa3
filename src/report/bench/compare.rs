//! How measurements differ, and where that is more than noise.

use super::results::{Length, Results, Setup, Stage, Summary};
use super::tables::Table;
use crate::report::human;

/// What is compared unless everything is: what people wait for, and what the stages come to at the longest prompt.
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
/// What is compared at every length.
const EVERYWHERE: [Stage; 3] = [Stage::FirstTokenEvaluated, Stage::FirstTokenCold, Stage::FirstTokenWarm];

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
        human::closely(base.median),
    ];
    for other in found {
        match other {
            Some(other) => row.extend([human::closely(other.median), ratio(&base, &other)]),
            None => row.extend(["-".to_owned(), "-".to_owned()]),
        }
    }
    Some(row)
}

/// The ratio of the medians, marked where the samples of both overlap.
fn ratio(base: &Summary, other: &Summary) -> String {
    if base.median <= 0.0 {
        return "-".into();
    }
    let mark = if is_noise(base, other) { "~" } else { "" };
    format!("{mark}{:.2}", other.median / base.median)
}

/// Whether a difference could be chance: the samples of one are not all faster than those of the other.
fn is_noise(a: &Summary, b: &Summary) -> bool {
    a.min <= b.max && b.min <= a.max
}

fn notes(first: &Results, others: &[Results]) -> Vec<String> {
    let mut notes = vec!["~ lies within the spread of the samples: it may be noise.".to_owned()];
    type Part = fn(&Results) -> String;
    let parts: [(&str, Part); 5] = [
        ("models", |r| r.model.name.clone()),
        ("machines", |r| format!("{}, {} cores", r.machine.cpu, r.machine.cores)),
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
        Summary { min, median, max }
    }

    #[test]
    fn what_overlaps_is_noise() {
        let base = summary(1.0, 1.1, 1.2);
        assert_eq!(ratio(&base, &summary(0.9, 1.0, 1.05)), "~0.91");
        assert_eq!(ratio(&base, &summary(0.4, 0.55, 0.6)), "0.50");
        assert_eq!(ratio(&base, &summary(2.0, 2.2, 3.0)), "2.00");
        assert_eq!(ratio(&summary(0.0, 0.0, 0.0), &base), "-");
    }
}
