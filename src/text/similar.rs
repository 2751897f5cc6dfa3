//! Words that a typing error may have meant.

/// The name that differs from `text` by the fewest typing errors, if they are few.
pub fn similar(text: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let most = text.chars().count().div_ceil(3);
    let scored = names.map(|name| (strsim::damerau_levenshtein(text, &name), name));
    scored.filter(|(distance, _)| *distance <= most).min().map(|(_, name)| name)
}
