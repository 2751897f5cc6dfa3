//! The index's tables. Migrations are only ever appended.

use pcache_format::Params;
use rusqlite::Transaction;
use rusqlite_migration::{HookResult, M, Migrations};

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

/// Keys that were removed, until gc has seen that nothing of them is left: a record that a crash left over is not taken for
/// a state that the index lost.
const V3: &str = "
CREATE TABLE removed (
    key          BLOB PRIMARY KEY
) WITHOUT ROWID;
";

/// From how many tokens on a saved state was measured to be faster than evaluating; and superseded records, which
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

/// Manifests and labels instead of records: who computed what, several names a state, and no tokens. Numbers instead of
/// hashes connect the tables, and what many states have in common stands once.
const V5: &str = "
CREATE TABLE lineages (
    id           INTEGER PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE,
    identity     TEXT NOT NULL DEFAULT ''   -- canonical text of the compute identity that came last, where it is known
);
INSERT INTO lineages (id, name) VALUES (0, '0.1');

CREATE TABLE params (
    id           INTEGER PRIMARY KEY,
    text         TEXT NOT NULL UNIQUE       -- canonical text
);

CREATE TABLE prompt_formats (
    id           INTEGER PRIMARY KEY,
    suffix       TEXT NOT NULL,             -- text that the template puts behind a question
    raw          INTEGER NOT NULL,
    description  TEXT NOT NULL,             -- for people
    UNIQUE (suffix, raw, description)
);

ALTER TABLE states RENAME TO old_states;
ALTER TABLE segments RENAME TO old_segments;
ALTER TABLE state_segments RENAME TO old_state_segments;
ALTER TABLE prompts RENAME TO old_prompts;
DROP INDEX states_last_use;
DROP INDEX states_text;
DROP INDEX state_segments_chain;

