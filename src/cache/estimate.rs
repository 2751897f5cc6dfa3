//! How long an evaluation will take: by what was measured before, and corrected by what is measured on the way.

use std::collections::VecDeque;
use std::time::Duration;

/// A correction is said from this ratio on.
const WORTH_SAYING: f64 = 1.3;
/// Batches after which the speed is known well enough to correct an estimate.
const ENOUGH_BATCHES: usize = 3;

/// An estimate of the time for so many tokens.
#[derive(Debug, Clone)]
pub struct Estimate {
    total: usize,
    done: usize,
    elapsed: f64,
    /// Time of the whole that was said last.
    said: Option<f64>,
    line: Line,
}

/// Batches that the speed is taken from.
const LAST: usize = 32;

/// Seconds a token over the position, as a line: attention takes longer, the more tokens there are before.
#[derive(Debug, Clone, Default)]
struct Line(VecDeque<(f64, f64)>);

impl Line {
    fn add(&mut self, x: f64, y: f64) {
        if self.0.len() == LAST {
            self.0.pop_front();
        }
        self.0.push_back((x, y));
    }

    /// Value at `x` by the medians of slopes and heights (Theil and Sen's estimator), which a machine that stutters once does not
    /// change. It never falls: a slope below 0 is noise.
    fn at(&self, x: f64) -> f64 {
        let pairs =
            self.0.iter().enumerate().flat_map(|(n, a)| self.0.iter().skip(n + 1).map(move |b| (a, b)));
        let slope = median(pairs.map(|(a, b)| (b.1 - a.1) / (b.0 - a.0)).collect()).max(0.0);
        median(self.0.iter().map(|(x, y)| y - slope * x).collect()) + slope * x
    }
}

/// The middle one; 0 of none.
fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

impl Estimate {
    /// For `total` tokens; `speed` in tokens a second, where it was measured before.
    pub fn new(total: usize, speed: Option<f64>) -> Self {
        let said = speed.map(|speed| total as f64 / speed);
        Self { total, done: 0, elapsed: 0.0, said, line: Line::default() }
    }

    /// Seconds for the whole, if something is known.
    pub fn seconds(&self) -> Option<f64> {
        self.said
    }

    /// A batch is evaluated. Returns the seconds for the whole where that is news.
    pub fn after_batch(&mut self, tokens: usize, took: Duration) -> Option<f64> {
        let took = took.as_secs_f64();
        self.line.add(self.done as f64 + tokens as f64 / 2.0, took / tokens as f64);
        self.done += tokens;
        self.elapsed += took;
        let left = self.total.saturating_sub(self.done);
        if left == 0 {
            return None;
        }
        let whole = self.elapsed + left as f64 * self.line.at(self.done as f64 + left as f64 / 2.0);
        let is_news = match self.said {
            None => true,
            // Near the end a correction helps nobody.
            Some(said) => {
                let ratio = whole / said.max(f64::MIN_POSITIVE);
                self.line.0.len() >= ENOUGH_BATCHES
                    && left * 4 > self.total
                    && !(1.0 / WORTH_SAYING..=WORTH_SAYING).contains(&ratio)
            }
        };
        if is_news {
            self.said = Some(whole);
        }
        is_news.then_some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says what is said of batches that take longer and longer.
    fn said(total: usize, speed: Option<f64>, seconds: impl Fn(usize) -> f64) -> (Vec<f64>, f64) {
        let mut estimate = Estimate::new(total, speed);
        let mut all: Vec<f64> = estimate.seconds().into_iter().collect();
        let mut elapsed = 0.0;
        for batch in 0..total / 256 {
            elapsed += seconds(batch);
            all.extend(estimate.after_batch(256, Duration::from_secs_f64(seconds(batch))));
        }
        (all, elapsed)
    }

    /// 38 s became 66: the speed was measured on a short prompt.
    #[test]
    fn an_estimate_is_corrected_while_it_runs() {
        let (said, took) = said(16 * 256, Some(108.0), |batch| 1.0 + batch as f64 * 0.42);
        assert!((said[0] - 37.9).abs() < 0.1 && (took - 66.4).abs() < 0.1, "{said:?} {took}");
        assert!(said.len() <= 3, "once or twice: {said:?}");
        let last = said.last().unwrap();
        assert!((last / took - 1.0).abs() < 0.2, "{said:?} {took}");
    }

    #[test]
    fn what_is_right_is_not_corrected() {
        let (steady, took) = said(16 * 256, Some(256.0), |_| 1.0);
        assert_eq!((steady, took), (vec![16.0], 16.0));
        let (unknown, took) = said(16 * 256, None, |_| 1.0);
        assert_eq!((unknown, took), (vec![16.0], 16.0));
        // A machine that stutters once.
        let (noisy, _) = said(16 * 256, Some(256.0), |batch| if batch == 8 { 2.0 } else { 1.0 });
        assert_eq!(noisy.len(), 1, "{noisy:?}");
    }
}
