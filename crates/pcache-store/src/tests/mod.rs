//! The store as a whole, on the real file system.

mod compute;
mod damage;
mod guard;
mod names;
mod newer;
mod old;
mod stops;

use super::disk::{Entry, Kind, Source};
use super::evict::Limits;
use super::*;
use pcache_format::label::Name;
use pcache_format::{
    Chain, Codec, Encoded, KvType, Layout, Meta, ModelHash, ObjectId, Params, Segment, StateKey, StateKind,
};
use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use tempfile::TempDir;

const MODEL: [u8; 32] = [4; 32];
const NOW: i64 = 1_000_000;

struct FakeClock(AtomicI64);

impl FakeClock {
    fn at(time: i64) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(time)))
    }
}

impl Clock for FakeClock {
    fn now(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

fn identity() -> ComputeIdentity {
    ComputeIdentity::new([("backend", "test")])
}

fn options() -> Options {
    Options { clock: FakeClock::at(NOW), ..Options::new(identity()) }
}

fn open(dir: &TempDir) -> Store {
    open_with(dir, Arc::new(RealDisk)).unwrap()
}

fn open_with(dir: &TempDir, disk: Arc<dyn Disk>) -> Result<Store> {
    Store::open(&dir.path().join("store"), &Options { disk, ..options() })
}

fn open_at(dir: &TempDir, time: i64) -> Store {
    Store::open(&dir.path().join("store"), &Options { clock: FakeClock::at(time), ..options() }).unwrap()
}

fn params() -> Params {
    Params::new(KvType::F16, false)
}

fn chain(tokens: &[i32]) -> Chain {
    Chain::new(params().root(&ModelHash::from(MODEL)), tokens)
}

fn key_of(tokens: &[i32]) -> StateKey {
    chain(tokens).state_key("", "")
}

fn prefix(tokens: &[i32]) -> Prefix {
    Prefix::new(ModelHash::from(MODEL), params(), Layout::Segment, tokens.to_vec())
}

/// Saves the state of `tokens` as a build does: each segment published and committed, then the state.
fn save(store: &Store, name: &str, tokens: &[i32]) -> Result<StateKey> {
    save_as(store, Claim { name: Some(name.into()), ..Claim::default() }, tokens, false)
}

fn save_as(store: &Store, claim: Claim, tokens: &[i32], same_compute: bool) -> Result<StateKey> {
    let identity = fingerprint::FileIdentity { device: 1, inode: 1, size: 1, modified_ns: 1, changed_ns: 1 };
    store.remember_model(&identity, Path::new("model.gguf"), &ModelHash::from(MODEL))?;
    let prefix = prefix(tokens);
    let guard = store.lock_shared(|| ())?;
    let found = store.find(&guard, &prefix, same_compute)?.verify(&prefix);
    let writer = store.writer(&guard, &prefix, Codec::Raw, &found);
    let missing = prefix.pieces().into_iter().filter(|piece| piece.first >= found.tokens());
    writer.run(|pipeline| {
        for piece in missing {
            let mut state = pipeline.buffer()?;
            state.clear();
            state.extend(state_of(&tokens[piece.first..piece.end()]));
            pipeline.save(&piece, state)?;
        }
        Ok::<(), StoreError>(())
    })?;
    let description = Description {
        kind: StateKind::Prompt,
        pending_text: String::new(),
        suffix: String::new(),
        prompt_span: Some(0..1),
        raw: true,
        rendered_with: pcache_format::RenderedWith::default(),
    };
    let built = Built {
        origin: "test".into(),
        prompt_format: "raw".into(),
        model_path: "model.gguf".into(),
        text: None,
        prompt: None,
        build_s: 1.0,
        evaluated: tokens.len(),
        claim,
    };
    writer.finish(&description, &built).map(|saved| saved.label.key)
}

/// A state that says which tokens it is of.
fn state_of(tokens: &[i32]) -> Vec<u8> {
    tokens.iter().flat_map(|t| t.to_le_bytes()).collect()
}

fn meta(s: &Segment) -> Meta {
    let lineage = Lineage::from(identity().id());
    Meta {
        chain: s.chain,
        parent: s.parent,
        model: ModelHash::from(MODEL),
        params: params().canonical(),
        layout: Layout::Segment,
        first: s.first,
        lineage,
        parent_lineage: lineage,
    }
}

/// Every listed state is whole: all its segments are found, verify, and hold what was saved.
fn assert_whole(store: &Store) -> Vec<String> {
    let (states, _) = store.list().unwrap();
    for listed in &states {
        let state = store.state(&listed.key).unwrap().unwrap();
        assert!(state.is_whole(), "{:?}", state.damage);
        let prefix = Prefix::of_manifest(&state.manifest);
        let guard = store.lock_shared(|| ()).unwrap();
        let verified = store.find(&guard, &prefix, false).unwrap().verify(&prefix);
        assert_eq!(verified.tokens(), prefix.tokens.len(), "{:?}: {:?}", listed.names, verified.miss);
        let (mut restored, mut buffers) = (Vec::new(), ReadBuffers::default());
        for (_, object) in &verified.parts {
            restored.extend_from_slice(object.state(&mut buffers).unwrap());
        }
        assert_eq!(restored, state_of(&state.manifest.tokens), "{:?}", listed.names);
    }
    let mut names: Vec<String> = states.into_iter().flat_map(|s| s.names).map(|n| n.name).collect();
    names.sort();
    names
}

/// After a collection the folder holds what the index says and nothing else.
fn assert_tidy(store: &Store) {
    let usage = store.folder_usage().unwrap();
    let (states, segments) = store.list().unwrap();
    let records = store.index.records().unwrap();
    let mut named: Vec<_> = segments.iter().map(|s| s.object).chain(records.into_values()).collect();
    let mut there: Vec<_> = usage.objects.iter().map(|(id, _)| *id).collect();
    named.sort();
    there.sort();
    assert_eq!(named, there);
    let manifests: std::collections::HashSet<_> = usage.manifests.iter().map(|(k, l, _)| (*k, *l)).collect();
    assert_eq!(store.index.manifest_ids().unwrap(), manifests);
    let mut labels: Vec<_> = usage.labels.iter().map(|(key, _)| *key).collect();
    let with_label = |s: &&ListedState| store.usage_of(&s.key).unwrap().unwrap().label_bytes > 0;
    let mut keys: Vec<_> = states.iter().filter(with_label).map(|s| s.key).collect();
    labels.sort();
    keys.sort();
    assert_eq!(labels, keys);
    assert_eq!(usage.staging, []);
    assert_eq!(store.index.intents().unwrap(), []);
    let on_disk = walk(store.root());
    assert_eq!(usage.total_bytes(), on_disk, "bytes that nobody accounts for");
    for state in &states {
        let wrong = store.check_description(&state.key).unwrap();
        let (file, row) = (store.read_label(&state.key), store.state(&state.key).unwrap().unwrap().label);
        assert_eq!(wrong, None, "{file:?}, and the row: {row:?}");
    }
}

fn collect(store: &Store, limits: &Limits, dry_run: bool) -> gc::Outcome {
    let guard = store.lock_exclusive(|| ()).unwrap();
    store.collect(&guard, limits, dry_run).unwrap()
}

fn collect_nothing(store: &Store) -> gc::Outcome {
    collect(store, &Limits::default(), false)
}

fn remove(store: &Store, keys: &[StateKey], dry_run: bool) -> Result<Vec<Removed>> {
    let guard = store.lock_exclusive(|| ())?;
    store.remove_states(&guard, keys, dry_run)
}

fn reindex(store: &Store) -> Result<reindex::Reindexed> {
    let guard = store.lock_exclusive(|| ())?;
    store.reindex(&guard, &|_, _| ())
}

fn relabel(store: &Store, key: &StateKey, change: impl FnOnce(&mut pcache_format::Label)) -> Result<Saved> {
    let guard = store.lock_shared(|| ())?;
    Ok(store.relabel(&guard, key, change)?.expect("there is such a state"))
}

fn object_of(store: &Store, key: &StateKey, n: usize) -> std::path::PathBuf {
    layout::object(store.root(), &store.segments_of(key).unwrap()[n].object)
}

/// Bytes of all files; SQLite's shared memory counts beside a log that stays.
fn walk(dir: &Path) -> u64 {
    let log = std::fs::metadata(dir.join("index.sqlite-wal")).is_ok_and(|m| m.len() > 0);
    std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| log || e.file_name() != "index.sqlite-shm")
        .map(|e| match e.metadata().unwrap() {
            m if m.is_dir() => walk(&e.path()),
            m => m.len(),
        })
        .sum()
}

fn tokens(n: i32, salt: i32) -> Vec<i32> {
    (0..n).map(|i| if i < 256 { i } else { i * salt }).collect()
}

fn lose_index(dir: &TempDir) {
    for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        let _ = std::fs::remove_file(dir.path().join("store").join(name));
    }
}