CREATE TABLE states (
    id           INTEGER PRIMARY KEY,
    key          BLOB NOT NULL UNIQUE,
    model        BLOB NOT NULL REFERENCES models(hash),
    params       INTEGER NOT NULL REFERENCES params(id),
    format       INTEGER NOT NULL REFERENCES prompt_formats(id),
    lineage      INTEGER NOT NULL REFERENCES lineages(id),  -- of the manifest that was committed last
    kind         TEXT NOT NULL,
    layout       TEXT NOT NULL,
    token_count  INTEGER NOT NULL,
    pending_text TEXT NOT NULL,
    span_first   INTEGER,                   -- place of the prompt's own text, in bytes
    span_end     INTEGER,
    origin       TEXT NOT NULL,
    text         BLOB,                      -- hash of the prompt's text alone
    prompt       BLOB,                      -- hash of everything that the tokens follow from
    created      INTEGER NOT NULL,
    build_s      REAL NOT NULL,
    evaluated    INTEGER NOT NULL,
    provenance   TEXT,                      -- JSON; built here where there is none
    pinned       INTEGER NOT NULL,          -- without a name
    expires      INTEGER,                   -- without a name
    revision     INTEGER NOT NULL,          -- of the label
    label_bytes  INTEGER NOT NULL DEFAULT 0,
    record       BLOB,                      -- the object that was manifest and label, until it is split
    record_bytes INTEGER NOT NULL DEFAULT 0,
    last_used    INTEGER NOT NULL,
    last_use     INTEGER NOT NULL,          -- a counter: orders uses within a second
    hits         INTEGER NOT NULL DEFAULT 0,
    tombstone    INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE names (
    name         TEXT PRIMARY KEY,
    state        INTEGER NOT NULL REFERENCES states(id) ON DELETE CASCADE,
    given        INTEGER NOT NULL,
    pinned       INTEGER NOT NULL,
    expires      INTEGER
) WITHOUT ROWID;
CREATE INDEX names_state ON names(state);

CREATE TABLE manifests (
    state        INTEGER NOT NULL REFERENCES states(id) ON DELETE CASCADE,
    lineage      INTEGER NOT NULL REFERENCES lineages(id),
    blake3       BLOB NOT NULL,             -- of the file
    bytes        INTEGER NOT NULL,
    PRIMARY KEY (state, lineage)
) WITHOUT ROWID;

CREATE TABLE segments (
    id             INTEGER PRIMARY KEY,
    chain          BLOB NOT NULL,
    lineage        INTEGER NOT NULL REFERENCES lineages(id),
    parent         BLOB NOT NULL,
    parent_lineage INTEGER NOT NULL REFERENCES lineages(id),
    object         BLOB NOT NULL,
    raw_blake3     BLOB,                    -- not known of what version 0.1 wrote
    layout         TEXT NOT NULL,
    first          INTEGER NOT NULL,
    count          INTEGER NOT NULL,
    raw_bytes      INTEGER NOT NULL,
    file_bytes     INTEGER NOT NULL,
    created        INTEGER NOT NULL,
    adopted        INTEGER,                 -- when the object was found without a row
    tombstone      INTEGER NOT NULL DEFAULT 0,
    UNIQUE (chain, lineage)
);

CREATE TABLE state_segments (
    state        INTEGER NOT NULL REFERENCES states(id) ON DELETE CASCADE,
    segment      INTEGER NOT NULL REFERENCES segments(id) ON DELETE CASCADE,
    PRIMARY KEY (state, segment)
) WITHOUT ROWID;
CREATE INDEX state_segments_segment ON state_segments(segment);

-- States whose label is being replaced, or was when a process died: their files count, not their rows.
CREATE TABLE intents (
    key          BLOB PRIMARY KEY
) WITHOUT ROWID;
";

/// Copies the tables before V5, once their parameters are canonical text.
const V5_DATA: &str = "
INSERT INTO prompt_formats (suffix, raw, description)
    SELECT DISTINCT suffix, framing LIKE 'raw%', framing FROM old_states;
INSERT INTO states (key, model, params, format, lineage, kind, layout, token_count, pending_text, span_first, span_end,
        origin, text, prompt, created, build_s, evaluated, pinned, expires, revision, record, record_bytes, last_used,
        last_use, hits, tombstone)
    SELECT key, model, (SELECT params FROM old_params WHERE json = old_states.params), f.id, 0,
        CASE WHEN own_first IS NULL THEN 'conversation' WHEN origin LIKE '% + %' THEN 'extension' ELSE 'prompt' END,
        layout, token_count, carried, own_first, own_first + own_bytes,
        origin, text, (SELECT digest FROM old_prompts WHERE state = key), created, build_s, evaluated,
        pinned AND name IS NULL, CASE WHEN name IS NULL THEN expires END, revision, record, record_bytes, last_used,
        last_use, hits, going
    FROM old_states JOIN prompt_formats f
        ON f.suffix = old_states.suffix AND f.description = framing AND f.raw = (framing LIKE 'raw%')
    ORDER BY created;
INSERT INTO names SELECT name, id, old_states.created, old_states.pinned, old_states.expires
    FROM old_states JOIN states USING (key) WHERE name IS NOT NULL;
INSERT INTO segments (chain, lineage, parent, parent_lineage, object, layout, first, count, raw_bytes, file_bytes,
        created, adopted, tombstone)
    SELECT chain, 0, parent, 0, object, layout, first, count, raw_bytes, file_bytes, created, adopted, going
    FROM old_segments ORDER BY created, first;
INSERT INTO state_segments
    SELECT states.id, segments.id FROM old_state_segments old JOIN states ON states.key = old.state
    JOIN segments USING (chain);
DROP TABLE old_params;
DROP TABLE old_state_segments;
DROP TABLE old_prompts;
DROP TABLE tokens;
DROP TABLE old_states;
DROP TABLE old_segments;
CREATE INDEX states_last_use ON states(last_use);
CREATE INDEX states_text ON states(text);
CREATE INDEX states_prompt ON states(prompt);
";

/// Writes parameters as canonical text, which version 0.1 kept as JSON, and takes over the rest.
fn take_over(tx: &Transaction<'_>) -> HookResult {
    tx.execute_batch("CREATE TABLE old_params (json TEXT PRIMARY KEY, params INTEGER NOT NULL)")?;
    let all: Vec<String> = tx
        .prepare("SELECT DISTINCT params FROM old_states")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for json in all {
        // What cannot be read is kept as it is: reading it says that the index is damaged.
        let read = serde_json::from_str::<Params>(&json);
        let text = read.map_or_else(|_| json.clone(), |params| params.canonical());
        tx.execute("INSERT OR IGNORE INTO params (text) VALUES (?1)", [&text])?;
        tx.execute("INSERT INTO old_params SELECT ?1, id FROM params WHERE text = ?2", [&json, &text])?;
    }
    Ok(tx.execute_batch(V5_DATA)?)
}

/// Latest schema version known to this program.
pub(crate) const VERSION: usize = 5;

/// All steps from an empty database to [`VERSION`].
pub(crate) fn migrations() -> Migrations<'static> {
    Migrations::new(vec![M::up(V1), M::up(V2), M::up(V3), M::up(V4), M::up_with_hook(V5, take_over)])
}
