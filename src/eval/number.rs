//! The first number in a text, as people and models write it.

use serde::Deserialize;

/// Sign between whole numbers and fractions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Decimal {
    /// `1,234.5`.
    #[default]
    #[serde(rename = ".")]
    Point,
    /// `1.234,5`.
    #[serde(rename = ",")]
    Comma,
}

/// Fractions that are one character.
const FRACTIONS: [(char, f64); 18] = [
    ('½', 1.0 / 2.0),
    ('⅓', 1.0 / 3.0),
    ('⅔', 2.0 / 3.0),
    ('¼', 1.0 / 4.0),
    ('¾', 3.0 / 4.0),
    ('⅕', 1.0 / 5.0),
    ('⅖', 2.0 / 5.0),
    ('⅗', 3.0 / 5.0),
    ('⅘', 4.0 / 5.0),
    ('⅙', 1.0 / 6.0),
    ('⅚', 5.0 / 6.0),
    ('⅐', 1.0 / 7.0),
    ('⅛', 1.0 / 8.0),
    ('⅜', 3.0 / 8.0),
    ('⅝', 5.0 / 8.0),
    ('⅞', 7.0 / 8.0),
    ('⅑', 1.0 / 9.0),
    ('⅒', 1.0 / 10.0),
];

/// Signs of currencies that may stand between a minus and its number.
const CURRENCIES: &str = "$€£¥₹₩₽₺₫₪¢";
/// Marks that set off groups of digits and nothing else: apostrophes, and spaces at which no line breaks.
const GROUP_MARKS: &str = "'’\u{a0}\u{202f}\u{2009}";

/// The first number: `5.50`, `-3`, `−$4.20`, `.75`, `1,234.5`, `1'234`, `1e3`, `2½`.
pub fn first(text: &str, decimal: Decimal) -> Option<f64> {
    let start = text.char_indices().find(|(at, _)| begins_number(text, *at, decimal)).map(|(at, _)| at)?;
    let sign = if has_minus(&text[..start]) { -1.0 } else { 1.0 };
    let (mut value, mut rest) = (0.0, &text[start..]);
    if fraction(rest).is_none() {
        let end = body(rest);
        let (plain, used) = resolved(&rest[..end], decimal);
        let exponent = if used == end { exponent(&rest[end..]) } else { 0 };
        value = format!("{plain}{}", &rest[used..used + exponent]).parse::<f64>().ok()?;
        rest = &rest[used + exponent..];
        rest =
            rest.strip_prefix([' ', '\u{a0}', '\u{202f}']).filter(|r| fraction(r).is_some()).unwrap_or(rest);
    }
    Some(sign * (value + fraction(rest).unwrap_or(0.0)))
}

fn begins_number(text: &str, at: usize, decimal: Decimal) -> bool {
    let mut rest = text[at..].chars();
    match rest.next() {
        Some(c) if c.is_ascii_digit() => true,
        Some(c) if FRACTIONS.iter().any(|(sign, _)| *sign == c) => true,
        // A number may begin with its point, which ends no word before it.
        Some(c) if c == '.' || c == ',' && decimal == Decimal::Comma => {
            let before = text[..at].chars().next_back();
            rest.next().is_some_and(|c| c.is_ascii_digit())
                && !before.is_some_and(|c| c.is_alphanumeric() || c == '.')
        }
        _ => false,
    }
}

/// A minus stands before a number, or before the sign of its currency. A hyphen within a word is none: COVID-19.
fn has_minus(before: &str) -> bool {
    let plain = before.trim_end_matches(|c: char| CURRENCIES.contains(c));
    let minus = plain.strip_suffix(['-', '\u{2212}']);
    minus.is_some_and(|before| !before.ends_with(char::is_alphanumeric))
}

/// Length of the digits at the beginning, with the marks between them.
fn body(text: &str) -> usize {
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let digit_follows = chars.peek().is_some_and(|(_, next)| next.is_ascii_digit());
        let goes_on =
            c.is_ascii_digit() || digit_follows && (c == '.' || c == ',' || GROUP_MARKS.contains(c));
        if !goes_on {
            return at;
        }
    }
    text.len()
}

/// The number with a point and no other marks, and how much of the text it is.
fn resolved(body: &str, decimal: Decimal) -> (String, usize) {
    // As much of it as makes sense: `5,6` in a list are two numbers.
    let ends = body.char_indices().filter(|(_, c)| !c.is_ascii_digit()).map(|(at, _)| at);
    let mut ends: Vec<usize> = ends.chain([body.len()]).collect();
    while let Some(end) = ends.pop() {
        if let Some(plain) = plain(&body[..end], decimal) {
            return (plain, end);
        }
    }
    (body.to_owned(), body.len())
}

