//! Finding states: by key, by name, by text, by what they share.

use pcache_format::id::looks_like_key;
use pcache_format::{ChainKey, ModelHash, PromptDigest, StateKey, TextDigest};
use rusqlite::{OptionalExtension, params};

use super::{Index, rows};
use crate::Result;

/// State or states that a name or a key's beginning led to.
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
    /// Its oldest name.
    pub name: Option<String>,
    /// Number of segments.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Oldest name of a state.
const NAME: &str = "(SELECT name FROM names WHERE state = states.id ORDER BY given, name LIMIT 1)";

impl Index {
    /// State that a name or a beginning of a key (six digits or more) means.
    pub(crate) fn find(&self, text: &str) -> Result<Lookup> {
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
            "SELECT key FROM states WHERE key BETWEEN ?1 AND ?2 AND tombstone = 0 LIMIT 10",
            params![bound("0").as_bytes(), bound("f").as_bytes()],
        )?;
        Ok(match keys.as_slice() {
            [] => Lookup::Unknown,
            [key] => Lookup::Found(*key),
            _ => Lookup::Ambiguous(keys),
        })
    }

    /// State with exactly this name.
    pub(crate) fn named(&self, name: &str) -> Result<Option<StateKey>> {
        let sql = "SELECT key FROM names JOIN states ON states.id = state WHERE name = ?1 AND tombstone = 0";
        self.key(sql, params![name])
    }

    /// State with exactly this name, and the time at which it got it.
    pub(crate) fn owner(&self, name: &str) -> Result<Option<(StateKey, i64)>> {
        let sql =
            "SELECT key, given FROM names JOIN states ON states.id = state WHERE name = ?1 AND tombstone = 0";
        self.read(|db| db.query_row(sql, [name], |r| Ok((rows::hash(r, 0)?, r.get(1)?))).optional())
    }

    /// State that a prompt's text led to before.
    pub(crate) fn state_of_prompt(&self, digest: &PromptDigest) -> Result<Option<StateKey>> {
        self.key("SELECT key FROM states WHERE prompt = ?1 AND tombstone = 0", params![digest.as_bytes()])
    }

    /// States that were built from this text, whatever the model and the parameters; the last used first.
    pub(crate) fn states_of_text(&self, text: &TextDigest) -> Result<Vec<StateKey>> {
        let sql = "SELECT key FROM states WHERE text = ?1 AND tombstone = 0 ORDER BY last_use DESC LIMIT 20";
        self.keys(sql, params![text.as_bytes()])
    }

    /// States of a model, the last used first, `most` at most.
    pub(crate) fn states_of_model(&self, model: &ModelHash, most: usize) -> Result<Vec<StateKey>> {
        let sql = "SELECT key FROM states WHERE model = ?1 AND tombstone = 0 ORDER BY last_use DESC LIMIT ?2";
        self.keys(sql, params![model.as_bytes(), most as i64])
    }

    /// States that use a segment, the last used first, `most` at most.
    pub(crate) fn users_of(&self, chain: &ChainKey, most: usize) -> Result<Vec<StateKey>> {
        let sql = "SELECT DISTINCT states.key FROM segments JOIN state_segments u ON u.segment = segments.id
                   JOIN states ON states.id = u.state
                   WHERE segments.chain = ?1 AND states.tombstone = 0 ORDER BY last_use DESC LIMIT ?2";
        self.keys(sql, params![chain.as_bytes(), most as i64])
    }

    /// States that share segments with this one, those that share most first, `most` at most.
    pub(crate) fn relatives(&self, key: &StateKey, most: usize) -> Result<Vec<Relative>> {
        let sql = format!(
            "SELECT states.key, {NAME}, count(*), sum(s.file_bytes)
             FROM states me JOIN state_segments own ON own.state = me.id
                 JOIN state_segments other ON other.segment = own.segment AND other.state <> own.state
                 JOIN segments s ON s.id = own.segment JOIN states ON states.id = other.state
             WHERE me.key = ?1 AND states.tombstone = 0 AND s.tombstone = 0
             GROUP BY states.id ORDER BY 4 DESC, states.key LIMIT ?2"
        );
        let relative = |row: &rusqlite::Row<'_>| {
            Ok(Relative {
                key: rows::hash(row, 0)?,
                name: row.get(1)?,
                segments: row.get(2)?,
                bytes: row.get(3)?,
            })
        };
        self.read(|db| db.prepare(&sql)?.query_map(params![key.as_bytes(), most as i64], relative)?.collect())
    }

    /// All names, in order, each with its state's key.
    pub(crate) fn names(&self) -> Result<Vec<(String, StateKey)>> {
        let sql =
            "SELECT name, key FROM names JOIN states ON states.id = state WHERE tombstone = 0 ORDER BY name";
        self.read(|db| {
            db.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, rows::hash(row, 1)?)))?.collect()
        })
    }

    /// States used last, `most` at most.
    pub(crate) fn last_used(&self, most: usize) -> Result<Vec<StateKey>> {
        let sql = "SELECT key FROM states WHERE tombstone = 0 ORDER BY last_use DESC LIMIT ?1";
        self.keys(sql, params![most as i64])
    }

    fn key(&self, sql: &str, values: impl rusqlite::Params) -> Result<Option<StateKey>> {
        self.read(|db| db.query_row(sql, values, |r| rows::hash(r, 0)).optional())
    }

    fn keys(&self, sql: &str, values: impl rusqlite::Params) -> Result<Vec<StateKey>> {
        self.read(|db| db.prepare_cached(sql)?.query_map(values, |r| rows::hash(r, 0))?.collect())
    }
}
