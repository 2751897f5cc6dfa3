//! A measurement in the terminal.

use super::results::{Length, Results};
use super::tables::{self, Table};
use crate::text::{human, table};

/// The whole picture; with `all` the stages of every length, else those of the longest.
pub fn whole(results: &Results, all: bool) -> String {
    let lines = about(results);
    let lines: Vec<_> = lines.lines().map(|line| human::wrapped(line, COLUMNS)).collect();
    let mut parts = vec![lines.join("\n")];
    if let Some(setup) = results.setups.first() {
        parts.push(render(&tables::first_tokens(setup)));
    }
    for setup in &results.setups {
        let skipped = if all { 0 } else { setup.lengths.len().saturating_sub(1) };
        let lengths: Vec<&Length> = setup.lengths.iter().skip(skipped).collect();
        parts.extend(lengths.into_iter().map(|length| render(&tables::stages(setup, length))));
    }
    parts.extend(tables::setups(results).as_ref().map(render));
    parts.join("\n\n") + "\n"
}

/// The model, the machine and how it was measured, in a line or two.
pub fn about(results: &Results) -> String {
    let (model, machine, settings) = (&results.model, &results.machine, &results.settings);
    let file_system = machine.file_system.as_deref().map_or(String::new(), |fs| format!(", {fs}"));
    let memory = machine.memory_bytes.map_or(String::new(), |n| format!(", {} of memory", human::bytes(n)));
    format!(
        "{} ({}, {}, {})\n{}, {} of {}{memory}{file_system}, {}; pcache {}; medians of {}",
        human::sanitize(&model.name),
        model.architecture,
        model.quantisation,
        human::bytes(model.bytes),
        machine.cpu,
        human::count(settings.threads as usize, "thread"),
        human::count(machine.cores, "core"),
        machine.system,
        results.build.pcache,
        human::count(settings.runs, "sample"),
    )
}

/// Width of prose: the usual terminal.
const COLUMNS: usize = 80;

/// A table with its title and notes.
pub fn render(table: &Table) -> String {
    let header = std::iter::once(table.header.clone());
    let rows: Vec<Vec<String>> = header.chain(table.rows.iter().cloned()).collect();
    let lines = [table.title.clone(), table::columns(&rows, &table.right())];
    let notes = table.notes.iter().map(|note| human::wrapped(note, COLUMNS));
    lines.into_iter().chain(notes).collect::<Vec<_>>().join("\n")
}

/// Returns reasons to doubt the figures.
pub fn warnings(results: &Results) -> Vec<String> {
    let mut warnings = Vec::new();
    if !results.settings.drops_page_cache {
        warnings.push(
            "the page cache could not be emptied of the objects here, so nothing was read cold".to_owned(),
        );
    }
    let lengths = results.setups.iter().flat_map(|setup| &setup.lengths);
    let wide = lengths.flat_map(|length| &length.stages).filter(|timed| {
        super::results::Summary::new(&timed.samples_s).is_some_and(|summary| summary.is_wide())
    });
    match wide.count() {
        0 => {}
        n => warnings.push(format!(
            "{} vary by more than half of their median: is the machine busy? More runs take more samples",
            human::count(n, "time")
        )),
    }
    warnings
}
