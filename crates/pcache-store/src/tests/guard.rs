//! Files that the store leaves alone: unreadable ones, newer ones, foreign ones; and how it tells them apart.

use super::*;
use pcache_format::Label;
use std::path::PathBuf;

/// The real disk, on which some paths cannot be read or removed, or are gone when they are opened.
struct Refusing {
    paths: Vec<PathBuf>,
    removing: bool,
    vanishing: bool,
}

impl Refusing {
    fn check(&self, path: &Path) -> io::Result<()> {
        match self.paths.iter().any(|refused| path.starts_with(refused)) {
            true => Err(io::ErrorKind::PermissionDenied.into()),
            false => Ok(()),
        }
    }
}

impl Disk for Refusing {
    fn create_dir(&self, path: &Path) -> io::Result<bool> {
        RealDisk.create_dir(path)
    }
    fn stage(&self, folder: &Path, parts: &[&[u8]]) -> io::Result<PathBuf> {
        RealDisk.stage(folder, parts)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_dir(path)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check(path).and_then(|()| RealDisk.remove(path))
    }
    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_tree(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn Source>> {
        if self.vanishing && self.check(path).is_err() {
            let _ = std::fs::remove_file(path);
            return Err(io::ErrorKind::NotFound.into());
        }
        if !self.removing {
            self.check(path)?;
        }
        RealDisk.open(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        if !self.removing && !self.vanishing {
            self.check(path)?;
        }
        RealDisk.list(path)
    }
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        RealDisk.kind(path)
    }
    fn open_lock(&self, path: &Path) -> io::Result<std::fs::File> {
        self.check(path).and_then(|()| RealDisk.open_lock(path))
    }
    fn make_private(&self, path: &Path) -> io::Result<()> {
        RealDisk.make_private(path)
    }
    fn free_bytes(&self, path: &Path) -> Option<u64> {
        RealDisk.free_bytes(path)
    }
}

fn refusing(dir: &TempDir, paths: Vec<PathBuf>, removing: bool) -> Store {
    open_with(dir, Arc::new(Refusing { paths, removing, vanishing: false })).unwrap()
}

/// A process that cannot write, and so cannot take the lock, once took a slow change by another one for damage.
#[test]
fn a_change_that_takes_long_is_no_damage_to_a_reader() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let key = save(&store, "a", &tokens(10, 3)).unwrap();
    let label = store.state(&key).unwrap().unwrap().label;
    let lock = store.lock_labels().unwrap();
    store.publisher.label(&Label { revision: label.revision + 1, ..label.clone() }).unwrap();
    let reader = refusing(&dir, vec![store.staging_path(crate::lock::LABEL_LOCK)], false);
    assert!(reader.lock_labels().is_err());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Longer than a reader looks again where no other process is at work.
            std::thread::sleep(std::time::Duration::from_millis(500));
            store.publisher.label(&label).unwrap();
            drop(lock);
        });
        assert_eq!(reader.check_description(&key).unwrap(), None);
    });
    store.publisher.label(&Label { revision: label.revision + 1, ..label.clone() }).unwrap();
    assert!(reader.check_description(&key).unwrap().is_some(), "no other process is at work");
}

/// Nor is a change since its copy of the index was made.
#[test]
fn a_copy_of_the_index_that_is_older_than_a_label_is_no_damage() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let key = save(&store, "a", &tokens(10, 3)).unwrap();
    let mut reader = refusing(&dir, vec![store.staging_path(crate::lock::LABEL_LOCK)], false);
    reader.index = index::Index::open_a_copy(&store.root().join("index.sqlite")).unwrap();
    assert_eq!(reader.check_description(&key).unwrap(), None);
    store.rename(&store.lock_shared(|| ()).unwrap(), &key, Some("a"), "b").unwrap();
    assert_eq!(reader.check_description(&key).unwrap(), None);
}

/// A verify beside a gc once said that not all of the store could be read, of files that the gc had removed meanwhile.
#[test]
fn a_file_that_is_removed_during_a_survey_is_not_unreadable() {
    let dir = TempDir::new().unwrap();
    let gone = {
        let store = open(&dir);
        let key = save(&store, "a", &tokens(700, 3)).unwrap();
        let lineage = store.state(&key).unwrap().unwrap().manifest.lineage;
        layout::manifest(store.root(), &key, lineage)
    };
    lose_index(&dir);
    let disk = Refusing { paths: vec![gone.clone()], removing: false, vanishing: true };
    let store = open_with(&dir, Arc::new(disk)).unwrap();
    let other = open(&dir);
    let _at_work = other.lock_shared(|| ()).unwrap();
    assert_eq!(store.survey().unwrap().unreadable.len(), 0);
    assert!(!gone.exists(), "it went while it was read");
}

