//! Names, pins and expiries.

use super::*;

fn claim(name: &str) -> Claim {
    Claim { name: Some(name.into()), ..Claim::default() }
}

fn label(store: &Store, key: &StateKey) -> pcache_format::Label {
    store.state(key).unwrap().unwrap().label
}

fn names(store: &Store, key: &StateKey) -> Vec<String> {
    label(store, key).names.into_iter().map(|n| n.name).collect()
}

/// Two who do not know of each other give one state two names; a second name once took the first away, and its pin.
#[test]
fn a_second_name_leaves_the_first_where_it_is() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let tokens = tokens(10, 3);
    let key = save_as(&store, Claim { pin: true, ..claim("prod") }, &tokens, false).unwrap();
    save(&store, "test", &tokens).unwrap();
    assert_eq!(names(&store, &key), ["prod", "test"]);
    assert_eq!(store.lookup("prod").unwrap(), Lookup::Found(key));
    relabel(&store, &key, |label| label.names.iter_mut().for_each(|n| n.pinned &= n.name != "test")).unwrap();
    assert!(label(&store, &key).is_pinned(), "test does not unpin prod");
    relabel(&store, &key, |label| drop(label.take("test"))).unwrap();
    assert_eq!(names(&store, &key), ["prod"]);
    assert_eq!(store.lookup("test").unwrap(), Lookup::Unknown);
    assert_tidy(&store);
}

#[test]
fn a_name_that_is_given_to_another_state_moves_with_its_pin() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let old = save_as(&store, Claim { pin: true, ..claim("menu") }, &tokens(10, 3), false).unwrap();
    relabel(&store, &old, |label| label.give("yesterday", NOW).pinned = false).unwrap();
    let new = save(&store, "menu", &tokens(300, 3)).unwrap();
    assert_eq!((names(&store, &old), names(&store, &new)), (vec!["yesterday".into()], vec!["menu".into()]));
    assert!(label(&store, &new).is_pinned() && !label(&store, &old).is_pinned());
    let saved = store.rename(&store.lock_shared(|| ()).unwrap(), &old, None, "menu").unwrap().unwrap();
    assert_eq!(saved.moved_from, Some(new));
    assert_eq!(names(&store, &new), Vec::<String>::new());
    drop(store);
    // The files say the same, though all of it happened within a second.
    let store = recovered(&dir);
    assert_eq!(store.lookup("menu").unwrap(), Lookup::Found(old));
    assert_eq!(names(&store, &new), Vec::<String>::new());
}

/// A crash between the two files of a move leaves a name in both; the one that was given it later has it.
#[test]
fn of_two_labels_with_one_name_the_later_one_has_it() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let old = save(&store, "menu", &tokens(10, 3)).unwrap();
    let before = std::fs::read(layout::label(store.root(), &old)).unwrap();
    let new = save(&store, "menu", &tokens(300, 3)).unwrap();
    std::fs::write(layout::label(store.root(), &old), before).unwrap();
    drop(store);
    let store = recovered(&dir);
    assert_eq!(store.lookup("menu").unwrap(), Lookup::Found(new));
    assert_eq!(names(&store, &old), Vec::<String>::new());
}

#[test]
fn a_state_lives_as_long_as_the_longest_wish() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let tokens = tokens(10, 3);
    let until = |time| Expiry::At(NOW + time);
    let key = save_as(&store, Claim { expiry: until(10), ..claim("short") }, &tokens, false).unwrap();
    save_as(&store, Claim { expiry: until(1000), ..claim("long") }, &tokens, false).unwrap();
    assert_eq!(label(&store, &key).latest_expiry(), Some(NOW + 1000));
    let later = open_at(&dir, NOW + 100);
    assert_eq!(collect_nothing(&later).evicted, []);
    relabel(&later, &key, |label| drop(label.take("long"))).unwrap();
    let evicted = collect_nothing(&later).evicted;
    assert_eq!(evicted.len(), 1);
    assert_eq!(evicted[0].names, ["short"]);
    assert_tidy(&later);
}

/// A state that is built again is wanted again: an expiry that is past does not count any more.
#[test]
fn a_rebuild_forgets_an_expiry_that_is_past() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let tokens = tokens(10, 3);
    let key = save_as(&store, Claim { expiry: Expiry::At(NOW + 10), ..claim("a") }, &tokens, false).unwrap();
    let later = open_at(&dir, NOW + 100);
    let guard = later.lock_shared(|| ()).unwrap();
    later.claim_again(&guard, &key, &Claim::default()).unwrap().unwrap();
    drop(guard);
    assert_eq!(label(&later, &key).latest_expiry(), None);
    assert_eq!(collect_nothing(&later).evicted, []);
}

/// A rename writes a label and nothing else.
#[test]
fn a_rename_writes_a_few_hundred_bytes() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let key = save(&store, "a", &tokens(20_000, 3)).unwrap();
    let listed = |store: &Store| {
        let usage = store.folder_usage().unwrap();
        let objects = usage.objects.into_iter().map(|(_, e)| (e.path, e.modified));
        objects.chain(usage.manifests.into_iter().map(|(.., e)| (e.path, e.modified))).collect::<Vec<_>>()
    };
    let before = listed(&store);
    let guard = store.lock_shared(|| ()).unwrap();
    store.rename(&guard, &key, Some("a"), "b").unwrap();
    drop(guard);
    assert_eq!(listed(&store), before);
    assert!(store.usage_of(&key).unwrap().unwrap().label_bytes < 600);
    assert_eq!(names(&store, &key), ["b"]);
    assert_tidy(&store);
}

