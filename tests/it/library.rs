//! The library, as another program uses it: the examples, on a tiny model; and what it promises of its errors.

#[path = "../../examples/build_and_ask.rs"]
#[allow(dead_code, reason = "its main")]
mod build_and_ask;
#[path = "../../examples/list_and_collect.rs"]
#[allow(dead_code, reason = "its main")]
mod list_and_collect;
#[path = "../../examples/many_threads.rs"]
#[allow(dead_code, reason = "its main")]
mod many_threads;

use std::sync::Mutex;

use crate::common::{prose, tiny};
use pcache::{
    Cache, CancelToken, Claim, Codec, ErrorKind, Observer, Prompt, Role, Sampling, Status, Update, Watch,
    Wish,
};
use tempfile::TempDir;

#[test]
fn what_was_built_is_a_hit_the_next_time() {
    let dir = TempDir::new().unwrap();
    let (first, answer) = build_and_ask::run(&tiny("llama"), dir.path()).unwrap();
    let (again, same) = build_and_ask::run(&tiny("llama"), dir.path()).unwrap();
    assert_eq!((first.verdict.status, again.verdict.status), (Status::Miss, Status::Hit));
    assert_eq!((first.key, &answer.tokens), (again.key, &same.tokens));
    assert_eq!(same.verdict.restored_tokens, first.tokens);
    assert_eq!(Cache::open(dir.path()).unwrap().find("waiter").unwrap(), first.key);
}

#[test]
fn threads_share_a_model_and_a_state() {
    let dir = TempDir::new().unwrap();
    let answers = many_threads::run(&tiny("llama"), dir.path()).unwrap();
    assert_eq!(answers.len(), 4);
    assert!(answers.iter().all(|answer| answer.verdict.restored_tokens > 0));
    let again = many_threads::run(&tiny("llama"), dir.path()).unwrap();
    let tokens = |answers: &[pcache::Answer]| answers.iter().map(|a| a.tokens.clone()).collect::<Vec<_>>();
    assert_eq!(tokens(&answers), tokens(&again), "whoever runs beside it");
}

#[test]
fn all_but_the_last_used_go() {
    let dir = TempDir::new().unwrap();
    build_and_ask::run(&tiny("llama"), dir.path()).unwrap();
    many_threads::run(&tiny("llama"), dir.path()).unwrap();
    assert_eq!(list_and_collect::run(dir.path(), 1).unwrap().len(), 1);
    assert_eq!(Cache::open(dir.path()).unwrap().states().unwrap().len(), 1);
}

/// Counts the stages that it hears of, and cancels at the first evaluated batch.
struct Impatient {
    cancel: CancelToken,
    heard: Mutex<Vec<String>>,
}

impl Observer for Impatient {
    fn event(&self, name: &str, _: &serde_json::Value) -> anyhow::Result<()> {
        self.heard.lock().unwrap().push(name.to_owned());
        self.cancel.cancel();
        Ok(())
    }
}

