//! Files and rows that were changed behind the store's back, and what a process that was killed left.

use super::*;

/// A manifest's segments and the saved objects are compared: the two prove each other.
#[test]
fn a_manifest_that_contradicts_its_objects_is_damage() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let key = save(&store, "a", &tokens(300, 3)).unwrap();
    let mut manifest = store.state(&key).unwrap().unwrap().manifest;
    manifest.segments[1].raw_blake3 = ObjectId::from([9; 32]);
    store.publisher.manifest(&manifest).unwrap();
    drop(store);
    lose_index(&dir);
    let store = open(&dir);
    assert_eq!(reindex(&store).unwrap().states, 1, "its tokens prove themselves");
    let miss = store.check_description(&key).unwrap().unwrap().to_string();
    assert_eq!(miss, "its manifest: it names other states than those saved, from token 256 on");
    assert!(store.rewrite_description(&store.lock_shared(|| ()).unwrap(), &key).unwrap());
    assert_eq!(store.check_description(&key).unwrap(), None);
}

/// A state is found by its manifest, whatever lies in its label's place.
#[cfg(unix)]
#[test]
fn what_is_no_label_costs_no_state() {
    let put: [fn(&Path); 4] = [
        |path| std::os::unix::fs::symlink("/nowhere", path).unwrap(),
        |path| drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
        |path| std::fs::create_dir_all(path.join("deeper")).unwrap(),
        |path| std::fs::File::create(path).unwrap().set_len(1 << 40).unwrap(),
    ];
    for put in put {
        // The name of a socket may not be long.
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let store = open(&dir);
        let key = save(&store, "a", &tokens(10, 3)).unwrap();
        let path = layout::label(store.root(), &key);
        drop(store);
        lose_index(&dir);
        std::fs::remove_file(&path).unwrap();
        put(&path);
        let store = open(&dir);
        assert_eq!(reindex(&store).unwrap().states, 1);
        assert_eq!(assert_whole(&store), [""; 0], "the name was in the label");
        assert_eq!(store.check_description(&key).unwrap(), None);
        collect_nothing(&store);
        assert_tidy(&store);
    }
}

/// The file of a label that claims another state's name counts, and so it is told before it does.
#[test]
fn a_label_that_claims_a_name_of_another_state_is_damage() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let key = save(&store, "a", &tokens(10, 3)).unwrap();
    let other = save(&store, "b", &tokens(20, 4)).unwrap();
    let mut label = store.state(&other).unwrap().unwrap().label;
    let mut claim = |given| {
        label.names.retain(|name| name.name == "b");
        label.names.push(Name { name: "a".into(), given, pinned: false, expires: None });
        store.publisher.label(&label).unwrap();
        store.check_description(&other).unwrap().map(|miss| miss.to_string())
    };
    // A move that was cut short leaves it in the file from which it went, where it was given earlier.
    assert_eq!(claim(NOW - 1), None);
    assert_eq!(claim(NOW + 1).unwrap(), "its label: it says something else than the index");
    assert_eq!(store.check_description(&key).unwrap(), None);
    store.restore_row(&store.lock_shared(|| ()).unwrap(), &other).unwrap();
    assert_eq!(store.check_description(&other).unwrap(), None);
    assert_eq!(store.check_description(&key).unwrap(), None, "it was given earlier");
    assert_eq!(store.named("a").unwrap(), Some(other));
}

/// A state whose only object was damaged went with the index: its tokens are in its manifest, its name in its label.
#[test]
fn a_state_without_an_intact_object_is_adopted() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let key = save(&store, "a", &tokens(10, 3)).unwrap();
    std::fs::write(object_of(&store, &key, 0), "damaged").unwrap();
    drop(store);
    lose_index(&dir);
    let store = open(&dir);
    assert_eq!(reindex(&store).unwrap().states, 1);
    let state = store.state(&key).unwrap().unwrap();
    assert!(state.is_whole());
    assert_eq!(state.label.name(), Some("a"));
    assert_eq!(verify_one(&store, &tokens(10, 3), MODEL, params()), Some(Miss::NotSaved));
    collect_nothing(&store);
    assert_eq!(store.state(&key).unwrap().unwrap().label.name(), Some("a"));
}

