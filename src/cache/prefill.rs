//! Evaluating what is not saved of a prompt, and saving it on the way.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::estimate::Estimate;
use super::progress::{Progress, Unit};
use super::{Call, Failure};
use crate::text::human;
use pcache_engine::session::Session;
use pcache_format::Layout;
use pcache_format::Segment;
use pcache_store::Prefix;
use pcache_store::{Pipeline, Store, Writer};

/// Builds shorter than this say little about a model's speed.
const MIN_TOKENS_FOR_SPEED: usize = 64;

/// Statistics of an evaluation with its saving.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PrefillStats {
    /// Tokens evaluated.
    pub tokens: usize,
    /// Objects written.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Time spent evaluating.
    pub evaluating: Duration,
    /// Time that saving added to that: the copying out, and waiting for work that could not be done beside the evaluation.
    pub saving: Duration,
}

/// Evaluates the prefix's tokens from the session's position on and saves each piece when it is done. The
/// caller holds the shared lock. When it is cancelled what is saved by then stays and is reused by the next build.
pub fn prefill(
    call: Call<'_>,
    writer: &Writer<'_>,
    store: &Store,
    session: &mut Session,
    prefix: &Prefix,
    label: &str,
) -> Result<PrefillStats> {
    call.observer.evaluating();
    let from = session.position();
    let total = prefix.tokens.len() - from;
    let mut teller = Teller::new(call, store, prefix, total)?;
    let progress = call.observer.progress();
    progress.start(&format!("evaluating {label}"), total as u64, Unit::Tokens);
    let start = Instant::now();
    let done = writer
        .run(|pipeline| evaluate_pieces(call, pipeline, session, prefix, progress.as_ref(), &mut teller));
    progress.finish();
    let (filled, saved) = done?;
    let saving = start.elapsed().saturating_sub(filled.evaluating);
    let filled = PrefillStats { objects: saved.objects, bytes: saved.bytes, saving, ..filled };
    if filled.tokens >= MIN_TOKENS_FOR_SPEED {
        let speed = filled.tokens as f64 / filled.evaluating.as_secs_f64().max(1e-9);
        store.record_speed(&prefix.model, call.threads, speed)?;
    }
    Ok(filled)
}

/// Evaluates the prefix's tokens from the session's position on, in the same batches, and saves nothing.
///
/// # Errors
/// When it is cancelled, or llama.cpp fails.
pub fn evaluate_only(call: Call<'_>, session: &mut Session, prefix: &Prefix, label: &str) -> Result<()> {
    let (from, progress) = (session.position(), call.observer.progress());
    progress.start(&format!("evaluating {label}"), (prefix.tokens.len() - from) as u64, Unit::Tokens);
    for batch in prefix.chain.segments().iter().filter(|batch| batch.first >= from) {
        if call.cancel.is_cancelled() {
            progress.finish();
            bail!(Failure::Interrupted("interrupted while evaluating the prompt".into()));
        }
        session.evaluate(&prefix.tokens[batch.first..batch.end()], false)?;
        session.wait();
        progress.set((batch.end() - from) as u64);
    }
    progress.finish();
    Ok(())
}

fn evaluate_pieces(
    call: Call<'_>,
    pipeline: &Pipeline,
    session: &mut Session,
    prefix: &Prefix,
    progress: &dyn Progress,
    teller: &mut Teller<'_>,
) -> Result<PrefillStats> {
    let from = session.position();
    let mut filled = PrefillStats::default();
    for batch in prefix.chain.segments().iter().filter(|s| s.first >= from) {
        if call.cancel.is_cancelled() {
            bail!(interrupted(prefix, batch.first));
        }
        let start = Instant::now();
        session.evaluate(&prefix.tokens[batch.first..batch.end()], false)?;
        session.wait();
        let took = start.elapsed();
        filled.evaluating += took;
        filled.tokens += batch.count;
        progress.set(filled.tokens as u64);
        progress.aside(&mut || teller.after_batch(batch.count, took));
        call.observer.event(
            "progress",
            &serde_json::json!({
                "evaluated": filled.tokens, "total": prefix.tokens.len() - from, "restored": from,
            }),
        )?;

        if let Some(piece) = piece_ending_with(prefix, batch) {
            let mut buffer = pipeline.buffer()?;
            session.snapshot(&piece.positions(), &mut buffer)?;
            pipeline.save(&piece, buffer)?;
        }
    }
    Ok(filled)
}

/// The piece that is complete after this batch, if one is.
fn piece_ending_with(prefix: &Prefix, batch: &Segment) -> Option<Segment> {
    match prefix.layout {
        Layout::Segment => Some(*batch),
        Layout::Snapshot => prefix.pieces().pop().filter(|piece| piece.end() == batch.end()),
    }
}

fn interrupted(prefix: &Prefix, position: usize) -> Failure {
    let all = prefix.chain.segments();
    let done = all.iter().filter(|s| s.end() <= position).count();
    let saved = match prefix.layout {
        Layout::Snapshot => "nothing is saved: this kind of model can only be saved at the end".to_owned(),
        Layout::Segment if done == 0 => "nothing is saved yet".to_owned(),
        Layout::Segment => {
            let all = human::count(all.len(), "segment");
            format!("{done} of {all} are saved; the same build continues")
        }
    };
    let (done, total) = (human::thousands(position), human::thousands(prefix.tokens.len()));
    Failure::Interrupted(format!("interrupted after {done} of {total} tokens; {saved}"))
}

/// Says "about 31 s to cache 186 tokens": at once when the model's speed is known, else after the first batch; and again where that
/// was wrong.
struct Teller<'a> {
    call: Call<'a>,
    total: usize,
    saved: usize,
    told: bool,
    estimate: Estimate,
}

impl<'a> Teller<'a> {
    fn new(call: Call<'a>, store: &Store, prefix: &Prefix, total: usize) -> Result<Self> {
        let estimate = Estimate::new(total, store.speed(&prefix.model, call.threads)?);
        let saved = prefix.tokens.len() - total;
        let mut teller = Self { call, total, saved, told: false, estimate };
        if let Some(seconds) = teller.estimate.seconds().filter(|_| total > 0) {
            teller.say(seconds);
        }
        Ok(teller)
    }

    fn after_batch(&mut self, tokens: usize, took: Duration) {
        if let Some(seconds) = self.estimate.after_batch(tokens, took) {
            self.say(seconds);
        }
    }

    fn say(&mut self, seconds: f64) {
        let time = human::estimate(seconds);
        if std::mem::replace(&mut self.told, true) {
            self.call.say(format!("{time} in all, by the speed so far"));
            return;
        }
        let tokens = human::count(self.total, "token");
        let saved = match self.saved {
            0 => String::new(),
            n => format!(", {} are saved already", human::thousands(n)),
        };
        self.call.say(format!("{time} to cache {tokens}{saved}"));
    }
}