#[test]
fn errors_have_kinds() {
    let dir = TempDir::new().unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    let kind = |error: pcache::Error| error.kind();
    assert_eq!(kind(cache.find("nothing").unwrap_err()), ErrorKind::NotFound);
    assert_eq!(kind(cache.load("/nowhere.gguf", Watch::default()).err().unwrap()), ErrorKind::NotFound);
    let model = cache.load(tiny("llama"), Watch::default()).unwrap();
    // Cancelled after the first batch: what is saved by then stays, and the next build goes on from it.
    let observer = Impatient { cancel: CancelToken::default(), heard: Mutex::default() };
    let prompt = Prompt::system(prose(200, 7));
    let watch = Watch::new(&observer, &observer.cancel);
    let error = cache.build(&model, &prompt, Claim::default(), watch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(observer.heard.lock().unwrap().iter().all(|name| name == "progress"));
    let state = cache.build(&model, &prompt, Claim::default(), Watch::default()).unwrap();
    assert_eq!(state.verdict.status, Status::Partial);
    // Without its manifest and its objects nobody knows its tokens, and none are made up.
    let lost = cache.build(&model, &Prompt::system("Lost."), Claim::default(), Watch::default()).unwrap().key;
    for folder in ["manifests/v2", "objects/v1"] {
        for shard in std::fs::read_dir(dir.path().join(folder)).unwrap() {
            for file in std::fs::read_dir(shard.unwrap().path()).unwrap() {
                let file = file.unwrap().path();
                let is_of_it = cache
                    .store()
                    .segments_of(&lost)
                    .unwrap()
                    .iter()
                    .any(|row| file.to_string_lossy().contains(&row.object.to_hex()));
                if is_of_it || file.to_string_lossy().contains(&lost.to_hex()) {
                    std::fs::remove_file(file).unwrap();
                }
            }
        }
    }
    let refused = cache.session(&model, &lost, 64, Watch::default()).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    // A state of another model, and a question that has no room.
    let other = cache.load(tiny("gemma3"), Watch::default()).unwrap();
    let session = |model, room| cache.session(model, &state.key, room, Watch::default());
    assert_eq!(kind(session(&other, 64).err().unwrap()), ErrorKind::Refused);
    let mut small = session(&model, 8).unwrap();
    let long = prose(40, 1);
    assert_eq!(
        kind(small.ask(&long, &Sampling::greedy(4), Watch::default(), |_| ()).unwrap_err()),
        ErrorKind::Refused
    );
}

/// A system text and what was said behind it: what both share is evaluated once, and each can be asked.
#[test]
fn messages_are_saved_on_the_way() {
    for name in crate::common::TINY {
        let dir = TempDir::new().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let model = cache.load(tiny(name), Watch::default()).unwrap();
        let build =
            |prompt: &Prompt| cache.build(&model, prompt, Claim::default(), Watch::default()).unwrap();
        let system = prose(200, 3);
        let whole = Prompt::messages([
            (Role::System, system.as_str()),
            (Role::User, "Is there soup?"),
            (Role::Assistant, "Yes, pumpkin."),
        ])
        .unwrap()
        .save_after(1);
        let state = build(&whole);
        let alone = build(&Prompt::system(&system));
        assert_eq!(alone.verdict.status, Status::Hit, "{name}: it was saved on the way");
        assert!(state.tokens > alone.tokens && state.key != alone.key, "{name}");
        assert_eq!(state.on_the_way, [alone.key], "{name}");
        // The state of the others cannot be cut, and so is no beginning of another one.
        let shares = ["llama", "gemma3"].contains(&name);
        assert_eq!(state.verdict.restored_tokens > 0, shares, "{name}: what both share was restored");
        let explained = cache.explain(&model, &whole, Watch::default()).unwrap();
        assert_eq!((explained.key, explained.status), (state.key, Status::Hit), "{name}");
        // The same tokens, whatever was saved before.
        let other = TempDir::new().unwrap();
        let apart = Cache::open(other.path()).unwrap();
        let again = apart.build(&model, &whole, Claim::default(), Watch::default()).unwrap();
        assert_eq!(again.key, state.key, "{name}");
    }
}

#[test]
fn a_conversation_is_saved_and_gone_on_with() {
    let dir = TempDir::new().unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    let model = cache.load(tiny("llama"), Watch::default()).unwrap();
    let claim = || Claim { name: Some("talk".into()), ..Claim::default() };
    let state =
        cache.build(&model, &Prompt::system(prose(60, 5)), Claim::default(), Watch::default()).unwrap();
    let sampling = Sampling::greedy(8);
    let mut talk = cache.session(&model, &state.key, 256, Watch::default()).unwrap().converse().unwrap();
    assert_eq!(talk.save(claim(), Watch::default()).unwrap_err().kind(), ErrorKind::Refused);
    let mut shown = String::new();
    let first = talk.say("Is it warm?", &sampling, Watch::default(), |text| shown.push_str(text)).unwrap();
    assert_eq!(first.text, shown);
    let second = talk.say("And now?", &sampling, Watch::default(), |_| ()).unwrap();
    let again = talk.retry(&sampling, Watch::default(), |_| ()).unwrap();
    assert_eq!(again.tokens, second.tokens, "the same message, the same bits");
    let saved = talk.save(claim(), Watch::default()).unwrap();
    assert!(saved.tokens > state.tokens);
    assert_eq!(cache.find("talk").unwrap(), saved.key);
    talk.forget(2).unwrap();
    let anew = talk.say("Is it warm?", &sampling, Watch::default(), |_| ()).unwrap();
    assert_eq!(anew.tokens, first.tokens, "as if nothing had been said");
}

#[test]
fn states_are_extended_recoded_and_mended() {
    let dir = TempDir::new().unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    let model = cache.load(tiny("llama"), Watch::default()).unwrap();
    let text = format!("{}\n## Today\nSoup.\n", prose(150, 9));
    let state = cache.build(&model, &Prompt::system(&text), Claim::default(), Watch::default()).unwrap();
    let update = Update::from_line("## Today", "Cake.");
    let extended = cache.extend(&model, &state.key, update, Claim::default(), Watch::default()).unwrap();
    assert!(extended.key != state.key && extended.verdict.restored_tokens > 0);
    let nowhere = Update::from_line("## Tomorrow", "Cake.");
    let error = cache.extend(&model, &state.key, nowhere, Claim::default(), Watch::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");

    // Names that the program refuses were once taken, and could not be told from keys.
    for name in ["", "deadbeef12"] {
        let claim = || Claim { name: Some(name.into()), ..Claim::default() };
        let built = cache.build(&model, &Prompt::system(&text), claim(), Watch::default());
        assert_eq!(built.unwrap_err().kind(), ErrorKind::Refused, "{name:?}");
        let extended = cache.extend(&model, &state.key, update, claim(), Watch::default());
        assert_eq!(extended.unwrap_err().kind(), ErrorKind::Refused, "{name:?}");
    }

    let recoded = cache.recode(&state.key, "zstd".parse::<Codec>().unwrap(), Watch::default()).unwrap();
    assert!(recoded.recoded > 0);
    let wish = Wish { logits: true, ..Wish::default() };
    let compared = cache.mend(&model, &[state.key, extended.key], wish, Watch::default()).unwrap();
    assert!(compared.iter().all(|checked| checked.max_logit_difference == Some(0.0)), "{compared:?}");

    let row = cache.store().segments_of(&extended.key).unwrap().pop().unwrap();
    std::fs::remove_file(cache.store().object_path(&row.object)).unwrap();
    let found = cache.verify(&[extended.key], Watch::default()).unwrap();
    assert_eq!(found[0].status.name(), "missing");
    let wish = Wish { repair: true, ..Wish::default() };
    let healed = cache.mend(&model, &[extended.key], wish, Watch::default()).unwrap();
    assert_eq!(healed[0].status.name(), "healed", "{healed:?}");
    assert_eq!(cache.verify(&[extended.key], Watch::default()).unwrap()[0].status.name(), "ok");
}

/// A state that was computed with an adapter was restored into a model that had none.
#[test]
fn a_model_without_the_adapter_of_a_state_is_refused() {
    use pcache_engine::session::Session;
    use pcache_format::{KvType, Lora, ModelHash, Params};

    let model = crate::common::load(&tiny("llama"));
    let mut params = Params::new(KvType::F16, false);
    assert!(Session::new(&model, &params, 64, 1).is_ok());
    params.lora = Some(Lora { hash: ModelHash::from([1; 32]), scale: 1.0 });
    let error = Session::new(&model, &params, 64, 1).err().unwrap().to_string();
    assert!(error.contains("LoRA adapter"), "{error}");
}
