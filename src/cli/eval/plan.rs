//! A suite's files, read before anything is evaluated: what is wrong should not be found after minutes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::source::Framed;
use crate::cli::app::read_text;
use crate::cli::args::{FramingArgs, question_format};
use crate::cli::failure::Failure;
use crate::cli::sampling;
use crate::eval::suite::{PromptCase, QuestionCase, Suite};
use pcache_engine::shape::Shape;

/// What is to be asked.
pub struct Plan {
    pub prompts: Vec<PlannedPrompt>,
}

/// A prompt with its text.
pub struct PlannedPrompt {
    pub label: String,
    /// What the prompt is known by in the store.
    pub path: PathBuf,
    pub text: String,
    pub framed: Framed,
    pub questions: Vec<PlannedQuestion>,
}

/// A question with what keeps its answers in shape.
#[derive(Clone)]
pub struct PlannedQuestion {
    pub case: QuestionCase,
    pub shape: Option<Shape>,
}

impl Plan {
    /// Reads the files that a suite names, from its own folder on.
    pub fn of(suite: &Suite, file: &Path) -> Result<Self> {
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
        (Some(path), _) => read_text(path)?,
        (None, text) => text.clone().unwrap_or_default(),
    };
    let format = case.question_format.as_deref().map(question_format).transpose();
    let format = format.map_err(|e| Failure::Usage(format!("question-format: {e}")))?;
    let framing = FramingArgs {
        raw: case.raw,
        question_format: format,
        user: case.user,
        system: case.system.clone(),
        ..FramingArgs::default()
    };
    let questions = case.questions.iter().map(|question| {
        let shape = sampling::shape_of(
            question.grammar.as_ref().map(|f| folder.join(f)).as_deref(),
            question.json_schema.as_ref().map(|f| folder.join(f)).as_deref(),
        )?;
        Ok(PlannedQuestion { case: question.clone(), shape })
    });
    let questions = questions.collect::<Result<_>>()?;
    let label = case.label();
    let path = path.unwrap_or_else(|| PathBuf::from(&label));
    Ok(PlannedPrompt { label, path, text, framed: crate::cli::source::framed(&framing)?, questions })
}
