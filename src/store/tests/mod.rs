mod stops;

use super::disk::{Entry, RealDisk};
use super::evict::Limits;
use super::index::{Lookup, SegmentRow};
use super::objects::Miss;
use super::*;
use crate::format::{Codec, Encoded, Layout, Meta, Record, Room};
use crate::key::{Chain, KvType, ModelHash, Params, Segment, StateKey};
use crate::sys::map::Map;
use std::sync::atomic::{AtomicI64, Ordering};
use tempfile::TempDir;

const MODEL: [u8; 32] = [4; 32];

struct Hands(AtomicI64);

impl Clock for Hands {
    fn now(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

fn open(dir: &TempDir) -> Store {
    open_with(dir, Arc::new(RealDisk)).unwrap()
}

fn open_with(dir: &TempDir, disk: Arc<dyn Disk>) -> Result<Store> {
    Store::open(&dir.path().join("store"), disk, Arc::new(Hands(AtomicI64::new(1_000_000))))
}

/// As the commands do that make no store: what a lost index knew is not looked for.
fn reopen(dir: &TempDir) -> Store {
    let hands = Arc::new(Hands(AtomicI64::new(1_000_000)));
    Store::open_existing(&dir.path().join("store"), Arc::new(RealDisk), hands).unwrap().unwrap()
}

fn params() -> Params {
    Params::new(KvType::F16, 0)
}

fn chain(tokens: &[i32]) -> Chain {
    Chain::of(params().root(&ModelHash::from(MODEL)), tokens)
}

/// Saves the state of `tokens` as a build does: each segment published and committed, then the state.
fn save(store: &mut Store, name: &str, tokens: &[i32]) -> Result<StateKey> {
    let model = ModelHash::from(MODEL);
    let identity =
        crate::key::fingerprint::FileIdentity { device: 1, inode: 1, size: 1, modified_ns: 1, changed_ns: 1 };
    store.index_mut().remember_model(&identity, Path::new("model.gguf"), &model)?;
    let chain = chain(tokens);
    for s in chain.segments() {
        if store.index().segment(&s.chain)?.is_some() {
            continue;
        }
        let encoded = encoded(tokens, s);
        let row = SegmentRow {
            chain: s.chain,
            parent: s.parent,
            object: store.publish(&encoded)?,
            layout: Layout::Segment,
            first: s.first,
            count: s.count,
            raw_bytes: 4 * s.count as u64,
            file_bytes: encoded.len(),
        };
        let now = store.now();
        store.index_mut().put_segment(&row, now, None)?;
    }
    let record = record(name, tokens);
    store.commit_state(&record)?;
    Ok(record.key)
}

/// A segment with a state that says which tokens it is of.
fn encoded(tokens: &[i32], s: &Segment) -> Encoded<'static> {
    let tokens = &tokens[s.first..s.end()];
    let state: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
    let meta = Meta {
        chain: s.chain,
        parent: s.parent,
        model: ModelHash::from(MODEL),
        params: params().canonical(),
        layout: Layout::Segment,
        first: s.first,
    };
    Encoded::raw(&meta, tokens, state.leak())
}

fn record(name: &str, tokens: &[i32]) -> Record {
    Record {
        key: chain(tokens).state_key("", ""),
        name: Some(name.to_owned()),
        model: ModelHash::from(MODEL),
        model_path: "model.gguf".into(),
        params: params(),
        layout: Layout::Segment,
        tokens: tokens.to_vec(),
        carried: String::new(),
        suffix: String::new(),
        framing: "raw".into(),
        own: None,
        text: None,
        digest: None,
        origin: "test".into(),
        created: 0,
        expires: None,
        pinned: false,
        build_s: 1.0,
        evaluated: tokens.len(),
        revision: 1,
    }
}

/// Every listed state is whole: all its segments map, verify, and hold what was saved.
fn assert_whole(store: &Store) -> Vec<String> {
    let (states, _) = store.index().list().unwrap();
    for listed in &states {
        let state = store.index().state(&listed.key).unwrap().unwrap();
        let segments = store.index().segments_of(&listed.key).unwrap();
        let mut restored = Vec::new();
        for row in &segments {
            let tokens = &state.tokens[row.first..row.first + row.count];
            let object = store.map(row).unwrap();
            let verified = object.verify(tokens, &state.model, &params().canonical()).unwrap();
            restored.extend_from_slice(verified.state(&mut Room::default()).unwrap());
        }
        let expected: Vec<u8> = state.tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
        assert_eq!(restored, expected, "{:?}", listed.name);
    }
    let mut names: Vec<String> = states.into_iter().filter_map(|s| s.name).collect();
    names.sort();
    names
}

/// After a collection the folder holds what the index says and nothing else.
fn assert_tidy(store: &Store) {
    let usage = store.usage().unwrap();
    let (states, segments) = store.index().list().unwrap();
    let mut named: Vec<_> =
        segments.iter().map(|s| s.object).chain(states.iter().filter_map(|s| s.record)).collect();
    let mut there: Vec<_> = usage.objects.iter().map(|(id, _)| *id).collect();
    named.sort();
    there.sort();
    assert_eq!(named, there);
    assert_eq!(usage.staging, []);
    let on_disk = walk(store.root());
    assert_eq!(usage.total_bytes(), on_disk, "bytes that nobody accounts for");
}

fn walk(dir: &Path) -> u64 {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| e.file_name() != "index.sqlite-shm")
        .map(|e| match e.metadata().unwrap() {
            m if m.is_dir() => walk(&e.path()),
            m => m.len(),
        })
        .sum()
}

