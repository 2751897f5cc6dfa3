//! Summary of a run.

use anyhow::{Result, bail};

use crate::cache::timings::Timings;
use crate::text::human;

/// Summary of a run.
#[derive(Default)]
pub struct Tally {
    /// Records that an earlier run has done.
    pub before: usize,
    /// Those of them that could not be answered.
    pub failed_before: usize,
    /// Records that have an answer.
    pub answered: usize,
    /// Records that could not be answered.
    pub problems: usize,
    /// Records with nothing in them.
    pub blank: usize,
    /// Answers that were cut off.
    pub cut: usize,
    /// There is more to answer, which the same command does without its limit.
    pub goes_on: bool,
    /// Answers are lines of text.
    pub is_lines: bool,
    /// Times of the stages.
    pub timings: Timings,
}

impl Tally {
    /// Records that are in the output.
    pub fn done(&self) -> usize {
        self.before + self.answered + self.problems + self.blank
    }

    /// Describes the run; `took` says in what time, `cut` how answers were cut off.
    pub fn text(&self, took: &str, cut: &str) -> String {
        if self.answered == 0 && self.problems == 0 && self.before > 0 {
            return format!("{} answered before, and no others came", human::count(self.before, "record"));
        }
        let mut text = format!("{} answered {took}", human::count(self.answered, "record"));
        if self.before > 0 {
            text.push_str(&format!(", {} done before", human::thousands(self.before)));
        }
        if self.cut > 0 {
            text.push_str(&format!(", {} {cut}", human::thousands(self.cut)));
        }
        text
    }

    /// Refuses a run in which records could not be answered.
    ///
    /// # Errors
    /// When there are such records.
    pub fn verdict(&self) -> Result<()> {
        let problems = self.failed_before + self.problems;
        if problems > 0 {
            let problems = human::count(problems, "record");
            let place = if self.is_lines { "answer's place" } else { "field \"error\"" };
            bail!("{problems} could not be answered; see the {place}");
        }
        Ok(())
    }
}
