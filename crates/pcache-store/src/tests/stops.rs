//! Whatever the store is doing, it may stop at any operation on the disk, by a crash, a loss of power or a disk that fails: every state
//! that was committed is there and whole, none that was not is seen, and the next gc leaves no stray byte.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use super::*;

/// Way in which the process ends.
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

/// A name that changed in a folder that was not synced since.
enum Unsynced {
    /// A file was moved there from `from`, over `before`.
    Moved { path: PathBuf, from: PathBuf, before: Option<Vec<u8>> },
    /// A file was removed.
    Removed { path: PathBuf, before: Option<Vec<u8>> },
    /// A folder was made: without its name, all that is in it is lost.
    Made { path: PathBuf },
}

impl Unsynced {
    fn path(&self) -> &Path {
        match self {
            Self::Moved { path, .. } | Self::Removed { path, .. } | Self::Made { path } => path,
        }
    }
}

impl Frozen {
    fn after(operations: usize, end: End) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(operations), end, unsynced: Mutex::default() })
    }

    fn step(&self) -> io::Result<()> {
        let more = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        match more {
            // What is dropped on the way out does nothing any more.
            Err(_) if self.end != End::Failure && !std::thread::panicking() => panic!("killed"),
            more => more.map(drop).map_err(|_| io::Error::other("the disk does not answer")),
        }
    }

    fn note(&self, change: Unsynced) {
        self.unsynced.lock().unwrap_or_else(|e| e.into_inner()).push(change);
    }

    /// Puts everything back that was not synced.
    fn lose_power(&self) {
        for change in self.unsynced.lock().unwrap_or_else(|e| e.into_inner()).drain(..).rev() {
            let (path, before) = match change {
                Unsynced::Moved { path, from, before } => {
                    let _ = std::fs::rename(&path, from);
                    (path, before)
                }
                Unsynced::Removed { path, before } => (path, before),
                Unsynced::Made { path } => {
                    let _ = std::fs::remove_dir_all(&path);
                    continue;
                }
            };
            if let Some(bytes) = before {
                std::fs::write(&path, bytes).unwrap();
            }
        }
    }
}

impl Disk for Frozen {
    fn create_dir(&self, path: &Path) -> io::Result<bool> {
        self.step()?;
        let made = RealDisk.create_dir(path)?;
        if made {
            self.note(Unsynced::Made { path: path.to_owned() });
        }
        Ok(made)
    }
    fn stage(&self, folder: &Path, parts: &[&[u8]]) -> io::Result<PathBuf> {
        // The last write before the end comes half as far.
        let half = &parts[0][..parts[0].len() / 2];
        if self.left.load(Ordering::SeqCst) == 0 {
            let _ = RealDisk.stage(folder, &[half]);
        }
        self.step()?;
        RealDisk.stage(folder, parts)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        let before = std::fs::read(to).ok();
        RealDisk.rename(from, to)?;
        self.note(Unsynced::Moved { path: to.to_owned(), from: from.to_owned(), before });
        Ok(())
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        let mut unsynced = self.unsynced.lock().unwrap_or_else(|e| e.into_inner());
        unsynced.retain(|change| change.path().parent() != Some(path));
        RealDisk.sync_dir(path)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        let before = std::fs::read(path).ok();
        RealDisk.remove(path)?;
        self.note(Unsynced::Removed { path: path.to_owned(), before });
        Ok(())
    }
    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| RealDisk.remove_tree(path))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn Source>> {
        self.step().and_then(|()| RealDisk.open(path))
    }
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.step().and_then(|()| RealDisk.list(path))
    }
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        RealDisk.kind(path)
    }
    fn open_lock(&self, path: &Path) -> io::Result<std::fs::File> {
        self.step().and_then(|()| RealDisk.open_lock(path))
    }
    fn make_private(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| RealDisk.make_private(path))
    }
    fn free_bytes(&self, path: &Path) -> Option<u64> {
        RealDisk.free_bytes(path)
    }
}

