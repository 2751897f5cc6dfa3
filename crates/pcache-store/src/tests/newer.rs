//! Files of later versions are left alone.

use std::path::PathBuf;

use super::*;

/// Files with a right hash that this version does not know are counted and left where they are.
#[test]
fn what_is_newer_is_left_alone() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let key = save(&store, "a", &tokens(300, 3)).unwrap();
    let root = store.root().to_owned();
    let put = |path: PathBuf, bytes: &[u8]| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let newer = |path: PathBuf, from: &str, to: &str| -> Vec<u8> {
        let mut bytes = std::fs::read(path).unwrap();
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    let as_object = |bytes: &[u8]| layout::object(&root, &ObjectId::from(blake3::hash(bytes)));
    let object = newer(object_of(&store, &key, 0), "pcache object v1", "pcache object v9");
    let third = b"a signature, or whatever else may be".to_vec();
    let manifest =
        newer(layout::manifest(&root, &key, store.own_lineage()), "pcache manifest v2", "pcache manifest v9");
    let label = newer(layout::label(&root, &key), "pcache label v2", "pcache label v9");
    let other = key_of(&tokens(10, 9));
    let files = [
        put(as_object(&object), &object),
        put(as_object(&third), &third),
        put(layout::manifest(&root, &other, store.own_lineage()), &manifest),
        put(layout::label(&root, &other), &label),
        put(root.join("objects/v2/ab/cdef"), b"new objects"),
        put(root.join("signatures/v1/abc"), b"signed"),
        put(root.join("manifests/v3/x"), b"new manifests"),
    ];
    let limits = Limits { max_states: Some(0), ..Limits::default() };
    let outcome = collect(&store, &limits, false);
    assert_eq!((outcome.newer.count, outcome.strays.count, outcome.evicted.len()), (4, 0, 1));
    let mut unknown: Vec<PathBuf> = store.survey().unwrap().unknown.into_iter().map(|e| e.path).collect();
    let mut expected = files.to_vec();
    unknown.sort();
    expected.sort();
    assert_eq!(unknown, expected);
    assert!(files.iter().all(|path| path.exists()));
    assert_eq!(outcome.after, walk(&root));
    let unindexed = store.survey().unwrap();
    assert_eq!((unindexed.lost, unindexed.uncommitted), (0, 0));
}

