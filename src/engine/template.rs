//! The model's chat template, rendered around a system prompt and a question.
//!
//! Rendering happens with marks in place of both texts, and what surrounds the marks is kept: so no text of a
//! user passes through the template engine, and where the question will stand is known exactly.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};

/// Stands for the system prompt while rendering.
const PROMPT_MARK: &str = "pcache-prompt-5d1f0c";
/// Stands for the question while rendering.
const QUESTION_MARK: &str = "pcache-question-8a42e7";

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// There is none.
    #[error(
        "the model carries no chat template; pass --raw to take the prompt as it is (a base model continues it)"
    )]
    None,
    /// It does not parse, or raises an error.
    #[error("the model's chat template fails: {0}; pass --raw to take the prompt as it is")]
    Fails(String),
    /// It leaves out one of the texts, or repeats it.
    #[error(
        "the model's chat template does not show the {0} exactly once; pass --raw to take the prompt as it is"
    )]
    Unusable(&'static str),
}

/// What a template puts around a prompt and a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Before the prompt.
    pub before: String,
    /// Between the prompt and the question.
    pub between: String,
    /// After the question: the turn's end and the assistant's opening.
    pub after: String,
    /// Whether the template strips white space around the prompt.
    pub trims_prompt: bool,
    /// Whether it asked for the date, so that another day may give another text.
    pub dated: bool,
}

/// Renders `source` and finds what surrounds the prompt and the question. A template that refuses a system
/// role gets the prompt as the beginning of the first user turn.
///
/// # Errors
/// A [`TemplateError`] when neither way works.
pub fn frame(source: &str, bos: &str, eos: &str) -> Result<Frame, TemplateError> {
    let renderer = Renderer::new(source, bos, eos)?;
    let with_system =
        renderer.frame(&|prompt, question| vec![message("system", prompt), message("user", question)]);
    with_system.or_else(|error| {
        let folded =
            renderer.frame(&|prompt, question| vec![message("user", &format!("{prompt}\n\n{question}"))]);
        folded.map_err(|_| error)
    })
}

fn message(role: &str, content: &str) -> Value {
    context! { role, content }
}

struct Renderer<'a> {
    environment: Environment<'a>,
    dated: Arc<AtomicBool>,
    bos: &'a str,
    eos: &'a str,
}

impl<'a> Renderer<'a> {
    fn new(source: &'a str, bos: &'a str, eos: &'a str) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        // As the transformers library renders them: its templates are written for these settings.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(fails)?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |text: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
        });
        let dated = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&dated);
        environment.add_function("strftime_now", move |format: String| {
            asked.store(true, Ordering::Relaxed);
            jiff::ZonedDateTime::now().strftime(&format).to_string()
        });
        environment.add_template("chat", source).map_err(fails)?;
        Ok(Self { environment, dated, bos, eos })
    }

    fn render(&self, messages: Vec<Value>) -> Result<String, TemplateError> {
        let template = self.environment.get_template("chat").map_err(fails)?;
        let values = context! {
            messages,
            add_generation_prompt => true,
            bos_token => self.bos,
            eos_token => self.eos,
        };
        template.render(values).map_err(fails)
    }

    fn frame(&self, messages: &dyn Fn(&str, &str) -> Vec<Value>) -> Result<Frame, TemplateError> {
        let text = self.render(messages(PROMPT_MARK, QUESTION_MARK))?;
        let (before, rest) = split_once(&text, PROMPT_MARK, "prompt")?;
        let (between, after) = split_once(rest, QUESTION_MARK, "question")?;

        // Rendered again with white space before the prompt, it shows whether the template strips it.
        let padded = self.render(messages(&format!(" {PROMPT_MARK}"), QUESTION_MARK))?;
        let (padded_before, _) = split_once(&padded, PROMPT_MARK, "prompt")?;
        Ok(Frame {
            trims_prompt: padded_before == before,
            before: before.to_owned(),
            between: between.to_owned(),
            after: after.to_owned(),
            dated: self.dated.load(Ordering::Relaxed),
        })
    }
}

fn split_once<'t>(
    text: &'t str,
    mark: &str,
    what: &'static str,
) -> Result<(&'t str, &'t str), TemplateError> {
    let (before, after) = text.split_once(mark).ok_or(TemplateError::Unusable(what))?;
    if after.contains(mark) { Err(TemplateError::Unusable(what)) } else { Ok((before, after)) }
}

fn fails(error: minijinja::Error) -> TemplateError {
    TemplateError::Fails(match error.detail() {
        Some(detail) => format!("{detail} (line {})", error.line().unwrap_or(0)),
        None => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] \
        + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    #[test]
    fn a_system_prompt_and_a_question_are_framed() {
        let frame = frame(CHATML, "", "").unwrap();
        assert_eq!(frame.before, "<|im_start|>system\n");
        assert_eq!(frame.between, "<|im_end|>\n<|im_start|>user\n");
        assert_eq!(frame.after, "<|im_end|>\n<|im_start|>assistant\n");
        assert!(!frame.trims_prompt && !frame.dated);
    }

    #[test]
    fn without_a_system_role_the_prompt_is_folded_into_the_first_turn() {
        let source = "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}\
            {{ raise_exception('System role not supported') }}{% endif %}[INST] {{ m.content.strip() }} [/INST]{% endfor %}";
        let frame = frame(source, "<s>", "</s>").unwrap();
        assert_eq!(frame.before, "<s>[INST] ");
        assert_eq!(frame.between, "\n\n");
        assert_eq!(frame.after, " [/INST]");
        assert!(frame.trims_prompt);
    }

    #[test]
    fn a_date_is_noticed() {
        let source = format!("{{{{ strftime_now('%d %b %Y') }}}} {CHATML}");
        assert!(frame(&source, "", "").unwrap().dated);
    }

    #[test]
    fn a_template_that_cannot_be_used_says_why() {
        let error = |source: &str| frame(source, "", "").unwrap_err().to_string();
        assert!(error("{{ raise_exception('no') }}").contains("no"));
        assert!(error("{% if %}").contains("fails"));
        assert!(error("nothing").contains("prompt"));
        assert!(error("{{ messages[0].content }}{{ messages[0].content }}").contains("exactly once"));
    }
}
