//! Lists what is saved, and throws away all but the states that were used last.
//! `cargo run --example list_and_collect FOLDER KEEP`.

use std::path::Path;

use pcache::{Cache, Limits};

/// The keys of the states that went.
pub fn run(folder: &Path, keep: usize) -> pcache::Result<Vec<String>> {
    let cache = Cache::open(folder)?;
    for state in cache.states()? {
        println!("{}  {} tokens, used {} times", state.key.short(), state.tokens, state.hits);
    }
    let plan = cache.plan_gc(Limits { max_states: Some(keep), ..Limits::default() })?;
    println!("{} states go, {} bytes stay", plan.outcome().evicted.len(), plan.outcome().after);
    Ok(plan.apply()?.evicted.iter().map(|evicted| evicted.key.to_hex()).collect())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let keep = args.next().zip(args.next()).and_then(|(folder, n)| Some((folder, n.to_str()?.parse().ok()?)));
    let Some((folder, keep)) = keep else { return Err("usage: list_and_collect FOLDER KEEP".into()) };
    println!("{:?}", run(folder.as_ref(), keep)?);
    Ok(())
}
