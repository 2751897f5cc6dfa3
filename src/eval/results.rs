//! Results of a suite, and whether it passed.

use anyhow::{Result, bail};
use serde::Serialize;

use super::outcome::{self, Generated, Inconsistent, Kind, Outcome, Sum};
use super::report;
use crate::text::human;

/// Results of a suite.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Every answer.
    pub outcomes: Vec<Outcome>,
    /// Sums of them.
    pub sums: Vec<Sum>,
    /// Questions whose answers disagree.
    #[serde(rename = "inconsistent")]
    pub found: Vec<Inconsistent>,
    /// Results of questions that the model made up, where it was to.
    pub generated: Option<Generated>,
}

/// Goal of a suite.
#[derive(Debug, Clone, Copy)]
pub struct Goal {
    /// Share of the checked answers that pass, 0 to 1.
    pub pass: f64,
    /// Answers may not disagree.
    pub strict: bool,
}

impl Results {
    /// Sums up answers; `generate` where the model was to make up questions.
    pub fn new(outcomes: Vec<Outcome>, generate: bool) -> Self {
        let found = outcome::inconsistent(&outcomes);
        let generated = generate.then(|| Generated::new(&outcomes, &found));
        Self { sums: outcome::sums(&outcomes), found, generated, outcomes }
    }

    /// The answers that failed, or all of them, and the sums.
    pub fn text(&self, all: bool) -> String {
        let shown = self.outcomes.iter().filter(|o| all || !o.passed());
        let mut parts: Vec<String> = shown.map(report::answer).collect();
        parts.extend(self.found.iter().map(report::inconsistent));
        if self.outcomes.iter().any(|o| o.kind == Kind::Suite) {
            parts.push(report::table(&self.sums));
        }
        parts.extend(self.generated.as_ref().map(report::generated));
        if all {
            parts.extend(self.sums.iter().map(|sum| {
                format!("#### {} ({})\n{}", sum.prompt, sum.model, sum.timings.table().trim_end())
            }));
        }
        parts.join("\n\n")
    }

    /// Checks the results against a goal.
    ///
    /// # Errors
    /// When it was not.
    pub fn verdict(&self, goal: Goal) -> Result<()> {
        let counting = self.outcomes.iter().filter(|o| o.counts()).count();
        let passed = self.outcomes.iter().filter(|o| o.counts() && o.passed()).count();
        let share = if counting == 0 { 1.0 } else { passed as f64 / counting as f64 };
        if share < goal.pass {
            let failed = counting - passed;
            bail!("{failed} of {counting} checked answers failed");
        }
        if goal.strict && !self.found.is_empty() {
            bail!("answers to {} disagree", human::count(self.found.len(), "question"));
        }
        let contradicted = self.generated.as_ref().map_or(0, |generated| generated.contradicted);
        if goal.strict && contradicted > 0 {
            bail!("the model takes back {}", human::count(contradicted, "answer"));
        }
        Ok(())
    }
}
