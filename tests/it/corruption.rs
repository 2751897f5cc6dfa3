//! Whatever happens to the files of a store, `ask` gives the right answer or says why not: it never gives a wrong one
//! and never crashes. On the real binary and a tiny model.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{full, prose, tiny};
use crate::program::{Program, Run, json};
use pcache_format::{Codec, Encoded, Object, object};

/// A store with one small state and a larger one, and what they answer.
struct Fixture {
    program: Program,
    small: PathBuf,
    answers: [String; 2],
}

const STATES: [&str; 2] = ["small", "large"];

impl Fixture {
    fn new() -> Self {
        let program = Program::new(&tiny("llama"));
        program.write("small.txt", "Hm.");
        program.write("large.txt", &prose(100, 1));
        program.ok(&["build", "small.txt", "--raw", "--name", "small"]);
        let small = program.segments().remove(0);
        program.ok(&["build", "large.txt", "--name", "large", "--pin"]);
        let mut fixture = Self { program, small, answers: Default::default() };
        fixture.answers = STATES.map(|state| answer(&fixture.ask(state, &[])));
        fixture
    }

    fn ask(&self, state: &str, extra: &[&str]) -> Run {
        let args = ["ask", state, "Is it warm?", "--max-tokens", "6", "--threads", "1", "--json"];
        self.program.run(&[&args, extra].concat())
    }

    /// Gives the index bytes of an enemy for an object, under the name that is their hash.
    fn put_in_place(&self, object: &Object, bytes: Vec<u8>) {
        let (hex, size) = (blake3::hash(&bytes).to_hex(), bytes.len());
        let folder = self.program.store().join("objects/v1").join(&hex[..2]);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{hex}.safetensors")), bytes).unwrap();
        let chain = object.meta.chain.to_hex();
        self.program.sql(&format!(
            "UPDATE segments SET object = x'{hex}', file_bytes = {size}, raw_blake3 = NULL WHERE chain = x'{chain}'"
        ));
    }

    /// The first segment of the larger state.
    fn large(&self) -> PathBuf {
        let mut segments = self.program.segments();
        let is_first = |path: &PathBuf| object::decode(&fs::read(path).unwrap()).unwrap().meta.first == 0;
        segments.retain(|path| *path != self.small && is_first(path));
        segments.remove(0)
    }

    fn assert_refused(&self, what: &str) {
        let refused = self.ask("small", &["--require-hit"]);
        assert_eq!((refused.code, &*refused.stdout), (3, ""), "{what}: {}", refused.stderr);
    }

    /// The state that a damage was done to is no hit, is healed with the right answer, and the other one is as it was.
    fn assert_healed(&self, what: &str) {
        self.assert_refused(what);
        let healed = self.ask("small", &[]);
        assert_eq!(healed.code, 0, "{what}: {}", healed.stderr);
        assert_eq!(answer(&healed), self.answers[0], "{what}");
        let cache = &json(&healed)["cache"];
        assert!(cache["status"] == "miss" && cache["restored_tokens"] == 0, "{what}: {cache}");
        assert!(cache["reason"].as_str().is_some_and(|r| !r.is_empty()), "{what}: {cache}");
        assert!(healed.stderr.contains("evaluated and saved again"), "{what}: {}", healed.stderr);
        let hit = self.ask("small", &["--require-hit"]);
        assert_eq!((hit.code, answer(&hit)), (0, self.answers[0].clone()), "{what}: {}", hit.stderr);
    }
}

fn answer(run: &Run) -> String {
    json(run)["answer"].as_str().unwrap().to_owned()
}

/// One in some is healed as well, which takes longer.
#[test]
fn every_flipped_byte_of_an_object_is_found_and_healed() {
    let fixture = Fixture::new();
    let good = fs::read(&fixture.small).unwrap();
    let step = if full() { 1 } else { good.len() / 100 };
    let heal = if full() { 50 } else { 5 };
    let damaged = |bytes: &[u8], heals: bool, what: &str| {
        fs::write(&fixture.small, bytes).unwrap();
        if heals {
            fixture.assert_healed(what);
            assert_eq!(fs::read(&fixture.small).unwrap(), good, "{what}: healed to other bytes");
        } else {
            fixture.assert_refused(what);
        }
    };
    for (n, at) in (0..good.len()).step_by(step).enumerate() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        damaged(&bad, n % heal == 0, &format!("byte {at}"));
    }
    let step = if full() { 1 } else { step * 3 };
    for (n, length) in (0..good.len()).step_by(step).enumerate() {
        damaged(&good[..length], n % heal == 0, &format!("the first {length} bytes"));
    }
}

