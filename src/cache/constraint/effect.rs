//! Finds what a JSON schema says without effect: a misspelled keyword, one for values of another type, nothing at all. The libraries
//! pass over it, and the next program relies on a shape that nobody keeps.

use serde_json::Value;

use crate::text::similar::similar;

/// Keywords of JSON schema (draft 4 to 2020-12), by what is in them: a schema, a list of them, or some by name.
const OF_A_SCHEMA: [&str; 12] = [
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
];
const OF_SCHEMAS: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
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

/// Keywords that concern values of one type alone; others are valid whatever they are.
const OF_TYPES: [(&str, &[&str]); 4] = [
    (
        "object",
        &[
            "additionalProperties",
            "dependencies",
            "dependentRequired",
            "dependentSchemas",
            "maxProperties",
            "minProperties",
            "patternProperties",
            "properties",
            "propertyNames",
            "required",
            "unevaluatedProperties",
        ],
    ),
    (
        "array",
        &[
            "additionalItems",
            "contains",
            "items",
            "maxContains",
            "maxItems",
            "minContains",
            "minItems",
            "prefixItems",
            "unevaluatedItems",
            "uniqueItems",
        ],
    ),
    (
        "string",
        &["contentEncoding", "contentMediaType", "contentSchema", "maxLength", "minLength", "pattern"],
    ),
    ("number", &["exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"]),
];
/// Keywords that say which values there may be.
const DECIDING: [&str; 13] = [
    "$dynamicRef",
    "$recursiveRef",
    "$ref",
    "allOf",
    "anyOf",
    "const",
    "else",
    "enum",
    "if",
    "not",
    "oneOf",
    "then",
    "type",
];

/// A whole schema that any value of another type satisfies, `true` first of all.
pub(super) fn allows_anything(schema: &Value) -> Option<String> {
    let object = schema.as_object().filter(|object| !object.is_empty())?;
    if object.keys().any(|key| DECIDING.contains(&key.as_str())) {
        return None;
    }
    let kind =
        OF_TYPES.iter().find(|(_, keywords)| object.keys().any(|key| keywords.contains(&key.as_str())));
    match kind {
        Some((kind, _)) => Some(format!("it allows everything that is no {kind}; add \"type\": \"{kind}\"")),
        None => Some("it allows anything: it says no type, and no values".to_owned()),
    }
}

/// A keyword that concerns values of another type than the schema's.
fn of_another_type(object: &serde_json::Map<String, Value>) -> Option<String> {
    let own = object.get("type")?.as_str()?;
    let own = if own == "integer" { "number" } else { own };
    let others = OF_TYPES.iter().filter(|(kind, _)| *kind != own);
    let (_, keywords) =
        others.into_iter().find(|(_, all)| object.keys().any(|key| all.contains(&key.as_str())))?;
    let keyword = object.keys().find(|key| keywords.contains(&key.as_str()))?;
    Some(format!("{keyword:?} has no effect on a value of type {own:?}"))
}

/// Names what a schema says that is silently without effect, at any depth; `place` is the way to it.
pub(super) fn without_effect(schema: &Value, place: &mut Vec<String>) -> Option<String> {
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
    if let Some(problem) = of_another_type(object) {
        return Some(format!("{problem}{}", at(place)));
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
