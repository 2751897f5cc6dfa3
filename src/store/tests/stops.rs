//! Whatever the store is doing, it may stop at any operation on the disk, by a crash, a loss of power or a disk that fails: every state
//! that was committed is there and whole, none that was not is seen, and the next gc leaves no stray byte.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use super::*;

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// The disk refuses everything from then on, and the program hears it.
    Failure,
    /// The program is killed.
    Crash,
    /// The program is killed, and the disk forgets what was not synced.
    PowerLoss,
}

/// Works for some operations.
struct Frozen {
    left: AtomicUsize,
    end: End,
    /// Changes of folders that were not synced, the last one last.
    unsynced: Mutex<Vec<Unsynced>>,
}

/// A name that changed: it was `before`'s content, and what was moved there came from `from`.
struct Unsynced {
    path: PathBuf,
    before: Option<Vec<u8>>,
    from: Option<PathBuf>,
}

impl Frozen {
    fn after(operations: usize, end: End) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(operations), end, unsynced: Mutex::default() })
    }

    fn step(&self) -> io::Result<()> {
        let more = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        match more {
            Err(_) if self.end != End::Failure => panic!("killed"),
            more => more.map(drop).map_err(|_| io::Error::other("the disk does not answer")),
        }
    }

    fn note(&self, path: &Path, from: Option<&Path>) {
        let (path, from) = (path.to_owned(), from.map(Path::to_owned));
        let before = std::fs::read(&path).ok();
        self.unsynced.lock().unwrap().push(Unsynced { path, before, from });
    }

    /// Puts everything back that was not synced.
    fn lose_power(&self) {
        for change in self.unsynced.lock().unwrap().drain(..).rev() {
            if let Some(from) = change.from {
                std::fs::rename(&change.path, from).unwrap();
            }
            if let Some(bytes) = change.before {
                std::fs::write(&change.path, bytes).unwrap();
            }
        }
    }
}

impl Disk for Frozen {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| RealDisk.create_dir(path))
    }
    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        // The last write before the end comes half as far.
        let half = &parts[0][..parts[0].len() / 2];
        if self.left.load(Ordering::SeqCst) == 0 {
            let _ = RealDisk.write(path, &[half]);
        }
        self.step()?;
        RealDisk.write(path, parts)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        self.note(to, Some(from));
        RealDisk.rename(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        self.unsynced.lock().unwrap().retain(|change| change.path.parent() != Some(path));
        RealDisk.sync_dir(path)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        self.note(path, None);
        RealDisk.remove(path)
    }
    fn map(&self, path: &Path) -> io::Result<Map> {
        self.step().and_then(|()| RealDisk.map(path))
    }
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.step().and_then(|()| RealDisk.list(path))
    }
}

/// Does `act` on a store that `prepare` made, stops it after 0, 1, 2… operations until it comes to its end, and each
/// time lets `check` look, which hears whether it did.
fn stop_anywhere(
    prepare: impl Fn(&TempDir),
    act: impl Fn(&mut Store) -> Result<()>,
    check: impl Fn(&TempDir, bool, &str),
) {
    for end in [End::Failure, End::Crash, End::PowerLoss] {
        let finished = (0..300).any(|operations| {
            let dir = TempDir::new().unwrap();
            prepare(&dir);
            let disk = Frozen::after(operations, end);
            let done = std::panic::catch_unwind(AssertUnwindSafe(|| {
                open_with(&dir, disk.clone()).and_then(|mut store| act(&mut store)).is_ok()
            }));
            if end == End::PowerLoss {
                disk.lose_power();
            }
            let done = done.unwrap_or(false);
            check(&dir, done, &format!("{end:?} after {operations} operations"));
            done
        });
        assert!(finished, "it never came to its end");
    }
}

/// What a gc leaves is what the index says, and it does not bring back what was not there.
fn assert_tidy_after_gc(dir: &TempDir, names: &[&str], place: &str) {
    let mut store = open(dir);
    store.collect(&Limits::default(), false).unwrap();
    assert_eq!(assert_whole(&store), names, "{place}");
    assert_tidy(&store);
}

#[test]
fn a_build() {
    stop_anywhere(
        |dir| drop(open(dir)),
        |store| save(store, "new", &tokens(700, 7)).map(drop),
        |dir, finished, place| {
            let names: &[&str] = if finished { &["new"] } else { &[] };
            assert_eq!(assert_whole(&open(dir)), names, "{place}");
            // What was interrupted is completed by doing it again.
            save(&mut open(dir), "new", &tokens(700, 7)).unwrap();
            assert_tidy_after_gc(dir, &["new"], place);
        },
    );
}

