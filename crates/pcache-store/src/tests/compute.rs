//! Lineages: own states, others', and states computed behind another's prefix.

use super::*;

fn open_as(dir: &TempDir, machine: &str) -> Store {
    let compute = ComputeIdentity::new([("backend", machine)]);
    Store::open(&dir.path().join("store"), &Options { compute, ..options() }).unwrap()
}

fn covered(store: &Store, tokens: &[i32], same_compute: bool) -> (usize, Option<Lineage>) {
    let guard = store.lock_shared(|| ()).unwrap();
    let prefix = prefix(tokens);
    let verified = store.find(&guard, &prefix, same_compute).unwrap().verify(&prefix);
    (verified.tokens(), verified.lineage())
}

#[test]
fn another_machines_state_is_found_and_named() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (open_as(&dir, "a"), open_as(&dir, "b"));
    let tokens = tokens(700, 3);
    let key = save(&a, "x", &tokens).unwrap();
    assert_eq!(covered(&b, &tokens, false), (700, Some(a.own_lineage())));
    assert_eq!(covered(&b, &tokens, true), (0, None), "not its own");
    assert_eq!(b.identity_of(a.own_lineage()).unwrap(), *a.own_identity());
    // Evaluated again, both are there, and each finds its own.
    save_as(&b, Claim::default(), &tokens, true).unwrap();
    assert_eq!(covered(&b, &tokens, false), (700, Some(b.own_lineage())));
    assert_eq!(covered(&a, &tokens, false), (700, Some(a.own_lineage())));
    assert_eq!(b.usage_of(&key).unwrap().unwrap().manifests.len(), 2);
    assert_eq!(b.state(&key).unwrap().unwrap().manifest.lineage, b.own_lineage());
    assert_tidy(&b);
    assert_eq!(remove(&b, &[key], false).unwrap().len(), 1);
    assert_tidy(&b);
    assert_eq!(b.folder_usage().unwrap().objects.len(), 0);
}

/// The own part of a prefix is taken as far as it goes, unless another reaches further; never some of each.
#[test]
fn a_prefix_is_restored_from_one_line() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (open_as(&dir, "a"), open_as(&dir, "b"));
    let long = tokens(1000, 3);
    save(&a, "long", &long).unwrap();
    save_as(&b, Claim::default(), &long[..512], true).unwrap();
    assert_eq!(covered(&b, &long, false), (1000, Some(a.own_lineage())));
    assert_eq!(covered(&b, &long, true), (512, Some(b.own_lineage())));
    assert_eq!(covered(&b, &long[..512], false), (512, Some(b.own_lineage())));
}

/// A state computed behind another's prefix has a lineage of its own, and is found again by this machine and by the other
/// one.
#[test]
fn a_continued_prefix_has_a_lineage_of_both() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (open_as(&dir, "a"), open_as(&dir, "b"));
    let long = tokens(1000, 3);
    save(&a, "short", &long[..512]).unwrap();
    let key = save(&b, "long", &long).unwrap();
    let third = a.own_lineage().continued_by(b.own_identity().id());
    let last = third.continued_by(b.own_identity().id());
    let lineages: Vec<Lineage> = b.segments_of(&key).unwrap().iter().map(|row| row.lineage).collect();
    assert_eq!(lineages, [a.own_lineage(), a.own_lineage(), third, last]);
    for store in [&a, &b, &open_as(&dir, "c")] {
        assert_eq!(covered(store, &long, false), (1000, Some(last)));
    }
    assert_eq!(covered(&a, &long, true), (512, Some(a.own_lineage())));
    assert_eq!(b.state(&key).unwrap().unwrap().manifest.computed_by, *b.own_identity());
    assert_eq!(assert_whole(&a), ["long", "short"]);
    drop((a, b));
    lose_index(&dir);
    let c = open_as(&dir, "c");
    reindex(&c).unwrap();
    assert_eq!(assert_whole(&c), ["long", "short"]);
    assert_eq!(covered(&c, &long, false), (1000, Some(last)));
    assert_tidy(&c);
}

/// A snapshot stands for all segments: its lineage is that of the last.
#[test]
fn a_snapshot_has_the_lineage_of_its_last_segment() {
    let dir = TempDir::new().unwrap();
    let store = open_as(&dir, "a");
    let tokens = tokens(600, 3);
    let prefix = Prefix { layout: Layout::Snapshot, ..prefix(&tokens) };
    let guard = store.lock_shared(|| ()).unwrap();
    let writer = store.writer(&guard, &prefix, Codec::Raw, &VerifiedPrefix::none());
    let pieces = prefix.pieces();
    writer.run(|pipeline| pipeline.save(&pieces[0], state_of(&tokens))).unwrap();
    let found = store.find(&guard, &prefix, false).unwrap().verify(&prefix);
    assert_eq!((found.tokens(), found.lineage()), (600, Some(store.own_lineage())));
    let other = open_as(&dir, "b");
    assert_eq!(other.find(&guard, &prefix, true).unwrap().verify(&prefix).tokens(), 0);
    assert_eq!(other.find(&guard, &prefix, false).unwrap().verify(&prefix).tokens(), 600);
}
