//! Fills a store with many small states, for measuring the commands that look through all of them.
//!
//!     cargo run --release --example many -- FOLDER [STATES]
//!
//! The files are written without syncing and then put into the index as after its loss: this makes in minutes what building
//! would take days for. What it makes is what builds make: three segments that all states share, one of its own, a
//! manifest, a label.

use std::error::Error;
use std::path::Path;

use pcache_format::label::{Name, Provenance};
use pcache_format::manifest::ManifestSegment;
use pcache_format::{
    Chain, ComputeIdentity, Encoded, KvType, Label, Layout, Lineage, Manifest, Meta, ModelHash, Params,
    Segment, StateKind,
};
use pcache_store::{Options, Store};

const TOKENS: i32 = 3 * 256 + 100;
const STATE: [u8; 512] = [7; 512];

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("usage: many FOLDER [STATES]")?;
    let states: i32 = args.next().map_or(Ok(100_000), |n| n.parse())?;
    let root = Path::new(&folder);
    let compute = ComputeIdentity::new([("backend", "none")]);
    let lineage = Lineage::from(compute.id());
    let store = Store::open(root, &Options::new(compute.clone()))?;
    for n in 0..states {
        let manifest = put_state(&store, n, lineage, &compute)?;
        let name = Name { name: format!("state-{n}"), given: 1_700_000_000, pinned: false, expires: None };
        let label = Label {
            key: manifest.key,
            revision: 1,
            names: vec![name],
            pinned: false,
            expires: None,
            origin: format!("prompt-{n}.txt"),
            prompt_format: "chat template".into(),
            model_path: "model.gguf".into(),
            text: Some(<[u8; 32]>::from(blake3::hash(&n.to_le_bytes())).into()),
            prompt: Some(<[u8; 32]>::from(blake3::hash(&n.to_be_bytes())).into()),
            created: 1_700_000_000 + i64::from(n),
            build_s: 1.0,
            evaluated: 100,
            provenance: Provenance::Built,
        };
        std::fs::write(root.join("labels/v2").join(Label::file_name(&label.key)), label.encode())?;
    }
    let found = store.reindex(&store.lock_exclusive(|| ())?, &|_, _| ())?;
    println!("{} states in {folder}", found.states);
    Ok(())
}

/// Writes a state's objects and its manifest.
fn put_state(
    store: &Store,
    n: i32,
    lineage: Lineage,
    compute: &ComputeIdentity,
) -> Result<Manifest, Box<dyn Error>> {
    let (model, params) = (ModelHash::from([1; 32]), Params::new(KvType::F16, false));
    let tokens: Vec<i32> = (0..TOKENS).map(|i| if i < 3 * 256 { i } else { i + 7919 * n }).collect();
    let chain = Chain::new(params.root(&model), &tokens);
    let mut segments = Vec::new();
    for piece in chain.segments() {
        segments.push(put_segment(store, &params, model, piece, &tokens, lineage)?);
    }
    let manifest = Manifest {
        key: chain.state_key("", ""),
        model,
        params,
        lineage,
        computed_by: compute.clone(),
        kind: StateKind::Prompt,
        layout: Layout::Segment,
        pending_text: String::new(),
        suffix: String::new(),
        prompt_span: Some(0..1000),
        raw: false,
        rendered_with: pcache_format::RenderedWith::default(),
        tokens,
        segments,
    };
    let name = Manifest::file_name(&manifest.key, lineage);
    put(&store.root().join("manifests/v2").join(&name[..2]).join(&name), &manifest.encode())?;
    Ok(manifest)
}

fn put_segment(
    store: &Store,
    params: &Params,
    model: ModelHash,
    piece: &Segment,
    tokens: &[i32],
    lineage: Lineage,
) -> std::io::Result<ManifestSegment> {
    let meta = Meta {
        chain: piece.chain,
        parent: piece.parent,
        model,
        params: params.canonical(),
        layout: Layout::Segment,
        first: piece.first,
        lineage,
        parent_lineage: lineage,
    };
    let encoded = Encoded::raw(&meta, &tokens[piece.first..piece.end()], &STATE);
    let path = store.object_path(&encoded.id());
    if !path.exists() {
        put(&path, &encoded)?;
    }
    Ok(ManifestSegment {
        chain: piece.chain,
        tokens: piece.count,
        lineage,
        raw_blake3: encoded.raw_blake3(),
        raw_bytes: STATE.len() as u64,
        object: encoded.id(),
        object_bytes: encoded.len(),
    })
}

fn put(path: &Path, encoded: &Encoded<'_>) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, encoded.parts().concat())
}
