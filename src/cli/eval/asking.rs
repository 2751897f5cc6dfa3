//! Putting the questions of one prompt to one model.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::asked::{Asked, wordings};
use super::generate;
use super::plan::PlannedPrompt;
use crate::cache::build::{Builder, Keep};
use crate::cache::opened::{Opened, Question, Room};
use crate::cache::source::Source;
use crate::cache::target::Target;
use crate::cli::app::App;
use crate::cli::models::file_name;
use crate::cli::states;
use crate::eval::outcome::Outcome;
use crate::eval::suite::Suite;
use crate::text::human;
use pcache_engine::model::Model;
use pcache_store::Prefix;
use pcache_store::Store;

/// Tokens of a question that the model makes up, at most.
const GENERATED: usize = 512;

/// A prompt's questions on their way to a model.
pub struct Asker<'a> {
    pub app: &'a App,
    pub suite: &'a Suite,
    pub target: &'a Target,
    pub model: &'a Model,
    pub outcomes: &'a mut Vec<Outcome>,
}

impl Asker<'_> {
    /// Builds the prompt's state, if it is not saved, and asks everything.
    pub fn prompt(
        &mut self,
        store: &mut Store,
        prompt: &PlannedPrompt,
        generate: Option<u32>,
        load: Option<Duration>,
    ) -> Result<()> {
        let root = self.target.params.root(&self.target.model);
        let source = Source::of_text(&prompt.path, prompt.text.clone(), &root, &prompt.framed)?;
        let keep = Keep::default();
        let mut builder = Builder::new(self.app.call(), &keep, store, self.target);
        let built = builder.build(self.model, &source, load)?;
        self.app.named_event("build", &built)?;
        let state = Arc::new(states::state(store, &states::key(store, &built.key)?)?);
        let prefix = Arc::new(Prefix::of_manifest(&state.manifest));

        let texts = prompt.questions.iter().flat_map(wordings);
        let longest = texts.map(|t| Question::new(self.model, &state, t.to_owned()).tokens.len()).max();
        let longest = longest.unwrap_or(0).max(if generate.is_some() { GENERATED } else { 0 });
        let most = prompt.questions.iter().filter_map(|q| q.case.max_tokens).max().unwrap_or(0);
        let answer = self.suite.max_tokens.max(most).max(if generate.is_some() { GENERATED } else { 0 });
        let limit = Question::limit(self.model, &prefix, longest, answer);
        let mut opened =
            Opened::with_model(self.app.call(), store, state, prefix, self.model, Room::one(limit))?;
        self.app.signals.hear();
        let mut asked = Asked {
            app: self.app,
            opened: &mut opened,
            prompt: &prompt.label,
            model: human::model(&file_name(&self.target.model_path)).to_owned(),
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