/// A manifest was written by a row that was wrong, and could not be read again.
#[test]
fn no_manifest_is_made_of_rows_that_are_not_its_tokens() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let key = save(&store, "a", &tokens(300, 3)).unwrap();
    let path = layout::manifest(store.root(), &key, store.own_lineage());
    let before = std::fs::read(&path).unwrap();
    let sql = "UPDATE segments SET count = 1 WHERE first = 0";
    let db = rusqlite::Connection::open(store.root().join("index.sqlite")).unwrap();
    db.execute(sql, []).unwrap();
    assert!(!store.rewrite_description(&store.lock_shared(|| ()).unwrap(), &key).unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

/// A row that lost its segments looked whole, and gc took the objects.
#[test]
fn a_state_that_lost_the_links_to_its_segments_is_damaged() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let key = save(&store, "a", &tokens(300, 3)).unwrap();
    let db = rusqlite::Connection::open(store.root().join("index.sqlite")).unwrap();
    db.execute("DELETE FROM state_segments", []).unwrap();
    assert!(store.check_description(&key).unwrap().is_some());
    assert!(store.rewrite_description(&store.lock_shared(|| ()).unwrap(), &key).unwrap());
    assert_eq!(store.check_description(&key).unwrap(), None);
    collect_nothing(&store);
    assert_eq!(assert_whole(&store), ["a"]);
}

/// Killed between the two files of a move, the loser's label kept the name. When the winner was removed, it came back.
#[test]
fn a_name_that_moved_does_not_come_back() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let (old, new) = (save(&store, "a", &tokens(10, 3)).unwrap(), save(&store, "b", &tokens(20, 3)).unwrap());
    let mut winner = store.state(&new).unwrap().unwrap().label;
    winner.names.push(Name { name: "a".into(), given: NOW + 1, pinned: false, expires: None });
    store.index.intend(&[new, old]).unwrap();
    store.publisher.label(&winner).unwrap();
    // The name means the state that has it by the files.
    assert_eq!(store.lookup("a").unwrap(), Lookup::Found(new));
    remove(&store, &[new], false).unwrap();
    assert_eq!(store.check_description(&old).unwrap(), None);
    assert_eq!(store.state(&old).unwrap().unwrap().label.names, []);
    drop(store);
    let store = recovered(&dir);
    assert_eq!(store.lookup("a").unwrap(), Lookup::Unknown);
}

/// An index that was put back from an older copy does not know a state, and its label counts all the same.
#[test]
fn a_build_keeps_a_label_that_the_index_lost() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let wish = Claim { name: Some("a".into()), pin: true, ..Claim::default() };
    let key = save_as(&store, wish, &tokens(10, 3), false).unwrap();
    drop(store);
    lose_index(&dir);
    let store = open(&dir);
    save_as(&store, Claim::default(), &tokens(10, 3), false).unwrap();
    let label = store.state(&key).unwrap().unwrap().label;
    assert_eq!((label.name(), label.is_pinned(), label.revision), (Some("a"), true, 2));
    assert_eq!(store.check_description(&key).unwrap(), None);
}

/// A label whose values are at their limits can still be changed.
#[test]
fn values_at_their_limits_stay_within_them() {
    use pcache_format::label::{MAX_REVISION, MAX_TIME};
    let dir = TempDir::new().unwrap();
    let store = open_at(&dir, i64::MAX / 2);
    let key = save(&store, "a", &tokens(10, 3)).unwrap();
    assert_eq!(store.check_description(&key).unwrap(), None);
    let mut label = store.state(&key).unwrap().unwrap().label;
    (label.revision, label.names[0].given) = (MAX_REVISION, MAX_TIME as i64);
    store.publisher.label(&label).unwrap();
    store.restore_row(&store.lock_shared(|| ()).unwrap(), &key).unwrap();
    let other = save(&store, "a", &tokens(20, 3)).unwrap();
    store.rename(&store.lock_shared(|| ()).unwrap(), &key, None, "c").unwrap();
    for key in [key, other] {
        assert_eq!(store.check_description(&key).unwrap(), None);
    }
}

/// A row whose model is none that the index knows is in no list, so its state was not verified, and then collected.
#[test]
fn a_row_that_needs_another_one_is_damage() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    save(&store, "a", &tokens(10, 3)).unwrap();
    store.check_index().unwrap();
    let db = rusqlite::Connection::open(store.root().join("index.sqlite")).unwrap();
    db.execute_batch("PRAGMA foreign_keys = OFF; UPDATE states SET model = zeroblob(32);").unwrap();
    let error = store.check_index().unwrap_err();
    assert!(matches!(error, StoreError::DamagedIndex { .. }), "{error}");
}
