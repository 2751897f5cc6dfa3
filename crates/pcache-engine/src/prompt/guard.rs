//! Control tokens in what a template made of a user's words.
//!
//! Most templates put messages down as they are, and it is known where. Others look into them: they take words out, or write
//! something else where they find some. What they write then cannot be told apart from what the user did by its place. So
//! it is rendered a second time, with every control token in the user's text broken by a character that no text has. Does
//! that give the same control tokens, all of them are the template's.

use crate::text::{Specials, Text};

/// Characters that are none: Unicode keeps them for use within a program.
const NONCHARACTERS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// A character that breaks control tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Breaker(char);

impl Breaker {
    /// One that none of the texts has. `None` for texts that have them all, which no language is written in.
    pub fn new<'t>(texts: impl IntoIterator<Item = &'t str> + Clone) -> Option<Self> {
        NONCHARACTERS.into_iter().find(|c| !texts.clone().into_iter().any(|text| text.contains(*c))).map(Self)
    }

    /// The text with each control token in it broken, and each that it might complete.
    pub fn broken(self, text: &str, specials: &Specials) -> String {
        let begins = text.trim_start();
        let mut broken = text[..text.len() - begins.len()].to_owned();
        if specials.could_end_one(begins) {
            broken.push(self.0);
        }
        let firsts = specials.first_characters();
        for c in begins.chars() {
            broken.push(c);
            if firsts.contains(&c) {
                broken.push(self.0);
            }
        }
        broken
    }

    /// A rendering, safe: `real` where all control tokens in it are the template's, else `broken`, in which those of users
    /// are text.
    pub fn text(self, real: &str, broken: &str, specials: &Specials) -> Text {
        if specials.sequence(real) == specials.sequence(broken) {
            return Text::default().template(real);
        }
        broken.split(self.0).fold(Text::default(), Text::template)
    }
}
