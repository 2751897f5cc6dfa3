//! Stores that version 0.1 wrote.

use super::*;
use std::path::PathBuf;

/// Copies a folder.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.as_ref().unwrap(), to.join(entry.as_ref().unwrap().file_name()));
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// A copy of a store that version 0.1 wrote: six states of two models; see `tests/fixtures/stores`.
fn old_store() -> TempDir {
    let dir = TempDir::new().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/stores/0.1/store");
    copy(&fixture, &dir.path().join("store"));
    dir
}

/// Each state with all of its objects verified.
fn verified(store: &Store) -> Vec<(Vec<String>, usize)> {
    let guard = store.lock_shared(|| ()).unwrap();
    let states = store.list().unwrap().0.into_iter().map(|listed| {
        let state = store.state(&listed.key).unwrap().unwrap();
        assert!(state.is_whole() && state.damage.is_none(), "{:?}", state.damage);
        let prefix = Prefix::of_manifest(&state.manifest);
        let found = store.find(&guard, &prefix, false).unwrap().verify(&prefix).proved();
        assert_eq!((found.tokens(), found.miss.as_ref()), (prefix.tokens.len(), None));
        assert_eq!(found.lineage(), Some(Lineage::Unknown), "it does not say who computed it");
        assert_eq!(store.find(&guard, &prefix, true).unwrap().verify(&prefix).tokens(), 0);
        (listed.names.into_iter().map(|n| n.name).collect(), prefix.tokens.len())
    });
    let mut states: Vec<_> = states.collect();
    states.sort();
    states
}

fn expected() -> Vec<(Vec<String>, usize)> {
    let named = |name: &str, tokens| (vec![name.to_owned()], tokens);
    vec![
        (vec![], 37),
        named("bowl", 313),
        named("card", 37),
        named("hybrid", 305),
        named("quantised", 37),
        named("shop", 305),
    ]
}

#[test]
fn its_states_are_there_whole_and_as_they_were() {
    let dir = old_store();
    let store = open(&dir);
    assert_eq!(verified(&store), expected());
    let (states, segments) = store.list().unwrap();
    let state = |name: &str| states.iter().find(|s| s.name() == Some(name)).unwrap();
    assert!(state("shop").pinned && !state("bowl").pinned);
    assert!(state("bowl").expires.is_some() && state("shop").expires.is_none());
    assert_eq!(state("shop").hits, 1);
    assert_eq!(state("shop").kind, StateKind::Prompt);
    let first = |name: &str| segments[state(name).segments[0]].chain;
    assert_eq!(first("shop"), first("bowl"), "they share their beginning");
    let card = store.state(&state("card").key).unwrap().unwrap().manifest;
    assert_eq!(card.params.gpu_layers, 99);
    assert!(card.is_whole(), "its key is the one that it had");
    let unnamed = states.iter().find(|s| s.names.is_empty()).unwrap();
    assert_eq!(unnamed.origin, "short.txt");
}

#[test]
fn no_tokens_stay_in_the_index() {
    let dir = old_store();
    drop(open(&dir));
    let db = rusqlite::Connection::open(dir.path().join("store/index.sqlite")).unwrap();
    let tables: Vec<String> = db
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert!(!tables.iter().any(|name| name == "tokens" || name.starts_with("old")), "{tables:?}");
    drop(db);
    // Nor in pages that the database no longer uses.
    let store = open(&dir);
    let bytes = std::fs::read(dir.path().join("store/index.sqlite")).unwrap();
    for listed in store.list().unwrap().0 {
        let tokens = store.state(&listed.key).unwrap().unwrap().manifest.tokens;
        let run: Vec<u8> = tokens.iter().take(16).flat_map(|t| t.to_le_bytes()).collect();
        assert!(!bytes.windows(run.len()).any(|window| window == run), "{:?}", listed.names);
    }
}

