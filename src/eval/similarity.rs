//! Similarity of answers, as far as it can be told without understanding them.
//!
//! They do if they are the same but for case, punctuation and articles; or if one has most of the other's words and
//! neither begins with yes where the other begins with no, nor has other numbers. It is a way to find what a person should
//! look at, not a proof.

use std::collections::BTreeSet;

/// Words that say nothing about an answer's content.
const EMPTY: [&str; 18] = [
    "a", "an", "the", "is", "are", "was", "were", "it", "its", "of", "to", "in", "at", "on", "and", "that",
    "this", "be",
];
/// Share of the shorter answer's words that the longer one must have.
const SHARED: f64 = 0.6;

/// Returns true if two answers say the same.
pub fn is_similar(one: &str, other: &str) -> bool {
    let (one, other) = (words(one), words(other));
    if one == other {
        return true;
    }
    if let (Some(a), Some(b)) = (yes_or_no(&one), yes_or_no(&other))
        && a != b
    {
        return false;
    }
    let (a, b) = (content(&one), content(&other));
    let numbers = |words: &BTreeSet<&str>| -> BTreeSet<String> {
        words.iter().filter(|w| w.chars().any(|c| c.is_ascii_digit())).map(|w| (*w).to_owned()).collect()
    };
    let (n, m) = (numbers(&a), numbers(&b));
    if !n.is_subset(&m) && !m.is_subset(&n) {
        return false;
    }
    let negated = |words: &[String]| {
        words.iter().any(|w| ["not", "no", "never", "nobody", "nothing"].contains(&w.as_str()))
    };
    if negated(&one) != negated(&other) {
        return false;
    }
    let shorter = a.len().min(b.len());
    shorter > 0 && a.intersection(&b).count() as f64 >= SHARED * shorter as f64
}

/// Words of questions that say nothing about what they ask for.
const ASKING: [&str; 12] =
    ["what", "which", "who", "when", "where", "how", "why", "do", "does", "did", "can", "you"];

/// Returns true if two questions have a word in common that means something.
pub fn shares_content(one: &str, other: &str) -> bool {
    let (one, other) = (words(one), words(other));
    let (a, b) = (content(&one), content(&other));
    a.intersection(&b).any(|word| !ASKING.contains(word))
}

/// Answers in groups that agree with the group's first; each group holds the numbers of its answers.
pub fn groups<'t>(answers: impl IntoIterator<Item = &'t str>) -> Vec<Vec<usize>> {
    let answers: Vec<&str> = answers.into_iter().collect();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (n, answer) in answers.iter().enumerate() {
        match groups.iter_mut().find(|group| is_similar(answers[group[0]], answer)) {
            Some(group) => group.push(n),
            None => groups.push(vec![n]),
        }
    }
    groups
}

/// Lower-case words; a number keeps its point.
fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let kept = |c: char| c.is_alphanumeric() || c == '.' || c == ':';
    let words = text.split(|c| !kept(c)).map(|w| w.trim_matches(['.', ':']));
    let words = words.flat_map(|w| {
        let number = w.chars().any(|c| c.is_ascii_digit());
        if number { vec![w.to_owned()] } else { w.split(['.', ':']).map(str::to_owned).collect() }
    });
    words.filter(|w| !w.is_empty()).collect()
}

fn yes_or_no(words: &[String]) -> Option<bool> {
    match words.first().map(String::as_str) {
        Some("yes" | "correct" | "true") => Some(true),
        Some("no" | "incorrect" | "false") => Some(false),
        _ => None,
    }
}

fn content(words: &[String]) -> BTreeSet<&str> {
    let words: BTreeSet<&str> = words.iter().map(String::as_str).collect();
    let content: BTreeSet<&str> = words.iter().filter(|w| !EMPTY.contains(w)).copied().collect();
    if content.is_empty() { words } else { content }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wording_does_not_matter_and_content_does() {
        let same = [
            ("Ontario, California.", "The destination of the plane was Ontario, California."),
            ("Dave", "dave."),
            ("It opens at 15:00.", "15:00"),
            ("Yes.", "Yes, there is soup."),
        ];
        let other = [
            ("Ontario, California", "Redding, Oregon"),
            ("Yes, there is.", "No, there is."),
            ("It costs 5.50 euros.", "It costs 6.00 euros."),
            ("The library is open on Friday.", "The library is not open on Friday."),
            ("Dave", "Nora"),
            ("", "Dave"),
        ];
        same.iter().for_each(|(a, b)| assert!(is_similar(a, b) && is_similar(b, a), "{a} {b}"));
        other.iter().for_each(|(a, b)| assert!(!is_similar(a, b) && !is_similar(b, a), "{a} {b}"));
        assert_eq!(groups(["Dave", "Nora", "dave!"]), [vec![0, 2], vec![1]]);
    }
}
