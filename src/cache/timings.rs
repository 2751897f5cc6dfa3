//! The timing table: what each stage took, and over how many tokens.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

/// One stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The stage, as `load_state`.
    pub key: &'static str,
    /// Seconds.
    pub time_s: f64,
    /// Tokens that the stage handled, where it handles any.
    pub num_tokens: Option<usize>,
    /// Tokens per second.
    pub tps: Option<f64>,
}

/// The stages of one piece of work, in order.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Timings {
    rows: Vec<Row>,
    #[serde(skip)]
    heard: Heard,
}

/// Takes each stage.
type Hear = dyn Fn(&Row) + Send + Sync;

/// Receives each stage.
#[derive(Clone, Default)]
struct Heard(Option<Arc<Hear>>);

impl std::fmt::Debug for Heard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "heard" } else { "unheard" })
    }
}

impl Timings {
    /// No stages yet; `hear` is told of each that is added.
    pub fn heard_by(hear: impl Fn(&Row) + Send + Sync + 'static) -> Self {
        Self { rows: Vec::new(), heard: Heard(Some(Arc::new(hear))) }
    }

    /// Adds a stage.
    pub fn add(&mut self, key: &'static str, time: Duration, num_tokens: Option<usize>) {
        let time_s = time.as_secs_f64();
        let tps = num_tokens.filter(|_| time_s > 0.0).map(|n| n as f64 / time_s);
        let row = Row { key, time_s, num_tokens, tps };
        if let Some(hear) = &self.heard.0 {
            hear(&row);
        }
        self.rows.push(row);
    }

    /// Adds what other work of the same stages took.
    pub fn absorb(&mut self, other: &Self) {
        for row in &other.rows {
            match self.rows.iter_mut().find(|mine| mine.key == row.key) {
                None => self.rows.push(row.clone()),
                Some(mine) => {
                    mine.time_s += row.time_s;
                    mine.num_tokens = mine.num_tokens.zip(row.num_tokens).map(|(a, b)| a + b);
                    mine.tps = mine.num_tokens.filter(|_| mine.time_s > 0.0).map(|n| n as f64 / mine.time_s);
                }
            }
        }
    }

    /// The stages.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The table, ending with a newline. Times in seconds; below a tenth with more digits.
    pub fn table(&self) -> String {
        let mut text = format!("{:<13}{:<13}{:<13}{}\n", "key", "time", "num_tokens", "tps");
        for row in &self.rows {
            let digits = if row.time_s < 0.1 { 4 } else { 2 };
            let tokens = row.num_tokens.map_or("n/a".into(), |n| n.to_string());
            let tps = row.tps.map_or("n/a".into(), |t| format!("{t:.*}", if t < 1_000.0 { 2 } else { 0 }));
            let _ = writeln!(text, "{:<13}{:<13.digits$}{tokens:<13}{tps}", row.key, row.time_s);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_four_columns() {
        let mut timings = Timings::default();
        timings.add("load_state", Duration::from_micros(5_100), Some(2_000));
        timings.add("eval_prompt", Duration::from_millis(1_830), Some(203));
        timings.add("reset", Duration::ZERO, None);
        insta::assert_snapshot!(timings.table(), @r"
        key          time         num_tokens   tps
        load_state   0.0051       2000         392157
        eval_prompt  1.83         203          110.93
        reset        0.0000       n/a          n/a
        ");
    }
}
