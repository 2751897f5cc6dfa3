//! The tables of a measurement, as cells.

use super::results::{BreakEven, Length, Results, Setup, Stage, Summary};
use crate::text::human;

/// A table that can be shown in several ways.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Title.
    pub title: String,
    /// The names of the columns.
    pub header: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
    /// Columns that hold text; the others hold numbers and are aligned right.
    pub texts: Vec<usize>,
    /// Notes below it.
    pub notes: Vec<String>,
}

impl Table {
    /// Columns that are aligned right.
    pub fn right(&self) -> Vec<usize> {
        (0..self.header.len()).filter(|i| !self.texts.contains(i)).collect()
    }
}

pub(super) fn named(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|name| (*name).to_owned()).collect()
}

/// Text of a cell that was not measured.
const NOTHING: &str = "-";

/// A stage's median, marked where its samples lie far apart.
fn render(length: &Length, stage: Stage) -> String {
    length.summary(stage).map_or(NOTHING.into(), |summary| marked(&summary))
}

fn marked(summary: &Summary) -> String {
    let mark = if summary.is_wide() { "~" } else { "" };
    format!("{mark}{}", human::precise(summary.median))
}

/// Explains the mark, where there is one.
fn mark_note(rows: &[Vec<String>]) -> Option<String> {
    let any = rows.iter().flatten().any(|cell| cell.starts_with('~'));
    any.then(|| "~ The samples lie apart by more than half of their median.".to_owned())
}

fn factor(times: Option<f64>) -> String {
    times.map_or(NOTHING.into(), |times| match times {
        t if t >= 9.95 => format!("{t:.0}x"),
        t => format!("{t:.1}x"),
    })
}

/// The first token by length: evaluated, and from a saved state.
pub fn first_tokens(setup: &Setup) -> Table {
    let row = |l: &Length| {
        let cached = if l.median(Stage::FirstTokenCold).is_some() {
            Stage::FirstTokenCold
        } else {
            Stage::FirstTokenWarm
        };
        vec![
            human::thousands(l.tokens),
            human::bytes(l.stored_bytes),
            render(l, Stage::Prefill),
            render(l, Stage::FirstTokenEvaluated),
            render(l, Stage::FirstTokenCold),
            render(l, Stage::FirstTokenWarm),
            factor(l.speed_up(cached)),
        ]
    };
    let measured = setup.lengths.iter().filter(|l| l.median(Stage::FirstTokenWarm).is_some());
    let rows: Vec<_> = measured.map(row).collect();
    let notes = break_even_notes(setup).into_iter().chain(mark_note(&rows));
    let what = "COLD is an ask that reads the state from the disk, WARM one from the page cache; EVALUATED is the prefill \
                with the load, context and question of WARM; SPEED-UP is EVALUATED over COLD.";
    Table {
        title: format!("Time to the first token of an answer, {}", setup.label()),
        header: named(&["TOKENS", "SIZE", "PREFILL", "EVALUATED", "COLD", "WARM", "SPEED-UP"]),
        texts: Vec::new(),
        notes: notes.chain([what.to_owned()]).collect(),
        rows,
    }
}

fn break_even_notes(setup: &Setup) -> Vec<String> {
    let cases = [("the disk", Stage::FirstTokenCold), ("the page cache", Stage::FirstTokenWarm)];
    let said = cases.into_iter().filter_map(|(from, stage)| Some((from, setup.break_even(stage)?)));
    said.map(|(from, even)| match even {
        BreakEven::From(1) => format!("From {from}, a saved state is faster from the first token on."),
        BreakEven::From(n) => {
            format!("From {from}, a saved state is faster from {} tokens on.", human::thousands(n))
        }
        BreakEven::Never => format!("From {from}, a saved state is faster at none of these lengths."),
    })
    .collect()
}

/// The stages that are shown, in the order in which they happen.
const STAGES: [Stage; 18] = [
    Stage::Prefill,
    Stage::Snapshot,
    Stage::Encode,
    Stage::Hash,
    Stage::Write,
    Stage::Sync,
    Stage::Save,
    Stage::ReadCold,
    Stage::ReadWarm,
    Stage::Verify,
    Stage::Decode,
    Stage::Restore,
    Stage::ModelLoad,
    Stage::Context,
    Stage::Question,
    Stage::FirstTokenEvaluated,
    Stage::FirstTokenCold,
    Stage::FirstTokenWarm,
];
/// A limit's name, short enough for a table.
fn limit_name(limit: Stage) -> &'static str {
    match limit {
        Stage::MemoryCopy => "memory copy",
        Stage::SequentialRead => "disk read",
        Stage::SyncedWrite => "synced write",
        other => other.name(),
    }
}

