//! States: what can be asked.

use std::collections::HashMap;

use rusqlite::{OptionalExtension, Row, params};

use super::super::Result;
use super::{Index, ListedState, NewState, SegmentRow, StateRow, rows};
use crate::key::id::looks_like_key;
use crate::key::{ChainKey, PromptDigest, StateKey};

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
        let keys: Vec<StateKey> = self.said(
            self.db.prepare("SELECT key FROM states WHERE key BETWEEN ?1 AND ?2 LIMIT 10").and_then(
                |mut q| {
                    q.query_map([bound("0").as_bytes(), bound("f").as_bytes()], |r| rows::hash(r, 0))?
                        .collect()
                },
            ),
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
        self.said(
            self.db
                .query_row("SELECT key FROM states WHERE name = ?1", [name], |r| rows::hash(r, 0))
                .optional(),
        )
    }

    /// The state that a prompt's text led to before.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn state_of_prompt(&self, digest: &PromptDigest) -> Result<Option<StateKey>> {
        self.said(
            self.db
                .query_row("SELECT state FROM prompts WHERE digest = ?1", [digest.as_bytes()], |r| {
                    rows::hash(r, 0)
                })
                .optional(),
        )
    }

    /// A state with its tokens.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn state(&self, key: &StateKey) -> Result<Option<StateRow>> {
        self.said(
            self.db
                .query_row(
                    "SELECT name, model, path, params, layout, tokens, carried, suffix
                     FROM states JOIN models ON hash = model WHERE key = ?1",
                    [key.as_bytes()],
                    |row| {
                        Ok(StateRow {
                            key: *key,
                            name: row.get(0)?,
                            model: rows::hash(row, 1)?,
                            model_path: row.get(2)?,
                            params: rows::params(row, 3)?,
                            layout: rows::layout(row, 4)?,
                            tokens: rows::tokens_from_blob(&row.get::<_, Vec<u8>>(5)?),
                            carried: row.get(6)?,
                            suffix: row.get(7)?,
                        })
                    },
                )
                .optional(),
        )
    }

    /// All states, newest use first, and the segments that any of them use.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn list(&self) -> Result<(Vec<ListedState>, Vec<SegmentRow>)> {
        self.said(self.try_list())
    }

    fn try_list(&self) -> rusqlite::Result<(Vec<ListedState>, Vec<SegmentRow>)> {
        let tx = self.db.unchecked_transaction()?;
        let mut states: Vec<ListedState> = tx
            .prepare(
                "SELECT key, name, model, path, token_count, created, last_used, hits, pinned, expires
                 FROM states JOIN models ON hash = model ORDER BY last_used DESC, last_use DESC",
            )?
            .query_map([], listed)?
            .collect::<rusqlite::Result<_>>()?;
        let by_key: HashMap<StateKey, usize> = states.iter().enumerate().map(|(i, s)| (s.key, i)).collect();

        let mut segments: Vec<SegmentRow> = Vec::new();
        let mut numbers: HashMap<ChainKey, usize> = HashMap::new();
        let mut query = tx.prepare(
            "SELECT chain, parent, object, layout, first, count, raw_bytes, file_bytes, state
             FROM segments JOIN state_segments USING (chain) WHERE going = 0 ORDER BY state, ordinal",
        )?;
        let mut found = query.query([])?;
        while let Some(row) = found.next()? {
            let segment = rows::segment(row)?;
            let number = *numbers.entry(segment.chain).or_insert_with(|| {
                segments.push(segment);
                segments.len() - 1
            });
            if let Some(&i) = by_key.get(&rows::hash(row, 8)?) {
                states[i].segments.push(number);
            }
        }
        Ok((states, segments))
    }

    /// Commits a state, its segments and its text in one transaction. One that exists keeps when it was built,
    /// its hits and its name (unless a new name is given).
    ///
    /// # Errors
    /// When SQLite fails, for instance because the name is taken or a segment is missing.
    pub fn commit_state(&mut self, state: &NewState<'_>, now: i64) -> Result<()> {
        let parameters = serde_json::to_string(state.params).unwrap_or_default();
        self.transaction(|tx| {
            tx.execute(
                "INSERT INTO states (key, name, model, params, layout, tokens, token_count, carried,
                     suffix, created, last_used, build_s, evaluated, origin, last_use)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10, ?11, ?12, ?13,
                     (SELECT coalesce(max(last_use), 0) + 1 FROM states))
                 ON CONFLICT (key) DO UPDATE SET name = coalesce(excluded.name, name),
                     model = excluded.model, params = excluded.params, layout = excluded.layout,
                     tokens = excluded.tokens, token_count = excluded.token_count,
                     carried = excluded.carried, suffix = excluded.suffix,
                     last_used = excluded.last_used, last_use = excluded.last_use, hits = hits + 1",
                params![
                    state.key.as_bytes(),
                    state.name,
                    state.model.as_bytes(),
                    parameters,
                    state.layout.name(),
                    rows::tokens_to_blob(state.tokens),
                    state.tokens.len() as i64,
                    state.carried,
                    state.suffix,
                    now,
                    state.build_s,
                    state.evaluated as i64,
                    state.origin,
                ],
            )?;
            tx.execute("DELETE FROM state_segments WHERE state = ?1", [state.key.as_bytes()])?;
            let mut insert = tx.prepare("INSERT INTO state_segments VALUES (?1, ?2, ?3)")?;
            for (i, chain) in state.segments.iter().enumerate() {
                insert.execute(params![state.key.as_bytes(), i as i64, chain.as_bytes()])?;
            }
            if let Some(digest) = &state.digest {
                tx.execute(
                    "INSERT OR REPLACE INTO prompts VALUES (?1, ?2)",
                    params![digest.as_bytes(), state.key.as_bytes()],
                )?;
            }
            Ok(())
        })
    }

    /// Notes that a state was used.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn touch(&mut self, key: &StateKey, now: i64) -> Result<()> {
        self.said(
            self.db
                .execute(
                    "UPDATE states SET last_used = ?2, hits = hits + 1,
                         last_use = (SELECT max(last_use) + 1 FROM states) WHERE key = ?1",
                    params![key.as_bytes(), now],
                )
                .map(drop),
        )
    }

    /// Gives a state a name.
    ///
    /// # Errors
    /// When SQLite fails, for instance because the name is taken.
    pub fn set_name(&mut self, key: &StateKey, name: &str) -> Result<()> {
        self.said(
            self.db
                .execute("UPDATE states SET name = ?2 WHERE key = ?1", params![key.as_bytes(), name])
                .map(drop),
        )
    }

    /// Deletes states in one transaction. Their segments stay until nobody uses them.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn delete_states(&mut self, keys: &[StateKey]) -> Result<()> {
        self.transaction(|tx| {
            let mut statement = tx.prepare("DELETE FROM states WHERE key = ?1")?;
            keys.iter().try_for_each(|k| statement.execute([k.as_bytes()]).map(drop))
        })
    }
}

fn listed(row: &Row<'_>) -> rusqlite::Result<ListedState> {
    Ok(ListedState {
        key: rows::hash(row, 0)?,
        name: row.get(1)?,
        model: rows::hash(row, 2)?,
        model_path: row.get(3)?,
        tokens: row.get(4)?,
        created: row.get(5)?,
        last_used: row.get(6)?,
        hits: row.get(7)?,
        pinned: row.get(8)?,
        expires: row.get(9)?,
        segments: Vec::new(),
    })
}
