//! JSON schemas that are refused although llguidance takes them: text that is no schema, and schemas that no value
//! satisfies. Other violations are found when an answer is checked.

use serde_json::Value;

/// Schemas within schemas.
const MAX_DEPTH: usize = 100;

/// Whole numbers beyond this have neighbours that a reader takes for them (2^53).
const LARGEST: f64 = 9_007_199_254_740_992.0;

/// Why answers could not be relied on to be valid under `schema`, if so.
pub(super) fn problem(schema: &Value) -> Option<String> {
    if !schema.is_object() && !schema.is_boolean() {
        return Some("it is neither an object nor true".into());
    }
    only_itself(schema, schema).or_else(|| inner_problem(schema, 0))
}

fn inner_problem(value: &Value, depth: usize) -> Option<String> {
    if depth > MAX_DEPTH {
        return Some(format!("it has more than {MAX_DEPTH} schemas within schemas"));
    }
    let next = |value: &Value| inner_problem(value, depth + 1);
    match value {
        Value::Array(all) => all.iter().find_map(next),
        Value::Object(schema) => {
            let bounds = ["exclusiveMinimum", "exclusiveMaximum"];
            if let Some(bound) = bounds.into_iter().find(|b| schema.get(*b).is_some_and(Value::is_boolean)) {
                return Some(format!("{bound}: expected a number, as since draft 6"));
            }
            // Answers come to where nothing may follow.
            let has = |key: &str| schema.contains_key(key);
            if has("patternProperties") {
                let with = ["required", "minProperties", "maxProperties"].into_iter().find(|k| has(k));
                if let Some(with) = with {
                    return Some(format!("patternProperties together with {with}"));
                }
            }
            let large = |n: &Value| n.as_f64().is_some_and(|n| n.abs() > LARGEST);
            let given = schema.get("const").into_iter();
            let given = given.chain(schema.get("enum").and_then(Value::as_array).into_iter().flatten());
            let limits = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];
            let given = given.chain(limits.iter().filter_map(|limit| schema.get(*limit)));
            if let Some(number) = given.into_iter().find(|n| large(n)) {
                return Some(format!("the number {number} is too large to be kept exactly"));
            }
            // What stands in const, enum and examples is no schema.
            let no_schema = ["const", "enum", "default", "examples"];
            schema
                .iter()
                .filter(|(key, _)| !no_schema.contains(&key.as_str()))
                .find_map(|(_, inner)| next(inner))
        }
        _ => None,
    }
}

/// A reference that leads to itself and nothing else: no value follows from it.
fn only_itself(schema: &Value, root: &Value) -> Option<String> {
    let mut seen: Vec<&str> = Vec::new();
    let mut at = schema;
    while let Some(reference) = at.get("$ref").and_then(Value::as_str) {
        let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer))?;
        if seen.contains(&reference) || reference == "#" {
            return Some(format!("$ref {reference:?} leads back to itself"));
        }
        seen.push(reference);
        at = target;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_is_refused_wherever_it_stands() {
        let cases = [
            (r#"{"properties": {"a": {"exclusiveMaximum": true}}}"#, "expected a number"),
            (r#"{"items": {"patternProperties": {"^x$": {}}, "required": ["x"]}}"#, "together with required"),
            (r#"{"const": 12345678901234567890123}"#, "too large"),
            (r#"{"anyOf": [{"enum": [1, 1e300]}]}"#, "too large"),
            // llguidance overflows.
            (r#"{"type": "integer", "minimum": -9223372036854775808, "maximum": 0}"#, "too large"),
            (r##"{"$ref": "#"}"##, "leads back to itself"),
            (
                r##"{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}"##,
                "itself",
            ),
            ("17", "neither an object"),
        ];
        for (schema, expected) in cases {
            let found = problem(&serde_json::from_str(schema).unwrap()).unwrap_or_default();
            assert!(found.contains(expected), "{schema}: {found}");
        }
        for schema in [
            r#"{"type": "number", "exclusiveMinimum": 5}"#,
            r#"{"properties": {"exclusiveMinimum": {"type": "number"}, "const": {"enum": ["a"]}}, "required": ["const"]}"#,
            r##"{"properties": {"next": {"$ref": "#"}}}"##,
            "true",
        ] {
            assert_eq!(problem(&serde_json::from_str(schema).unwrap()), None, "{schema}");
        }
    }
}