fn tokens(n: i32, salt: i32) -> Vec<i32> {
    (0..n).map(|i| if i < 256 { i } else { i * salt }).collect()
}

#[test]
fn states_share_segments_and_are_found_by_name_and_prefix() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let a = save(&mut store, "a", &tokens(600, 3)).unwrap();
    let b = save(&mut store, "b", &tokens(600, 5)).unwrap();
    assert_eq!(assert_whole(&store), ["a", "b"]);
    assert_eq!(store.usage().unwrap().objects.len(), 7, "two records, and the first segment is shared");
    let index = store.index();
    assert_eq!(index.find("a").unwrap(), Lookup::Found(a));
    assert_eq!(index.find(&b.to_hex()[..6]).unwrap(), Lookup::Found(b));
    assert_eq!(index.find(&b.to_hex()[..9].to_uppercase()).unwrap(), Lookup::Found(b));
    assert_eq!(index.find(&b.to_hex()[..5]).unwrap(), Lookup::Unknown);
    assert_eq!(index.find("nobody").unwrap(), Lookup::Unknown);
}

#[test]
fn a_name_belongs_to_one_state() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    save(&mut store, "a", &tokens(10, 3)).unwrap();
    assert!(save(&mut store, "a", &tokens(300, 3)).is_err());
    assert_eq!(assert_whole(&store), ["a"]);
}

#[test]
fn damage_is_a_typed_miss() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let key = save(&mut store, "a", &tokens(10, 3)).unwrap();
    let row = store.index().segments_of(&key).unwrap().remove(0);
    let model = ModelHash::from(MODEL);
    let params = params().canonical();
    let verify = |tokens: &[i32]| store.map(&row).and_then(|o| o.verify(tokens, &model, &params).map(drop));
    assert_eq!(verify(&tokens(10, 3)), Ok(()));
    assert!(matches!(verify(&tokens(9, 3)), Err(Miss::Mismatch { .. })), "other tokens than the index has");

    let path = store.object_path(&row.object);
    let good = std::fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert!(matches!(verify(&tokens(10, 3)), Err(Miss::Damaged { .. })), "byte {at}");
    }
    std::fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert!(matches!(verify(&tokens(10, 3)), Err(Miss::Resized { .. })));
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(verify(&tokens(10, 3)), Err(Miss::Resized { .. })));
    // A sparse file of terabytes is not hashed.
    std::fs::File::create(&path).unwrap().set_len(1 << 42).unwrap();
    assert!(matches!(verify(&tokens(10, 3)), Err(Miss::Resized { .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(verify(&tokens(10, 3)), Err(Miss::Unreadable { .. })));
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(verify(&tokens(10, 3)), Err(Miss::Unreadable { .. })));
}

#[test]
fn an_object_of_another_model_is_refused_though_its_hash_is_right() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let key = save(&mut store, "a", &tokens(10, 3)).unwrap();
    let row = store.index().segments_of(&key).unwrap().remove(0);
    let verify = |model: [u8; 32], params: &str| {
        store.map(&row).unwrap().verify(&tokens(10, 3), &ModelHash::from(model), params)
    };
    assert!(matches!(verify([5; 32], &params().canonical()), Err(Miss::Mismatch { .. })));
    let quantised = Params::new(KvType::Q8_0, 0).canonical();
    assert!(matches!(verify(MODEL, &quantised), Err(Miss::Mismatch { .. })));
    assert!(verify(MODEL, &params().canonical()).is_ok());
}

