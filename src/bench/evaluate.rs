//! Evaluating the prompt, again and again.

use anyhow::Result;

use super::plan;
use super::subject::{Subject, check_cancelled, timed};
use crate::cache::progress::{Progress, Unit};
use pcache_engine::session::Session;
use pcache_format::SEGMENT_TOKENS;

/// Seconds to evaluate each length, by length and then by round.
pub type Seconds = Vec<(usize, Vec<f64>)>;

/// Evaluates all lengths once a round. In the last round `at_length` gets the session where it has evaluated as many
/// tokens as a length has. Gives back the logits after the longest prompt and the question.
pub fn rounds(
    subject: &Subject<'_>,
    lengths: &[usize],
    what: &str,
    mut at_length: impl FnMut(&mut Session, usize) -> Result<()>,
) -> Result<(Seconds, Vec<f32>)> {
    let (call, prefix) = (subject.call, subject.longest);
    let cells = subject.cells(prefix.tokens.len());
    let mut session = Session::new(subject.model, &prefix.params, cells, call.threads)?;
    let mut seconds: Seconds = lengths.iter().map(|n| (*n, Vec::new())).collect();
    let (way, apart) = plan::on_the_way(lengths);
    let passes: Vec<Vec<usize>> = apart.into_iter().map(|n| vec![n]).chain([way]).collect();

    // One batch that does not count: the first one brings the weights into memory.
    session.evaluate(&prefix.tokens[..prefix.tokens.len().min(SEGMENT_TOKENS)], false)?;
    session.wait();
    let progress = call.progress();
    progress.start(what, plan::tokens(lengths, subject.runs) as u64, Unit::Tokens);
    let mut bar = Bar { progress: progress.as_ref(), done: 0 };
    let mut done = || -> Result<()> {
        for round in 0..subject.runs {
            let last = round + 1 == subject.runs;
            for stops in &passes {
                let mut at = |session: &mut Session, tokens: usize, took: f64| {
                    seconds.iter_mut().filter(|(n, _)| *n == tokens).for_each(|(_, s)| s.push(took));
                    if last { at_length(session, tokens) } else { Ok(()) }
                };
                pass(subject, &mut session, stops, &mut bar, &mut at)?;
            }
        }
        Ok(())
    };
    let done = done();
    progress.finish();
    done?;
    session.evaluate(subject.question, true)?;
    let logits = session.logits().unwrap_or_default().to_vec();
    Ok((seconds, logits))
}

struct Bar<'a> {
    progress: &'a dyn Progress,
    done: usize,
}

/// Evaluates up to the last of `stops`; `at` hears at each how long it took up to there, its own time not counted.
fn pass(
    subject: &Subject<'_>,
    session: &mut Session,
    stops: &[usize],
    bar: &mut Bar<'_>,
    at: &mut dyn FnMut(&mut Session, usize, f64) -> Result<()>,
) -> Result<()> {
    let end = stops.last().copied().unwrap_or_default();
    session.reset();
    let mut took = 0.0;
    for batch in subject.longest.tokens[..end].chunks(SEGMENT_TOKENS) {
        check_cancelled(subject.call)?;
        let (evaluated, seconds) = timed(|| {
            session.evaluate(batch, false)?;
            session.wait();
            Ok::<(), pcache_engine::EngineError>(())
        });
        evaluated?;
        took += seconds;
        bar.done += batch.len();
        bar.progress.set(bar.done as u64);
        let position = session.position();
        if stops.contains(&position) {
            at(session, position, took)?;
        }
    }
    Ok(())
}
