//! The readers of foreign bytes keep their promises: on everything that fuzzing found worth keeping, and on changes
//! of it. `cargo fuzz run TARGET` looks further.

#[path = "../../fuzz/promises.rs"]
mod promises;

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 5, "{} is the corpus of {target}", folder.display());
    paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Changes that a fuzzer makes to a file: bytes and numbers replaced, pieces cut out, doubled and put elsewhere.
#[derive(Debug, Clone)]
enum Change {
    Byte(Index, u8),
    Number(Index, u32),
    Cut(Index, Index),
    Double(Index, Index),
    End(Index),
}

fn change() -> impl Strategy<Value = Change> {
    let number =
        prop_oneof![any::<u32>(), Just(0), Just(1), Just(u32::MAX), Just(i32::MAX as u32), 0u32..300];
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, b)| Change::Byte(at, b)),
        (any::<Index>(), number).prop_map(|(at, n)| Change::Number(at, n)),
        any::<(Index, Index)>().prop_map(|(a, b)| Change::Cut(a, b)),
        any::<(Index, Index)>().prop_map(|(a, b)| Change::Double(a, b)),
        any::<Index>().prop_map(Change::End),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let range = |a: &Index, b: &Index| {
        let (a, b) = (a.index(bytes.len() + 1), b.index(bytes.len() + 1));
        a.min(b)..a.max(b)
    };
    match change {
        _ if bytes.is_empty() => {}
        Change::Byte(at, byte) => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Change::Number(at, number) => {
            let at = at.index(bytes.len());
            let end = (at + 4).min(bytes.len());
            bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
        }
        Change::Cut(a, b) => drop(bytes.drain(range(a, b))),
        Change::Double(a, b) => bytes.extend_from_within(range(a, b)),
        Change::End(at) => bytes.truncate(at.index(bytes.len())),
    }
}

fn keeps_its_promise(target: &str, promise: fn(&[u8])) {
    let corpus = corpus(target);
    corpus.iter().for_each(|bytes| promise(bytes));
    let cases = ProptestConfig::with_cases(20_000);
    let changes = (any::<Index>(), prop::collection::vec(change(), 1..5));
    proptest!(cases, |((file, changes) in changes)| {
        let mut bytes = corpus[file.index(corpus.len())].clone();
        changes.iter().for_each(|c| apply(&mut bytes, c));
        promise(&bytes);
    });
}

#[test]
fn objects() {
    keeps_its_promise("object", promises::object);
}

#[test]
fn records() {
    keeps_its_promise("record", promises::record);
}

#[test]
fn manifests() {
    keeps_its_promise("manifest", promises::manifest);
}

#[test]
fn labels() {
    keeps_its_promise("label", promises::label);
}

#[test]
fn sequence_states() {
    keeps_its_promise("sequence", promises::sequence);
}

#[test]
fn model_headers() {
    keeps_its_promise("gguf", promises::gguf);
}