#[test]
fn a_dry_run_says_what_the_run_then_does_and_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    save(&mut store, "a", &tokens(700, 3)).unwrap();
    save(&mut store, "b", &tokens(700, 5)).unwrap();
    std::fs::write(store.root().join("tmp/left-behind"), b"half an object").unwrap();
    let limits = Limits { max_states: Some(1), ..Limits::default() };
    let before = store.usage().unwrap().total_bytes();
    let planned = store.collect(&limits, true).unwrap();
    assert_eq!(store.usage().unwrap().total_bytes(), before);
    let done = store.collect(&limits, false).unwrap();
    assert_eq!((&planned.evicted, planned.staging), (&done.evicted, done.staging));
    assert_eq!(planned.freed_bytes(), done.freed_bytes());
    assert_eq!(done.staging.count, 1);
    assert_tidy(&store);
}

/// The real disk, which does not let one file be read.
struct Unreadable(std::path::PathBuf);

impl Disk for Unreadable {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir(path)
    }
    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        RealDisk.write(path, parts)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_dir(path)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn map(&self, path: &Path) -> io::Result<Map> {
        if path == self.0 { Err(io::Error::other("input/output error")) } else { RealDisk.map(path) }
    }
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        RealDisk.list(path)
    }
}

/// gc once took what it could not read for damaged, and deleted the segment of a state whose index was lost.
#[test]
fn what_cannot_be_read_is_not_deleted() {
    let dir = TempDir::new().unwrap();
    let unreadable = {
        let mut store = open(&dir);
        let key = save(&mut store, "a", &tokens(700, 3)).unwrap();
        let row = store.index().segments_of(&key).unwrap().remove(1);
        store.object_path(&row.object)
    };
    lose_index(&dir);
    {
        let mut store = open_with(&dir, Arc::new(Unreadable(unreadable))).unwrap();
        let outcome = store.collect(&Limits::default(), false).unwrap();
        assert_eq!((outcome.unreadable.count, outcome.strays.count), (1, 0));
        assert_eq!(outcome.after, walk(store.root()));
    }
    let mut store = open(&dir);
    store.collect(&Limits::default(), false).unwrap();
    assert_eq!(assert_whole(&store), ["a"]);
    assert_tidy(&store);
}

fn lose_index(dir: &TempDir) {
    for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        let _ = std::fs::remove_file(dir.path().join("store").join(name));
    }
}

#[test]
fn a_lost_index_loses_no_state_its_name_or_its_pin() {
    let dir = TempDir::new().unwrap();
    let expected = {
        let mut store = open(&dir);
        let key = save(&mut store, "a", &tokens(700, 3)).unwrap();
        save(&mut store, "b", &tokens(300, 5)).unwrap();
        store.change_state(&key, |r| (r.pinned, r.name) = (true, Some("renamed".into()))).unwrap();
        store.index().state(&key).unwrap().unwrap()
    };
    lose_index(&dir);
    let mut store = reopen(&dir);
    let planned = store.collect(&Limits::default(), true).unwrap();
    let outcome = store.collect(&Limits::default(), false).unwrap();
    assert_eq!((outcome.adopted_states, outcome.adopted.count, outcome.orphans.count), (2, 0, 0));
    assert_eq!((planned.adopted_states, planned.live), (2, outcome.live));
    assert_eq!(store.index().state(&expected.key).unwrap().unwrap(), expected);
    assert_eq!(assert_whole(&store), ["b", "renamed"]);
    assert_tidy(&store);

    lose_index(&dir);
    let mut store = reopen(&dir);
    assert_eq!(store.adopt_lost().unwrap(), (2, 4), "repair does the same and deletes nothing");
    assert_eq!(assert_whole(&store), ["b", "renamed"]);
    drop(store);

    lose_index(&dir);
    assert_eq!(open(&dir).found_on_opening(), Some((2, 4)), "and so does what opens it to build");
}