/// Limits of the machine.
const LIMITS: [Stage; 3] = [Stage::MemoryCopy, Stage::SequentialRead, Stage::SyncedWrite];

/// Everything that was timed at one length, beside the machine's limits.
pub fn stages(setup: &Setup, length: &Length) -> Table {
    let row = |stage: Stage| {
        let summary = length.summary(stage)?;
        let tokens = (stage == Stage::Prefill).then_some(length.tokens);
        let speed = match tokens {
            Some(n) => format!("{:.0} tok/s", n as f64 / summary.median.max(1e-9)),
            None => length.speed(stage).map_or(NOTHING.into(), human::speed),
        };
        let (limit, reached) = match (stage.limit(), length.reached(stage)) {
            (Some(limit), Some(reached)) => {
                (limit_name(limit).to_owned(), format!("{:.0} %", reached * 100.0))
            }
            _ => (String::new(), String::new()),
        };
        let name = stage.name().replace('_', " ").replace("first token", "1st token");
        let [min, max] = [summary.min, summary.max].map(human::precise);
        Some(vec![name, marked(&summary), min, max, speed, limit, reached])
    };
    let objects = human::count(length.objects, "object");
    let mut rows: Vec<Vec<String>> = STAGES.into_iter().filter_map(row).collect();
    rows.extend(LIMITS.into_iter().filter_map(row));
    let above = STAGES.into_iter().any(|stage| length.reached(stage).is_some_and(|r| r > 1.005));
    let above = above.then(|| {
        "More than 100 %: several files at once, or what still lies in the processor's caches, beat one long copy.".to_owned()
    });
    Table {
        title: format!(
            "Stages at {}, {} in {objects}, {}",
            human::count(length.tokens, "token"),
            human::bytes(length.stored_bytes),
            setup.label()
        ),
        header: named(&["STAGE", "MEDIAN", "MIN", "MAX", "SPEED", "LIMIT", "REACHED"]),
        texts: vec![0, 5],
        notes: mark_note(&rows).into_iter().chain(above).collect(),
        rows,
    }
}

/// KV types and codecs side by side, at the longest prompt; nothing to compare with one of them.
pub fn setups(results: &Results) -> Option<Table> {
    let compared: Vec<(&Setup, &Length)> =
        results.setups.iter().filter_map(|s| Some((s, s.longest()?))).collect();
    let (_, first) = *compared.first().filter(|_| compared.len() > 1)?;
    let exact = |s: &Setup| match s.largest_logit_difference {
        Some(difference) => format!("{difference:.3}"),
        None => "exact".into(),
    };
    let row = |(setup, l): &(&Setup, &Length)| {
        let decode = l.median(Stage::Decode).unwrap_or_default();
        let stored = l.median(Stage::Restore).map(|restore| decode + restore);
        vec![
            setup.kv_type.clone(),
            setup.codec.clone(),
            human::bytes(l.stored_bytes),
            format!("{:.3}", l.state_bytes as f64 / l.stored_bytes.max(1) as f64),
            render(l, Stage::Prefill),
            render(l, Stage::Save),
            render(l, Stage::ReadCold),
            stored.map_or(NOTHING.into(), human::precise),
            render(l, Stage::Question),
            render(l, Stage::FirstTokenWarm),
            exact(setup),
        ]
    };
    let rows: Vec<_> = compared.iter().map(row).collect();
    let what = "RATIO is what llama.cpp gives over what is stored, READ from the disk, RESTORE with decoding, 1ST the first \
                token from the page cache, LOGITS the largest difference to f16.";
    Some(Table {
        title: format!("KV types and codecs at {}", human::count(first.tokens, "token")),
        header: named(&[
            "KV", "CODEC", "SIZE", "RATIO", "PREFILL", "SAVE", "READ", "RESTORE", "QUESTION", "1ST", "LOGITS",
        ]),
        texts: vec![0, 1],
        notes: mark_note(&rows).into_iter().chain([what.to_owned()]).collect(),
        rows,
    })
}
