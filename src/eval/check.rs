//! Checks of answers.

use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::Value;
use serde_json_path::JsonPath;

use super::number::{self, Decimal};

/// Conditions on an answer, or with `json` on a part of it. Several of them in one check must all hold.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Check {
    /// A JSON path (RFC 9535): the answer is JSON, and what the path finds first is looked at.
    pub json: Option<String>,
    /// It has this text.
    pub contains: Option<String>,
    /// It does not.
    pub not_contains: Option<String>,
    /// It is this: a text, but for white space around it; or with `json` any value.
    pub equals: Option<Value>,
    /// This regular expression is found in it (the syntax of Rust's regex crate).
    pub regex: Option<String>,
    /// The first number in it is this.
    pub number: Option<f64>,
    /// Tolerance of the number.
    pub tolerance: Option<f64>,
    /// Sign between whole numbers and fractions, "." or ",".
    pub decimal: Decimal,
    /// Capitals count as small letters.
    pub ignore_case: bool,
}

/// Part of the answer that is checked.
enum Subject {
    Text(String),
    Value(Value),
}

impl Subject {
    fn text(&self) -> String {
        match self {
            Self::Text(text) | Self::Value(Value::String(text)) => text.clone(),
            Self::Value(value) => value.to_string(),
        }
    }
}

impl Check {
    /// Why it makes no sense, if it does not.
    pub fn problem(&self) -> Option<String> {
        let kinds = [
            self.contains.is_some(),
            self.not_contains.is_some(),
            self.equals.is_some(),
            self.regex.is_some(),
            self.number.is_some(),
            self.json.is_some(),
        ];
        if !kinds.contains(&true) {
            return Some("a check needs one of contains, not-contains, equals, regex, number or json".into());
        }
        let texts = [&self.contains, &self.not_contains, &self.regex];
        if texts.into_iter().flatten().any(String::is_empty) {
            return Some("a text to look for is empty: every answer has it".into());
        }
        if self.number.is_some_and(|n| !n.is_finite()) {
            return Some("number must be finite".into());
        }
        if self.tolerance.is_some() && self.number.is_none() {
            return Some("tolerance goes with number".into());
        }
        if self.tolerance.is_some_and(|t| t.is_nan() || t < 0.0) {
            return Some("tolerance must be 0 or more".into());
        }
        let regex = self.regex.as_deref().and_then(|r| self.compiled(r).err());
        let json = self.json.as_deref().and_then(|p| JsonPath::parse(p).err());
        let path = |e| format!("json: {e}; a path begins with $, as in $.name or $.items[0].price");
        regex.map(|e| format!("regex: {e}")).or(json.map(path))
    }

    /// Why an answer does not pass, if it does not: the conditions that do not hold, and what was found.
    pub fn failure(&self, answer: &str) -> Option<String> {
        let place = self.json.as_ref().map(|path| format!("json {path}"));
        let subject = match self.subject(answer) {
            Ok(subject) => subject,
            Err(why) => return Some(format!("{}: {why}", place.unwrap_or_default())),
        };
        let failed = self.failed(&subject);
        let found = match &subject {
            Subject::Text(_) | Subject::Value(Value::String(_)) => {
                format!("{:?}", shortened(&subject.text()))
            }
            Subject::Value(_) => shortened(&subject.text()),
        };
        let named: Vec<_> = place.into_iter().chain(failed.iter().cloned()).collect();
        (!failed.is_empty()).then(|| format!("{}: found {found}", named.join(", ")))
    }

    /// The conditions that do not hold.
    fn failed(&self, subject: &Subject) -> Vec<String> {
        let text = subject.text();
        let case = if self.ignore_case { " (ignoring case)" } else { "" };
        let has = |part: &str| self.folded(&text).contains(&self.folded(part));
        let matches = |regex: &str| self.compiled(regex).is_ok_and(|r| r.is_match(&text));
        let contains = self.contains.iter().filter(|t| !has(t)).map(|t| format!("contains {t:?}{case}"));
        let lacks = self.not_contains.iter().filter(|t| has(t)).map(|t| format!("not-contains {t:?}{case}"));
        let equals = self.equals.iter().filter(|v| !self.is_equal(subject, &text, v));
        let regex = self.regex.iter().filter(|r| !matches(r)).map(|r| format!("regex {r:?}{case}"));
        let number = self.number.iter().filter(|n| !self.is_near(&text, **n));
        let tolerance = self.tolerance.map_or_else(String::new, |t| format!(" ± {t}"));
        let equals = equals.map(|v| format!("equals {v}{case}"));
        let read = number::first(&text, self.decimal).map_or("none".into(), |found| found.to_string());
        let number = number.map(|n| format!("number {n}{tolerance} (read: {read})"));
        contains.chain(lacks).chain(equals).chain(regex).chain(number).collect()
    }

