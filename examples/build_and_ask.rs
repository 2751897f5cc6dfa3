//! Saves a prompt's state and answers a question from it: `cargo run --example build_and_ask MODEL.gguf FOLDER`.

use std::path::Path;

use pcache::{Answer, Cache, Claim, Prompt, Sampling, State, Watch};

/// The state, and an answer from it.
pub fn run(model: &Path, folder: &Path) -> pcache::Result<(State, Answer)> {
    let cache = Cache::open(folder)?;
    let model = cache.load(model, Watch::default())?;
    let prompt = Prompt::system("You are the waiter of a small restaurant. Today there is pumpkin soup.");
    let claim = Claim { name: Some("waiter".into()), ..Claim::default() };
    let state = cache.build(&model, &prompt, claim, Watch::default())?;
    let mut session = cache.session(&model, &state.key, 256, Watch::default())?;
    let answer =
        session.ask("Is there soup?", &Sampling::greedy(32), Watch::default(), |text| print!("{text}"))?;
    println!();
    Ok((state, answer))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(model), Some(folder)) = (args.next(), args.next()) else {
        return Err("usage: build_and_ask MODEL.gguf FOLDER".into());
    };
    let (state, answer) = run(model.as_ref(), folder.as_ref())?;
    println!(
        "{:?}: {} of {} tokens restored",
        state.verdict.status, answer.verdict.restored_tokens, state.tokens
    );
    Ok(())
}
