//! Names of fields that a run adds.

/// The field that says why a record has no answer.
pub const ERROR: &str = "error";

/// The field that says why an answer ended, for an answer in the field `into`.
pub fn stop_of(into: &str) -> String {
    if into == ANSWER { STOP.to_owned() } else { format!("{into}_{STOP}") }
}

/// The field for answers if no other is named.
pub const ANSWER: &str = "answer";
const STOP: &str = "stop_reason";
