//! Constraints from files.

mod effect;

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Failure;
use effect::{allows_anything, without_effect};
use pcache_engine::constraint::Constraint;

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
    let schema = value.map(unwrapped).and_then(|schema| {
        let problem = without_effect(&schema, &mut Vec::new()).or_else(|| allows_anything(&schema));
        problem.map_or_else(|| Ok(Constraint::schema(schema)), |problem| Err(Failure::Usage(problem)))
    });
    schema.with_context(|| file.display().to_string())
}

/// The schema within `{"name": …, "strict": …, "schema": …}` and the objects that this stands in.
fn unwrapped(value: Value) -> Value {
    let Value::Object(object) = &value else { return value };
    let wrappers = [
        "name",
        "strict",
        "description",
        "type",
        "schema",
        "json_schema",
        "response_format",
        "function",
        "parameters",
        "input_schema",
    ];
    let is_wrapper = object.keys().all(|key| wrappers.contains(&key.as_str()))
        && object.get("type").is_none_or(|kind| {
            ["json_schema", "json_object", "function"].into_iter().any(|known| kind == known)
        });
    let inner = ["response_format", "json_schema", "schema", "function", "parameters", "input_schema"]
        .into_iter()
        .find_map(|key| object.get(key));
    match inner.filter(|inner| is_wrapper && inner.is_object()) {
        Some(inner) => unwrapped(inner.clone()),
        None => value,
    }
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
        for wrapped in [
            format!(r#"{{"name": "look", "parameters": {inner}}}"#),
            format!(r#"{{"type": "function", "function": {{"name": "look", "parameters": {inner}}}}}"#),
            format!(r#"{{"name": "look", "description": "x", "input_schema": {inner}}}"#),
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
            r#"{"type": "object", "properties": {"a": {"type": "boolean", "minLength": 3}}}"#,
        ] {
            assert!(problem(deep).contains(" in "), "{deep}");
        }
    }

    #[test]
    fn what_any_value_satisfies_is_refused() {
        for (schema, expected) in [
            (r#"{"properties": {"a": {"type": "boolean"}}, "required": ["a"]}"#, "add \"type\": \"object\""),
            (r#"{"minLength": 3}"#, "add \"type\": \"string\""),
            (r#"{"items": {"type": "string"}}"#, "add \"type\": \"array\""),
            (r#"{"type": "boolean", "minLength": 3}"#, "has no effect on a value of type \"boolean\""),
            (r#"{"$defs": {"a": {"type": "string"}}}"#, "allows anything"),
            (r#"{"title": "x"}"#, "allows anything"),
        ] {
            let problem = read(schema).unwrap_err();
            assert!(problem.contains(expected), "{schema}: {problem}");
        }
    }

    #[test]
    fn notes_and_names_are_no_mistakes() {
        for good in [
            "true",
            "{}",
            r#"{"title": "A", "description": "b", "x-order": 1, "type": "object", "properties": {"requierd": {"type": "string"}}}"#,
            r#"{"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}"#,
            r#"{"type": ["string", "null"], "maxLength": 3}"#,
            r#"{"type": "integer", "minimum": 3}"#,
            r#"{"type": "string", "nullable": true, "discriminator": {"propertyName": "kind"}, "propertyOrdering": []}"#,
            r#"{"enum": [{"tpye": 1}], "default": {"tpye": 2}}"#,
        ] {
            assert!(read(good).is_ok(), "{good}");
        }
    }
}
