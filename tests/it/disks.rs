//! Disks that are full, read-only, foreign, or of a kind on which SQLite's log does not work: a clear error, nothing
//! half-visible, and the next run works. On the real binary and a tiny model.
//!
//! Mounts and failing system calls need a Linux that allows them; where it does not, a test says so, and the store's
//! own tests with a failing disk (`crates/pcache-store/src/tests/stops.rs`) stand for it.

use std::os::unix::fs::PermissionsExt;

use crate::common::{prose, tiny};
use crate::program::{Program, Run, can_trace, json};

fn program() -> Program {
    Program::with_two_states()
}

/// Runs a shell script as root of a namespace of its own, where it can mount; nothing where the machine forbids that.
fn in_a_namespace(program: &Program, script: &str) -> Option<Run> {
    let allowed = std::process::Command::new("unshare").args(["-rm", "true"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("this machine allows no mounts: the tests with a failing disk stand for this one");
        return None;
    }
    Some(program.script("unshare", &["-rm", "sh", "-euc", script]))
}

#[test]
fn a_full_disk_is_told_and_gc_finds_the_way_out() {
    let program = program();
    let script = r#"
        mkdir -p disk; mount -t tmpfs -o size=5m tmpfs disk; export PCACHE_DIR=$PWD/disk/store
        "$PCACHE" -q build long.txt --name long > /dev/null
        # Until nothing more fits.
        cat /dev/zero > disk/fill 2>/dev/null || true
        "$PCACHE" -q build other.txt > /dev/null 2> build.err && exit 9 || echo "build $?"
        "$PCACHE" -q build other.txt --codec zstd > /dev/null 2> written.err && exit 9 || echo "build $?"
        "$PCACHE" ls > ls.out 2> ls.err; echo "ls $?"
        "$PCACHE" ask long "Hm?" --max-tokens 2 --require-hit --threads 1 > ask.out 2> ask.err; echo "ask $?"
        # A state that is damaged is answered from all the same, and called what it is.
        for object in disk/store/objects/v1/*/*; do
            if grep -q "pcache object v1" "$object"; then printf x | dd of="$object" conv=notrunc 2> /dev/null; fi
        done
        "$PCACHE" ask long "Hm?" --max-tokens 2 --threads 1 > healed.out 2> healed.err; echo "ask $?"
        "$PCACHE" verify --repair > repair.out 2> repair.err && exit 9 || echo "repair $?"
        "$PCACHE" gc --keep 0 > gc.out 2> gc.err; echo "gc $?"
        "$PCACHE" ls --json
        rm disk/fill
        "$PCACHE" -q build long.txt > /dev/null; echo "build $?"
        "$PCACHE" verify 2>&1
    "#;
    let Some(run) = in_a_namespace(&program, script) else { return };
    let file = |name: &str| std::fs::read_to_string(program.path(name)).unwrap_or_default();
    let told = ["build.err", "written.err", "ls.err", "ask.err", "healed.err", "repair.err", "gc.err"]
        .map(file)
        .join("");
    assert_eq!(run.code, 0, "{} {told}", run.stderr);
    let expected = "build 1\nbuild 1\nls 0\nask 0\nask 0\nrepair 4\ngc 0\n{\"states\":[],\"total_bytes\":0,\"objects\":0}\nbuild 0\n";
    assert!(run.stdout.starts_with(expected), "{} {told}", run.stdout);
    assert!(run.stdout.contains("all intact"), "{}", run.stdout);
    assert!(file("build.err").contains("nothing was evaluated"), "{told}");
    assert!(file("written.err").contains("No space left"), "{told}");
    assert!(file("written.err").contains("makes room"), "{told}");
    assert!(file("healed.err").contains("nothing can be saved"), "{told}");
    assert_eq!(file("healed.out"), file("ask.out"));
    assert!(file("repair.out").contains("cannot be repaired"), "{told} {}", file("repair.out"));
    assert!(file("ls.out").contains("long") && file("ask.err").contains("hit: 637"), "{told}");
}

#[test]
fn a_read_only_store_can_be_listed_asked_and_verified() {
    let program = program();
    let script = r#"
        mount --bind store store; mount -o remount,ro,bind store
        "$PCACHE" ls --json > ls.out; echo "ls $?"
        "$PCACHE" show long > /dev/null; echo "show $?"
        "$PCACHE" ask long "Hm?" --max-tokens 2 --require-hit --threads 1 > /dev/null 2> ask.err; echo "ask $?"
        "$PCACHE" explain long.txt > /dev/null; echo "explain $?"
        "$PCACHE" build long.txt > /dev/null 2> hit.err; echo "hit $?"
        "$PCACHE" verify 2> verify.err; echo "verify $?"
        for command in "build other2.txt" "gc --keep 0" "rm long" "pin long" "rename long x"; do
            "$PCACHE" $command > /dev/null 2> err && exit 9 || echo "$command $?"; cat err >> errors
        done
    "#;
    program.write("other2.txt", &prose(40, 7));
    let before = program.contents();
    let Some(run) = in_a_namespace(&program, script) else { return };
    let file = |name: &str| std::fs::read_to_string(program.path(name)).unwrap_or_default();
    let told = ["ask.err", "verify.err", "errors"].map(file).join("");
    assert_eq!(run.code, 0, "{} {told}", run.stderr);
    let expected = "ls 0\nshow 0\nask 0\nexplain 0\nhit 0\nverify 0\n\
        build other2.txt 1\ngc --keep 0 1\nrm long 1\npin long 1\nrename long x 1\n";
    assert_eq!(run.stdout, expected, "{told}");
    assert!(file("verify.err").contains("all intact") && !file("ask.err").contains("warning"), "{told}");
    assert!(
        file("errors").to_lowercase().contains("read-only") || file("errors").contains("readonly"),
        "{told}"
    );
    assert_eq!(program.contents(), before);
}

/// One damaged object on a disk that cannot be written had all of the state evaluated.
#[test]
fn on_a_read_only_disk_what_is_intact_is_restored() {
    let program = program();
    let last = program.segments().into_iter().find(|path| {
        let object = pcache_format::object::decode(&std::fs::read(path).unwrap()).unwrap();
        (object.meta.first, object.tokens.len()) == (512, 125)
    });
    std::fs::write(last.unwrap(), "damaged").unwrap();
    let script = r#"
        mount --bind store store; mount -o remount,ro,bind store
        "$PCACHE" ask long "Hm?" --max-tokens 4 --json 2> ask.err
        "$PCACHE" ask long "Hm?" --max-tokens 4 --json --no-cache 2>> ask.err
    "#;
    let Some(run) = in_a_namespace(&program, script) else { return };
    let answers: Vec<serde_json::Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 2, "{}", run.stderr);
    assert_eq!(answers[0]["answer"], answers[1]["answer"]);
    let cache = &answers[0]["cache"];
    assert_eq!((&cache["status"], cache["restored_tokens"].as_u64()), (&"partial".into(), Some(512)));
}

/// Readers of a store that others write: a volume mounted read-only beside a build, or a snapshot of a killed one. What is in
/// the index's log counts, and the files are not touched.
#[test]
fn a_read_only_store_is_read_with_its_log_and_while_it_changes() {
    let program = program();
    program.write("other2.txt", &prose(40, 7));
    program.write("third.txt", &prose(40, 8));
    // Whoever only asks leaves a log behind; so does a build that is killed.
    program.ok(&["ask", "long", "Hm?", "--max-tokens", "1"]);
    assert!(program.path("store/index.sqlite-wal").metadata().unwrap().len() > 0, "there is a log");
    let script = r#"
        mkdir view; mount --bind store view; mount -o remount,ro,bind view
        all() {
            for command in ls "show long" "explain long.txt" verify; do
                PCACHE_DIR=$PWD/view "$PCACHE" $command > out 2>> err || { cat err >&2; exit 9; }
            done
            PCACHE_DIR=$PWD/view "$PCACHE" ask long "Hm?" --max-tokens 2 --require-hit --threads 1 > /dev/null 2>> err
            PCACHE_DIR=$PWD/view "$PCACHE" ls --json > "$1"
        }
        all before
        "$PCACHE" -q build other2.txt --name second > /dev/null
        all meanwhile
        # Another process has the store open and changes it all the time.
        (for n in 1 2 3 4 5 6 7 8; do "$PCACHE" -q rename second second; "$PCACHE" -q pin second; "$PCACHE" -q unpin second; done) 2> /dev/null &
        all during; all during; wait
        umount view; rmdir view
        cat err >&2
    "#;
    let Some(run) = in_a_namespace(&program, script) else { return };
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);
    let count = |name: &str| {
        let listed: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(program.path(name)).unwrap()).unwrap();
        listed["states"].as_array().unwrap().len()
    };
    assert_eq!((count("before"), count("meanwhile"), count("during")), (2, 3, 3));
}

/// A store of version 0.1 that cannot be written is read from a copy of its index, brought up to date there.
#[test]
fn a_read_only_store_of_version_0_1_is_read_as_it_is() {
    for with_log in [false, true] {
        let program = Program::new(&tiny("llama"));
        let fixture =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stores/0.1/store");
        program.adopt_store(&fixture);
        let db = rusqlite::Connection::open(program.path("store/index.sqlite")).unwrap();
        if with_log {
            db.pragma_update(None, "journal_mode", "WAL").unwrap();
            db.execute("UPDATE states SET hits = 77 WHERE name = 'shop'", []).unwrap();
        }
        let before = program.contents();
        let script = r#"
            mount --bind store store; mount -o remount,ro,bind store
            "$PCACHE" ls --json > ls.out
            "$PCACHE" show shop > /dev/null
            "$PCACHE" ask shop "Open?" --max-tokens 2 --require-hit --threads 1 > /dev/null 2> ask.err
            "$PCACHE" verify 2> verify.err
        "#;
        let Some(run) = in_a_namespace(&program, script) else { return };
        assert_eq!(run.code, 0, "{}", run.stderr);
        let file = |name: &str| std::fs::read_to_string(program.path(name)).unwrap();
        assert!(file("verify.err").contains("6 states verified"), "{}", file("verify.err"));
        assert!(file("ask.err").contains("computed by pcache 0.1"), "{}", file("ask.err"));
        let listed: serde_json::Value = serde_json::from_str(&file("ls.out")).unwrap();
        let shop = listed["states"].as_array().unwrap().iter().find(|s| s["name"] == "shop").unwrap();
        assert_eq!(shop["hits"], if with_log { 77 } else { 1 });
        assert_eq!(program.contents(), before);
        drop(db);
    }
}

/// One folder of another user once ended gc, verify and every build with a budget.
#[test]
fn a_folder_of_objects_that_cannot_be_read_stops_nothing_else() {
    let program = program();
    program.write("other2.txt", &prose(40, 7));
    let script = r#"
        chmod 755 . store store/objects store/objects/v1; chmod -R a+rX home 2> /dev/null || true
        run() { setpriv --bounding-set=-all --inh-caps=-all "$PCACHE" "$@"; }
        folder=$(run show other --json | sed 's/.*"object":"\(..\).*/\1/')
        chmod 000 store/objects/v1/$folder
        run verify > verify.out 2> verify.err && exit 9 || echo "verify $?"
        run gc > gc.out 2> gc.err && exit 9 || echo "gc $?"
        run gc --json > gc.json 2> /dev/null || true
        run build other2.txt --max-size 1GiB > /dev/null 2> build.err; echo "build $?"
        run rm other > rm.out 2> rm.err && exit 9 || echo "rm $?"
        run ls --json > ls.out
        chmod 700 store/objects/v1/$folder
        run gc > /dev/null 2> gc2.err; echo "gc $?"
        run verify > /dev/null 2> verify2.err; echo "verify $?"
    "#;
    let Some(run) = in_a_namespace(&program, script) else { return };
    let file = |name: &str| std::fs::read_to_string(program.path(name)).unwrap_or_default();
    let told = ["verify.err", "gc.err", "build.err", "rm.err", "gc2.err", "verify2.err"].map(file).join("");
    assert_eq!(run.code, 0, "{} {} {told}", run.stdout, run.stderr);
    assert_eq!(run.stdout, "verify 4\ngc 1\nbuild 0\nrm 1\ngc 0\nverify 0\n", "{told}");
    assert!(
        file("gc.err").contains("cannot list") && file("gc.err").contains("not all of the store"),
        "{told}"
    );
    assert!(
        file("verify.err").contains("Permission denied") || file("verify.out").contains("Permission denied"),
        "{told}"
    );
    assert!(file("rm.err").contains("cannot remove") && file("rm.err").contains("next gc"), "{told}");
    let gc: serde_json::Value = serde_json::from_str(&file("gc.json")).unwrap();
    assert_eq!(gc["folder"]["unreadable_folders"].as_array().unwrap().len(), 1);
    assert_eq!(json(&program.ok(&["gc", "--json"]))["kept_bytes"], program.total_bytes());
}

/// Runs with one kind of system call failing for one file; nothing where the machine forbids tracing.
fn with_failing_calls(program: &Program, file: &str, failure: &str, args: &[&str]) -> Option<Run> {
    if !can_trace() {
        return None;
    }
    let path = program.store().join(file);
    let calls = failure.split(':').next().unwrap();
    let (trace, inject) = (format!("trace={calls}"), format!("inject={failure}"));
    let (path, binary) = (path.to_str().unwrap(), env!("CARGO_BIN_EXE_pcache"));
    let tracer = ["-f", "-qq", "-o", "/dev/null", "-P", path, "-e", &trace, "-e", &inject, binary];
    Some(program.script("strace", &[&tracer, args].concat()))
}

/// As on a network file system: no memory is shared between processes, so the index does without a write-ahead log.
#[test]
fn a_store_works_where_no_memory_can_be_shared() {
    for failure in ["mmap:error=ENODEV", "openat:error=EACCES"] {
        let program = Program::new(&tiny("llama"));
        program.write("long.txt", &prose(120, 1));
        let commands: [&[&str]; 7] = [
            &["build", "long.txt", "--name", "long"],
            &["ask", "long", "Hm?", "--max-tokens", "2", "--require-hit"],
            &["rename", "long", "short"],
            &["verify"],
            &["gc"],
            &["ls"],
            &["rm", "short"],
        ];
        for args in commands {
            let Some(run) = with_failing_calls(&program, "index.sqlite-shm", failure, args) else { return };
            assert_eq!(run.code, 0, "{failure}, {args:?}: {}", run.stderr);
        }
        // A store that was made elsewhere and brought here works as well.
        program.ok(&["build", "long.txt", "--name", "long"]);
        std::fs::remove_file(program.store().join("index.sqlite")).unwrap();
        program.ok(&["verify", "--repair"]);
        let args = ["ask", "long", "Hm?", "--max-tokens", "2", "--require-hit"];
        let run = with_failing_calls(&program, "index.sqlite-shm", failure, &args).unwrap();
        assert_eq!(run.code, 0, "{failure}: {}", run.stderr);
        assert_eq!(json(&program.ok(&["gc", "--json"]))["kept_bytes"], program.total_bytes());
    }
}

/// Number of times that a command waits for the disk; nothing where the machine forbids tracing.
fn syncs(program: &Program, args: &[&str]) -> Option<usize> {
    if !can_trace() {
        return None;
    }
    let (calls, binary) =
        ("trace=fsync,fdatasync,msync,syncfs,sync_file_range", env!("CARGO_BIN_EXE_pcache"));
    let run = program.script("strace", &[&["-f", "-qq", "-o", "trace", "-e", calls, binary], args].concat());
    assert_eq!(run.code, 0, "{args:?}: {}", run.stderr);
    Some(std::fs::read_to_string(program.path("trace")).unwrap().matches("sync").count())
}

/// Each answer once waited for the disk, to note that the state was used.
#[test]
fn an_answer_waits_for_no_disk() {
    let program = program();
    let ask = ["ask", "long", "Hm?", "--max-tokens", "1", "--require-hit"];
    for hits in 1..4 {
        let Some(waited) = syncs(&program, &ask) else { return };
        assert_eq!(waited, 0);
        assert_eq!(json(&program.ok(&["show", "long", "--json"]))["hits"], hits, "it is noted all the same");
    }
    assert!(syncs(&program, &["rename", "long", "short"]).unwrap() > 0, "what is named is there for good");
}

#[test]
fn a_file_system_without_locks_is_named() {
    let program = program();
    for (file, failure) in [("lock", "flock:error=ENOLCK"), ("lock", "flock:error=EOPNOTSUPP")] {
        let Some(run) = with_failing_calls(&program, file, failure, &["gc"]) else { return };
        assert_eq!(run.code, 1);
        assert!(run.stderr.contains("no locks") && run.stderr.contains("--cache-dir"), "{}", run.stderr);
    }
    program.ok(&["gc"]);
}

/// A folder that may not be written, or not even be read, by a user whom the permissions bind.
#[test]
fn a_folder_without_permission_is_named() {
    let program = program();
    let before = program.contents();
    let as_nobody = |script: &str| {
        let script = format!(
            "chmod 755 . store store/objects store/objects/v1 store/objects/v1/*; chmod a+rX -R home 2> /dev/null || true
             {script}"
        );
        in_a_namespace(&program, &script)
    };
    let script = r#"
        umask 077
        chmod 500 store/objects/v1 store/tmp; chmod 400 store/index.sqlite
        run() { setpriv --bounding-set=-all --inh-caps=-all "$PCACHE" "$@"; }
        run build other2.txt > /dev/null 2> build.err && exit 9 || echo "build $?"
        run gc --keep 0 > /dev/null 2> gc.err && exit 9 || echo "gc $?"
        run ls > /dev/null 2> ls.err; echo "ls $?"
        chmod 700 store/objects/v1 store/tmp; chmod 600 store/index.sqlite
    "#;
    program.write("other2.txt", &prose(40, 7));
    let Some(run) = as_nobody(script) else { return };
    let file = |name: &str| std::fs::read_to_string(program.path(name)).unwrap_or_default();
    let told = ["build.err", "gc.err", "ls.err"].map(file).join("");
    assert_eq!((run.code, run.stdout.as_str()), (0, "build 1\ngc 1\nls 0\n"), "{} {told}", run.stderr);
    assert!(told.contains("ermission denied"), "{told}");
    assert_eq!(program.contents(), before);
    program.ok(&["build", "other2.txt"]);
}

#[test]
fn whatever_the_umask_nobody_else_reads_anything() {
    for umask in ["000", "022", "077"] {
        let program = Program::new(&tiny("llama"));
        program.write("long.txt", &prose(60, 1));
        if umask == "022" {
            // A folder that was there before, open to everybody.
            std::fs::create_dir(program.store()).unwrap();
            std::fs::set_permissions(program.store(), std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        let script = format!(
            "umask {umask}; \"$PCACHE\" build long.txt --name long; \"$PCACHE\" ask long Hm? --max-tokens 1;
             \"$PCACHE\" rename long short; \"$PCACHE\" verify --repair; \"$PCACHE\" gc"
        );
        let run = program.script("sh", &["-euc", &script]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let mut folders = vec![program.store()];
        while let Some(folder) = folders.pop() {
            let mode = std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o700, "{umask}: {}", folder.display());
            for entry in std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap()) {
                let meta = entry.metadata().unwrap();
                if meta.is_dir() {
                    folders.push(entry.path());
                } else {
                    assert_eq!(
                        meta.permissions().mode() & 0o777,
                        0o600,
                        "{umask}: {}",
                        entry.path().display()
                    );
                }
            }
        }
    }
}
