//! The index's tables. Migrations are only ever appended.

use rusqlite_migration::{M, Migrations};

/// Times are seconds since 1970; hashes are 32-byte blobs; sizes are bytes.
const V1: &str = "
CREATE TABLE models (
    hash         BLOB PRIMARY KEY,
    path         TEXT NOT NULL,
    size         INTEGER NOT NULL
) WITHOUT ROWID;

-- A model's hash is remembered for as long as the file's identity stays the same.
CREATE TABLE model_files (
    device       INTEGER NOT NULL,
    inode        INTEGER NOT NULL,
    size         INTEGER NOT NULL,
    modified_ns  INTEGER NOT NULL,
    changed_ns   INTEGER NOT NULL,
    model        BLOB NOT NULL REFERENCES models(hash) ON DELETE CASCADE,
    PRIMARY KEY (device, inode)
) WITHOUT ROWID;

CREATE TABLE segments (
    chain        BLOB PRIMARY KEY,
    parent       BLOB NOT NULL,
    object       BLOB NOT NULL UNIQUE,
    layout       TEXT NOT NULL,
    first        INTEGER NOT NULL,
    count        INTEGER NOT NULL,
    raw_bytes    INTEGER NOT NULL,
    file_bytes   INTEGER NOT NULL,
    created      INTEGER NOT NULL,
    adopted      INTEGER,              -- when gc found the object without a row
    going        INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE TABLE states (
    key          BLOB PRIMARY KEY,
    name         TEXT UNIQUE,
    model        BLOB NOT NULL REFERENCES models(hash),
    params       TEXT NOT NULL,        -- JSON of key::Params
    layout       TEXT NOT NULL,
    tokens       BLOB NOT NULL,        -- i32 little-endian
    token_count  INTEGER NOT NULL,
    carried      TEXT NOT NULL,        -- the prompt's end that an ask evaluates
    suffix       TEXT NOT NULL,        -- what the template puts after a question
    created      INTEGER NOT NULL,
    last_used    INTEGER NOT NULL,
    last_use     INTEGER NOT NULL,     -- a counter: orders uses within a second
    hits         INTEGER NOT NULL DEFAULT 0,
    pinned       INTEGER NOT NULL DEFAULT 0,
    expires      INTEGER,
    build_s      REAL NOT NULL,        -- what the evaluated part cost
    evaluated    INTEGER NOT NULL,
    origin       TEXT NOT NULL         -- the prompt file, for people
) WITHOUT ROWID;

CREATE INDEX states_last_use ON states(last_use);

CREATE TABLE state_segments (
    state        BLOB NOT NULL REFERENCES states(key) ON DELETE CASCADE,
    ordinal      INTEGER NOT NULL,
    chain        BLOB NOT NULL REFERENCES segments(chain),
    PRIMARY KEY (state, ordinal)
) WITHOUT ROWID;
CREATE INDEX state_segments_chain ON state_segments(chain);

-- Which state a prompt's text led to, so that a hit needs no tokenizer.
CREATE TABLE prompts (
    digest       BLOB PRIMARY KEY,
    state        BLOB NOT NULL REFERENCES states(key) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX prompts_state ON prompts(state);

-- How fast a model evaluated prompts, for estimates: the newest builds count most.
CREATE TABLE speeds (
    model        BLOB NOT NULL REFERENCES models(hash) ON DELETE CASCADE,
    threads      INTEGER NOT NULL,
    tokens_per_s REAL NOT NULL,
    PRIMARY KEY (model, threads)
) WITHOUT ROWID;
";

/// Records of states, tokens apart from the rest, deletion in two steps for states too, and links to segments that
/// are missing for now.
const V2: &str = "
ALTER TABLE states ADD COLUMN record BLOB;                            -- the object that holds the state's record
ALTER TABLE states ADD COLUMN record_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE states ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;    -- of the record
ALTER TABLE states ADD COLUMN going INTEGER NOT NULL DEFAULT 0;
ALTER TABLE states ADD COLUMN framing TEXT NOT NULL DEFAULT '';       -- how the prompt was put before the model
ALTER TABLE states ADD COLUMN own_first INTEGER;                      -- where the prompt's own text lies in the
ALTER TABLE states ADD COLUMN own_bytes INTEGER;                      -- text of tokens and carried text
ALTER TABLE states ADD COLUMN text BLOB;                              -- hash of the prompt's text alone
CREATE INDEX states_text ON states(text);

-- Apart, so that listing the states does not read every prompt.
CREATE TABLE tokens (
    state        BLOB PRIMARY KEY REFERENCES states(key) ON DELETE CASCADE,
    ids          BLOB NOT NULL         -- i32 little-endian
) WITHOUT ROWID;
INSERT INTO tokens SELECT key, tokens FROM states;
ALTER TABLE states DROP COLUMN tokens;

CREATE TABLE links (
    state        BLOB NOT NULL REFERENCES states(key) ON DELETE CASCADE,
    ordinal      INTEGER NOT NULL,
    chain        BLOB NOT NULL,
    PRIMARY KEY (state, ordinal)
) WITHOUT ROWID;
INSERT INTO links SELECT state, ordinal, chain FROM state_segments;
DROP TABLE state_segments;
ALTER TABLE links RENAME TO state_segments;
CREATE INDEX state_segments_chain ON state_segments(chain);
";

/// What was removed, until gc has seen that nothing of it is left: a record that a crash left over is not taken for a
/// state that the index lost.
const V3: &str = "
CREATE TABLE removed (
    key          BLOB PRIMARY KEY
) WITHOUT ROWID;
";

/// From how many tokens on a saved state was measured to be faster than evaluating; and records that nobody needs, which
/// must not outlive their states.
const V4: &str = "
CREATE TABLE break_even (
    model        BLOB NOT NULL REFERENCES models(hash) ON DELETE CASCADE,
    threads      INTEGER NOT NULL,
    tokens       INTEGER NOT NULL,
    PRIMARY KEY (model, threads)
) WITHOUT ROWID;

-- Records that may lie on disk beside the one that counts: of changes that are under way or were cut short, and of
-- those before a change. They go with their state, or with the next gc.
CREATE TABLE spare_records (
    object       BLOB PRIMARY KEY,
    state        BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX spare_records_state ON spare_records(state);
";

const STEPS: &[M<'static>] = &[M::up(V1), M::up(V2), M::up(V3), M::up(V4)];

/// The latest schema version known to this program.
pub const VERSION: usize = STEPS.len();

/// All steps from an empty database to [`VERSION`].
pub fn migrations() -> Migrations<'static> {
    Migrations::from_slice(STEPS)
}

/// Makes the tables of the first version, for tests of the migration.
#[cfg(test)]
pub(super) fn first_version(db: &rusqlite::Connection) {
    db.execute_batch(V1).unwrap();
    db.pragma_update(None, "user_version", 1).unwrap();
}
