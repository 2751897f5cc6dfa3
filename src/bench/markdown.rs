//! A measurement as a Markdown file.

use super::results::Results;
use super::tables::{self, Table};
use super::text;

/// All measurements, each with its tables.
pub fn page(all: &[Results], names: &[String]) -> String {
    let mut page = String::from("# Measurements\n");
    for (results, name) in all.iter().zip(names) {
        page.push_str(&format!("\n## {}\n\n{}\n", escaped(name), escaped(&text::about(results))));
        sections(results).iter().for_each(|table| page.push_str(&render(table)));
    }
    page
}

/// The tables of a measurement, in the order in which a report has them.
pub(super) fn sections(results: &Results) -> Vec<Table> {
    let mut sections: Vec<Table> = results.setups.first().map(tables::first_tokens).into_iter().collect();
    sections.extend(tables::setups(results));
    for setup in &results.setups {
        sections.extend(setup.longest().map(|length| tables::stages(setup, length)));
    }
    sections
}

fn render(table: &Table) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule: Vec<&str> =
        (0..table.header.len()).map(|i| if table.texts.contains(&i) { "---" } else { "---:" }).collect();
    let mut text = format!("\n### {}\n\n", escaped(&table.title));
    text.push_str(&line(&table.header));
    text.push_str(&format!("| {} |\n", rule.join(" | ")));
    table.rows.iter().for_each(|row| text.push_str(&line(row)));
    table.notes.iter().for_each(|note| text.push_str(&format!("\n{}\n", escaped(note))));
    text
}

/// Text that Markdown takes as text.
fn escaped(text: &str) -> String {
    let special = |c: char| matches!(c, '|' | '*' | '_' | '`' | '<' | '[' | ']' | '\\' | '~');
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}