/// Reopens a store whose index was lost, and puts back what it knew.
fn recovered(dir: &TempDir) -> Store {
    lose_index(dir);
    let store = open(dir);
    assert!(store.is_index_lost().unwrap());
    reindex(&store).unwrap();
    store
}

#[test]
fn states_share_segments_and_are_found_by_name_and_prefix() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let a = save(&store, "a", &tokens(600, 3)).unwrap();
    let b = save(&store, "b", &tokens(600, 5)).unwrap();
    assert_eq!(assert_whole(&store), ["a", "b"]);
    assert_eq!(store.folder_usage().unwrap().objects.len(), 5, "the first segment is shared");
    assert_eq!(store.lookup("a").unwrap(), Lookup::Found(a));
    assert_eq!(store.lookup(&b.to_hex()[..6]).unwrap(), Lookup::Found(b));
    assert_eq!(store.lookup(&b.to_hex()[..9].to_uppercase()).unwrap(), Lookup::Found(b));
    assert_eq!(store.lookup(&b.to_hex()[..5]).unwrap(), Lookup::Unknown);
    assert_eq!(store.lookup("nobody").unwrap(), Lookup::Unknown);
    let shared = store.relatives(&a, 10).unwrap();
    assert_eq!((shared[0].key, shared[0].name.as_deref(), shared[0].segments), (b, Some("b"), 1));
    assert_eq!(store.users_of(&chain(&tokens(600, 3)).segments()[0].chain, 9).unwrap().len(), 2);
    assert_tidy(&store);
}

