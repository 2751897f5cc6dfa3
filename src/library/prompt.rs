//! Prompts.

use std::path::Path;

use crate::cache::Failure;
use crate::cache::source::{DescribedFormat, Source};
use crate::error::Result;
use pcache_engine::prompt::ChatFormat;
use pcache_engine::template::{Message, Role};
use pcache_format::ChainKey;

/// Source of a state: messages in the model's chat template, or a text as it is.
///
/// A question follows the last message. It stands in a turn of its own, and behind a user's message in the same turn.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Prompt {
    before: Vec<Message>,
    last: Message,
    raw: bool,
    save_points: Vec<usize>,
}

impl Prompt {
    /// A system message. Nothing in the text can be a control token.
    pub fn system(text: impl Into<String>) -> Self {
        Self::from_parts(Vec::new(), Message { role: Role::System, text: text.into() })
    }

    /// Messages. Nothing in their texts can be a control token.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`](crate::ErrorKind::Refused) where there are none.
    pub fn messages<T: Into<String>>(messages: impl IntoIterator<Item = (Role, T)>) -> Result<Self> {
        let messages = messages.into_iter();
        let mut before: Vec<Message> =
            messages.map(|(role, text)| Message { role, text: text.into() }).collect();
        match before.pop() {
            Some(last) => Ok(Self::from_parts(before, last)),
            None => {
                Err(anyhow::Error::from(Failure::Usage("a prompt has at least one message".into())).into())
            }
        }
    }

    /// A text that the model reads as it is, control tokens included.
    pub fn raw(text: impl Into<String>) -> Self {
        Self { raw: true, ..Self::system(text) }
    }

    /// Saves a state of its own behind the first `messages` messages, too, from which questions can be asked. The whole segments (256
    /// tokens) that both have in common are evaluated once, unless the model's state cannot be cut (Mamba and its like). A number
    /// that is not between 1 and that of the messages before the last is passed over.
    pub fn save_after(mut self, messages: usize) -> Self {
        self.save_points.push(messages);
        self
    }

    fn from_parts(before: Vec<Message>, last: Message) -> Self {
        Self { before, last, raw: false, save_points: Vec::new() }
    }

    /// The prompts that are saved on the way to this one, the shortest first.
    pub(super) fn on_the_way(&self) -> Vec<Self> {
        let mut points = self.save_points.clone();
        points.sort_unstable();
        points.dedup();
        let within = points.into_iter().filter(|point| (1..=self.before.len()).contains(point));
        within
            .map(|point| Self::from_parts(self.before[..point - 1].to_vec(), self.before[point - 1].clone()))
            .collect()
    }

    pub(super) fn framed(&self) -> DescribedFormat {
        if self.raw {
            return DescribedFormat::raw(None);
        }
        let chat = ChatFormat { before: self.before.clone(), role: self.last.role, ..ChatFormat::default() };
        DescribedFormat::chat(chat, None)
    }

    pub(super) fn source<'f>(
        &self,
        root: &ChainKey,
        framed: &'f DescribedFormat,
    ) -> anyhow::Result<Source<'f>> {
        Ok(Source::of_text(Path::new("the prompt"), self.last.text.clone(), root, framed)?.exact())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_on_the_way_are_those_of_shorter_prompts() {
        let said = |role, text: &str| (role, text.to_owned());
        let all = [said(Role::System, "a"), said(Role::User, "b"), said(Role::Assistant, "c")];
        let prompt = Prompt::messages(all).unwrap().save_after(2).save_after(1).save_after(2).save_after(9);
        let texts: Vec<_> = prompt.on_the_way().iter().map(|p| p.last.text.clone()).collect();
        assert_eq!(texts, ["a", "b"]);
        assert!(Prompt::messages::<&str>([]).is_err());
    }
}