/// Does `act` on a store that `prepare` made, stops it after 0, 1, 2… operations until it comes to its end, and each
/// time lets `check` look, which hears whether it did.
fn stop_anywhere(
    prepare: impl Fn(&TempDir),
    act: impl Fn(&Store) -> Result<()>,
    check: impl Fn(&TempDir, bool, &str),
) {
    for end in [End::Failure, End::Crash, End::PowerLoss] {
        let finished = (0..400).any(|operations| {
            let dir = TempDir::new().unwrap();
            prepare(&dir);
            let disk = Frozen::after(operations, end);
            let done = std::panic::catch_unwind(AssertUnwindSafe(|| {
                open_with(&dir, disk.clone()).and_then(|store| act(&store)).is_ok()
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

/// A gc leaves exactly the files that the index names, and does not bring back what was not there.
fn assert_tidy_after_gc(dir: &TempDir, names: &[&str], place: &str) {
    let store = open(dir);
    collect_nothing(&store);
    assert_eq!(assert_whole(&store), names, "{place}");
    assert_tidy(&store);
}

fn strs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// The very first build makes the store, and all of its folders: none of them may be lost behind a committed row.
#[test]
fn a_first_build() {
    stop_anywhere(
        |_| (),
        |store| save(store, "new", &tokens(700, 7)).map(drop),
        |dir, finished, place| {
            let names: &[&str] = if finished { &["new"] } else { &[] };
            let store = open(dir);
            let there = assert_whole(&store);
            assert!(there == names || (!finished && there == ["new"]), "{there:?} {place}");
            save(&store, "new", &tokens(700, 7)).unwrap();
            drop(store);
            assert_tidy_after_gc(dir, &["new"], place);
        },
    );
}

#[test]
fn a_build_that_extends_a_prefix() {
    stop_anywhere(
        |dir| assert!(save(&open(dir), "before", &tokens(300, 3)).is_ok()),
        |store| save(store, "new", &tokens(700, 7)).map(drop),
        |dir, finished, place| {
            let there = assert_whole(&open(dir));
            assert!(there == ["before", "new"] || (!finished && there == ["before"]), "{there:?} {place}");
            save(&open(dir), "new", &tokens(700, 7)).unwrap();
            assert_tidy_after_gc(dir, &["before", "new"], place);
        },
    );
}

/// A name goes from one state to another: at no moment does neither have it.
#[test]
fn a_build_that_takes_a_name() {
    let (old, new) = (key_of(&tokens(300, 3)), key_of(&tokens(700, 7)));
    stop_anywhere(
        |dir| assert!(save(&open(dir), "menu", &tokens(300, 3)).is_ok()),
        |store| save(store, "menu", &tokens(700, 7)).map(drop),
        |dir, finished, place| {
            let store = open(dir);
            assert_eq!(assert_whole(&store), ["menu"], "{place}");
            let Lookup::Found(owner) = store.lookup("menu").unwrap() else { panic!("{place}") };
            assert!(owner == new || (!finished && owner == old), "{place}");
            drop(store);
            // The files say no other.
            let store = recovered(dir);
            let Lookup::Found(owner) = store.lookup("menu").unwrap() else { panic!("{place}") };
            assert!(owner == new || !finished, "{place}");
            drop(store);
            // Segments of a build that was cut short wait for a week, now that no one knows what they are.
            collect_nothing(&open_at(dir, NOW + gc::ADOPTED_GRACE_S));
            assert_tidy_after_gc(dir, &["menu"], place);
        },
    );
}

#[test]
fn a_build_of_what_is_damaged() {
    let damaged = tokens(700, 3);
    stop_anywhere(
        |dir| {
            let store = open(dir);
            let key = save(&store, "a", &damaged).unwrap();
            std::fs::write(object_of(&store, &key, 1), "damaged").unwrap();
        },
        |store| save(store, "a", &damaged).map(drop),
        |dir, finished, place| {
            if finished {
                assert_eq!(assert_whole(&open(dir)), ["a"], "{place}");
            }
            save(&open(dir), "a", &damaged).unwrap();
            assert_tidy_after_gc(dir, &["a"], place);
        },
    );
}

#[test]
fn an_eviction() {
    let keep_one = Limits { max_states: Some(1), ..Limits::default() };
    stop_anywhere(
        |dir| {
            let store = open(dir);
            save(&store, "old", &tokens(700, 3)).unwrap();
            let key = save(&store, "young", &tokens(700, 5)).unwrap();
            open_at(dir, NOW + 10).touch(&key).unwrap();
        },
        |store| store.collect(&store.lock_exclusive(|| ())?, &keep_one, false).map(drop),
        |dir, finished, place| {
            let names = assert_whole(&open(dir));
            assert!(names.contains(&"young".to_owned()), "{place}");
            assert!(!finished || names == ["young"], "{place}");
            collect(&open(dir), &keep_one, false);
            assert_tidy_after_gc(dir, &["young"], place);
        },
    );
}

#[test]
fn a_collection_of_what_was_left_behind() {
    stop_anywhere(
        |dir| {
            let store = open(dir);
            save(&store, "a", &tokens(300, 3)).unwrap();
            let left = save(&store, "left", &tokens(700, 5)).unwrap();
            std::fs::write(store.root().join("tmp/left-behind"), b"half an object").unwrap();
            // A state without its rows, as an index that was put back from a backup has it.
            store.index.tombstone(&[left], &[]).unwrap();
            store.index.delete_tombstoned(&[left], &[]).unwrap();
            store.index.forget_removed().unwrap();
        },
        |store| store.collect(&store.lock_exclusive(|| ())?, &Limits::default(), false).map(drop),
        |dir, _, place| {
            assert!(assert_whole(&open(dir)).contains(&"a".to_owned()), "{place}");
            assert_tidy_after_gc(dir, &["a", "left"], place);
        },
    );
}

/// The state is there and whole, or gone; and what was told to be gone does not come back.
#[test]
fn a_removal() {
    let key = key_of(&tokens(700, 3));
    stop_anywhere(
        |dir| {
            let store = open(dir);
            save(&store, "b", &tokens(700, 5)).unwrap();
            save(&store, "a", &tokens(700, 3)).unwrap();
        },
        |store| match remove(store, &[key], false)? {
            removed if removed.iter().all(|r| r.left.is_empty()) => Ok(()),
            _ => Err(StoreError::Ended),
        },
        |dir, finished, place| {
            let names = assert_whole(&open(dir));
            assert!(names == ["b"] || (!finished && names == ["a", "b"]), "{names:?} {place}");
            assert_tidy_after_gc(dir, &strs(&names), place);
            if finished {
                assert_eq!(assert_whole(&recovered(dir)), ["b"], "{place}");
            }
        },
    );
}

#[test]
fn a_change_of_name() {
    let key = key_of(&tokens(300, 3));
    stop_anywhere(
        |dir| assert!(save(&open(dir), "a", &tokens(300, 3)).is_ok()),
        |store| store.rename(&store.lock_shared(|| ())?, &key, Some("a"), "renamed").map(drop),
        |dir, finished, place| {
            // The file counts: the next change or collection reads it.
            drop(open(dir).lock_labels().unwrap());
            let names = assert_whole(&open(dir));
            assert!(names == ["renamed"] || (!finished && names == ["a"]), "{names:?} {place}");
            assert_tidy_after_gc(dir, &strs(&names), place);
            // The label says what the index says.
            assert_eq!(assert_whole(&recovered(dir)), names, "{place}");
        },
    );
}

/// A change that was cut short leaves nothing that brings a state back that was removed after it.
#[test]
fn a_removal_after_a_change_is_for_good() {
    let key = key_of(&tokens(700, 3));
    let remove_and_lose_index = |dir: &TempDir, place: &str| {
        assert_eq!(remove(&open(dir), &[key], false).unwrap().len(), 1, "{place}");
        assert_eq!(assert_whole(&recovered(dir)), ["b"], "{place}");
    };
    let prepare = |dir: &TempDir| {
        let store = open(dir);
        // Two that share a segment: a description alone is no state.
        save(&store, "b", &tokens(300, 3)).unwrap();
        save(&store, "a", &tokens(700, 3)).unwrap();
    };
    let rename = |store: &Store| store.rename(&store.lock_shared(|| ())?, &key, Some("a"), "c").map(drop);
    stop_anywhere(prepare, rename, |dir, _, place| remove_and_lose_index(dir, place));
    stop_anywhere(prepare, rename, |dir, _, place| {
        drop(recovered(dir));
        remove_and_lose_index(dir, &format!("{place}, the index lost twice"));
    });
    // What is built anew has the name that it is built with.
    stop_anywhere(prepare, rename, |dir, _, place| {
        let store = open(dir);
        remove(&store, &[key], false).unwrap();
        save(&store, "fresh", &tokens(700, 3)).unwrap();
        drop(store);
        assert_eq!(assert_whole(&recovered(dir)), ["b", "fresh"], "{place}");
    });
}

#[test]
fn a_repair_of_a_lost_index() {
    stop_anywhere(
        |dir| {
            let store = open(dir);
            save(&store, "a", &tokens(700, 3)).unwrap();
            let key = save(&store, "b", &tokens(300, 5)).unwrap();
            relabel(&store, &key, |label| label.pinned = true).unwrap();
            drop(store);
            lose_index(dir);
        },
        // What it cannot read it leaves for the next time.
        |store| match reindex(store)? {
            reindex::Reindexed { states: 2, segments: 4 } => Ok(()),
            _ => Err(StoreError::Ended),
        },
        |dir, finished, place| {
            if finished {
                assert_eq!(assert_whole(&open(dir)), ["a", "b"], "{place}");
            }
            let store = open(dir);
            reindex(&store).unwrap();
            assert_eq!(assert_whole(&store), ["a", "b"], "{place}");
            let key = key_of(&tokens(300, 5));
            assert!(store.state(&key).unwrap().unwrap().label.pinned, "{place}");
            drop(store);
            assert_tidy_after_gc(dir, &["a", "b"], place);
        },
    );
}

#[test]
fn a_repair_of_what_describes_a_state() {
    let key = key_of(&tokens(300, 3));
    for damage_label in [false, true] {
        stop_anywhere(
            |dir| {
                let store = open(dir);
                save(&store, "a", &tokens(300, 3)).unwrap();
                let path = match damage_label {
                    true => layout::label(store.root(), &key),
                    false => layout::manifest(store.root(), &key, store.own_lineage()),
                };
                std::fs::write(path, "damaged").unwrap();
            },
            |store| match store.rewrite_description(&store.lock_shared(|| ())?, &key)? {
                true => Ok(()),
                false => Err(StoreError::Ended),
            },
            |dir, finished, place| {
                let store = open(dir);
                assert_eq!(assert_whole(&store), ["a"], "{place}");
                assert!(!finished || store.check_description(&key).unwrap().is_none(), "{place}");
                assert!(store.rewrite_description(&store.lock_shared(|| ()).unwrap(), &key).unwrap());
                drop(store);
                assert_tidy_after_gc(dir, &["a"], place);
                assert_eq!(assert_whole(&recovered(dir)), ["a"], "{place}");
            },
        );
    }
}