/// Verifies the only segment of a state under a model and parameters.
fn verify_one(store: &Store, tokens: &[i32], model: [u8; 32], params: Params) -> Option<Miss> {
    let guard = store.lock_shared(|| ()).unwrap();
    let right = prefix(tokens);
    let found = store.find(&guard, &right, false).unwrap();
    let asked = Prefix { model: ModelHash::from(model), params, ..right };
    found.verify(&asked).miss
}

#[test]
fn damage_is_a_typed_miss() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let tokens = tokens(10, 3);
    let key = save(&store, "a", &tokens).unwrap();
    let path = object_of(&store, &key, 0);
    let verify = || verify_one(&store, &tokens, MODEL, params());
    assert_eq!(verify(), None);

    let good = std::fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert!(matches!(verify(), Some(Miss::Damaged { .. })), "byte {at}");
    }
    std::fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert!(matches!(verify(), Some(Miss::Resized { .. })));
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(verify(), Some(Miss::Resized { .. })));
    // A sparse file of terabytes is not read.
    std::fs::File::create(&path).unwrap().set_len(1 << 42).unwrap();
    assert!(matches!(verify(), Some(Miss::Resized { .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(verify(), Some(Miss::Unreadable { .. })));
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(verify(), Some(Miss::Unreadable { .. })));
}

#[test]
fn an_object_of_another_model_is_refused_though_its_hash_is_right() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let tokens = tokens(10, 3);
    save(&store, "a", &tokens).unwrap();
    assert!(matches!(verify_one(&store, &tokens, [5; 32], params()), Some(Miss::Mismatch { .. })));
    let quantised = Params::new(KvType::Q8_0, false);
    assert!(matches!(verify_one(&store, &tokens, MODEL, quantised), Some(Miss::Mismatch { .. })));
    assert_eq!(verify_one(&store, &tokens, MODEL, params()), None);
}

#[test]
fn a_dry_run_says_what_the_run_then_does_and_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    save(&store, "a", &tokens(700, 3)).unwrap();
    save(&store, "b", &tokens(700, 5)).unwrap();
    std::fs::write(store.root().join("tmp/left-behind"), b"half an object").unwrap();
    let limits = Limits { max_states: Some(1), ..Limits::default() };
    let before = store.folder_usage().unwrap().total_bytes();
    let planned = collect(&store, &limits, true);
    assert_eq!(store.folder_usage().unwrap().total_bytes(), before);
    let done = collect(&store, &limits, false);
    assert_eq!((&planned.evicted, planned.staging), (&done.evicted, done.staging));
    assert_eq!(planned.freed_bytes(), done.freed_bytes());
    assert_eq!(done.staging.count, 1);
    assert_eq!(assert_whole(&store), ["b"]);
    assert_tidy(&store);
}

