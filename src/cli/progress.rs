//! A progress bar.

use std::cell::RefCell;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cache::progress::{Progress, Unit};

/// A bar on stderr, when that is a terminal.
pub struct Bar {
    bar: ProgressBar,
    /// The style from the first step on: before it nothing is known of the time left.
    moving: RefCell<Option<ProgressStyle>>,
}

impl Default for Bar {
    fn default() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self { bar, moving: RefCell::new(None) }
    }
}

fn style(counts: &str, end: &str) -> ProgressStyle {
    ProgressStyle::with_template(&format!("{{msg}} [{{wide_bar}}] {counts}{end}"))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// Style where the total is not known: a bar would be full or empty.
fn unmeasured(counts: &str) -> ProgressStyle {
    ProgressStyle::with_template(&format!("{{spinner}} {{msg}}: {counts}"))
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Progress for Bar {
    fn start(&self, what: &str, total: u64, unit: Unit) {
        let counts = match unit {
            Unit::Tokens => "{human_pos}/{human_len} tokens",
            Unit::Percent => "{percent} %",
            Unit::States => "{human_pos}/{human_len} states",
            Unit::Objects => "{human_pos}/{human_len} objects",
            Unit::Records if total == 0 => "{human_pos} records in {elapsed}",
            Unit::Records => "{human_pos}/{human_len} records",
            Unit::Answers => "{human_pos}/{human_len} answers",
            Unit::Bytes => "{binary_bytes}/{binary_total_bytes}",
        };
        self.moving.replace((total > 0).then(|| style(counts, ", {eta} left")));
        self.bar.reset();
        self.bar.set_length(total);
        self.bar.set_style(if total == 0 { unmeasured(counts) } else { style(counts, "") });
        self.bar.set_message(what.to_owned());
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
        self.bar.enable_steady_tick(Duration::from_millis(250));
    }

    fn set(&self, done: u64) {
        if let Some(style) = self.moving.take() {
            self.bar.set_style(style);
        }
        self.bar.set_position(done);
    }

    fn aside(&self, talk: &mut dyn FnMut()) {
        self.bar.suspend(talk);
    }

    fn finish(&self) {
        self.bar.disable_steady_tick();
        self.bar.finish_and_clear();
    }
}
