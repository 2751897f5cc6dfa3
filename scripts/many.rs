//! Fills a store with many small states, for measuring the commands that look through all of them.
//!
//!     cargo run --release --example many -- FOLDER [STATES]
//!
//! Rows go into the index in one transaction and files are not synced: this makes in seconds what building would take
//! days for. What it makes is what builds make: three segments that all states share, one of its own, a record.

use std::path::Path;
use std::sync::Arc;

use pcache::format::{Encoded, Layout, Meta, Record};
use pcache::key::{KvType, ModelHash, ObjectId, Params, StateKey};
use pcache::store::disk::RealDisk;
use pcache::store::{Store, SystemClock};

const TOKENS: i32 = 3 * 256 + 100;
const STATE_BYTES: usize = 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("usage: many FOLDER [STATES]")?;
    let states: i32 = args.next().map_or(Ok(100_000), |n| n.parse())?;
    let root = Path::new(&folder);
    let store = Store::open(root, Arc::new(RealDisk), Arc::new(SystemClock))?;
    let mut db = rusqlite::Connection::open(root.join("index.sqlite"))?;
    let tx = db.transaction()?;
    let model = ModelHash::from([1; 32]);
    tx.execute("INSERT INTO models VALUES (?1, 'model.gguf', 1)", [model.as_bytes()])?;
    for n in 0..states {
        let record = record(model, n);
        let object = put(&store, &record.encode())?;
        let bytes = record.encode().len();
        let now = 1_700_000_000 + i64::from(n);
        tx.execute(
            "INSERT INTO states (key, name, model, params, layout, token_count, carried, suffix, created, last_used,
                 last_use, build_s, evaluated, origin, record, record_bytes, revision)
             VALUES (?1, ?2, ?3, ?4, 'segment', ?5, '', '', ?6, ?6, ?6, 1.0, 100, ?7, ?8, ?9, 1)",
            rusqlite::params![
                record.key.as_bytes(),
                record.name,
                model.as_bytes(),
                serde_json::to_string(&record.params)?,
                TOKENS,
                now,
                record.origin,
                object.as_bytes(),
                bytes as i64
            ],
        )?;
        let ids: Vec<u8> = record.tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
        tx.execute("INSERT INTO tokens VALUES (?1, ?2)", rusqlite::params![record.key.as_bytes(), ids])?;
        put_segments(&store, &tx, &record)?;
    }
    tx.commit()?;
    println!("{states} states in {folder}");
    Ok(())
}

fn record(model: ModelHash, n: i32) -> Record {
    let tokens: Vec<i32> = (0..TOKENS).map(|i| if i < 3 * 256 { i } else { i + 7919 * n }).collect();
    let mut record = Record {
        key: StateKey::from([0; 32]),
        name: Some(format!("state-{n}")),
        model,
        model_path: "model.gguf".into(),
        params: Params::new(KvType::F16, 0),
        layout: Layout::Segment,
        tokens,
        carried: String::new(),
        suffix: String::new(),
        framing: "raw".into(),
        own: None,
        text: None,
        digest: None,
        origin: format!("prompt-{n}.txt"),
        created: 1_700_000_000,
        expires: None,
        pinned: false,
        build_s: 1.0,
        evaluated: 100,
        revision: 1,
    };
    record.key = record.chain().state_key("", "");
    record
}

fn put_segments(
    store: &Store,
    tx: &rusqlite::Transaction<'_>,
    record: &Record,
) -> Result<(), Box<dyn std::error::Error>> {
    for (i, piece) in record.chain().segments().iter().enumerate() {
        let known: bool = tx.query_row(
            "SELECT EXISTS (SELECT 1 FROM segments WHERE chain = ?1)",
            [piece.chain.as_bytes()],
            |r| r.get(0),
        )?;
        if !known {
            let meta = Meta {
                chain: piece.chain,
                parent: piece.parent,
                model: record.model,
                params: record.params.canonical(),
                layout: Layout::Segment,
                first: piece.first,
            };
            let state = [7u8; STATE_BYTES];
            let encoded = Encoded::raw(&meta, &record.tokens[piece.first..piece.end()], &state);
            let object = put(store, &encoded)?;
            tx.execute(
                "INSERT INTO segments (chain, parent, object, layout, first, count, raw_bytes, file_bytes, created)
                 VALUES (?1, ?2, ?3, 'segment', ?4, ?5, ?6, ?7, 0)",
                rusqlite::params![
                    piece.chain.as_bytes(),
                    piece.parent.as_bytes(),
                    object.as_bytes(),
                    piece.first as i64,
                    piece.count as i64,
                    STATE_BYTES as i64,
                    encoded.len() as i64
                ],
            )?;
        }
        let link = rusqlite::params![record.key.as_bytes(), i as i64, piece.chain.as_bytes()];
        tx.execute("INSERT INTO state_segments VALUES (?1, ?2, ?3)", link)?;
    }
    Ok(())
}

fn put(store: &Store, encoded: &Encoded<'_>) -> std::io::Result<ObjectId> {
    let id = encoded.id();
    let path = store.object_path(&id);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, encoded.parts().concat())?;
    Ok(id)
}