#[test]
fn files_swapped_replaced_or_gone_are_found_and_healed() {
    let fixture = Fixture::new();
    let good = fs::read(&fixture.small).unwrap();
    let manifest = fixture.program.manifests().remove(0);
    let elsewhere = fixture.program.path("elsewhere");
    fs::write(&elsewhere, &good).unwrap();
    let other = fixture.large();
    type Damage<'a> = &'a dyn Fn(&Path);
    let damages: [(&str, Damage); 7] = [
        ("gone", &|path| fs::remove_file(path).unwrap()),
        ("a folder", &|path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("another state's", &|path| assert!(fs::copy(&other, path).is_ok())),
        ("a manifest", &|path| assert!(fs::copy(&manifest, path).is_ok())),
        ("a byte more", &|path| fs::write(path, [&good[..], &[0]].concat()).unwrap()),
        ("a link to what it was", &|path| {
            fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink(&elsewhere, path).unwrap();
        }),
        ("a pipe that nobody writes to", &|path| {
            fs::remove_file(path).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
        }),
    ];
    for (what, damage) in damages {
        damage(&fixture.small);
        fixture.assert_healed(what);
    }
    // Two files swapped: both are found.
    let (a, b) = (fixture.small.clone(), fixture.large());
    let (bytes_a, bytes_b) = (fs::read(&a).unwrap(), fs::read(&b).unwrap());
    fs::write(&a, &bytes_b).unwrap();
    fs::write(&b, &bytes_a).unwrap();
    fixture.assert_healed("swapped");
    let large = fixture.ask("large", &[]);
    assert_eq!(
        (answer(&large), &json(&large)["cache"]["status"]),
        (fixture.answers[1].clone(), &"miss".into())
    );
    assert!(fixture.program.ok(&["verify"]).stderr.contains("all intact"));
}

/// A file whose name is the hash of its bytes, and whose state was made by an enemy; the index names it.
#[test]
fn an_object_with_the_right_hash_and_hostile_numbers_is_refused_and_replaced() {
    let fixture = Fixture::new();
    let good = fs::read(&fixture.small).unwrap();
    let object = object::decode(&good).unwrap();
    let state = &good[object.state.clone()];
    let huge = u32::MAX.to_le_bytes();
    type Change<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>));
    let changes: [Change; 8] = [
        ("no magic", &|s| s[0] ^= 1),
        ("streams", &|s| s[8..12].copy_from_slice(&huge)),
        ("cells", &|s| s[12..16].copy_from_slice(&huge)),
        ("a negative position", &|s| s[16..20].copy_from_slice(&huge)),
        ("a position twice", &|s| s[28..32].copy_from_slice(&[0; 4])),
        ("cut short", &|s| s.truncate(40)),
        ("longer", &|s| s.extend([0; 64])),
        ("nothing", &|s| s.clear()),
    ];
    for (what, change) in changes {
        let mut hostile = state.to_vec();
        change(&mut hostile);
        let encoded = Encoded::raw(&object.meta, &object.tokens, &hostile);
        fixture.put_in_place(&object, encoded.parts().concat());
        fixture.assert_healed(what);
    }
    // What the enemy left is not named by anything, and goes.
    let removed = json(&fixture.program.ok(&["gc", "--json"]));
    assert_eq!(removed["kept_bytes"], fixture.program.total_bytes());
    assert!(fixture.program.ok(&["verify"]).stderr.contains("all intact"));
}