/// gc once took what it could not read for damaged, and deleted the segment of a state whose index was lost.
#[test]
fn what_cannot_be_read_is_not_deleted() {
    let dir = TempDir::new().unwrap();
    let unreadable = {
        let store = open(&dir);
        let key = save(&store, "a", &tokens(700, 3)).unwrap();
        object_of(&store, &key, 1)
    };
    lose_index(&dir);
    {
        let store = refusing(&dir, vec![unreadable], false);
        let outcome = collect_nothing(&store);
        assert_eq!((outcome.unreadable.count, outcome.strays.count), (1, 0));
        assert_eq!(outcome.after, walk(store.root()));
    }
    let store = open(&dir);
    collect_nothing(&store);
    assert_eq!(assert_whole(&store), ["a"]);
    assert_tidy(&store);
}

/// A folder of another user once ended every gc, verify and build with a budget.
#[test]
fn a_folder_that_cannot_be_listed_is_told_and_left() {
    for lost in [false, true] {
        let dir = TempDir::new().unwrap();
        let (foreign, key) = {
            let store = open(&dir);
            save(&store, "a", &tokens(700, 3)).unwrap();
            let key = save(&store, "b", &tokens(10, 5)).unwrap();
            (object_of(&store, &key, 0).parent().unwrap().to_owned(), key)
        };
        if lost {
            lose_index(&dir);
        }
        let store = refusing(&dir, vec![foreign.clone()], false);
        let outcome = collect_nothing(&store);
        assert_eq!(outcome.unseen.len(), 1);
        assert_eq!(outcome.unseen[0].0, foreign);
        assert_eq!((outcome.strays.count, outcome.evicted.len()), (0, 0));
        assert!(store.folder_usage().is_ok() && store.survey().is_ok());
        drop(store);
        let store = open(&dir);
        collect_nothing(&store);
        assert_eq!(assert_whole(&store), ["a", "b"]);
        assert!(store.state(&key).unwrap().is_some());
        assert_tidy(&store);
    }
}

/// A removal that failed half-way once made a state invisible and said nothing of what stayed.
#[test]
fn a_removal_says_what_it_could_not_remove() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let key = save(&store, "a", &tokens(700, 3)).unwrap();
    let stuck = object_of(&store, &key, 1);
    drop(store);
    let store = refusing(&dir, vec![stuck.clone()], true);
    let saved = |store: &Store| {
        let usage = store.folder_usage().unwrap();
        usage.total_bytes() - usage.fixed_bytes() - usage::bytes(&usage.staging)
    };
    let before = saved(&store);
    let removed = remove(&store, &[key], false).unwrap();
    assert_eq!(removed[0].frees, before - saved(&store), "what stays is not free");
    assert_eq!(removed[0].left.iter().map(|left| &left.path).collect::<Vec<_>>(), [&stuck]);
    assert!(stuck.exists());
    assert_eq!(store.list().unwrap().0, []);
    let again = collect_nothing(&store);
    assert_eq!((again.left.len(), again.freed_bytes()), (1, 0), "and again");
    drop(store);
    let store = open(&dir);
    assert_eq!(collect_nothing(&store).left, []);
    assert!(!stuck.exists());
    assert_tidy(&store);
}

/// With the clock set back, what was used "later" was never evicted.
#[test]
fn a_use_in_the_future_ages_from_now_on() {
    let dir = TempDir::new().unwrap();
    let future = 400 * 86_400;
    save(&open_at(&dir, NOW + future), "a", &tokens(10, 3)).unwrap();
    let old = Limits { max_age_s: Some(86_400), ..Limits::default() };
    assert_eq!(collect(&open_at(&dir, NOW), &old, false).evicted, []);
    let store = open_at(&dir, NOW + 2 * 86_400);
    assert_eq!(collect(&store, &old, false).evicted.len(), 1);
}