/// A change that a crash cut short leaves two records of a state; the later one counts, and the other goes.
#[test]
fn of_two_records_the_later_one_counts() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let key = save(&mut store, "a", &tokens(10, 3)).unwrap();
    let later =
        Record { name: Some("later".into()), revision: 2, ..store.index().state(&key).unwrap().unwrap() };
    store.publish(&later.encode()).unwrap();
    assert_eq!(
        store.collect(&Limits::default(), true).unwrap().strays.count,
        1,
        "the row counts, not the file"
    );
    lose_index(&dir);
    let mut store = reopen(&dir);
    store.collect(&Limits::default(), false).unwrap();
    assert_eq!(assert_whole(&store), ["later"]);
    assert_tidy(&store);
}

#[test]
fn a_change_by_two_at_once_loses_neither() {
    let dir = TempDir::new().unwrap();
    let key = save(&mut open(&dir), "a", &tokens(10, 3)).unwrap();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let mut store = open(&dir);
            scope.spawn(move || {
                for _ in 0..5 {
                    let add = |r: &mut Record| r.origin.push((b'a' + n) as char);
                    assert!(store.change_state(&key, add).unwrap());
                }
            });
        }
    });
    let mut store = open(&dir);
    let record = store.index().state(&key).unwrap().unwrap();
    assert_eq!((record.origin.len(), record.revision), ("test".len() + 20, 21));
    store.collect(&Limits::default(), false).unwrap();
    assert_tidy(&store);
}

/// Two changes to the same thing at once write the same record, which is one object; the one who came too late once
/// removed it, and the state was without a record.
#[test]
fn the_same_change_by_two_at_once_leaves_its_record() {
    let dir = TempDir::new().unwrap();
    let key = save(&mut open(&dir), "a", &tokens(10, 3)).unwrap();
    let other = std::sync::Mutex::new(open(&dir));
    let mut store = open(&dir);
    let pinned = |r: &mut Record| r.pinned = true;
    let raced = std::sync::atomic::AtomicBool::new(false);
    let change = |r: &mut Record| {
        pinned(r);
        // Between this process's look and its commit, another one makes the same change.
        if !raced.swap(true, Ordering::SeqCst) {
            other.lock().unwrap().change_state(&key, pinned).unwrap();
        }
    };
    assert!(store.change_state(&key, change).unwrap());
    assert_eq!(store.check_record(&key).unwrap(), None);
    store.collect(&Limits::default(), false).unwrap();
    assert_tidy(&store);
}

#[test]
fn adopted_objects_go_when_no_state_wants_them_or_room_is_short() {
    let dir = TempDir::new().unwrap();
    let (key, record) = {
        let mut store = open(&dir);
        let key = save(&mut store, "a", &tokens(700, 3)).unwrap();
        let record = store.index().use_of(&key).unwrap().unwrap().record.unwrap();
        (key, store.object_path(&record))
    };
    lose_index(&dir);
    std::fs::remove_file(record).unwrap();
    let mut store = reopen(&dir);
    let outcome = store.collect(&Limits::default(), false).unwrap();
    assert_eq!((outcome.adopted.count, outcome.orphans.count), (3, 0));
    assert_eq!(store.collect(&Limits::default(), false).unwrap().waiting.count, 3);
    let no_room = Limits { max_bytes: Some(1), ..Limits::default() };
    assert_eq!(store.collect(&no_room, true).unwrap().orphans.count, 3);
    // A build that comes by uses them.
    save(&mut store, "a", &tokens(700, 3)).unwrap();
    assert_eq!(assert_whole(&store), ["a"]);
    assert_eq!(store.usage().unwrap().objects.len(), 4, "nothing was written twice");
    store.remove_states(&[key], false).unwrap();
    assert_tidy(&store);

    save(&mut store, "a", &tokens(700, 3)).unwrap();
    let record = store.index().use_of(&key).unwrap().unwrap().record.unwrap();
    std::fs::remove_file(store.object_path(&record)).unwrap();
    drop(store);
    lose_index(&dir);
    reopen(&dir).collect(&Limits::default(), false).unwrap();
    let later = Arc::new(Hands(AtomicI64::new(1_000_000 + gc::ADOPTED_GRACE_S)));
    let mut store = Store::open(&dir.path().join("store"), Arc::new(RealDisk), later).unwrap();
    assert_eq!(store.collect(&Limits::default(), false).unwrap().orphans.count, 3);
    assert_tidy(&store);
}