#[test]
fn a_lost_index_loses_no_state_its_names_or_its_pins() {
    let dir = TempDir::new().unwrap();
    let expected = {
        let store = open(&dir);
        let key = save(&store, "a", &tokens(700, 3)).unwrap();
        save(&store, "b", &tokens(300, 5)).unwrap();
        relabel(&store, &key, |label| label.give("second", 2_000_000).pinned = true).unwrap();
        store.state(&key).unwrap().unwrap()
    };
    lose_index(&dir);
    let store = open(&dir);
    assert!(store.is_index_lost().unwrap(), "opening says so and does nothing about it");
    assert_eq!(store.count().unwrap(), 0);
    let planned = collect(&store, &Limits::default(), true);
    let outcome = collect_nothing(&store);
    assert_eq!((outcome.adopted_states, outcome.adopted.count, outcome.orphans.count), (2, 0, 0));
    assert_eq!((planned.adopted_states, planned.live), (2, outcome.live));
    let state = store.state(&expected.key()).unwrap().unwrap();
    assert_eq!((state.manifest, state.label), (expected.manifest, expected.label));
    assert_eq!(assert_whole(&store), ["a", "b", "second"]);
    assert_tidy(&store);

    drop(store);
    lose_index(&dir);
    let store = open(&dir);
    let reindexed = reindex(&store).unwrap();
    assert_eq!((reindexed.states, reindexed.segments), (2, 4), "it does the same and deletes nothing");
    assert_eq!(assert_whole(&store), ["a", "b", "second"]);
}

#[test]
fn adopted_objects_go_when_no_state_wants_them_or_room_is_short() {
    let dir = TempDir::new().unwrap();
    let lose_description = |store: &Store, key: &StateKey| {
        std::fs::remove_file(layout::label(store.root(), key)).unwrap();
        std::fs::remove_file(layout::manifest(store.root(), key, store.own_lineage())).unwrap();
    };
    let key = {
        let store = open(&dir);
        let key = save(&store, "a", &tokens(700, 3)).unwrap();
        lose_description(&store, &key);
        key
    };
    lose_index(&dir);
    let store = open(&dir);
    let outcome = collect_nothing(&store);
    assert_eq!((outcome.adopted.count, outcome.orphans.count), (3, 0));
    assert_eq!(collect_nothing(&store).waiting.count, 3);
    let no_room = Limits { max_bytes: Some(1), ..Limits::default() };
    assert_eq!(collect(&store, &no_room, true).orphans.count, 3);
    // A build that comes by uses them.
    save(&store, "a", &tokens(700, 3)).unwrap();
    assert_eq!(assert_whole(&store), ["a"]);
    assert_eq!(store.folder_usage().unwrap().objects.len(), 3, "nothing was written twice");
    remove(&store, &[key], false).unwrap();
    assert_tidy(&store);

    save(&store, "a", &tokens(700, 3)).unwrap();
    lose_description(&store, &key);
    drop(store);
    lose_index(&dir);
    collect_nothing(&open(&dir));
    let store = open_at(&dir, NOW + gc::ADOPTED_GRACE_S);
    assert_eq!(collect_nothing(&store).orphans.count, 3);
    assert_tidy(&store);
}

#[test]
fn removing_a_state_frees_what_is_its_own_and_a_dry_run_says_how_much() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let a = save(&store, "a", &tokens(700, 3)).unwrap();
    save(&store, "b", &tokens(700, 5)).unwrap();
    let bytes = || {
        let usage = store.folder_usage().unwrap();
        usage.total_bytes() - usage.fixed_bytes()
    };
    let before = bytes();
    let planned = remove(&store, &[a], true).unwrap();
    assert_eq!(assert_whole(&store), ["a", "b"]);
    let done = remove(&store, &[a], false).unwrap();
    assert_eq!(planned, done);
    assert_eq!(assert_whole(&store), ["b"]);
    assert_tidy(&store);
    assert_eq!(before - bytes(), done[0].frees);
    assert_eq!(remove(&store, &[a], false).unwrap(), [], "it is gone already");
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

