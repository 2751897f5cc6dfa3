//! One prompt, asked by many threads: each has a session of its own, and all share the model and the saved state.
//! `cargo run --example many_threads MODEL.gguf FOLDER`.

use std::path::Path;
use std::thread;

use pcache::{Answer, Cache, CacheOptions, Claim, Prompt, Sampling, Watch};

const QUESTIONS: [&str; 4] = ["Is there soup?", "Is there cake?", "When do you open?", "May I bring a dog?"];

/// The answers, in the order of the questions.
pub fn run(model: &Path, folder: &Path) -> pcache::Result<Vec<Answer>> {
    // The threads share the cores: each evaluates with one.
    let cache = Cache::open_with(folder, CacheOptions::default().threads(1))?;
    let model = cache.load(model, Watch::default())?;
    let prompt = Prompt::system("You are the waiter of a small restaurant. Dogs are welcome.");
    let key = cache.build(&model, &prompt, Claim::default(), Watch::default())?.key;
    thread::scope(|scope| {
        let ask = |question| {
            let (cache, model) = (cache.clone(), model.clone());
            scope.spawn(move || {
                let mut session = cache.session(&model, &key, 256, Watch::default())?;
                session.ask(question, &Sampling::greedy(16), Watch::default(), |_| ())
            })
        };
        let asking: Vec<_> = QUESTIONS.into_iter().map(ask).collect();
        asking.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(model), Some(folder)) = (args.next(), args.next()) else {
        return Err("usage: many_threads MODEL.gguf FOLDER".into());
    };
    for (question, answer) in QUESTIONS.iter().zip(run(model.as_ref(), folder.as_ref())?) {
        println!("{question}\n  {}", answer.text.trim());
    }
    Ok(())
}