/// A build that died between its files and its row is no damage, and no loss of the index.
#[test]
fn a_leftover_of_a_killed_build_is_told_from_a_lost_row() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let key = save(&store, "a", &tokens(300, 3)).unwrap();
    let files = |store: &Store| {
        [layout::label(store.root(), &key), layout::manifest(store.root(), &key, store.own_lineage())]
    };
    let bytes = files(&store).map(|path| std::fs::read(path).unwrap());
    remove(&store, &[key], false).unwrap();
    collect_nothing(&store);
    // Segments are committed, the label is written, and then it is killed.
    let prefix = prefix(&tokens(300, 3));
    let guard = store.lock_shared(|| ()).unwrap();
    let writer = store.writer(&guard, &prefix, Codec::Raw, &VerifiedPrefix::none());
    let state = |piece: &Segment| state_of(&prefix.tokens[piece.first..piece.end()]);
    let pieces = prefix.pieces();
    writer.run(|pipeline| pieces.iter().try_for_each(|piece| pipeline.save(piece, state(piece)))).unwrap();
    drop(writer);
    drop(guard);
    for (path, bytes) in files(&store).iter().zip(&bytes) {
        std::fs::write(path, bytes).unwrap();
    }
    assert_eq!((store.survey().unwrap().lost, store.count().unwrap()), (1, 0), "no intent: the row was lost");
    store.index.intend(&[key]).unwrap();
    let unindexed = store.survey().unwrap();
    assert_eq!((unindexed.lost, unindexed.uncommitted), (0, 1));
    // Collected, it becomes a state: nothing of it is missing.
    collect_nothing(&store);
    assert_eq!(assert_whole(&store), ["a"]);
    assert_tidy(&store);
}

/// Staging names were process numbers, which repeat in containers: a stale file made the next build fail.
#[test]
fn staging_names_do_not_repeat() {
    let dir = TempDir::new().unwrap();
    let names: std::collections::HashSet<PathBuf> =
        (0..200).map(|_| RealDisk.stage(dir.path(), &[b"x"]).unwrap()).collect();
    assert_eq!(names.len(), 200);
    let with_number = |path: &PathBuf| path.to_string_lossy().contains(&format!("{}-", std::process::id()));
    assert!(!names.iter().any(with_number));
}

/// Files that are larger than a reader may keep are read and verified again when they are used: what changed meanwhile is
/// a miss, and never reaches the model.
#[test]
fn what_is_used_is_what_was_verified() {
    for keep_bytes in [0, 1 << 30] {
        let dir = TempDir::new().unwrap();
        let store = Store::open(&dir.path().join("store"), &Options { keep_bytes, ..options() }).unwrap();
        let tokens = tokens(300, 3);
        let key = save(&store, "a", &tokens).unwrap();
        let prefix = prefix(&tokens);
        let guard = store.lock_shared(|| ()).unwrap();
        let verified = store.find(&guard, &prefix, false).unwrap().verify(&prefix);
        assert_eq!(verified.tokens(), 300);
        // Changed in place, as a failing disk or another program does it; then cut off.
        let path = object_of(&store, &key, 0);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        let mut buffers = ReadBuffers::default();
        for changed in [&bytes[..], &bytes[..100], b""] {
            std::fs::OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
            std::fs::write(&path, changed).unwrap();
            let state = verified.parts[0].1.state(&mut buffers).map(<[u8]>::to_vec);
            match keep_bytes {
                0 => assert!(state.is_err()),
                _ => assert_eq!(state, Ok(state_of(&tokens[..256]))),
            }
        }
    }
}

/// Reading a store that cannot be written does not touch it, with and without a log, and sees what is written meanwhile.
#[test]
fn a_store_that_cannot_be_written_is_read_with_its_log() {
    use std::os::unix::fs::PermissionsExt;
    if rustix::process::geteuid().is_root() {
        // Permissions do not keep root out; tests/disks.rs does this on a read-only file system.
        return;
    }
    let dir = TempDir::new().unwrap();
    let writer = open(&dir);
    save(&writer, "a", &tokens(10, 3)).unwrap();
    let root = dir.path().join("store");
    let mode = |mode| std::fs::set_permissions(&root, std::fs::Permissions::from_mode(mode)).unwrap();
    std::fs::set_permissions(root.join("index.sqlite"), std::fs::Permissions::from_mode(0o400)).unwrap();
    mode(0o500);
    let reader = open(&dir);
    assert!(!reader.is_writable());
    assert_eq!(assert_whole(&reader), ["a"]);
    mode(0o700);
}
