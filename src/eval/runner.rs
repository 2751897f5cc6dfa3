//! Putting the questions of one prompt to one model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::asked::{Asked, wordings};
use super::generate;
use super::outcome::Outcome;
use super::plan::{Plan, PlannedPrompt};
use super::suite::Suite;
use crate::cache::build::{Builder, Keep};
use crate::cache::open_state::{ContextSize, OpenState, Question};
use crate::cache::source::Source;
use crate::cache::target::Target;
use crate::cache::{self, Call};
use crate::text::human;
use pcache_engine::model::Model;
use pcache_store::Prefix;
use pcache_store::Store;

/// Tokens of a question that the model makes up, at most.
const GENERATED: usize = 512;

/// Puts all questions of a suite to each of `targets`, of which each is loaded once. What was answered before something went wrong
/// is in `outcomes` all the same.
///
/// # Errors
/// When it is cancelled, a model cannot be loaded, or a prompt cannot be built.
pub fn ask_all(
    call: Call<'_>,
    store: &mut Store,
    (suite, plan): (&Suite, &Plan),
    targets: &[Target],
    generate: Option<u32>,
    outcomes: &mut Vec<Outcome>,
) -> Result<()> {
    for target in targets {
        let start = Instant::now();
        let model = target.load(call.observer)?;
        let mut load = Some(start.elapsed());
        for prompt in &plan.prompts {
            let mut asker = Asker { call, suite, target, model: &model, outcomes };
            asker.prompt(store, prompt, generate, load.take())?;
        }
    }
    Ok(())
}

/// A prompt's questions on their way to a model.
struct Asker<'a> {
    call: Call<'a>,
    suite: &'a Suite,
    target: &'a Target,
    model: &'a Model,
    outcomes: &'a mut Vec<Outcome>,
}

impl Asker<'_> {
    /// Builds the prompt's state, if it is not saved, and asks everything.
    fn prompt(
        &mut self,
        store: &mut Store,
        prompt: &PlannedPrompt,
        generate: Option<u32>,
        load: Option<Duration>,
    ) -> Result<()> {
        let root = self.target.params.root(&self.target.model);
        let source = Source::of_text(&prompt.path, prompt.text.clone(), &root, &prompt.framed)?;
        let keep = Keep::default();
        let mut builder = Builder::new(self.call, &keep, store, self.target);
        let built = builder.build(self.model, &source, load)?;
        self.call.event("build", &built)?;
        let key = built.key.parse().map_err(|_| anyhow::anyhow!("{} is no key", built.key))?;
        let state = Arc::new(cache::state(store, &key)?);
        let prefix = Arc::new(Prefix::of_manifest(&state.manifest));

        let asker = cache::asker(self.model, &state);
        let texts = prompt.questions.iter().flat_map(wordings);
        let longest = texts.map(|t| Question::new(self.model, &asker, t.to_owned()).tokens.len()).max();
        let longest = longest.unwrap_or(0).max(if generate.is_some() { GENERATED } else { 0 });
        let most = prompt.questions.iter().filter_map(|q| q.case.max_tokens).max().unwrap_or(0);
        let answer = self.suite.max_tokens.max(most).max(if generate.is_some() { GENERATED } else { 0 });
        let limit = Question::limit(self.model, &prefix, longest, answer);
        let mut opened =
            OpenState::with_model(self.call, store, state, prefix, self.model, ContextSize::one(limit))?;
        self.call.observer.evaluating();
        let mut asked = Asked {
            call: self.call,
            opened: &mut opened,
            prompt: &prompt.label,
            model: human::model(&self.target.model_name).to_owned(),
            suite: self.suite,
            outcomes: self.outcomes,
        };
        asked.all(&prompt.questions)?;
        if let Some(count) = generate {
            generate::run(&mut asked, count as usize)?;
        }
        opened.note_use();
        Ok(())
    }
}
