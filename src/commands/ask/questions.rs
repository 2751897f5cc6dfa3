//! Where questions come from, and what they need.

use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::{Result, bail};

use crate::cli::Ask;
use crate::commands::app::read_text;
use crate::commands::failure::Failure;
use crate::commands::job::Job;
use crate::engine::model::Model;
use crate::engine::prompt::question_tokens;
use crate::format::Record;
use crate::report::human;

/// One question, tokenised.
pub struct Question {
    pub text: String,
    pub tokens: Vec<i32>,
}

/// The questions from the arguments, a file with one a line, or stdin as one.
pub fn read(args: &Ask) -> Result<Vec<String>> {
    let questions: Vec<String> = match &args.questions_file {
        Some(file) => read_text(file)?.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned).collect(),
        None if args.questions.is_empty() => {
            if std::io::stdin().is_terminal() {
                let _ = writeln!(std::io::stderr(), "type the question, then Ctrl-D:");
            }
            vec![read_text(Path::new("-"))?.trim_end_matches(['\n', '\r']).to_owned()]
        }
        None => args.questions.clone(),
    };
    if let Some(file) = args.questions_file.as_ref().filter(|_| questions.is_empty()) {
        bail!(Failure::Usage(format!("{} has no questions", file.display())));
    }
    if questions.is_empty() || questions.iter().any(|q| q.trim().is_empty()) {
        bail!(Failure::Usage("a question is empty".into()));
    }
    Ok(questions)
}

/// Tokenises each question with what the state puts around it.
pub fn tokenize(model: &Model<'_>, state: &Record, questions: Vec<String>) -> Vec<Question> {
    let tokens = |text: &str| question_tokens(model, &state.carried, text, &state.suffix);
    questions.into_iter().map(|text| Question { tokens: tokens(&text), text }).collect()
}

/// Positions that the context needs: the state, the longest question, and its answer as far as the model goes.
pub fn limit(model: &Model<'_>, job: &Job, questions: &[Question], max_tokens: usize) -> Result<usize> {
    let trained = model.usable_context(&job.params);
    let left = trained.saturating_sub(job.tokens.len());
    for question in questions {
        if question.tokens.is_empty() {
            bail!("no token of the model's vocabulary spells the question");
        }
        if question.tokens.len() >= left {
            bail!(
                "the question has {}, but behind the state's {} the model's context of {} has room for {}",
                human::count(question.tokens.len(), "token"),
                human::thousands(job.tokens.len()),
                human::thousands(trained),
                human::thousands(left.saturating_sub(1))
            );
        }
    }
    let longest = questions.iter().map(|q| q.tokens.len()).max().unwrap_or(0);
    Ok(trained.min((job.tokens.len() + longest).saturating_add(max_tokens)))
}