#[test]
fn removing_a_state_frees_what_is_its_own_and_a_dry_run_says_how_much() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let a = save(&mut store, "a", &tokens(700, 3)).unwrap();
    save(&mut store, "b", &tokens(700, 5)).unwrap();
    let before = store.usage().unwrap();
    let planned = store.remove_states(&[a], true).unwrap();
    assert_eq!(assert_whole(&store), ["a", "b"]);
    let done = store.remove_states(&[a], false).unwrap();
    assert_eq!(planned, done);
    assert_eq!(assert_whole(&store), ["b"]);
    assert_tidy(&store);
    let after = store.usage().unwrap();
    let bytes = |usage: &usage::Usage| usage.objects.iter().map(|(_, e)| e.bytes).sum::<u64>();
    assert_eq!(bytes(&before) - bytes(&after), done[0].frees);
    assert_eq!(store.remove_states(&[a], false).unwrap(), [], "it is gone already");
}

/// A store of the first schema is brought up to date and keeps its states.
#[test]
fn a_store_of_the_first_version_is_migrated() {
    let dir = TempDir::new().unwrap();
    let key = save(&mut open(&dir), "a", &tokens(700, 3)).unwrap();
    let path = dir.path().join("store/index.sqlite");
    let old = rusqlite::Connection::open_in_memory().unwrap();
    schema::first_version(&old);
    old.execute("ATTACH ?1 AS new", [path.to_str().unwrap()]).unwrap();
    old.execute_batch(
        "INSERT INTO models SELECT * FROM new.models;
         INSERT INTO segments SELECT * FROM new.segments;
         INSERT INTO states SELECT key, name, model, params, layout, ids, token_count, carried, suffix, created,
             last_used, last_use, hits, pinned, expires, build_s, evaluated, origin
             FROM new.states JOIN new.tokens ON state = key;
         INSERT INTO state_segments SELECT * FROM new.state_segments;
         DETACH new;",
    )
    .unwrap();
    lose_index(&dir);
    old.execute("VACUUM INTO ?1", [path.to_str().unwrap()]).unwrap();
    drop(old);

    let mut store = open(&dir);
    assert_eq!(assert_whole(&store), ["a"]);
    assert_eq!(store.index().use_of(&key).unwrap().unwrap().record, None);
    // The first change gives it a record.
    assert!(store.change_state(&key, |r| r.pinned = true).unwrap());
    assert!(store.index().use_of(&key).unwrap().unwrap().record.is_some());
    store.collect(&Limits::default(), false).unwrap();
    assert_tidy(&store);
}

#[test]
fn a_newer_schema_and_a_foreign_folder_are_refused() {
    let dir = TempDir::new().unwrap();
    drop(open(&dir));
    let db = rusqlite::Connection::open(dir.path().join("store/index.sqlite")).unwrap();
    db.execute_batch("PRAGMA user_version = 999").unwrap();
    drop(db);
    let error = open_with(&dir, Arc::new(RealDisk)).err().unwrap();
    assert!(matches!(error, StoreError::NewerSchema { found: 999, .. }), "{error}");

    let foreign = TempDir::new().unwrap();
    std::fs::create_dir(foreign.path().join("store")).unwrap();
    std::fs::write(foreign.path().join("store/thesis.tex"), b"").unwrap();
    let error = open_with(&foreign, Arc::new(RealDisk)).err().unwrap();
    assert!(error.to_string().contains("thesis.tex"), "{error}");
}

/// A folder of somebody else: one that root gave away, or for other users the root folder.
#[cfg(unix)]
#[test]
fn a_folder_of_another_user_is_refused() {
    let dir = TempDir::new().unwrap();
    assert!(check_owner(dir.path()).is_ok());
    assert!(check_owner(&dir.path().join("nothing")).is_ok());
    let given_away = std::os::unix::fs::chown(dir.path(), Some(12345), None).is_ok();
    let foreign = if given_away { dir.path() } else { Path::new("/") };
    let error = check_owner(foreign).unwrap_err();
    assert!(error.to_string().contains("--trust-owner"), "{error}");
}

