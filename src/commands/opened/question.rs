//! A question on its way to the model, and the room that it needs.

use anyhow::{Result, bail};

use crate::commands::job::Job;
use crate::engine::model::Model;
use crate::engine::prompt::question_tokens;
use crate::format::Record;
use crate::report::human;

/// One question, tokenised.
#[derive(Debug, Clone)]
pub struct Question {
    pub text: String,
    pub tokens: Vec<i32>,
}

impl Question {
    /// Tokenises a question with what the state puts around it.
    pub fn new(model: &Model<'_>, state: &Record, text: String) -> Self {
        let tokens = question_tokens(model, &state.carried, &text, &state.suffix);
        Self { text, tokens }
    }

    /// Refuses a question that the model cannot read behind the state.
    pub fn check(&self, model: &Model<'_>, job: &Job) -> Result<()> {
        let trained = model.usable_context(&job.params);
        let left = trained.saturating_sub(job.tokens.len());
        if self.tokens.is_empty() {
            bail!("no token of the model's vocabulary spells the question");
        }
        if self.tokens.len() >= left {
            bail!(
                "the question has {}, but behind the state's {} the model's context of {} has room for {}",
                human::count(self.tokens.len(), "token"),
                human::thousands(job.tokens.len()),
                human::thousands(trained),
                human::thousands(left.saturating_sub(1))
            );
        }
        Ok(())
    }

    /// Positions that a question of so many tokens needs with its answer, as far as the model goes.
    pub fn limit(model: &Model<'_>, job: &Job, tokens: usize, max_tokens: usize) -> usize {
        let trained = model.usable_context(&job.params);
        trained.min((job.tokens.len() + tokens).saturating_add(max_tokens))
    }
}
