//! Models: their hashes by file identity, and how fast they evaluate.

use std::path::Path;

use pcache_format::ModelHash;
use rusqlite::{OptionalExtension, params};

use super::{Index, rows};
use crate::Result;
use crate::fingerprint::FileIdentity;

impl Index {
    /// The hash of the file with this identity, if it was hashed before.
    pub(crate) fn model_of_file(&self, file: &FileIdentity) -> Result<Option<ModelHash>> {
        self.read(|db| {
            db.query_row(
                "SELECT model FROM model_files WHERE device = ?1 AND inode = ?2 AND size = ?3
                         AND modified_ns = ?4 AND changed_ns = ?5",
                params![
                    file.device as i64,
                    file.inode as i64,
                    file.size as i64,
                    file.modified_ns,
                    file.changed_ns
                ],
                |row| rows::hash(row, 0),
            )
            .optional()
        })
    }

    /// Returns the path at which a model was last seen.
    pub(crate) fn model_path(&self, model: &ModelHash) -> Result<Option<String>> {
        self.read(|db| {
            db.query_row("SELECT path FROM models WHERE hash = ?1", [model.as_bytes()], |r| r.get(0))
                .optional()
        })
    }

    /// Bytes of a model's file.
    pub(crate) fn model_size(&self, model: &ModelHash) -> Result<Option<u64>> {
        self.read(|db| {
            db.query_row("SELECT size FROM models WHERE hash = ?1", [model.as_bytes()], |r| r.get(0))
                .optional()
        })
    }

    /// Remembers a model and that the file with this identity is it.
    pub(crate) fn remember_model(&self, file: &FileIdentity, path: &Path, model: &ModelHash) -> Result<()> {
        self.transaction(|tx| {
            tx.execute(
                "INSERT INTO models (hash, path, size) VALUES (?1, ?2, ?3)
                 ON CONFLICT (hash) DO UPDATE SET path = excluded.path",
                params![model.as_bytes(), path.to_string_lossy(), file.size as i64],
            )?;
            tx.execute(
                "INSERT OR REPLACE INTO model_files VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    file.device as i64,
                    file.inode as i64,
                    file.size as i64,
                    file.modified_ns,
                    file.changed_ns,
                    model.as_bytes()
                ],
            )?;
            Ok(())
        })
    }

    /// Prompt tokens per second measured before on this model with that many threads.
    pub(crate) fn speed(&self, model: &ModelHash, threads: u32) -> Result<Option<f64>> {
        self.read(|db| {
            db.query_row(
                "SELECT tokens_per_s FROM speeds WHERE model = ?1 AND threads = ?2",
                params![model.as_bytes(), threads],
                |row| row.get(0),
            )
            .optional()
        })
    }

    /// Adds a measurement: it counts as much as all before it.
    pub(crate) fn record_speed(&self, model: &ModelHash, threads: u32, tokens_per_s: f64) -> Result<()> {
        self.unsynced(|db| {
            db.execute(
                "INSERT INTO speeds VALUES (?1, ?2, ?3)
                     ON CONFLICT DO UPDATE SET tokens_per_s = (tokens_per_s + excluded.tokens_per_s) / 2",
                params![model.as_bytes(), threads, tokens_per_s],
            )
            .map(drop)
        })
    }

    /// From how many tokens on restoring was measured to beat evaluating, on this model with that many threads.
    pub(crate) fn break_even(&self, model: &ModelHash, threads: u32) -> Result<Option<usize>> {
        let query = "SELECT tokens FROM break_even WHERE model = ?1 AND threads = ?2";
        let values = params![model.as_bytes(), threads];
        let found = self.read(|db| db.query_row(query, values, |row| row.get::<_, i64>(0)).optional())?;
        Ok(found.and_then(|tokens| usize::try_from(tokens).ok()))
    }

    /// Notes such a measurement; the latest counts.
    pub(crate) fn record_break_even(&self, model: &ModelHash, threads: u32, tokens: usize) -> Result<()> {
        let insert = "INSERT OR REPLACE INTO break_even VALUES (?1, ?2, ?3)";
        let values = params![model.as_bytes(), threads, i64::try_from(tokens).unwrap_or(i64::MAX)];
        self.unsynced(|db| db.execute(insert, values).map(drop))
    }
}