    fn subject(&self, answer: &str) -> Result<Subject, String> {
        let Some(path) = &self.json else { return Ok(Subject::Text(answer.trim().to_owned())) };
        let path = JsonPath::parse(path).map_err(|e| e.to_string())?;
        let answer: Value =
            serde_json::from_str(answer.trim()).map_err(|e| format!("the answer is not JSON: {e}"))?;
        let found = path.query(&answer).first().cloned();
        found.map(Subject::Value).ok_or_else(|| "found nothing there".to_owned())
    }

    fn is_equal(&self, subject: &Subject, text: &str, expected: &Value) -> bool {
        match (subject, expected) {
            (Subject::Value(found), expected) if found == expected => true,
            (_, Value::String(expected)) => self.folded(text.trim()) == self.folded(expected.trim()),
            (Subject::Text(_), expected) => text.trim() == expected.to_string().as_str(),
            (Subject::Value(found), expected) => {
                found.as_f64().is_some() && found.as_f64() == expected.as_f64()
            }
        }
    }

    fn is_near(&self, text: &str, expected: f64) -> bool {
        let off = number::first(text, self.decimal).map(|found| (found - expected).abs());
        off.is_some_and(|off| off <= self.tolerance.unwrap_or(0.0))
    }

    fn folded(&self, text: &str) -> String {
        if self.ignore_case { text.to_lowercase() } else { text.to_owned() }
    }

    fn compiled(&self, regex: &str) -> Result<Regex, regex::Error> {
        RegexBuilder::new(regex).case_insensitive(self.ignore_case).build()
    }
}

fn shortened(text: &str) -> String {
    const MOST: usize = 160;
    let mut letters = text.chars();
    let head: String = letters.by_ref().take(MOST).collect();
    if letters.next().is_some() { head + "…" } else { head }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(check: &str, answer: &str) -> bool {
        let check: Check = toml::from_str(check).unwrap();
        assert_eq!(check.problem(), None);
        check.failure(answer).is_some()
    }

    #[test]
    fn each_kind_passes_and_fails() {
        let cases = [
            ("contains = 'Ontario'", "It was Ontario.", "It was ontario."),
            ("contains = 'ontario'\nignore-case = true", "It was ONTARIO.", "It was Reno."),
            ("not-contains = 'cheese'", "soup", "cheese soup"),
            ("equals = 'Dave'", " Dave\n", "Dave."),
            ("equals = 3", "3", "4"),
            ("regex = '^\\d+ euros$'", "12 euros", "about 12 euros"),
            ("number = 5.5\ntolerance = 0.1", "It costs 5.45 euros, or 6.", "It costs 6 euros, not 5.5"),
            ("number = 1200", "1,200 people", "1.2 people"),
            ("number = -3", "-3 degrees", "3 degrees"),
            ("number = -4.2", "a loss of −$4.20", "a gain of $4.20"),
            ("number = 3.5\ndecimal = ','", "3,50 €", "3.50 €"),
            ("json = '$.name'\nequals = 'Dave'", "{\"name\": \"Dave\"}", "{\"name\": \"Nora\"}"),
            ("json = '$.items[1].price'\nnumber = 2", "{\"items\": [1, {\"price\": 2}]}", "{\"items\": []}"),
            ("json = '$.n'\nequals = 2", "{\"n\": 2.0}", "not JSON"),
            ("json = '$.a'", "{\"a\": null}", "{\"b\": 1}"),
            ("contains = 'a'\nnot-contains = 'b'", "a", "ab"),
        ];
        for (check, good, bad) in cases {
            assert!(!fails(check, good), "{check}: {good}");
            assert!(fails(check, bad), "{check}: {bad}");
        }
    }

    #[test]
    fn a_failure_names_the_condition_that_does_not_hold() {
        let check: Check =
            toml::from_str("contains = 'Soup'\nnot-contains = 'cheese'\nignore-case = true").unwrap();
        let failure = check.failure("soup with Cheese").unwrap();
        assert_eq!(failure, "not-contains \"cheese\" (ignoring case): found \"soup with Cheese\"");
        let json: Check = toml::from_str("json = '$.n'\nnumber = 2\ntolerance = 0.5").unwrap();
        assert_eq!(json.failure("{\"n\": 3}").unwrap(), "json $.n, number 2 ± 0.5 (read: 3): found 3");
        assert_eq!(json.failure("{}").unwrap(), "json $.n: found nothing there");
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let problem = |text: &str| toml::from_str::<Check>(text).unwrap().problem().unwrap_or_default();
        assert!(problem("ignore-case = true").contains("needs one of"));
        assert!(problem("regex = '('").starts_with("regex:"));
        assert!(problem("json = 'a b'").starts_with("json:"));
        assert!(problem("contains = 'a'\ntolerance = 1.0").contains("goes with number"));
        assert!(problem("number = 1\ntolerance = -1.0").contains("0 or more"));
    }
}
