//! The ratios that pcache promises, each measured against its yardstick in the same run (`scripts/measure`).

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use pcache_engine::model::{Model, ModelOptions};
use pcache_engine::session::Session;
use pcache_format::object::decode;
use pcache_format::{
    Codec, ComputeIdentity, DecodeBuffers, Encoded, Layout, Lineage, Meta, ModelHash, Segment,
};
use pcache_store::{Lookup, Options, Prefix, ReadBuffers, Store, VerifiedObject};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ROUNDS: usize = 25;

fn main() -> Result<()> {
    let program = PathBuf::from(std::env::args().nth(1).ok_or("usage: measure PATH_OF_PCACHE")?);
    let model = model_path()?;
    let folder = tempfile::tempdir()?;
    let store = folder.path().join("store");
    let run = |args: &[&str]| -> Result<String> {
        let output = Command::new(&program)
            .args(args)
            .env("PCACHE_DIR", &store)
            .env("PCACHE_MODEL", &model)
            .output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    };
    let key = run(&["-q", "build", "data/handbook.txt"])?;
    first_token(&|| {
        run(&["-q", "ask", key.trim(), "When is the library open?", "--json", "--max-tokens", "1"])
    })?;
    restore(&model, &store, key.trim())
}

fn model_path() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    Ok(cache.or(home).ok_or("no home folder")?.join("pcache/models/smollm2-135m.gguf"))
}

/// Measures the time that an ask adds to the model's load, the context and the question.
fn first_token(ask: &dyn Fn() -> Result<String>) -> Result<()> {
    let mut added = Vec::new();
    let mut shares = Vec::new();
    for _ in 0..ROUNDS {
        let report: serde_json::Value = serde_json::from_str(&ask()?)?;
        let total = report["time_to_first_token_s"].as_f64().ok_or("no time")?;
        let row = |key: &str| {
            let rows = report["timings"].as_array().into_iter().flatten();
            rows.filter(|r| r["key"] == key).filter_map(|r| r["time_s"].as_f64()).sum::<f64>()
        };
        let own = row("model_load") + row("context") + row("eval_prompt");
        added.push(total - own);
        shares.push([
            total,
            row("model_load"),
            row("context"),
            row("verify_state"),
            row("load_state"),
            row("eval_prompt"),
        ]);
    }
    println!("first token of ask, 2,103 tokens of state, median of {ROUNDS} runs:");
    let names = [
        "first token",
        "model_load",
        "context",
        "verify_state (beside the load)",
        "load_state",
        "eval_prompt",
    ];
    for (i, name) in names.iter().enumerate() {
        println!("  {:<32}{:7.1} ms", name, 1e3 * median(shares.iter().map(|s| s[i]).collect()));
    }
    println!(
        "  {:<32}{:7.1} ms  (wanted: at most 30)",
        "everything but load, context and question",
        1e3 * median(added)
    );
    Ok(())
}

/// A restore of verified objects against a copy of the same bytes from the same memory.
fn restore(model: &Path, store: &Path, key: &str) -> Result<()> {
    let model = Model::load(model, ModelOptions::default())?;
    let store = Store::open(store, &Options::new(ComputeIdentity::default()))?;
    let Lookup::Found(key) = store.lookup(key)? else { return Err("the state is gone".into()) };
    let state = store.state(&key)?.ok_or("the state is gone")?.manifest;
    let prefix = Prefix::of_manifest(&state);
    let guard = store.lock_shared(|| ())?;
    let verified = store.find(&guard, &prefix, false)?.verify(&prefix);
    let pieces: Vec<(&Segment, &VerifiedObject)> = verified.parts.iter().map(|(s, o)| (s, o)).collect();
    let mut room = ReadBuffers::default();
    let bytes: usize =
        pieces.iter().map(|(_, o)| o.state(&mut room).map(<[u8]>::len)).sum::<std::result::Result<_, _>>()?;
    let mut session = Session::new(&model, &state.params, state.tokens.len() + 256, 2)?;
    let mut target = vec![1u8; bytes];
    let (mut restores, mut copies) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        session.reset();
        let start = Instant::now();
        for (segment, object) in &pieces {
            session.restore(&segment.positions(), object.state(&mut room)?)?;
        }
        restores.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        let mut rest = &mut target[..];
        for (_, object) in &pieces {
            let state = object.state(&mut room)?;
            let (part, behind) = rest.split_at_mut(state.len());
            part.copy_from_slice(state);
            rest = behind;
        }
        copies.push(start.elapsed().as_secs_f64());
        std::hint::black_box(&target);
    }
    let (restore, copy) = (median(restores), median(copies));
    let speed = |seconds: f64| bytes as f64 / seconds / 1e9;
    println!("restore of {} tokens, {:.1} MB, median of {ROUNDS}:", state.tokens.len(), bytes as f64 / 1e6);
    println!("  restore      {:5.1} ms  {:5.1} GB/s", restore * 1e3, speed(restore));
    println!("  memory copy  {:5.1} ms  {:5.1} GB/s", copy * 1e3, speed(copy));
    println!("  ratio        {:5.2}      (wanted: at most 1.5)", restore / copy);
    codec(&pieces)
}

/// Measures the zstd codec on the same state, on one thread.
fn codec(pieces: &[(&Segment, &VerifiedObject)]) -> Result<()> {
    let (mut raw, mut stored) = (0, 0);
    let (mut encoding, mut decoding, mut copying) = (0.0, 0.0, 0.0);
    let (mut room, mut decoded, mut copy) = (ReadBuffers::default(), DecodeBuffers::default(), Vec::new());
    for (segment, object) in pieces {
        let state = object.state(&mut room)?;
        let meta = Meta {
            chain: segment.chain,
            parent: segment.parent,
            model: ModelHash::from([0; 32]),
            params: "kv_type=f16\n".into(),
            layout: Layout::Segment,
            first: segment.first,
            lineage: Lineage::Unknown,
            parent_lineage: Lineage::Unknown,
        };
        let start = Instant::now();
        let encoded = Encoded::with(Codec::Zstd { level: 1 }, &meta, &vec![0; segment.count], state);
        encoding += start.elapsed().as_secs_f64();
        let bytes = encoded.parts().concat();
        let object = decode(&bytes)?;
        // Twice: the first time the memory is fresh.
        for round in 0..2 {
            let start = Instant::now();
            let back = object.stored.raw(&bytes[object.state.clone()], &mut decoded)?;
            decoding += if round == 1 { start.elapsed().as_secs_f64() } else { 0.0 };
            assert!(back == state, "the codec is not exact");
            copy.resize(state.len(), 1u8);
            let start = Instant::now();
            copy.copy_from_slice(state);
            copying += if round == 1 { start.elapsed().as_secs_f64() } else { 0.0 };
            std::hint::black_box(&copy);
        }
        raw += state.len();
        stored += object.state.len();
    }
    let speed = |seconds: f64| raw as f64 / seconds / 1e9;
    println!("zstd codec, level 1, one thread:");
    println!("  ratio        {:5.3}      (wanted: at least 1.16)", raw as f64 / stored as f64);
    println!("  encode       {:5.2} GB/s", speed(encoding));
    println!("  decode       {:5.2} GB/s (wanted: at least 1.5)", speed(decoding));
    println!("  memory copy  {:5.2} GB/s", speed(copying));
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
