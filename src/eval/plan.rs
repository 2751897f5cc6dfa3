//! A suite's files, read before anything is evaluated: what is wrong should not be found after minutes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::suite::{PromptCase, QuestionCase, Suite};
use crate::cache::source::{DescribedFormat, of_file};
use crate::cache::{Failure, constraint};
use crate::text::escapes::question_format;
use crate::text::{file, human};
use pcache_engine::constraint::Constraint;
use pcache_engine::prompt::ChatFormat;

/// Questions of a suite, ready to be asked.
pub struct Plan {
    /// Its prompts.
    pub prompts: Vec<PlannedPrompt>,
}

/// A prompt with its text.
pub struct PlannedPrompt {
    /// Its name in reports.
    pub label: String,
    /// Path by which the prompt is known in the store.
    pub path: PathBuf,
    /// The text.
    pub text: String,
    /// Prompt format.
    pub framed: DescribedFormat,
    /// Questions.
    pub questions: Vec<PlannedQuestion>,
}

/// A question with the constraint on its answers.
#[derive(Clone)]
pub struct PlannedQuestion {
    /// The question, as the suite has it.
    pub case: QuestionCase,
    /// Constraint on its answers.
    pub constraint: Option<Constraint>,
}

impl Plan {
    /// Reads the files that a suite names, from its own folder on.
    pub fn new(suite: &Suite, file: &Path) -> Result<Self> {
        let folder = file.parent().unwrap_or(Path::new(""));
        let prompts = suite.prompts.iter().map(|case| {
            planned(case, folder).with_context(|| format!("{}: prompt {:?}", file.display(), case.label()))
        });
        Ok(Self { prompts: prompts.collect::<Result<_>>()? })
    }
}

fn planned(case: &PromptCase, folder: &Path) -> Result<PlannedPrompt> {
    let path = case.file.as_ref().map(|file| folder.join(file));
    let text = match (&path, &case.text) {
        (Some(path), _) => file::read(path)?,
        (None, text) => text.clone().unwrap_or_default(),
    };
    let format = case.question_format.as_deref().map(question_format).transpose();
    let format = format.map_err(|e| Failure::Usage(format!("question-format: {e}")))?;
    let framed = match case.raw {
        true => DescribedFormat::raw(format),
        false => {
            let system = case.system.as_deref().map(text_or_file).transpose()?;
            let template = case.template.as_ref().map(|file| file::read(&folder.join(file))).transpose()?;
            let name = case.template.as_ref().map(|file| human::file_name(file));
            let date = case.date.as_deref().map(str::parse).transpose();
            let date = date.map_err(|e| Failure::Usage(format!("date: {e}; expected YYYY-MM-DD")))?;
            let arguments = case.template_args.clone().into_iter().collect();
            let chat = ChatFormat { template, arguments, date, ..ChatFormat::new(system, case.user) };
            DescribedFormat::chat(chat, name.as_deref())
        }
    };
    let questions = case.questions.iter().map(|question| {
        let constraint = constraint_of(question, folder)?;
        Ok(PlannedQuestion { case: question.clone(), constraint })
    });
    let questions = questions.collect::<Result<_>>()?;
    let label = case.label();
    let path = path.unwrap_or_else(|| PathBuf::from(&label));
    Ok(PlannedPrompt { label, path, text, framed, questions })
}

/// The text itself, or with `@` before it that of a file.
fn text_or_file(text: &str) -> Result<String> {
    match text.strip_prefix('@') {
        Some(name) => Ok(of_file(&file::read(Path::new(name))?).to_owned()),
        None => Ok(text.to_owned()),
    }
}

fn constraint_of(question: &QuestionCase, folder: &Path) -> Result<Option<Constraint>> {
    let read = |name: &PathBuf| -> Result<_> {
        let path = folder.join(name);
        let text = file::read(&path)?;
        Ok((path, text))
    };
    match (&question.grammar, &question.json_schema) {
        (Some(name), _) => {
            let (path, text) = read(name).context("the grammar cannot be read")?;
            constraint::grammar(&path, &text).map(Some)
        }
        (None, Some(name)) => {
            let (path, text) = read(name).context("the JSON schema cannot be read")?;
            constraint::schema(&path, &text).map(Some)
        }
        (None, None) => Ok(None),
    }
}
