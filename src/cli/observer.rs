//! The command line hears what the application says, and puts it into words.

use std::path::Path;

use anyhow::Result;

use super::app::App;
use super::{explain, gc, states, try_model};
use crate::cache::Observer;
use crate::cache::explain::Explanation;
use crate::cache::progress::Progress;
use crate::cache::timings::Timings;
use pcache_format::{Label, Params, StateKey};
use pcache_store::Prefix;
use pcache_store::evict::Limits;
use pcache_store::gc::Outcome;
use pcache_store::labels::Saved;

impl Observer for App {
    fn say(&self, text: &str) {
        Self::say(self, text);
    }

    fn warn(&self, text: &str) {
        Self::warn(self, text);
    }

    fn progress(&self) -> Box<dyn Progress> {
        Self::progress(self)
    }

    fn timings(&self) -> Timings {
        Self::timings(self)
    }

    fn event(&self, name: &str, value: &serde_json::Value) -> Result<()> {
        self.named_event(name, value)
    }

    fn detail(&self, name: &str, value: &serde_json::Value) {
        self.record(name, value);
    }

    fn new_model(&self, path: &Path) -> Result<()> {
        try_model::in_another_process(path, self.global.gpu_layers.unwrap_or_default())
    }

    fn scratch(&self, folder: &Path) {
        self.signals.remove_if_stopped(folder);
    }

    fn evaluating(&self) {
        self.signals.hear();
    }

    fn missed(&self, prefix: &Prefix, key: &StateKey, saved: usize) {
        if self.explains() {
            self.say(explain::parts(prefix, key, saved));
        }
    }

    fn wants_explanation(&self) -> bool {
        self.explains()
    }

    fn explained(&self, prefix: &Prefix, explanation: &Explanation) {
        self.say(explain::parts(prefix, &explanation.key, explanation.saved_tokens));
        self.say_if(explain::why(explanation));
    }

    fn dated(&self, today: &str) {
        self.say(format!(
            "the template writes the date: tomorrow this prompt has another key; --date {today} fixes it"
        ));
    }

    fn other_attention(&self, found: &Params, own: &Params) {
        let (found, own) = (found.flash_attention, own.flash_attention);
        if found != own {
            let word = |on| if on { "with" } else { "without" };
            self.say(format!(
                "found {} flash attention; this machine would evaluate it {}",
                word(found),
                word(own)
            ));
        }
    }

    fn labelled(&self, saved: &Saved, name: Option<&str>, before: Option<&Label>) {
        states::tell_move(self, saved, name);
        if let (None, Some(before)) = (saved.moved_from, before) {
            states::tell_changes(self, before, &saved.label);
        }
    }

    fn collected(&self, outcome: &Outcome) -> Result<()> {
        gc::tell(self, outcome)
    }

    fn over_budget(&self, outcome: &Outcome, limits: &Limits) {
        gc::warn_if_over(self, outcome, limits);
    }
}
