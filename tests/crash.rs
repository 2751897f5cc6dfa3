//! Processes killed at any moment, and many at once, on the real binary and a tiny model.

#![cfg(unix)]

mod common;
#[path = "common/program.rs"]
mod program;

use std::time::{Duration, Instant};

use common::{prose, tiny};
use program::{Program, json};

/// Rounds of killing: a few each time, `PCACHE_TEST_ROUNDS` says how many else.
fn rounds(usual: u64) -> u64 {
    std::env::var("PCACHE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Everything is intact, gc leaves only what the index names, and every byte is accounted for.
fn assert_sound(program: &Program, what: &str) {
    let verified = program.run(&["verify"]);
    assert_eq!(verified.code, 0, "{what}: {} {}", verified.stdout, verified.stderr);
    let collected = json(&program.ok(&["gc", "--json"]));
    assert_eq!(collected["kept_bytes"], program.total_bytes(), "{what}");
    let listing = json(&program.ok(&["ls", "--json"]));
    let objects: u64 = program.objects().iter().map(|(_, n)| n).sum();
    let waiting = collected["folder"]["waiting_bytes"].as_u64().unwrap();
    assert_eq!(listing["total_bytes"].as_u64().unwrap() + waiting, objects, "{what}");
}

/// A state that was committed survives whatever is killed beside it, and nothing half-made is ever seen.
#[test]
fn killed_at_any_moment_nothing_is_lost_and_nothing_is_half_made() {
    let program = Program::new(&tiny("llama"));
    for n in 0..6 {
        program.write(&format!("{n}.txt"), &format!("{} {}", prose(110, 1), prose(60, 10 + n)));
    }
    program.write("kept.txt", &prose(100, 99));
    program.ok(&["build", "kept.txt", "--name", "kept", "--pin"]);
    let expected =
        json(&program.ok(&["ask", "kept", "Hm?", "--max-tokens", "8", "--json"]))["answer"].clone();
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    for round in 0..rounds(12) {
        let file = format!("{}.txt", dice.roll(6));
        let commands: [&[&str]; 4] = [
            &["build", &file, "--threads", "1"],
            &["gc", "--keep", "2"],
            &["ask", "kept", "Hm?", "--max-tokens", "8", "--threads", "1"],
            &["verify", "--repair"],
        ];
        let mut running: Vec<_> = commands.iter().map(|args| program.start(args)).collect();
        std::thread::sleep(Duration::from_millis(dice.roll(160)));
        for child in &mut running {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Whatever was cut short, the state is there and whole.
        let answer = program.run(&["ask", "kept", "Hm?", "--max-tokens", "8", "--json", "--require-hit"]);
        assert_eq!(answer.code, 0, "round {round}: {}", answer.stderr);
        assert_eq!(json(&answer)["answer"], expected, "round {round}");
        assert_sound(&program, &format!("round {round}"));
    }
}

/// Several processes building, asking, listing, naming and collecting at once: no error, nothing lost, no deadlock.
#[test]
fn many_processes_at_once_get_along() {
    let program = Program::new(&tiny("llama"));
    for n in 0..4 {
        program.write(&format!("{n}.txt"), &format!("{} {}", prose(60, 1), prose(40, 10 + n)));
    }
    program.write("kept.txt", &prose(80, 99));
    program.ok(&["build", "kept.txt", "--name", "kept", "--pin"]);
    let until = Instant::now() + Duration::from_secs(rounds(6));
    std::thread::scope(|scope| {
        for worker in 0..8u64 {
            let program = &program;
            scope.spawn(move || {
                let mut dice = Dice(worker * 7919 + 1);
                while Instant::now() < until {
                    let file = format!("{}.txt", dice.roll(4));
                    let args: &[&str] = match dice.roll(8) {
                        0..=2 => &["build", &file, "--threads", "1"],
                        3 | 4 => {
                            &["ask", "kept", "Hm?", "--max-tokens", "2", "--threads", "1", "--require-hit"]
                        }
                        5 => &["ls"],
                        6 => &["gc", "--keep", "2"],
                        _ => &["verify"],
                    };
                    let run = program.run(args);
                    assert_eq!(run.code, 0, "{args:?}: {} {}", run.stdout, run.stderr);
                }
            });
        }
    });
    assert!(program.ok(&["ask", "kept", "Hm?", "--max-tokens", "1"]).stderr.contains("hit"));
    assert_sound(&program, "in the end");
}