/// A name that was wanted for ever once took over the expiry of the name whose place it took.
#[test]
fn where_two_names_meet_the_longer_wish_counts() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let forever = save(&store, "menu", &tokens(10, 3)).unwrap();
    let brief =
        Claim { name: Some("draft".into()), expiry: Expiry::At(store.now() + 60), ..Claim::default() };
    let key = save_as(&store, brief, &tokens(20, 4), false).unwrap();
    let rename = |old: &str, new: &str| {
        let guard = store.lock_shared(|| ()).unwrap();
        store.rename(&guard, &key, Some(old), new).unwrap().unwrap()
    };
    assert!(
        rename("draft", "sketch").label.names[0].expires.is_some(),
        "a new name wants what the old one wanted"
    );
    let saved = rename("sketch", "menu");
    assert_eq!((saved.moved_from, saved.label.names[0].expires), (Some(forever), None));
}

#[test]
fn changes_by_several_at_once_lose_none() {
    let dir = TempDir::new().unwrap();
    let key = save(&open(&dir), "a", &tokens(10, 3)).unwrap();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let store = open(&dir);
            scope.spawn(move || {
                for _ in 0..5 {
                    relabel(&store, &key, |label| label.origin.push((b'a' + n) as char)).unwrap();
                }
            });
        }
    });
    let store = open(&dir);
    let label = label(&store, &key);
    assert_eq!((label.origin.len(), label.revision), ("test".len() + 20, 21));
    assert_tidy(&store);
}

/// Six give one name to six states at the same time: one has it in the end, in the index and in the files.
#[test]
fn a_name_that_many_want_has_one_owner() {
    let dir = TempDir::new().unwrap();
    drop(open(&dir));
    std::thread::scope(|scope| {
        for n in 0..6 {
            let store = open(&dir);
            scope.spawn(move || save(&store, "menu", &tokens(300, 3 + n)).unwrap());
        }
    });
    let store = open(&dir);
    let Lookup::Found(owner) = store.lookup("menu").unwrap() else { panic!("one of them has it") };
    assert_eq!(store.names().unwrap(), [("menu".to_owned(), owner)]);
    assert_tidy(&store);
    drop(store);
    assert_eq!(recovered(&dir).lookup("menu").unwrap(), Lookup::Found(owner));
}

#[test]
fn a_name_carries_its_own_pin_and_expiry_into_the_list() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    save_as(&store, Claim { pin: true, expiry: Expiry::At(NOW + 9), ..claim("b") }, &tokens(10, 3), false)
        .unwrap();
    save_as(&store, claim("a"), &tokens(10, 3), false).unwrap();
    let (states, _) = store.list().unwrap();
    let expected = [
        Name { name: "b".into(), given: NOW, pinned: true, expires: Some(NOW + 9) },
        Name { name: "a".into(), given: NOW + 1, pinned: false, expires: None },
    ];
    assert_eq!(states[0].names, expected);
    assert!(states[0].pinned && states[0].expires.is_none());
}

/// A build gave every expired name of a state a new life, and a name's own wish was lost.
#[test]
fn a_build_revives_the_name_that_it_gives_and_no_other() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let tokens = tokens(10, 3);
    let until = |name: &str, at| Claim { expiry: Expiry::At(at), ..claim(name) };
    let key = save_as(&store, until("old", NOW - 5), &tokens, false).unwrap();
    save(&store, "new", &tokens).unwrap();
    let again = |claim: &Claim| {
        let guard = store.lock_shared(|| ()).unwrap();
        store.claim_again(&guard, &key, claim).unwrap().unwrap().label
    };
    let expiry = |label: &pcache_format::Label, name: &str| label.named(name).unwrap().expires;
    assert_eq!(expiry(&again(&claim("new")), "old"), Some(NOW - 5));
    assert_eq!(expiry(&again(&Claim::default()), "old"), Some(NOW - 5), "new wants it");
    assert_eq!(expiry(&again(&claim("old")), "old"), None);
    // No claim is left: a build without a name makes one.
    again(&until("old", NOW - 5));
    again(&until("new", NOW - 5));
    assert_eq!(again(&Claim::default()).latest_expiry(), None);
}

/// The first name that a state gets keeps what was wanted of it without one.
#[test]
fn the_first_name_takes_over_what_was_wanted_without_one() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let wish = Claim { pin: true, expiry: Expiry::At(NOW + 5), ..Claim::default() };
    let key = save_as(&store, wish, &tokens(10, 3), false).unwrap();
    let guard = store.lock_shared(|| ()).unwrap();
    let label = store.rename(&guard, &key, None, "first").unwrap().unwrap().label;
    assert_eq!((label.pinned, label.expires), (false, None));
    assert_eq!((label.names[0].pinned, label.names[0].expires), (true, Some(NOW + 5)));
    let label = store.rename(&guard, &key, None, "second").unwrap().unwrap().label;
    assert_eq!(label.named("second").map(|n| (n.pinned, n.expires)), Some((false, None)));
}

/// A state that was told, without a name, never to expire stays beside names that expire.
#[test]
fn for_ever_without_a_name_counts() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let tokens = tokens(10, 3);
    let key = save_as(&store, Claim { expiry: Expiry::Never, ..Claim::default() }, &tokens, false).unwrap();
    save_as(&store, Claim { expiry: Expiry::At(NOW - 1), ..claim("t") }, &tokens, false).unwrap();
    assert_eq!(label(&store, &key).latest_expiry(), None);
    assert_eq!(collect_nothing(&store).evicted, []);
    assert_eq!(label(&recovered(&dir), &key).latest_expiry(), None);
}
