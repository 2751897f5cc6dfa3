//! Texts that are given in one line.

/// Text with `\n`, `\t` and `\\` for a new line, a tab and a backslash.
pub fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('t')) => out.push('\t'),
            ('\\', Some('\\')) => out.push('\\'),
            ('\\', Some(other)) => out.extend(['\\', other]),
            (c, _) => out.push(c),
        }
    }
    out
}

/// Returns the texts before and after `{question}` in a text with escapes.
///
/// # Errors
/// When that is not in it once.
pub fn question_format(text: &str) -> Result<(String, String), String> {
    let (before, after) = text.split_once("{question}").ok_or("expected {question} in it once")?;
    if after.contains("{question}") {
        return Err("expected {question} in it once".into());
    }
    Ok((unescaped(before), unescaped(after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_format_has_one_place_and_escapes() {
        assert_eq!(question_format("Q: {question}\\nA:"), Ok(("Q: ".into(), "\nA:".into())));
        assert_eq!(question_format("\\q\\\\n{question}"), Ok(("\\q\\n".into(), String::new())));
        assert!(question_format("Q:").is_err() && question_format("{question}{question}").is_err());
    }
}