#[test]
fn a_build_that_extends_a_prefix() {
    stop_anywhere(
        |dir| assert!(save(&mut open(dir), "before", &tokens(300, 3)).is_ok()),
        |store| save(store, "new", &tokens(700, 7)).map(drop),
        |dir, finished, place| {
            let names: &[&str] = if finished { &["before", "new"] } else { &["before"] };
            assert_eq!(assert_whole(&open(dir)), names, "{place}");
            save(&mut open(dir), "new", &tokens(700, 7)).unwrap();
            assert_tidy_after_gc(dir, &["before", "new"], place);
        },
    );
}

fn second_segment() -> Encoded<'static> {
    let tokens = tokens(700, 3);
    encoded(&tokens, &chain(&tokens).segments()[1])
}

#[test]
fn a_build_of_what_is_damaged() {
    stop_anywhere(
        |dir| {
            let mut store = open(dir);
            let key = save(&mut store, "a", &tokens(700, 3)).unwrap();
            let row = store.index().segments_of(&key).unwrap().remove(1);
            std::fs::write(store.object_path(&row.object), "damaged").unwrap();
        },
        |store| {
            store.publish(&second_segment()).map(drop)?;
            store.commit_state(&record("a", &tokens(700, 3)))
        },
        |dir, finished, place| {
            if finished {
                assert_eq!(assert_whole(&open(dir)), ["a"], "{place}");
            }
            open(dir).publish(&second_segment()).unwrap();
            assert_tidy_after_gc(dir, &["a"], place);
        },
    );
}

#[test]
fn an_eviction() {
    let keep_one = Limits { max_states: Some(1), ..Limits::default() };
    stop_anywhere(
        |dir| {
            let mut store = open(dir);
            save(&mut store, "old", &tokens(700, 3)).unwrap();
            let key = save(&mut store, "young", &tokens(700, 5)).unwrap();
            let later = store.now() + 10;
            store.index_mut().touch(&key, later).unwrap();
        },
        |store| store.collect(&keep_one, false).map(drop),
        |dir, finished, place| {
            let names = assert_whole(&open(dir));
            assert!(names.contains(&"young".to_owned()), "{place}");
            assert!(!finished || names == ["young"], "{place}");
            open(dir).collect(&keep_one, false).unwrap();
            assert_tidy_after_gc(dir, &["young"], place);
        },
    );
}

#[test]
fn a_collection_of_what_was_left_behind() {
    stop_anywhere(
        |dir| {
            let mut store = open(dir);
            save(&mut store, "a", &tokens(300, 3)).unwrap();
            let left = save(&mut store, "left", &tokens(700, 5)).unwrap();
            std::fs::write(store.root().join("tmp/left-behind"), b"half an object").unwrap();
            // A state without its rows, as an index that was put back from a backup has it.
            let row = store.index().use_of(&left).unwrap().unwrap();
            store.index_mut().mark_going(&[left], &[]).unwrap();
            store.index_mut().delete_going(&[left], &[]).unwrap();
            store.index_mut().forget_removed().unwrap();
            assert!(row.record.is_some());
        },
        |store| store.collect(&Limits::default(), false).map(drop),
        |dir, _, place| {
            assert!(assert_whole(&open(dir)).contains(&"a".to_owned()), "{place}");
            assert_tidy_after_gc(dir, &["a", "left"], place);
        },
    );
}

/// The state is there and whole, or gone; and what was told to be gone does not come back.
#[test]
fn a_removal() {
    let key = chain(&tokens(700, 3)).state_key("", "");
    stop_anywhere(
        |dir| {
            let mut store = open(dir);
            save(&mut store, "b", &tokens(700, 5)).unwrap();
            save(&mut store, "a", &tokens(700, 3)).unwrap();
        },
        |store| store.remove_states(&[key], false).map(drop),
        |dir, finished, place| {
            let names = assert_whole(&open(dir));
            assert!(names == ["b"] || (!finished && names == ["a", "b"]), "{names:?} {place}");
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            assert_tidy_after_gc(dir, &names, place);
        },
    );
}

