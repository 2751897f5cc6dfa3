//! A record's fields: in their order, each as it was written, so that they come out as they went in.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// The field that a line of text is in.
pub const LINE: &str = "text";

/// The fields of a record. A name may be there twice, as columns may.
#[derive(Debug, Clone, Default)]
pub struct Fields(Vec<(String, Box<RawValue>)>);

impl Fields {
    /// One field with a text.
    pub fn of_text(name: &str, text: &str) -> Self {
        let mut fields = Self::default();
        fields.push(name, &text.into());
        fields
    }

    /// Adds a field.
    pub fn push(&mut self, name: &str, value: &Value) {
        // A value always has a text.
        if let Ok(raw) = serde_json::value::to_raw_value(value) {
            self.0.push((name.to_owned(), raw));
        }
    }

    /// Why one of them could not be asked: a text that is no Unicode, as programs write it that cut texts by UTF-16 units.
    pub fn problem(&self) -> Option<String> {
        let half = |raw: &RawValue| {
            let error = serde_json::from_str::<Value>(raw.get()).err();
            error.map(|e| e.to_string()).filter(|e| e.contains("surrogate") || e.contains("hex escape"))
        };
        let (name, _) = self.0.iter().find(|(_, raw)| half(raw).is_some())?;
        Some(format!(
            "its field {name:?} has half of a surrogate pair (\\ud800 to \\udfff), which is no text"
        ))
    }

    /// Gives a field another value, in its place, or adds it.
    pub fn set(&mut self, name: &str, value: &Value) {
        let Ok(raw) = serde_json::value::to_raw_value(value) else { return };
        match self.0.iter_mut().rfind(|(known, _)| known == name) {
            Some((_, old)) => *old = raw,
            None => self.0.push((name.to_owned(), raw)),
        }
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The value of a field; of several of one name the last, as JSON readers have it. A number that is larger than
    /// numbers here can be is its text.
    pub fn get(&self, name: &str) -> Option<Value> {
        let (_, raw) = self.0.iter().rfind(|(known, _)| known == name)?;
        Some(serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().into()))
    }

    /// Returns a field as text: a text itself, anything else as it was written.
    pub fn text(&self, name: &str) -> Option<String> {
        let (_, raw) = self.0.iter().rfind(|(known, _)| known == name)?;
        Some(match serde_json::from_str(raw.get()) {
            Ok(Value::String(text)) => text,
            _ => raw.get().to_owned(),
        })
    }

    /// Returns a field for a column: its text, and nothing for null.
    pub fn cell(&self, name: &str) -> Option<String> {
        self.0.iter().rfind(|(known, _)| known == name).map(|(_, raw)| cell(raw))
    }

    /// The cells of all fields, in order.
    pub fn cells(&self) -> Vec<String> {
        self.0.iter().map(|(_, raw)| cell(raw)).collect()
    }

    /// Takes a field away.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }

    /// A JSON object in a line.
    pub fn line(&self) -> String {
        let field =
            |(name, raw): &(String, Box<RawValue>)| format!("{}:{}", Value::from(name.as_str()), raw.get());
        let fields: Vec<String> = self.0.iter().map(field).collect();
        // White space within a value may be a newline.
        format!("{{{}}}", fields.join(",")).replace(['\n', '\r'], " ")
    }
}

fn cell(raw: &RawValue) -> String {
    match serde_json::from_str(raw.get()) {
        Ok(Value::String(text)) => text,
        Ok(Value::Null) => String::new(),
        _ => raw.get().to_owned(),
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        for line in [
            r#"{"id":12345678901234567890123,"x":0.1000000000000000055511151231257827,"big":1e400,"s":"a\u00e9"}"#,
            r#"{"b":1,"a":{"z": [1,2]},"b":2}"#,
            "{}",
        ] {
            assert_eq!(serde_json::from_str::<Fields>(line).unwrap().line(), line);
        }
        assert!(serde_json::from_str::<Fields>("[1]").is_err());
    }

    #[test]
    fn fields_are_read_and_set() {
        let mut fields: Fields =
            serde_json::from_str(r#"{"a": "x", "n": 1.50, "b": null, "a": "y"}"#).unwrap();
        assert_eq!((fields.text("a").unwrap(), fields.text("n").unwrap()), ("y".to_owned(), "1.50".into()));
        assert_eq!((fields.get("b"), fields.get("c")), (Some(Value::Null), None));
        fields.set("b", &"new".into());
        fields.set("c", &3.into());
        assert_eq!(fields.line(), r#"{"a":"x","n":1.50,"b":"new","a":"y","c":3}"#);
        assert_eq!(fields.cells(), ["x", "1.50", "new", "y", "3"]);
    }
}