/// A folder of another user: one that root gave away, or for other users the root folder.
#[cfg(unix)]
#[test]
fn a_folder_of_another_user_is_refused() {
    let dir = TempDir::new().unwrap();
    assert!(check_owner(dir.path()).is_ok());
    assert!(check_owner(&dir.path().join("nothing")).is_ok());
    let given_away = std::os::unix::fs::chown(dir.path(), Some(12345), None).is_ok();
    let foreign = if given_away { dir.path() } else { Path::new("/") };
    let error = check_owner(foreign).unwrap_err();
    assert!(matches!(error, StoreError::ForeignOwner { .. }), "{error}");
}

/// A recode that a crash cut short, and then the index lost: both objects restore the segment, and one is enough.
#[test]
fn of_two_objects_of_one_segment_one_is_kept() {
    let dir = TempDir::new().unwrap();
    let tokens = tokens(300, 3);
    {
        let store = open(&dir);
        save(&store, "a", &tokens).unwrap();
        let chain = chain(&tokens);
        let first = &chain.segments()[0];
        let state = state_of(&tokens[..256]);
        let other = Encoded::with(Codec::Zstd { level: 1 }, &meta(first), &tokens[..256], &state);
        let before = store.segments_of_chain(&first.chain).unwrap()[0].object;
        assert_ne!(before, store.publisher.object(&other).unwrap());
    }
    let store = recovered(&dir);
    collect_nothing(&store);
    assert_eq!(assert_whole(&store), ["a"]);
    assert_tidy(&store);
}

/// Storing a segment in another codec changes its row and its object, and no manifest.
#[test]
fn recoding_changes_no_manifest() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let tokens = tokens(700, 3);
    let key = save(&store, "a", &tokens).unwrap();
    let manifest = std::fs::read(layout::manifest(store.root(), &key, store.own_lineage())).unwrap();
    let prefix = prefix(&tokens);
    let replaced: Vec<Replaced> = {
        let guard = store.lock_shared(|| ()).unwrap();
        let found = store.find(&guard, &prefix, false).unwrap().verify(&prefix);
        let (codec, mut buffers) = (Codec::Zstd { level: 1 }, ReadBuffers::default());
        let recode = |(piece, object): &(Segment, VerifiedObject)| {
            store.recode(&guard, &prefix, (piece, object), codec, &mut buffers).unwrap().unwrap()
        };
        found.parts.iter().filter_map(recode).collect()
    };
    assert_eq!(replaced.len(), 3);
    assert_eq!(store.codec_of(&store.segments_of(&key).unwrap()[0].object), Some("zstd"));
    store.remove_replaced(&store.lock_exclusive(|| ()).unwrap(), &replaced).unwrap();
    assert_eq!(assert_whole(&store), ["a"]);
    assert_tidy(&store);
    assert_eq!(std::fs::read(layout::manifest(store.root(), &key, store.own_lineage())).unwrap(), manifest);
}

/// Two builds of one prompt write the same manifest; what differs is in the label.
#[test]
fn a_second_build_writes_the_same_manifest() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let bytes = |dir: &TempDir, name: &str, time: i64| {
        let store = open_at(dir, time);
        let key = save(&store, name, &tokens(700, 3)).unwrap();
        std::fs::read(layout::manifest(store.root(), &key, store.own_lineage())).unwrap()
    };
    assert_eq!(bytes(&one, "one", NOW), bytes(&two, "two", NOW + 100_000));
}

/// A link in the place of a lock's file would make a file elsewhere.
#[cfg(unix)]
#[test]
fn locks_follow_no_links() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let chain = ChainKey::from([7; 32]);
    let (link, target) =
        (store.root().join("tmp").join(format!("build-{}", chain.short())), dir.path().join("victim"));
    std::os::unix::fs::symlink(&target, &link).unwrap();
    assert!(store.lock_build(&chain, || ()).is_err());
    assert!(!target.exists());
    std::fs::remove_file(&link).unwrap();
    assert!(store.lock_build(&chain, || ()).is_ok());
}

#[cfg(unix)]
#[test]
fn everything_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    save(&store, "a", &tokens(10, 3)).unwrap();
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
