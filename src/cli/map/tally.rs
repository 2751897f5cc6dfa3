//! What came of a run, for people.

use anyhow::{Result, bail};

use crate::cache::timings::Timings;
use crate::cli::app::App;
use crate::text::human;

/// What came of the run.
#[derive(Default)]
pub struct Tally {
    /// Records that an earlier run has done.
    pub before: usize,
    /// Those of them that could not be answered.
    pub failed_before: usize,
    pub answered: usize,
    pub problems: usize,
    pub blank: usize,
    pub cut: usize,
    /// Whether there is more to answer, which the same command does without its limit.
    pub goes_on: bool,
    /// Whether answers are lines of text.
    pub is_lines: bool,
    pub timings: Timings,
}

impl Tally {
    /// Records that are in the output.
    pub fn done(&self) -> usize {
        self.before + self.answered + self.problems + self.blank
    }

    /// Says what came of it; a failure of the program if records could not be answered.
    pub fn tell(&self, app: &App, stats: bool) -> Result<()> {
        let mut text = format!("{} answered", human::count(self.answered, "record"));
        if self.before > 0 {
            text.push_str(&format!(", {} done before", human::thousands(self.before)));
        }
        if self.cut > 0 {
            text.push_str(&format!(
                ", {} cut off by --max-tokens or a full context",
                human::thousands(self.cut)
            ));
        }
        app.say(text);
        if self.goes_on {
            app.say("there are more; the same command without --limit goes on from here");
        }
        if stats {
            app.say(self.timings.table().trim_end());
        }
        let problems = self.failed_before + self.problems;
        if problems > 0 {
            let problems = human::count(problems, "record");
            let place = if self.is_lines { "answer's place" } else { "field \"error\"" };
            bail!("{problems} could not be answered: the reason stands in the {place}");
        }
        Ok(())
    }
}