fn plain(body: &str, decimal: Decimal) -> Option<String> {
    let marks: Vec<char> = body.chars().filter(|c| !c.is_ascii_digit()).collect();
    let last = marks.last().copied();
    let once = |mark: char| marks.iter().filter(|m| **m == mark).count() == 1;
    let point = match (decimal, last) {
        (Decimal::Comma, Some(',')) if once(',') => Some(','),
        (Decimal::Comma, _) => None,
        (Decimal::Point, Some('.')) if once('.') => Some('.'),
        // Where both are used, the last one is the point.
        (Decimal::Point, Some(',')) if once(',') && marks.len() > 1 => Some(','),
        (Decimal::Point, _) => None,
    };
    let (whole, part) = match point.and_then(|point| body.rsplit_once(point)) {
        Some((whole, part)) => (whole, part),
        None => (body, ""),
    };
    let groups: Vec<&str> = whole.split(|c: char| !c.is_ascii_digit()).collect();
    let used: Vec<char> = whole.chars().filter(|c| !c.is_ascii_digit()).collect();
    let same = used.iter().all(|mark| *mark == used[0]);
    (same && is_grouped(&groups)).then(|| format!("{}.{part}", groups.concat()))
}

/// Groups of three digits, as `1,234,567`, or of two before the last three, as `12,34,567`.
fn is_grouped(groups: &[&str]) -> bool {
    let [first, middle @ .., last] = groups else { return true };
    let all = |length: usize| middle.iter().all(|group| group.len() == length);
    let begins = (1..=3).contains(&first.len()) && all(3) || (1..=2).contains(&first.len()) && all(2);
    begins && last.len() == 3
}

/// Length of an exponent, as `e3`.
fn exponent(text: &str) -> usize {
    let Some(rest) = text.strip_prefix(['e', 'E']) else { return 0 };
    let digits = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    let count = digits.chars().take_while(char::is_ascii_digit).count();
    let ends = !digits[count..].starts_with(char::is_alphanumeric);
    if count > 0 && ends { text.len() - digits.len() + count } else { 0 }
}

fn fraction(text: &str) -> Option<f64> {
    let c = text.chars().next()?;
    FRACTIONS.iter().find(|(sign, _)| *sign == c).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for (text, expected) in [
            ("12.5%", 12.5),
            ("on 3 May", 3.0),
            ("about 40 %", 40.0),
            ("1,234,567.8", 1_234_567.8),
            ("12,34,567", 1_234_567.0),
            ("1'234", 1234.0),
            ("1\u{202f}234 and 5", 1234.0),
            ("1\u{a0}234,50 €", 1234.5),
            ("1.299,00", 1299.0),
            ("1.234.567", 1_234_567.0),
            ("1.2.3", 1.2),
            ("5, 6", 5.0),
            ("5,6", 5.0),
            ("3,50", 3.0),
            ("-7", -7.0),
            ("a loss of -$4.20", -4.2),
            ("$-4.20", -4.2),
            ("−3 degrees", -3.0),
            ("−€3", -3.0),
            ("- 3 apples", 3.0),
            ("COVID-19", 19.0),
            ("10-20", 10.0),
            ("about .75 liters", 0.75),
            ("-.5", -0.5),
            ("the end.5 more", 5.0),
            ("1e3", 1000.0),
            ("1.5E-2 mol", 0.015),
            ("3em", 3.0),
            ("½ cup", 0.5),
            ("2½", 2.5),
            ("2 ¾ miles", 2.75),
            ("-1½", -1.5),
        ] {
            assert_eq!(first(text, Decimal::Point), Some(expected), "{text}");
        }
        assert_eq!(first("none", Decimal::Point), None);
        assert_eq!(first("", Decimal::Point), None);
    }

    #[test]
    fn a_comma_may_be_the_point() {
        for (text, expected) in [("1.234,5", 1234.5), ("3,50 €", 3.5), ("1.234", 1234.0), (",5", 0.5)] {
            assert_eq!(first(text, Decimal::Comma), Some(expected), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_answered(text in "[-−0-9.,'eE½$ a\u{a0}]{0,24}") {
            let _ = (first(&text, Decimal::Point), first(&text, Decimal::Comma));
        }
    }
}
