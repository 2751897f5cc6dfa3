//! Finding states: by key, by name, by text, by what they share.

use rusqlite::{OptionalExtension, params};

use super::super::Result;
use super::{Index, rows};
use crate::key::id::looks_like_key;
use crate::key::{ChainKey, ModelHash, PromptDigest, StateKey, TextDigest};

/// What a name or a key's beginning led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// One state.
    Found(StateKey),
    /// No state.
    Unknown,
    /// Several states, by key.
    Ambiguous(Vec<StateKey>),
}

/// A state that has segments in common with another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relative {
    /// Its key.
    pub key: StateKey,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// How many segments.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Index {
    /// The state that a name or a beginning of a key (six digits or more) means.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn find(&self, text: &str) -> Result<Lookup> {
        if let Some(key) = self.named(text)? {
            return Ok(Lookup::Found(key));
        }
        if !looks_like_key(text) {
            return Ok(Lookup::Unknown);
        }
        let bound = |fill: &str| {
            let digits = format!("{}{}", text.to_ascii_lowercase(), fill.repeat(64 - text.len()));
            digits.parse::<StateKey>().unwrap_or(StateKey::from([0; 32]))
        };
        let keys = self.keys(
            "SELECT key FROM states WHERE key BETWEEN ?1 AND ?2 AND going = 0 LIMIT 10",
            params![bound("0").as_bytes(), bound("f").as_bytes()],
        )?;
        Ok(match keys.as_slice() {
            [] => Lookup::Unknown,
            [key] => Lookup::Found(*key),
            _ => Lookup::Ambiguous(keys),
        })
    }

    /// The state with exactly this name.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn named(&self, name: &str) -> Result<Option<StateKey>> {
        self.key("SELECT key FROM states WHERE name = ?1 AND going = 0", params![name])
    }

    /// The state that a prompt's text led to before.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn state_of_prompt(&self, digest: &PromptDigest) -> Result<Option<StateKey>> {
        let sql = "SELECT state FROM prompts JOIN states ON key = state WHERE digest = ?1 AND going = 0";
        self.key(sql, params![digest.as_bytes()])
    }

    /// States that were built from this text, whatever the model and the parameters; the last used first.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn states_of_text(&self, text: &TextDigest) -> Result<Vec<StateKey>> {
        let sql = "SELECT key FROM states WHERE text = ?1 AND going = 0 ORDER BY last_use DESC LIMIT 20";
        self.keys(sql, params![text.as_bytes()])
    }

    /// States of a model, the last used first, `most` at most.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn states_of_model(&self, model: &ModelHash, most: usize) -> Result<Vec<StateKey>> {
        let sql = "SELECT key FROM states WHERE model = ?1 AND going = 0 ORDER BY last_use DESC LIMIT ?2";
        self.keys(sql, params![model.as_bytes(), most as i64])
    }

    /// States that use a segment, the last used first, `most` at most.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn users_of(&self, chain: &ChainKey, most: usize) -> Result<Vec<StateKey>> {
        let sql = "SELECT key FROM state_segments JOIN states ON key = state
                   WHERE chain = ?1 AND going = 0 ORDER BY last_use DESC LIMIT ?2";
        self.keys(sql, params![chain.as_bytes(), most as i64])
    }

    /// The states that share segments with this one, those that share most first, `most` at most.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn relatives(&self, key: &StateKey, most: usize) -> Result<Vec<Relative>> {
        let sql = "SELECT other.state, name, count(*), sum(file_bytes)
                   FROM state_segments own JOIN state_segments other USING (chain)
                   JOIN segments ON segments.chain = own.chain JOIN states ON states.key = other.state
                   WHERE own.state = ?1 AND other.state <> ?1 AND states.going = 0 AND segments.going = 0
                   GROUP BY other.state ORDER BY 4 DESC, other.state LIMIT ?2";
        let relative = |row: &rusqlite::Row<'_>| {
            Ok(Relative {
                key: rows::hash(row, 0)?,
                name: row.get(1)?,
                segments: row.get(2)?,
                bytes: row.get(3)?,
            })
        };
        self.said(
            self.db
                .prepare(sql)
                .and_then(|mut q| q.query_map(params![key.as_bytes(), most as i64], relative)?.collect()),
        )
    }

    /// All names, in order, each with its state's key.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn names(&self) -> Result<Vec<(String, StateKey)>> {
        let sql = "SELECT name, key FROM states WHERE name IS NOT NULL AND going = 0 ORDER BY name";
        self.said(
            self.db
                .prepare(sql)
                .and_then(|mut q| q.query_map([], |row| Ok((row.get(0)?, rows::hash(row, 1)?)))?.collect()),
        )
    }

    /// The states used last, `most` at most.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn last_used(&self, most: usize) -> Result<Vec<StateKey>> {
        let sql = "SELECT key FROM states WHERE going = 0 ORDER BY last_use DESC LIMIT ?1";
        self.keys(sql, params![most as i64])
    }

    fn key(&self, sql: &str, values: impl rusqlite::Params) -> Result<Option<StateKey>> {
        self.said(self.db.query_row(sql, values, |r| rows::hash(r, 0)).optional())
    }

    fn keys(&self, sql: &str, values: impl rusqlite::Params) -> Result<Vec<StateKey>> {
        self.said(
            self.db
                .prepare_cached(sql)
                .and_then(|mut q| q.query_map(values, |r| rows::hash(r, 0))?.collect()),
        )
    }
}
