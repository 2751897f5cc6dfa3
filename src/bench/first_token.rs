//! From nothing to the first token of an answer, as an ask does it.

use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};

use super::recall::drop_objects;
use super::results::{Length, Stage};
use super::subject::timed;
use crate::cache::Call;
use crate::cache::target::Target;
use crate::cache::verdict::restore;
use pcache_engine::generate::{self, Sampling};
use pcache_engine::session::Session;
use pcache_store::Prefix;
use pcache_store::Store;

/// Question, and the options that it is asked with.
pub struct Asked<'a> {
    pub call: Call<'a>,
    pub target: &'a Target,
    pub store: &'a Store,
    pub prefix: &'a Prefix,
    pub question: &'a [i32],
}

/// One sample of the first token from a restored state, cold or warm. Without it, the same with the evaluation in its
/// place: the model's load, the context and the question of this sample and `prefill_s`.
pub fn sample(asked: &Asked<'_>, cold: bool, prefill_s: f64, length: &mut Length) -> Result<()> {
    if cold && !drop_objects(asked.store, asked.prefix)? {
        return Ok(());
    }
    let (total, parts) = ask(asked)?;
    let unavoidable: f64 = parts.iter().map(|(_, s)| s).sum();
    if cold {
        length.add(Stage::FirstTokenCold, total);
        return Ok(());
    }
    length.add(Stage::FirstTokenWarm, total);
    length.add(Stage::FirstTokenEvaluated, unavoidable + prefill_s);
    length.add(Stage::ModelLoad, parts[0].1);
    Ok(())
}

/// Seconds to the first token, and of these the parts that evaluating the prompt would need, too.
fn ask(asked: &Asked<'_>) -> Result<(f64, [(Stage, f64); 3])> {
    let Asked { call, target, store, prefix, question } = asked;
    let start = Instant::now();
    let guard = store.lock_shared(|| ())?;
    let found = store.find(&guard, prefix, false)?;
    drop(guard);
    thread::scope(|scope| {
        let verifying = scope.spawn(|| found.verify(prefix));
        let (model, load) = timed(|| target.load(call.observer));
        let model = model?;
        let cells = prefix.tokens.len() + question.len() + 1;
        let (session, context) = timed(|| Session::new(&model, &prefix.params, cells, call.threads));
        let mut session = session?;
        let recall = verifying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if let Err(why) = restore(&recall, &mut session) {
            bail!("a state that was just saved cannot be restored: {why}");
        }
        if session.position() != prefix.tokens.len() {
            bail!("a state that was just saved is a miss: {}", recall.reason(prefix).unwrap_or_default());
        }
        let (answer, asking) = timed(|| {
            session.evaluate(question, true)?;
            generate::answer(&mut session, &one_token(), None, cells, |_| true)
        });
        answer?;
        let parts = [(Stage::ModelLoad, load), (Stage::Context, context), (Stage::Question, asking)];
        Ok((start.elapsed().as_secs_f64(), parts))
    })
}

fn one_token() -> Sampling {
    Sampling {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repeat_penalty: 1.0,
        seed: 0,
        max_tokens: 1,
        stop: Vec::new(),
    }
}