/// The record of a state is split when the state changes, and goes.
#[test]
fn a_change_splits_the_record() {
    let dir = old_store();
    let store = open(&dir);
    let Lookup::Found(key) = store.lookup("shop").unwrap() else { panic!("it is there") };
    let (record, _) = store.usage_of(&key).unwrap().unwrap().record.unwrap();
    let before = store.state(&key).unwrap().unwrap();
    let guard = store.lock_shared(|| ()).unwrap();
    store.rename(&guard, &key, Some("shop"), "store").unwrap().unwrap();
    drop(guard);
    let after = store.state(&key).unwrap().unwrap();
    assert_eq!(after.usage.record, None);
    assert_eq!(after.usage.manifests.len(), 1);
    assert!(!layout::object(store.root(), &record).exists());
    assert_eq!(after.manifest.segments.len(), 2);
    let same = pcache_format::Manifest { segments: Vec::new(), ..after.manifest.clone() };
    assert_eq!(same, before.manifest);
    assert!(after.label.is_pinned(), "the pin goes with the name");
    assert_eq!(after.label.name(), Some("store"));
    collect_nothing(&store);
    assert_tidy(&store);
    drop(store);
    let store = recovered(&dir);
    let names: Vec<_> = verified(&store).into_iter().flat_map(|(names, _)| names).collect();
    assert_eq!(names, ["bowl", "card", "hybrid", "quantised", "store"]);
    assert!(store.state(&key).unwrap().unwrap().label.is_pinned());
}

#[test]
fn it_is_reindexed_and_collected() {
    let dir = old_store();
    drop(open(&dir));
    let store = recovered(&dir);
    assert_eq!(verified(&store), expected());
    let one = Limits { max_states: Some(1), ..Limits::default() };
    collect(&store, &one, false);
    let left = verified(&store);
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].0, ["shop"], "it is pinned");
    assert_tidy(&store);
}

/// A state of version 0.1 that is removed does not come back with its record.
#[test]
fn a_removal_takes_the_record() {
    let dir = old_store();
    let store = open(&dir);
    let Lookup::Found(key) = store.lookup("bowl").unwrap() else { panic!("it is there") };
    assert_eq!(remove(&store, &[key], false).unwrap().len(), 1);
    assert_tidy(&store);
    drop(store);
    let names: Vec<_> = verified(&recovered(&dir)).into_iter().flat_map(|(names, _)| names).collect();
    assert_eq!(names, ["card", "hybrid", "quantised", "shop"]);
}

/// Migrating is one transaction: a store is of the old schema or of the new one.
#[test]
fn a_migration_that_is_cut_short_is_done_again() {
    let dir = old_store();
    let path = dir.path().join("store/index.sqlite");
    let before = std::fs::read(&path).unwrap();
    drop(open(&dir));
    assert_ne!(std::fs::read(&path).unwrap(), before);
    // As a kill in the middle leaves it.
    lose_index(&dir);
    std::fs::write(&path, before).unwrap();
    assert_eq!(verified(&open(&dir)), expected());
}

/// Several processes of this version open an old store at once.
#[test]
fn several_migrate_at_once() {
    let dir = old_store();
    std::thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(|| assert_eq!(verified(&open(&dir)).len(), 6))));
    });
}

/// The path of a store whose index has changes in its log alone.
fn with_log(dir: &TempDir) -> (PathBuf, rusqlite::Connection) {
    let root = dir.path().join("store");
    let db = rusqlite::Connection::open(root.join("index.sqlite")).unwrap();
    db.pragma_update(None, "journal_mode", "WAL").unwrap();
    db.execute("UPDATE states SET hits = 77 WHERE name = 'shop'", []).unwrap();
    assert!(std::fs::metadata(root.join("index.sqlite-wal")).unwrap().len() > 0);
    (root, db)
}

/// On a disk that cannot be written, an old index is read from a private copy, which is brought up to date; with its log.
#[test]
fn a_copy_of_an_old_index_is_read_with_its_log() {
    let dir = old_store();
    let (root, _db) = with_log(&dir);
    let files = |root: &Path| {
        let names = ["index.sqlite", "index.sqlite-wal"];
        names.map(|name| std::fs::read(root.join(name)).unwrap())
    };
    let before = files(&root);
    let index = index::Index::open_a_copy(&root.join("index.sqlite")).unwrap();
    assert!(!index.is_writable());
    let (states, _) = index.list().unwrap();
    assert_eq!(states.iter().find(|s| s.name() == Some("shop")).unwrap().hits, 77);
    // What is written meanwhile is seen with the next lock.
    _db.execute("UPDATE states SET hits = 78 WHERE name = 'shop'", []).unwrap();
    index.check_is_in_place().unwrap();
    let (states, _) = index.list().unwrap();
    assert_eq!(states.iter().find(|s| s.name() == Some("shop")).unwrap().hits, 78);
    assert_eq!(before[0], files(&root)[0]);
}