/// A store with one state, of which one file says that a later version wrote it.
fn with_newer(
    dir: &TempDir,
    of: impl Fn(&Store, &StateKey) -> PathBuf,
    from: &str,
    to: &str,
) -> (Store, PathBuf) {
    let store = open(dir);
    let key = save(&store, "a", &tokens(10, 3)).unwrap();
    let path = of(&store, &key);
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
    std::fs::write(&path, [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()).unwrap();
    (store, path)
}

/// Nothing that this version can be asked to do changes or removes a state that a later version described.
fn assert_left_alone(store: &Store, path: &Path, limits: &Limits) {
    let key = key_of(&tokens(10, 3));
    let newer = std::fs::read(path).unwrap();
    let mut named = store.newer_files(&key).unwrap();
    named.extend(store.survey().unwrap().unknown.into_iter().map(|entry| entry.path));
    assert_eq!(named, [path]);
    let refused = |error| assert!(matches!(error, StoreError::Newer { .. }), "{error}");
    refused(store.refuse_newer(&key).unwrap_err());
    refused(remove(store, &[key], false).unwrap_err());
    refused(remove(store, &[key], true).unwrap_err());
    for dry_run in [true, false] {
        assert_eq!(collect(store, limits, dry_run).evicted, []);
    }
    assert_eq!(store.check_description(&key).unwrap(), None);
    assert_eq!(assert_whole(store), ["a"]);
    assert_eq!(std::fs::read(path).unwrap(), newer);
}

/// The content of its label would be lost.
#[test]
fn a_newer_label_is_not_changed() {
    let dir = TempDir::new().unwrap();
    let label = |store: &Store, key: &StateKey| layout::label(store.root(), key);
    let (store, path) = with_newer(&dir, label, "label v2", "label v3");
    let newer = std::fs::read(&path).unwrap();
    let key = key_of(&tokens(10, 3));
    let error = relabel(&store, &key, |label| label.pinned = true).unwrap_err();
    assert!(matches!(error, StoreError::Newer { file: "label", .. }), "{error}");
    assert_left_alone(&store, &path, &Limits { max_states: Some(0), ..Limits::default() });
    // Nor when the index does not know that the state has one.
    drop(store);
    lose_index(&dir);
    let store = open(&dir);
    assert_eq!(reindex(&store).unwrap().states, 1);
    assert_eq!(std::fs::read(&path).unwrap(), newer);
    assert_eq!(collect(&store, &Limits { max_states: Some(0), ..Limits::default() }, false).evicted, []);
}

/// A build of the same prompt and a repair would write at its place.
#[test]
fn a_newer_manifest_is_not_replaced() {
    let dir = TempDir::new().unwrap();
    let manifest = |store: &Store, key: &StateKey| layout::manifest(store.root(), key, store.own_lineage());
    let (store, path) = with_newer(&dir, manifest, "manifest v2", "manifest v3");
    let key = key_of(&tokens(10, 3));
    let refused = |error| assert!(matches!(error, StoreError::Newer { file: "manifest", .. }), "{error}");
    refused(save(&store, "b", &tokens(10, 3)).unwrap_err());
    refused(store.rewrite_description(&store.lock_shared(|| ()).unwrap(), &key).unwrap_err());
    assert_left_alone(&store, &path, &Limits { max_age_s: Some(-1), ..Limits::default() });
    // Without its row, it stays as a file that only the later version understands.
    drop(store);
    lose_index(&dir);
    let newer = std::fs::read(&path).unwrap();
    let store = open(&dir);
    assert_eq!(reindex(&store).unwrap().states, 0);
    refused(save(&store, "b", &tokens(10, 3)).unwrap_err());
    assert_eq!(std::fs::read(&path).unwrap(), newer);
    assert!(store.survey().unwrap().unknown.iter().any(|entry| entry.path == path));
}

/// A later version may have put a manifest of its own beside this version's, which the index does not know.
#[test]
fn a_newer_manifest_beside_the_own_one_holds_the_state() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let key = save(&store, "a", &tokens(10, 3)).unwrap();
    let own = layout::manifest(store.root(), &key, store.own_lineage());
    let newer = layout::manifest(store.root(), &key, Lineage::from(ComputeIdentity::new([("x", "y")]).id()));
    let bytes = std::fs::read(own).unwrap();
    let at = bytes.windows(11).position(|w| w == b"manifest v2").unwrap();
    std::fs::write(&newer, [&bytes[..at], b"manifest v3", &bytes[at + 11..]].concat()).unwrap();
    assert_left_alone(&store, &newer, &Limits { max_states: Some(0), ..Limits::default() });
    // And where the state was removed before it came.
    let other = save(&store, "b", &tokens(20, 3)).unwrap();
    let late = layout::manifest(store.root(), &other, Lineage::Unknown);
    remove(&store, &[other], false).unwrap();
    std::fs::copy(&newer, &late).unwrap();
    collect_nothing(&store);
    assert!(late.exists());
    assert!(store.survey().unwrap().unknown.iter().any(|entry| entry.path == late));
}

/// The objects and the label of a state that only a later version understands wait for it, however long and however
/// little room there is.
#[test]
fn what_a_newer_manifest_needs_stays_when_the_index_is_lost() {
    let dir = TempDir::new().unwrap();
    let manifest = |store: &Store, key: &StateKey| layout::manifest(store.root(), key, store.own_lineage());
    let (store, path) = with_newer(&dir, manifest, "manifest v2", "manifest v3");
    let (key, bytes) = (key_of(&tokens(10, 3)), std::fs::read(&path).unwrap());
    let (label, object) = (layout::label(store.root(), &key), object_of(&store, &key, 0));
    drop(store);
    lose_index(&dir);
    for time in [NOW, NOW + 2 * gc::ADOPTED_GRACE_S] {
        let store = open_at(&dir, time);
        collect(&store, &Limits { max_bytes: Some(1), ..Limits::default() }, false);
        assert!(label.exists() && object.exists(), "at {time}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}

/// A label of a later version is no damage where the index does not know of it, and keeps no other state from being repaired.
#[test]
fn a_newer_label_is_no_damage_when_the_index_is_lost() {
    let dir = TempDir::new().unwrap();
    let label = |store: &Store, key: &StateKey| layout::label(store.root(), key);
    let (store, _) = with_newer(&dir, label, "label v2", "label v3");
    drop(store);
    lose_index(&dir);
    let store = open(&dir);
    reindex(&store).unwrap();
    assert_eq!(store.check_description(&key_of(&tokens(10, 3))).unwrap(), None);
}
