//! Control tokens in what a template made of a user's words.
//!
//! Most templates put messages down as they are, and it is known where. Others look into them: they take words out, put others
//! in their places, or write something else where they find some. What they write then cannot be told apart from what the
//! user did by its place. So it is rendered a second time, with the characters of the user's text kept apart by one that no
//! text has: nothing is found in it, and no control token can come of it, neither as it is nor by what the template
//! replaces. Does that give the same control tokens, all of them are the template's own.

use crate::text::{Specials, Text};

/// Characters that are none: Unicode keeps them for use within a program.
const NONCHARACTERS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// A character that keeps others apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Breaker(char);

impl Breaker {
    /// One that none of the texts has. `None` for texts that have them all, which no language is written in, and for those with a
    /// control token of a single character, which cannot be taken apart.
    pub fn new<'t>(texts: impl IntoIterator<Item = &'t str> + Clone, specials: &Specials) -> Option<Self> {
        let all = || texts.clone().into_iter();
        if all().any(|text| specials.has_single(text)) {
            return None;
        }
        NONCHARACTERS.into_iter().find(|c| !all().any(|text| text.contains(*c))).map(Self)
    }

    /// The text with its characters apart, and apart from what may stand before it.
    pub fn broken(self, text: &str, specials: &Specials) -> String {
        let begins = text.trim_start();
        let mut broken = text[..text.len() - begins.len()].to_owned();
        if specials.could_end_one(begins) {
            broken.push(self.0);
        }
        for (n, c) in begins.chars().enumerate() {
            if n > 0 {
                broken.push(self.0);
            }
            broken.push(c);
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