/// An encoded state whose hash is right: cut, with other sizes, with another state in it, or a bomb.
#[test]
fn an_encoded_state_of_an_enemy_is_refused_and_replaced() {
    let fixture = Fixture::new();
    let good = fs::read(&fixture.small).unwrap();
    let object = object::decode(&good).unwrap();
    let state = &good[object.state.clone()];
    let encoded = |state: &[u8]| {
        let encoded = Encoded::with(Codec::Zstd { level: 1 }, &object.meta, &object.tokens, state);
        encoded.parts().concat()
    };
    let right = encoded(state);
    assert!(right.len() < good.len() && String::from_utf8_lossy(&right).contains("zstd"));
    // The right state in the other codec is a hit.
    fixture.put_in_place(&object, right.clone());
    let hit = fixture.ask("small", &["--require-hit"]);
    assert_eq!((hit.code, answer(&hit)), (0, fixture.answers[0].clone()), "{}", hit.stderr);

    let replaced = |from: &str, to: &str| {
        let at = right.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        [&right[..at], to.as_bytes(), &right[at + from.len()..]].concat()
    };
    let size = format!("\"raw_bytes\":\"{}\"", state.len());
    let same_length =
        |n: usize| format!("\"raw_bytes\":\"{n:0width$}\"", width = state.len().to_string().len());
    let mut negative = state.to_vec();
    negative[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    // A hundred megabytes of nothing in a few kilobytes.
    let bomb = encoded(&vec![0; 100 << 20]);
    assert!(bomb.len() < 100 << 10);
    let mut torn = right.clone();
    let middle = torn.len() - 1000;
    torn[middle..].fill(0);
    let hostile: [(&str, Vec<u8>); 7] = [
        ("a bomb", bomb),
        ("one byte more", replaced(&size, &same_length(state.len() + 1))),
        ("one byte less", replaced(&size, &same_length(state.len() - 1))),
        ("nothing", replaced(&size, &same_length(0))),
        ("other planes", replaced("\"stride\":\"2\"", "\"stride\":\"3\"")),
        ("torn", torn),
        ("a negative position", encoded(&negative)),
    ];
    for (what, bytes) in hostile {
        fixture.put_in_place(&object, bytes);
        let verified = fixture.program.run(&["verify", "small"]);
        assert_eq!(
            verified.code,
            if what == "a negative position" { 0 } else { 4 },
            "{what}: {}",
            verified.stdout
        );
        fixture.assert_healed(what);
    }
    assert!(fixture.program.ok(&["verify"]).stderr.contains("all intact"));
}

/// Nothing that is done to the index makes an answer wrong or a process crash, and repair brings everything back.
#[test]
fn whatever_happens_to_the_index_repair_brings_everything_back() {
    let fixture = Fixture::new();
    let index = fixture.program.store().join("index.sqlite");
    let wal = fixture.program.store().join("index.sqlite-wal");
    fixture.program.ok(&["gc"]);
    let good = fs::read(&index).unwrap();
    let restore = || {
        let _ = fs::remove_file(&wal);
        let _ = fs::remove_file(fixture.program.store().join("index.sqlite-shm"));
        fs::write(&index, &good).unwrap();
    };
    let noise = |n: usize| -> Vec<u8> { (0..n).map(|i| (i * 7919 % 251) as u8).collect() };
    let mut damages: Vec<(String, Box<dyn Fn()>)> = vec![
        ("gone".into(), Box::new(|| fs::remove_file(&index).unwrap())),
        ("a text".into(), Box::new(|| fs::write(&index, "no database").unwrap())),
        ("all noise".into(), Box::new(|| fs::write(&index, noise(good.len())).unwrap())),
        ("a log of noise".into(), Box::new(|| fs::write(&wal, noise(9000)).unwrap())),
    ];
    let page = 4096;
    let step = if full() { 1 } else { 3 };
    for n in (0..good.len() / page).step_by(step) {
        let (index, good, noise) = (&index, &good, &noise);
        damages.push((
            format!("page {n} is noise"),
            Box::new(move || {
                let mut bad = good.clone();
                bad[n * page..(n + 1) * page].copy_from_slice(&noise(page));
                fs::write(index, bad).unwrap();
            }),
        ));
        let cut = n * page + 100;
        damages.push((format!("cut at {cut}"), Box::new(move || fs::write(index, &good[..cut]).unwrap())));
    }
    for (what, damage) in &damages {
        restore();
        damage();
        for (state, expected) in STATES.iter().zip(&fixture.answers) {
            let run = fixture.ask(state, &[]);
            match run.code {
                0 => assert_eq!(&answer(&run), expected, "{what}"),
                3 | 4 => assert!(run.stderr.contains("verify --repair"), "{what}: {}", run.stderr),
                code => panic!("{what}: ask ends with {code}: {}", run.stderr),
            }
        }
        let repaired = fixture.program.run(&["verify", "--repair"]);
        assert_eq!(repaired.code, 0, "{what}: {} {}", repaired.stdout, repaired.stderr);
        for (state, expected) in STATES.iter().zip(&fixture.answers) {
            let run = fixture.ask(state, &["--require-hit"]);
            assert_eq!((run.code, &answer(&run)), (0, expected), "{what}: {}", run.stderr);
        }
        assert_eq!(json(&fixture.program.ok(&["show", "large", "--json"]))["pinned"], true, "{what}");
        assert!(fixture.program.ok(&["verify"]).stderr.contains("all intact"), "{what}");
    }
    // A folder is not pcache's to move away; the message says what to do, and that works.
    restore();
    fs::remove_file(&index).unwrap();
    fs::create_dir(&index).unwrap();
    let refused = fixture.ask("small", &[]);
    assert_eq!((refused.code, refused.stderr.contains("remove it")), (1, true), "{}", refused.stderr);
    fs::remove_dir(&index).unwrap();
    fixture.program.ok(&["verify", "--repair"]);
    assert_eq!(answer(&fixture.ask("large", &["--require-hit"])), fixture.answers[1]);

    fixture.program.ok(&["gc"]);
    assert_eq!(json(&fixture.program.ok(&["gc", "--json"]))["kept_bytes"], fixture.program.total_bytes());
}