#[test]
fn a_change_of_name() {
    let key = chain(&tokens(300, 3)).state_key("", "");
    stop_anywhere(
        |dir| assert!(save(&mut open(dir), "a", &tokens(300, 3)).is_ok()),
        |store| store.change_state(&key, |r| r.name = Some("renamed".into())).map(drop),
        |dir, finished, place| {
            let names = assert_whole(&open(dir));
            assert!(names == ["renamed"] || (!finished && names == ["a"]), "{names:?} {place}");
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            assert_tidy_after_gc(dir, &names, place);
            // The record says what the index says.
            lose_index(dir);
            assert_eq!(assert_whole(&open(dir)), names, "{place}");
        },
    );
}

/// A change that was cut short may leave a record that nobody knows; after the loss of the index it would be taken for
/// the state, although that was removed in between. Likewise the one that a change replaced.
#[test]
fn a_removal_after_a_change_is_for_good() {
    let key = chain(&tokens(700, 3)).state_key("", "");
    let remove_and_lose_index = |dir: &TempDir, place: &str| {
        let mut store = open(dir);
        assert_eq!(store.remove_states(&[key], false).unwrap().len(), 1, "{place}");
        drop(store);
        lose_index(dir);
        assert_eq!(assert_whole(&open(dir)), ["b"], "{place}");
    };
    let prepare = |dir: &TempDir| {
        let mut store = open(dir);
        // Two that share a segment: a record alone is no state.
        save(&mut store, "b", &tokens(300, 3)).unwrap();
        save(&mut store, "a", &tokens(700, 3)).unwrap();
    };
    let rename = |store: &mut Store| store.change_state(&key, |r| r.name = Some("c".into())).map(drop);
    stop_anywhere(prepare, rename, |dir, _, place| remove_and_lose_index(dir, place));
    stop_anywhere(prepare, rename, |dir, _, place| {
        lose_index(dir);
        drop(open(dir));
        remove_and_lose_index(dir, &format!("{place}, the index lost twice"));
    });
    // What is built anew has the name that it is built with.
    stop_anywhere(prepare, rename, |dir, _, place| {
        let mut store = open(dir);
        store.remove_states(&[key], false).unwrap();
        save(&mut store, "fresh", &tokens(700, 3)).unwrap();
        drop(store);
        lose_index(dir);
        assert_eq!(assert_whole(&open(dir)), ["b", "fresh"], "{place}");
    });
}

#[test]
fn a_repair_of_a_lost_index() {
    stop_anywhere(
        |dir| {
            let mut store = open(dir);
            save(&mut store, "a", &tokens(700, 3)).unwrap();
            let key = save(&mut store, "b", &tokens(300, 5)).unwrap();
            store.change_state(&key, |r| r.pinned = true).unwrap();
            drop(store);
            lose_index(dir);
        },
        // Opening it to build puts back what the index knew; what it cannot read it leaves for the next time.
        |store| match store.found_on_opening() {
            Some((2, 4)) => Ok(()),
            other => Err(StoreError::NotAStore { path: PathBuf::new(), found: format!("{other:?}") }),
        },
        |dir, finished, place| {
            if finished {
                assert_eq!(assert_whole(&reopen(dir)), ["a", "b"], "{place}");
            }
            let mut store = reopen(dir);
            store.adopt_lost().unwrap();
            assert_eq!(assert_whole(&store), ["a", "b"], "{place}");
            let key = chain(&tokens(300, 5)).state_key("", "");
            assert!(store.index().state(&key).unwrap().unwrap().pinned, "{place}");
            drop(store);
            assert_tidy_after_gc(dir, &["a", "b"], place);
        },
    );
}

#[test]
fn a_repair_of_a_record() {
    let key = chain(&tokens(300, 3)).state_key("", "");
    stop_anywhere(
        |dir| {
            let mut store = open(dir);
            save(&mut store, "a", &tokens(300, 3)).unwrap();
            let record = store.index().use_of(&key).unwrap().unwrap().record.unwrap();
            std::fs::write(store.object_path(&record), "damaged").unwrap();
        },
        |store| store.rewrite_record(&key).map(drop),
        |dir, finished, place| {
            assert_eq!(assert_whole(&open(dir)), ["a"], "{place}");
            assert!(!finished || open(dir).check_record(&key).unwrap().is_none(), "{place}");
            open(dir).rewrite_record(&key).unwrap();
            assert_tidy_after_gc(dir, &["a"], place);
            lose_index(dir);
            assert_eq!(assert_whole(&open(dir)), ["a"], "{place}");
        },
    );
}
