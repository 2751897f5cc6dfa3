//! Measurements as one HTML file that needs nothing else.

use super::results::Results;
use super::tables::Table;
use super::{markdown, pictures, text};
use crate::bench::chart::{escaped, style};

/// The page's own style; the colours are the pictures'.
const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);\
    max-width:60rem;margin:2rem auto;padding:0 1rem}h1{font-size:1.6rem}h2{font-size:1.25rem;margin-top:2.5rem}\
    h3{font-size:1rem;margin-top:2rem}.about{white-space:pre-line;color:var(--faint)}svg{max-width:100%;height:auto}\
    .wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
    th,td{padding:.2rem .7rem;border-bottom:1px solid var(--grid);white-space:nowrap}\
    th{font-size:.8rem;color:var(--faint);text-align:left}.n{text-align:right}";

/// All measurements: what is drawn of them together, and the tables of each.
pub fn page(all: &[Results], names: &[String]) -> String {
    let drawn =
        [pictures::first_tokens(all, names), pictures::restores(all, names), pictures::sizes(all, names)];
    let drawn: String = drawn.iter().map(|picture| picture.inline()).collect();
    let measured: String = all.iter().zip(names).map(|(results, name)| measurement(results, name)).collect();
    let head = format!(
        "<meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <title>pcache: measurements</title><style>{}{STYLE}</style>",
        style()
    );
    format!(
        "<!doctype html>\n<html lang=\"en\"><head>{head}</head>\n<body>\n<h1>What saved states cost and gain</h1>\n\
         {drawn}{measured}</body></html>\n"
    )
}

fn measurement(results: &Results, name: &str) -> String {
    let tables: String = markdown::sections(results).iter().map(render).collect();
    let (name, about) = (escaped(name), escaped(&text::about(results)));
    format!("<h2>{name}</h2>\n<p class=\"about\">{about}</p>\n{tables}")
}

fn render(table: &Table) -> String {
    let row = |cells: &[String], tag: &str| {
        let cells = cells.iter().enumerate().map(|(i, cell)| {
            let class = if table.texts.contains(&i) { "" } else { " class=\"n\"" };
            format!("<{tag}{class}>{}</{tag}>", escaped(cell))
        });
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let rows: String = table.rows.iter().map(|cells| row(cells, "td")).collect();
    let notes: String = table.notes.iter().map(|note| format!("<p>{}</p>\n", escaped(note))).collect();
    let (title, header) = (escaped(&table.title), row(&table.header, "th"));
    format!("<h3>{title}</h3>\n<div class=\"wide\"><table>\n{header}{rows}</table></div>\n{notes}")
}
