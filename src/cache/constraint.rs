//! Constraints from files.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Failure;
use crate::text::similar::similar;
use pcache_engine::constraint::Constraint;

/// Keywords of JSON schema (draft 4 to 2020-12), by what is in them: a schema, a list of them, or some by name.
const OF_A_SCHEMA: [&str; 14] = [
    "additionalItems",
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "allOf",
    "anyOf",
];
const OF_SCHEMAS: [&str; 2] = ["oneOf", "prefixItems"];
const OF_NAMED_SCHEMAS: [&str; 6] =
    ["$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"];
const OTHERS: [&str; 34] = [
    "$anchor",
    "$dynamicAnchor",
    "$dynamicRef",
    "$id",
    "$ref",
    "$recursiveAnchor",
    "$recursiveRef",
    "$schema",
    "$vocabulary",
    "const",
    "contentEncoding",
    "contentMediaType",
    "dependentRequired",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "id",
    "maxContains",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minContains",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "pattern",
    "required",
    "type",
    "uniqueItems",
    "nullable",
];
/// Notes that allow and forbid nothing, of JSON schema and of programs that write it.
const NOTES: [&str; 12] = [
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "example",
    "deprecated",
    "readOnly",
    "writeOnly",
    "discriminator",
    "externalDocs",
    "xml",
];

/// The grammar, in llama.cpp's GBNF, that is the text of `file`.
///
/// # Errors
/// When it is no grammar.
pub fn grammar(file: &Path, text: &str) -> Result<Constraint> {
    let constraint = Constraint::grammar(text).map_err(|e| Failure::Usage(e.to_string()));
    constraint.with_context(|| file.display().to_string())
}

/// The JSON schema that is the text of `file`, or that is in it as chat interfaces want one, with its name beside it.
///
/// # Errors
/// When it is not JSON, or says something that has no effect.
pub fn schema(file: &Path, text: &str) -> Result<Constraint> {
    let value = serde_json::from_str(text).map_err(|e| Failure::Usage(format!("not JSON: {e}")));
    let schema = value.map(unwrapped).and_then(|schema| match without_effect(&schema, &mut Vec::new()) {
        Some(problem) => Err(Failure::Usage(problem)),
        None => Ok(Constraint::schema(schema)),
    });
    schema.with_context(|| file.display().to_string())
}

/// The schema within `{"name": …, "strict": …, "schema": …}` and the objects that this stands in.
fn unwrapped(value: Value) -> Value {
    let Value::Object(object) = &value else { return value };
    let wrappers = ["name", "strict", "description", "type", "schema", "json_schema", "response_format"];
    let is_wrapper = object.keys().all(|key| wrappers.contains(&key.as_str()))
        && object.get("type").is_none_or(|kind| kind == "json_schema" || kind == "json_object");
    let inner = ["response_format", "json_schema", "schema"].into_iter().find_map(|key| object.get(key));
    match inner.filter(|inner| is_wrapper && inner.is_object()) {
        Some(inner) => unwrapped(inner.clone()),
        None => value,
    }
}

/// What a schema says that is silently without effect, at any depth; `place` is the way to it.
fn without_effect(schema: &Value, place: &mut Vec<String>) -> Option<String> {
    let object = schema.as_object()?;
    let at = |place: &[String]| match place {
        [] => String::new(),
        way => format!(" in {}", way.join("/")),
    };
    let known: Vec<&str> = [&OF_A_SCHEMA[..], &OF_SCHEMAS, &OF_NAMED_SCHEMAS, &OTHERS].concat();
    let is_note = |key: &str| NOTES.contains(&key) || key.starts_with("x-");
    let unknown = object.keys().filter(|key| !known.contains(&key.as_str()) && !is_note(key));
    for key in unknown {
        if let Some(near) = similar(key, known.iter().map(|known| (*known).to_owned())) {
            return Some(format!("there is no keyword {key:?}{}; did you mean {near}?", at(place)));
        }
    }
    let is_silent = object.keys().all(|key| !known.contains(&key.as_str()) && !is_note(key));
    if is_silent && !object.is_empty() {
        return Some(format!(
            "none of {:?}{} is a keyword of JSON schema, so anything would be allowed; are they properties? \
             They stand in {{\"type\": \"object\", \"properties\": {{…}}}}",
            object.keys().collect::<Vec<_>>(),
            at(place)
        ));
    }
    let mut inner = |way: String, schema: &Value| {
        place.push(way);
        let found = without_effect(schema, place);
        place.pop();
        found
    };
    object.iter().find_map(|(key, value)| match (key.as_str(), value) {
        (key, Value::Object(named)) if OF_NAMED_SCHEMAS.contains(&key) => {
            named.iter().find_map(|(name, schema)| inner(format!("{key}/{name}"), schema))
        }
        (key, Value::Array(all)) if OF_SCHEMAS.contains(&key) || OF_A_SCHEMA.contains(&key) => {
            all.iter().enumerate().find_map(|(n, schema)| inner(format!("{key}/{n}"), schema))
        }
        (key, schema) if OF_A_SCHEMA.contains(&key) => inner(key.to_owned(), schema),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let schema = schema(Path::new("s.json"), text).map_err(|e| format!("{e:#}"))?;
        Ok(schema.source())
    }

    #[test]
    fn a_schema_in_a_wrapper_is_the_schema() {
        let inner = r#"{"type": "object", "required": ["a"]}"#;
        for wrapped in [
            format!(r#"{{"name": "dish", "strict": true, "schema": {inner}}}"#),
            format!(r#"{{"type": "json_schema", "json_schema": {{"name": "dish", "schema": {inner}}}}}"#),
            format!(r#"{{"type": "json_object", "schema": {inner}}}"#),
            format!(
                r#"{{"response_format": {{"type": "json_schema", "json_schema": {{"schema": {inner}}}}}}}"#
            ),
        ] {
            assert_eq!(read(&wrapped), read(inner), "{wrapped}");
        }
        let property = r#"{"type": "object", "properties": {"schema": {"type": "string"}}}"#;
        assert!(read(property).unwrap().contains("properties"));
    }

    #[test]
    fn what_would_have_no_effect_is_told() {
        let problem = |text: &str| read(text).unwrap_err();
        let misspelled = problem(r#"{"type": "object", "requierd": ["a"]}"#);
        assert!(misspelled.contains("\"requierd\"; did you mean required?"), "{misspelled}");
        let properties = problem(r#"{"dish": {"type": "string"}, "price": {"type": "number"}}"#);
        assert!(properties.contains("are they properties?"), "{properties}");
        for deep in [
            r#"{"properties": {"a": {"tpye": "string"}}}"#,
            r#"{"items": {"anyOf": [{"type": "string"}, {"enumm": [1]}]}}"#,
            r##"{"$defs": {"a": {"b": 1}}, "$ref": "#/$defs/a"}"##,
        ] {
            assert!(problem(deep).contains(" in "), "{deep}");
        }
    }

    #[test]
    fn notes_and_names_are_no_mistakes() {
        for good in [
            "true",
            "{}",
            r#"{"title": "A", "description": "b", "x-order": 1, "properties": {"requierd": {"type": "string"}}}"#,
            r#"{"type": "string", "nullable": true, "discriminator": {"propertyName": "kind"}, "propertyOrdering": []}"#,
            r#"{"enum": [{"tpye": 1}], "default": {"tpye": 2}}"#,
        ] {
            assert!(read(good).is_ok(), "{good}");
        }
    }
}