/// A change that a crash cut short leaves a record that no row names; after the state was removed, gc once took it for
/// a state that the index had lost, because others had some of its segments.
#[test]
fn what_was_removed_does_not_come_back() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let key = save(&mut store, "a", &tokens(700, 3)).unwrap();
    save(&mut store, "b", &tokens(700, 5)).unwrap();
    let stray = Record { revision: 2, pinned: true, ..store.index().state(&key).unwrap().unwrap() };
    store.publish(&stray.encode()).unwrap();
    store.remove_states(&[key], false).unwrap();
    store.collect(&Limits::default(), false).unwrap();
    assert_eq!(assert_whole(&store), ["b"]);
    assert_tidy(&store);
    // Built again it is a state like any other.
    save(&mut store, "a", &tokens(700, 3)).unwrap();
    drop(store);
    lose_index(&dir);
    assert_eq!(assert_whole(&open(&dir)), ["a", "b"]);
}

/// The next change has the revision of the one that was cut short; the one that was committed counts.
#[test]
fn of_two_records_of_one_revision_the_one_written_later_counts() {
    for round in 0..4 {
        let dir = TempDir::new().unwrap();
        let mut store = open(&dir);
        let key = save(&mut store, "a", &tokens(300, 3)).unwrap();
        let name = Some(format!("stray{round}"));
        let stray = Record { revision: 2, name, ..store.index().state(&key).unwrap().unwrap() };
        store.publish(&stray.encode()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        store.change_state(&key, |r| r.name = Some("right".into())).unwrap();
        drop(store);
        lose_index(&dir);
        assert_eq!(assert_whole(&open(&dir)), ["right"]);
    }
}

/// A recode that a crash cut short, and then the index lost: both objects restore the segment, and one is enough.
#[test]
fn of_two_objects_of_one_segment_one_is_kept() {
    let dir = TempDir::new().unwrap();
    let tokens = tokens(300, 3);
    {
        let mut store = open(&dir);
        save(&mut store, "a", &tokens).unwrap();
        let (chain, meta) = (chain(&tokens), |s: &Segment| Meta {
            chain: s.chain,
            parent: s.parent,
            model: ModelHash::from(MODEL),
            params: params().canonical(),
            layout: Layout::Segment,
            first: s.first,
        });
        let first = &chain.segments()[0];
        let state: Vec<u8> = tokens[..256].iter().flat_map(|t| t.to_le_bytes()).collect();
        let other = Encoded::with(Codec::Zstd { level: 1 }, &meta(first), &tokens[..256], &state);
        assert!(
            store.index().segment(&first.chain).unwrap().unwrap().object != store.publish(&other).unwrap()
        );
    }
    lose_index(&dir);
    let mut store = reopen(&dir);
    store.collect(&Limits::default(), false).unwrap();
    assert_eq!(assert_whole(&store), ["a"]);
    assert_tidy(&store);
}

/// A link in the place of a lock's file would make a file elsewhere.
#[cfg(unix)]
#[test]
fn locks_follow_no_links() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let chain = crate::key::ChainKey::from([7; 32]);
    let (link, target) =
        (store.root().join("tmp").join(format!("turn-{}", chain.short())), dir.path().join("victim"));
    std::os::unix::fs::symlink(&target, &link).unwrap();
    assert!(store.take_turn(&chain, || ()).is_err());
    assert!(!target.exists());
    std::fs::remove_file(&link).unwrap();
    assert!(store.take_turn(&chain, || ()).is_ok());
}

#[cfg(unix)]
#[test]
fn everything_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    save(&mut store, "a", &tokens(10, 3)).unwrap();
    fn check(path: &Path) {
        let meta = std::fs::metadata(path).unwrap();
        let expected = if meta.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(meta.permissions().mode() & 0o777, expected, "{}", path.display());
        if meta.is_dir() {
            std::fs::read_dir(path).unwrap().for_each(|e| check(&e.unwrap().path()));
        }
    }
    check(store.root());
}
