//! Processes killed at any moment, and many at once, on the real binary and a tiny model.

use std::time::{Duration, Instant};

use crate::common::{full, prose, tiny};
use crate::program::{Program, can_trace, json};

/// A few rounds each time, and many at full length.
fn rounds(usual: u64, many: u64) -> u64 {
    if full() { many } else { usual }
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

/// gc leaves only what the index names, every byte is accounted for, and everything is intact.
fn assert_sound(program: &Program, what: &str) {
    let collected = json(&program.ok(&["gc", "--json"]));
    let verified = program.run(&["verify"]);
    assert_eq!(verified.code, 0, "{what}: {} {}", verified.stdout, verified.stderr);
    assert_eq!(collected["kept_bytes"], program.total_bytes(), "{what}");
    let listing = json(&program.ok(&["ls", "--json"]));
    let waiting = collected["folder"]["waiting_bytes"].as_u64().unwrap();
    assert_eq!(listing["total_bytes"].as_u64().unwrap() + waiting, program.stored_bytes(), "{what}");
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
    for round in 0..rounds(12, 200) {
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
    let until = Instant::now() + Duration::from_secs(rounds(6, 60));
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

/// System calls that change a disk; `?` for those that some machines do not have.
const CHANGES: &str = "write,pwrite64,fsync,fdatasync,?rename,?renameat,renameat2,?unlink,unlinkat,?rmdir,ftruncate,\
    ?mkdir,mkdirat";

/// Signals and errors that are injected at one of those calls.
const STOPS: [(&str, &str); 3] = [
    ("killed", "signal=KILL:when=#"),
    ("one failure", "error=EIO:when=#"),
    ("a full disk", "error=ENOSPC:when=#+"),
];

/// Runs `command` on copies of the store, SQLite and all, and each time stops it at another call that changes the disk.
/// What was committed before is there and whole each time, and the next command goes on from there.
#[cfg(target_os = "linux")]
fn stopped_at_any_call(program: &Program, command: &[&str], then: impl Fn(&str)) {
    let expected = ask_kept(program);
    program.copy_store("before");
    stopped_at_any_call_on(program, "before", command, &expected, then);
}

#[cfg(target_os = "linux")]
fn stopped_at_any_call_on(
    program: &Program,
    copy: &str,
    command: &[&str],
    expected: &str,
    then: impl Fn(&str),
) {
    if !can_trace() {
        return;
    }
    let traced = |options: &[&str]| {
        program.copy_store_back(copy);
        let options = [&["-f", "-qq"], options, &[env!("CARGO_BIN_EXE_pcache")], command].concat();
        program.script("strace", &options)
    };
    let undisturbed = traced(&["-o", "calls", "-e", &format!("trace={CHANGES}")]);
    assert_eq!(undisturbed.code, 0, "{}", undisturbed.stderr);
    let calls = std::fs::read_to_string(program.path("calls")).unwrap().lines().count();
    assert!(calls > 10, "{command:?} makes {calls} calls");

    let step = rounds(19, 1) as usize;
    for (n, (how, stop)) in STOPS.iter().enumerate() {
        for call in (1 + n * 5..=calls).step_by(step) {
            let what = format!("{command:?}, {how} at call {call} of {calls}");
            let inject = format!("inject={CHANGES}:{}", stop.replace('#', &call.to_string()));
            let run = traced(&["-o", "/dev/null", "-e", &inject]);
            let ended = run.code >= 0 || *how == "killed";
            assert!(ended && !run.stderr.contains("panicked"), "{what}: {} {}", run.code, run.stderr);
            assert!(!run.stderr.contains("strace:"), "{what}: {}", run.stderr);
            then(&what);
            assert_eq!(ask_kept(program), expected, "{what}");
            assert_sound(program, &what);
        }
    }
}

fn ask_kept(program: &Program) -> String {
    let run = program.ok(&["ask", "kept", "Hm?", "--max-tokens", "4", "--json", "--require-hit"]);
    json(&run)["answer"].to_string()
}

#[cfg(target_os = "linux")]
fn with_states() -> Program {
    let program = Program::new(&tiny("llama"));
    for n in 0..3 {
        program.write(&format!("{n}.txt"), &format!("{} {}", prose(30, 1), prose(5, 10 + n)));
    }
    program.ok(&["build", "0.txt", "--name", "kept", "--pin"]);
    program.ok(&["build", "1.txt", "--name", "other"]);
    program
}

#[cfg(target_os = "linux")]
#[test]
fn a_build_that_is_stopped_at_any_call_leaves_the_store_whole() {
    let program = with_states();
    stopped_at_any_call(&program, &["build", "2.txt", "--name", "new"], |what| {
        let listed = json(&program.ok(&["ls", "--json"]));
        assert!(listed["states"].as_array().is_some_and(|s| (2..=3).contains(&s.len())), "{what}: {listed}");
        let rebuilt = program.run(&["build", "2.txt", "--name", "new"]);
        assert_eq!(rebuilt.code, 0, "{what}: {}", rebuilt.stderr);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_gc_that_is_stopped_at_any_call_is_finished_by_the_next() {
    let program = with_states();
    stopped_at_any_call(&program, &["gc", "--keep", "0"], |what| {
        let left = json(&program.ok(&["gc", "--keep", "0", "--json"]));
        assert!(left["evicted"].as_array().is_some_and(|e| e.len() <= 1), "{what}: {left}");
        assert_eq!(
            json(&program.ok(&["ls", "--json"]))["states"].as_array().map(Vec::len),
            Some(1),
            "{what}"
        );
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_change_that_is_stopped_at_any_call_is_done_or_not() {
    let program = with_states();
    stopped_at_any_call(&program, &["rename", "other", "another"], |what| {
        let listed = json(&program.ok(&["ls", "--json"]))["states"].to_string();
        assert!(listed.contains("\"other\"") != listed.contains("\"another\""), "{what}: {listed}");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_recode_that_is_stopped_at_any_call_leaves_every_segment_in_one_codec_or_the_other() {
    let program = with_states();
    stopped_at_any_call(&program, &["recode", "--all", "--codec", "zstd"], |what| {
        let again = program.run(&["recode", "--all", "--codec", "zstd"]);
        assert_eq!(again.code, 0, "{what}: {}", again.stderr);
        assert_eq!(
            json(&program.ok(&["ls", "--json"]))["states"].as_array().map(Vec::len),
            Some(2),
            "{what}"
        );
    });
}

/// A gc that was killed while it adopted once left an index with segments and no states, and the next build forgot names
/// and pins.
#[cfg(target_os = "linux")]
#[test]
fn a_gc_that_is_stopped_while_it_adopts_forgets_no_name() {
    let program = with_states();
    let expected = ask_kept(&program);
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(program.store().join(format!("index.sqlite{end}")));
    }
    program.copy_store("lost");
    program.ok(&["verify", "--repair"]);
    stopped_at_any_call_on(&program, "lost", &["gc"], &expected, |what| {
        for file in ["0.txt", "1.txt"] {
            let built = program.run(&["build", file]);
            assert_eq!(built.code, 0, "{what}: {}", built.stderr);
        }
        let kept = json(&program.ok(&["show", "kept", "--json"]));
        assert_eq!(kept["pinned"], true, "{what}");
        assert_eq!(program.run(&["show", "other"]).code, 0, "{what}");
    });
}

/// Each recode once removed what the other one had just written again.
#[test]
fn two_recodes_at_once_leave_every_segment() {
    let program = Program::new(&tiny("llama"));
    program.write("kept.txt", &prose(80, 99));
    program.ok(&["build", "kept.txt", "--name", "kept"]);
    let building = std::fs::File::open(program.store().join("lock")).unwrap();
    building.lock_shared().unwrap();
    let recodes =
        ["zstd", "raw"].map(|codec| program.start_until(&["recode", "kept", "--codec", codec], "waiting"));
    building.unlock().unwrap();
    for recode in recodes {
        let run = recode.finish();
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
    let verified = program.run(&["verify"]);
    assert_eq!(verified.code, 0, "{} {}", verified.stdout, verified.stderr);
    program.ok(&["ask", "kept", "Hm?", "--max-tokens", "1", "--require-hit"]);
    assert_sound(&program, "after two recodes");
}

/// The answers come from a store that was repaired; while it is not, `ask` says what to do.
#[cfg(target_os = "linux")]
#[test]
fn a_repair_that_is_stopped_at_any_call_is_finished_by_the_next() {
    let program = with_states();
    let damage = |program: &Program| {
        for end in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(program.store().join(format!("index.sqlite{end}")));
        }
        std::fs::write(program.store().join("index.sqlite"), "no database").unwrap();
    };
    let expected = ask_kept(&program);
    damage(&program);
    program.copy_store("damaged");
    program.ok(&["verify", "--repair"]);
    stopped_at_any_call_on(&program, "damaged", &["verify", "--repair"], &expected, |what| {
        let repaired = program.run(&["verify", "--repair"]);
        assert_eq!(repaired.code, 0, "{what}: {}", repaired.stderr);
        assert_eq!(
            json(&program.ok(&["ls", "--json"]))["states"].as_array().map(Vec::len),
            Some(2),
            "{what}"
        );
    });
}

/// While somebody builds, which holds the shared lock and the prompt's turn, everybody else reads.
#[test]
fn a_reader_never_waits_for_a_builder() {
    let program = Program::new(&tiny("llama"));
    program.write("kept.txt", &prose(80, 99));
    program.ok(&["build", "kept.txt", "--name", "kept"]);
    let building = std::fs::File::open(program.store().join("lock")).unwrap();
    building.lock_shared().unwrap();
    for args in [
        &["ls"][..],
        &["show", "kept"],
        &["explain", "kept.txt"],
        &["verify"],
        &["ask", "kept", "Hm?", "--max-tokens", "2", "--require-hit"],
        &["build", "kept.txt"],
        &["rename", "kept", "other"],
        &["rename", "other", "kept"],
    ] {
        let run = program.ok(args);
        assert!(!run.stderr.contains("waiting"), "{args:?}: {}", run.stderr);
    }
    // Whereas gc waits, and says so.
    let mut gc = program.start_until(&["gc", "--keep", "0"], "waiting");
    assert!(gc.is_running());
    building.unlock().unwrap();
    let gc = gc.finish();
    assert_eq!(gc.code, 0, "{}", gc.stderr);
}

/// An ask has its state mapped, and goes on from there when the files are gone.
#[test]
fn an_ask_goes_on_while_gc_removes_its_state() {
    let program = Program::new(&tiny("llama"));
    program.write("kept.txt", &prose(80, 99));
    program.ok(&["build", "kept.txt", "--name", "kept"]);
    program.write("questions.txt", &"Is it warm?\n".repeat(12));
    let ask = ["ask", "kept", "--questions", "questions.txt", "--max-tokens", "60", "--format", "jsonl"];
    let answers = |out: &str| -> Vec<String> {
        let events = out.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        events.filter_map(|e| Some(e.get("answer")?.as_str()?.to_owned())).collect()
    };
    let expected = answers(&program.ok(&ask).stdout);
    assert_eq!(expected.len(), 12);
    let mut asking = program.start_to_read(&ask);
    let mut lines = std::io::BufReader::new(asking.stdout.take().unwrap());
    let mut out = String::new();
    // The first answer has begun.
    while !out.contains("\"text\"") {
        assert!(std::io::BufRead::read_line(&mut lines, &mut out).unwrap() > 0, "{out}");
    }
    let gone = json(&program.ok(&["gc", "--keep", "0", "--json"]));
    assert_eq!(gone["evicted"].as_array().map(Vec::len), Some(1));
    assert_eq!(program.objects(), []);
    assert!(asking.try_wait().unwrap().is_none(), "it was over before gc came, and says nothing");
    std::io::Read::read_to_string(&mut lines, &mut out).unwrap();
    assert!(asking.wait().unwrap().success(), "{out}");
    assert_eq!(answers(&out), expected);
}

/// Whoever waits for the lock behind a removal once evaluated and saved anew what was gone, or called it damaged.
#[test]
fn what_is_removed_while_somebody_waits_stays_removed() {
    use pcache_store::{Lookup, Options, Store};
    use std::io::{BufRead, BufReader, Read};

    let program = Program::with_two_states();
    for command in
        [&["ask", "other", "Hm?", "--max-tokens", "1"][..], &["recode", "other", "--codec", "zstd"]]
    {
        program.ok(&["build", "other.txt", "--name", "other"]);
        let store = Store::open(&program.store(), &Options::new(Default::default())).unwrap();
        let Lookup::Found(key) = store.lookup("other").unwrap() else { panic!("it was just built") };
        let lock = store.lock_exclusive(|| ()).unwrap();
        let mut waiting = program.start_with_input(command);
        drop(waiting.stdin.take());
        let mut stderr = BufReader::new(waiting.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("waiting") {
            assert!(stderr.read_line(&mut said).unwrap() > 0, "{command:?}: {said}");
        }
        store.remove_states(&lock, &[key], false).unwrap();
        let objects = program.objects();
        drop(lock);
        stderr.read_to_string(&mut said).unwrap();
        assert_eq!(waiting.wait().unwrap().code(), Some(3), "{command:?}: {said}");
        assert!(said.contains("was removed in between"), "{command:?}: {said}");
        assert_eq!(program.objects(), objects, "{command:?} made something anew");
    }
}
