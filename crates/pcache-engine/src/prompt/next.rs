//! Texts that a template puts around the next message of a conversation, where what was said before is evaluated already.

use jiff::civil::Date;

use super::guard::Breaker;
use super::{Asked, compiled};
use crate::model::Model;
use crate::template::{ChatTemplate, Role, Shape, TemplateError};
use crate::text::{Specials, Text};
use pcache_format::RenderedWith;

/// Texts around the next message.
#[derive(Debug)]
pub struct NextMessage {
    between: String,
    after: String,
    rendered_with: RenderedWith,
    /// Without one the texts around stay as they are, whatever the message says.
    rendering: Option<Rendering>,
    leaves_out_system: bool,
}

#[derive(Debug)]
struct Rendering {
    template: ChatTemplate,
    shape: Shape,
    /// Marks of what was said before.
    marks: Vec<String>,
    /// The rendering up to the message.
    before: String,
}

/// A message as the template shows it, with the text behind it.
#[derive(Debug)]
pub struct Shown {
    /// The message and what stands behind it.
    pub text: Text,
    /// The template looks into the message and would, or may, say something else before it.
    pub differs_before: bool,
}

impl NextMessage {
    /// Finds the texts around a message behind those of `rendered_with`. `suffix` stands behind it where that follows from what
    /// was said before.
    ///
    /// # Errors
    /// When there is no template, it fails, or does not show the message and the ones before it exactly once.
    pub fn new(model: &Model, rendered_with: &RenderedWith, suffix: &str) -> Result<Self, TemplateError> {
        let arguments: Vec<(String, serde_json::Value)> =
            rendered_with.arguments.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let date: Option<Date> = rendered_with.date.as_deref().and_then(|date| date.parse().ok());
        let template = compiled(model, rendered_with.template.as_deref(), &arguments, date)?;
        Self::behind(template, rendered_with, suffix)
    }

    pub(super) fn behind(
        template: ChatTemplate,
        rendered_with: &RenderedWith,
        suffix: &str,
    ) -> Result<Self, TemplateError> {
        let roles: Vec<Role> = rendered_with.roles.iter().filter_map(|name| Role::named(name)).collect();
        let (shape, leaves_out_system) = match Shape::new(&template, &roles) {
            // Some templates put the system message before the last message of a user, so that it is no beginning of what
            // follows. Later messages are rendered without one, then.
            Err(error) if roles.first() == Some(&Role::System) && roles.len() > 1 => {
                (Shape::new(&template, &roles[1..]).map_err(|_| error)?, true)
            }
            shape => (shape?, false),
        };
        let marks = shape.marks_before();
        let mut before = String::new();
        for (gap, mark) in shape.gaps.iter().zip(&marks) {
            before.push_str(gap);
            before.push_str(mark);
        }
        let [.., between, after] = shape.gaps.as_slice() else {
            return Err(TemplateError::LeavesOut("question"));
        };
        let (between, after) = (between.clone(), after.clone());
        before.push_str(&between);
        let after = if rendered_with.reads_texts { suffix.to_owned() } else { after };
        Ok(Self {
            between,
            after,
            rendered_with: rendered_with.clone(),
            rendering: Some(Rendering { template, shape, marks, before }),
            leaves_out_system,
        })
    }

    /// A message behind a raw prompt.
    pub fn raw(between: String, after: String) -> Self {
        let rendered_with = RenderedWith::default();
        Self { between, after, rendered_with, rendering: None, leaves_out_system: false }
    }

    /// Text between what was said before and the message.
    pub fn between(&self) -> &str {
        &self.between
    }

    /// Text behind the message, with the beginning of an answer.
    pub fn after(&self) -> &str {
        &self.after
    }

    /// The template and what else the messages before were rendered with.
    pub fn rendered_with(&self) -> &RenderedWith {
        &self.rendered_with
    }

    /// There is no template.
    pub fn is_raw(&self) -> bool {
        self.rendering.is_none()
    }

    /// The template moves the system message from turn to turn, so that later messages are rendered without it.
    pub fn leaves_out_system(&self) -> bool {
        self.leaves_out_system
    }

    /// The message as the template shows it.
    pub fn show(&self, model: &Model, message: &str) -> Shown {
        self.show_with(model.specials(), message)
    }

    pub(super) fn show_with(&self, specials: &Specials, message: &str) -> Shown {
        let Some(rendering) = &self.rendering else {
            return Shown { text: self.as_it_is(message), differs_before: false };
        };
        let stripped = rendering.shape.strips.last().copied().unwrap_or_default().apply(message);
        let as_usual = self.as_it_is(stripped);
        let real = rendering.behind(message);
        if real.as_deref() == Some(rendering.usual(stripped).as_str()) {
            return Shown { text: as_usual, differs_before: false };
        }
        // The template looked into the message.
        let heard = match self.rendered_with.reads_texts {
            false => real.and_then(|real| rendering.guarded(specials, message, &real, "")),
            // It looked into the others, too: what stands behind the message follows from them.
            true => real.and_then(|real| {
                let after = rendering.usual("");
                let text = rendering.guarded(specials, message, real.strip_suffix(&after)?, &after)?;
                Some(text.template(&self.after))
            }),
        };
        // Nobody can tell, then, what it would have said before the message.
        let differs_before = heard.is_none() || self.rendered_with.reads_texts;
        Shown { differs_before, text: heard.unwrap_or(as_usual) }
    }

    fn as_it_is(&self, message: &str) -> Text {
        Text::default().user(message).template(&self.after)
    }

    /// The tokens of a message behind an answer.
    pub fn tokens(&self, model: &Model, message: &str) -> Asked {
        let Shown { text, differs_before } = self.show(model, message);
        let tokens = model.tokenize(&Text::default().template(&self.between).then(text));
        Asked { tokens, differs_before }
    }
}

impl Rendering {
    /// Rendering behind what was said before; `None` where that would be another text.
    fn behind(&self, message: &str) -> Option<String> {
        let texts: Vec<String> = self.marks.iter().cloned().chain([message.to_owned()]).collect();
        let whole = self.shape.render(&self.template, &texts).ok()?;
        whole.strip_prefix(&self.before).map(str::to_owned)
    }

    /// Usual rendering there, around a message that it does not look into.
    fn usual(&self, stripped: &str) -> String {
        let after = self.shape.gaps.last().map_or("", String::as_str);
        format!("{stripped}{after}")
    }

    /// `real` with the control tokens of the template alone; `after` stands behind it and is left off.
    fn guarded(&self, specials: &Specials, message: &str, real: &str, after: &str) -> Option<Text> {
        let breaker = Breaker::new([message], specials)?;
        let broken = self.behind(&breaker.broken(message, specials))?;
        Some(breaker.text(real, broken.strip_suffix(after)?, specials))
    }
}
