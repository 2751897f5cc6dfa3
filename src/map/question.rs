//! Question about a record: a field, or a text with fields in it.

use anyhow::{Result, bail};
use serde_json::Value;

use super::fields::Fields;
use super::names::ERROR;
use crate::cache::Failure;
use crate::text::escapes::unescaped;

/// A text with fields in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(String),
}

impl Template {
    /// The text of a field.
    pub fn field(name: &str) -> Self {
        Self(vec![Part::Field(name.to_owned())])
    }

    /// A text with fields in braces; `{{` and `}}` are braces.
    ///
    /// # Errors
    /// When it makes no sense, or names no field.
    pub fn new(text: &str) -> Result<Self> {
        match parse(&unescaped(text)) {
            Ok(template) if template.fields().is_empty() => {
                bail!(Failure::Usage(format!("the template {text:?} names no field, as {{text}}")))
            }
            Ok(template) => Ok(template),
            Err(problem) => bail!(Failure::Usage(format!("the template {text:?}: {problem}"))),
        }
    }

    /// The fields that it names.
    pub fn fields(&self) -> Vec<String> {
        let field = |part: &Part| match part {
            Part::Field(name) => Some(name.clone()),
            Part::Text(_) => None,
        };
        self.0.iter().filter_map(field).collect()
    }

    /// The question of a record.
    ///
    /// # Errors
    /// Why there is none.
    pub fn fill(&self, fields: &Fields) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Field(name) => text.push_str(&value(fields, name)?),
            }
        }
        if text.trim().is_empty() { Err("the question is empty".into()) } else { Ok(text) }
    }
}

/// A field's text; a name with dots reaches into objects.
fn value(fields: &Fields, name: &str) -> Result<String, String> {
    let before = fields.get(ERROR).and_then(|e| e.as_str().map(str::to_owned));
    match (fields.get(name), before) {
        (None | Some(Value::Null), Some(before)) if inner(fields, name).is_none() => {
            Err(format!("it came without {name:?}: {before}"))
        }
        (Some(Value::Null), _) => Err(format!("field {name:?} is null")),
        (Some(_), _) => Ok(fields.text(name).unwrap_or_default()),
        (None, _) => inner(fields, name).ok_or_else(|| {
            let has: Vec<_> = fields.names().collect();
            let has = if has.is_empty() { "no fields".into() } else { has.join(", ") };
            format!("no field {name:?}; it has {has}")
        }),
    }
}

/// Returns the value that a name with dots reaches.
fn inner(fields: &Fields, name: &str) -> Option<String> {
    let (first, rest) = name.split_once('.')?;
    let found = rest.split('.').try_fold(fields.get(first)?, |value, step| value.get(step).cloned())?;
    match found {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

fn parse(text: &str) -> Result<Template, String> {
    let mut parts = Vec::new();
    let (mut plain, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(['{', '}']) {
        let (before, brace) = rest.split_at(at);
        plain.push_str(before);
        if let Some(after) = brace.strip_prefix("{{").or_else(|| brace.strip_prefix("}}")) {
            plain.push_str(&brace[..1]);
            rest = after;
        } else if let Some((name, after)) = brace.strip_prefix('{').and_then(|b| b.split_once('}')) {
            if name.trim().is_empty() || name.contains('{') {
                return Err(format!("{{{name}}} is no field; write {{{{ for a brace"));
            }
            parts.extend([Part::Text(std::mem::take(&mut plain)), Part::Field(name.trim().to_owned())]);
            rest = after;
        } else {
            return Err(format!("a lone {}; write it twice for a brace", &brace[..1]));
        }
    }
    plain.push_str(rest);
    parts.push(Part::Text(plain));
    parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
    Ok(Template(parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(template: &str, record: &str) -> Result<String, String> {
        parse(template)?.fill(&serde_json::from_str(record).unwrap())
    }

    #[test]
    fn fields_stand_in_their_places() {
        let record =
            r#"{"title": "T", "n": 3, "who": {"name": "Ada"}, "a.b": "dot", "list": [1], "text": "{n}"}"#;
        assert_eq!(fill("{title}: {{{n}}} {who.name} {a.b} {list}", record).unwrap(), "T: {3} Ada dot [1]");
        assert_eq!(fill("{text}", record).unwrap(), "{n}", "a value is no template");
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(fill("{text}", r#"{"body": 1}"#).unwrap_err(), "no field \"text\"; it has body");
        assert_eq!(fill("{text}", r#"{"text": null}"#).unwrap_err(), "field \"text\" is null");
        assert_eq!(fill("{text}", r#"{"text": " "}"#).unwrap_err(), "the question is empty");
        let failed = fill("{answer}", r#"{"answer": null, "error": "too long"}"#);
        assert_eq!(failed.unwrap_err(), "it came without \"answer\": too long");
    }

    #[test]
    fn braces_that_mean_nothing_are_refused() {
        for text in ["{", "}", "{}", "a {b", "{ {a}", "a } b"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("{{}}").unwrap().fields(), Vec::<String>::new());
    }
}
