//! Places of the messages in a template, and the texts around them.
//!
//! Marks are rendered in the messages' places. What surrounds the marks is the template's own; and white space around a mark that
//! is not there any more shows that the template strips that message.

use super::{ChatTemplate, Content, Message, Role, TemplateError};

/// Stands for the last message while rendering.
pub(in super::super) const QUESTION_MARK: &str = "pcache-question-8a42e7";
/// Stands between texts that share a message.
const BLANK_LINE: &str = "\n\n";

/// Way in which roles become messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fold {
    /// Texts as they are; only a question behind a user's text shares its message.
    None,
    /// Texts of one user that follow each other share a message.
    Users,
    /// And the system's begin the next user's.
    System,
}

/// Sides of a message whose white space the template strips.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in super::super) struct Strip {
    pub left: bool,
    pub right: bool,
}

impl Strip {
    /// The text as the template shows it.
    pub fn apply(self, text: &str) -> &str {
        let text = if self.left { text.trim_start() } else { text };
        if self.right { text.trim_end() } else { text }
    }
}

/// Texts around the messages of some authors. The last one is a question, of the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Shape {
    roles: Vec<Role>,
    fold: Fold,
    content: Content,
    /// Before, between and behind the messages.
    pub gaps: Vec<String>,
    /// Sides that are stripped of each message.
    pub strips: Vec<Strip>,
}

impl Content {
    const ALL: [Self; 2] = [Self::Text, Self::Parts];
}

impl Shape {
    /// Finds the texts around messages of these authors and a question behind them. A template that refuses a system role, or
    /// leaves such a message out, gets that text as the beginning of the next user's; one that shows no plain text gets parts.
    ///
    /// # Errors
    /// The [`TemplateError`] of the simplest way, when none works.
    pub fn new(template: &ChatTemplate, before: &[Role]) -> Result<Self, TemplateError> {
        let mut first_error = None;
        for content in Content::ALL {
            for fold in [Fold::None, Fold::Users, Fold::System] {
                match Self::found(template, before, fold, content) {
                    Ok(shape) => return Ok(shape),
                    // It does show the texts, so that another way would be another conversation.
                    Err(error @ TemplateError::Displaces(_)) => return Err(error),
                    Err(error) => first_error.get_or_insert(error),
                };
            }
        }
        Err(first_error.unwrap_or(TemplateError::LeavesOut("question")))
    }

    fn found(
        template: &ChatTemplate,
        before: &[Role],
        fold: Fold,
        content: Content,
    ) -> Result<Self, TemplateError> {
        let roles = [before, &[Role::User]].concat();
        let mut shape = Self { roles, fold, content, gaps: Vec::new(), strips: Vec::new() };
        let marks = shape.marks();
        let gaps = |left: &str, right: &str| {
            let texts: Vec<String> = marks.iter().map(|(mark, _)| format!("{left}{mark}{right}")).collect();
            texts_around(&shape.render(template, &texts)?, &marks)
        };
        let plain = gaps("", "")?;
        // A template that writes what it gets shows the list, and not its text.
        if content == Content::Parts && plain.iter().any(|gap| gap.contains("'type': 'text'")) {
            return Err(TemplateError::LeavesOut("prompt"));
        }
        let (left, right) = (gaps(" ", "")?, gaps("", " ")?);
        let strip = |n: usize| Strip { left: left[n] == plain[n], right: right[n + 1] == plain[n + 1] };
        shape.strips = (0..marks.len()).map(strip).collect();
        shape.gaps = plain;
        Ok(shape)
    }

    /// Marks that stand for the messages, and their names for people.
    fn marks(&self) -> Vec<(String, &'static str)> {
        let question = self.roles.len() - 1;
        let mark = |(number, role): (usize, &Role)| {
            let what = match role {
                _ if number == question => return (QUESTION_MARK.into(), "question"),
                _ if number + 1 == question => "prompt",
                Role::System => "system message",
                Role::User => "user's message",
                Role::Assistant => "answer",
            };
            (format!("pcache-message-{number}-5d1f0c"), what)
        };
        self.roles.iter().enumerate().map(mark).collect()
    }

    /// Texts of the marks of all messages but the question.
    pub fn marks_before(&self) -> Vec<String> {
        self.marks().into_iter().take(self.roles.len() - 1).map(|(mark, _)| mark).collect()
    }

    /// Renders texts of these authors.
    ///
    /// # Errors
    /// When the template refuses them.
    pub fn render(&self, template: &ChatTemplate, texts: &[String]) -> Result<String, TemplateError> {
        template.render_as(&self.messages(texts), self.content)
    }

    fn messages(&self, texts: &[String]) -> Vec<Message> {
        let question = self.roles.len() - 1;
        let mut messages: Vec<Message> = Vec::new();
        for (number, (role, text)) in self.roles.iter().zip(texts).enumerate() {
            let shares = |last: Role| match (last, *role) {
                (Role::User, Role::User) => number == question || self.fold != Fold::None,
                (Role::System, Role::User) => self.fold == Fold::System,
                _ => false,
            };
            match messages.last_mut().filter(|last| shares(last.role)) {
                Some(last) => {
                    last.role = Role::User;
                    last.text = format!("{}{BLANK_LINE}{text}", last.text);
                }
                None => messages.push(Message { role: *role, text: text.clone() }),
            }
        }
        messages
    }
}

/// Returns the texts before, between and after the marks, each of which must be there once and in this order.
fn texts_around(text: &str, marks: &[(String, &'static str)]) -> Result<Vec<String>, TemplateError> {
    for (mark, what) in marks {
        match text.matches(mark.as_str()).count() {
            0 => return Err(TemplateError::LeavesOut(what)),
            1 => {}
            _ => return Err(TemplateError::Displaces(what)),
        }
    }
    let mut texts_around = Vec::with_capacity(marks.len() + 1);
    let mut rest = text;
    for (mark, what) in marks {
        let (before, after) = rest.split_once(mark.as_str()).ok_or(TemplateError::Displaces(what))?;
        texts_around.push(before.to_owned());
        rest = after;
    }
    texts_around.push(rest.to_owned());
    Ok(texts_around)
}
