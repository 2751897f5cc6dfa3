//! Which model is meant, and its hash.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::app::{App, user_cache};
use super::failure::Failure;
use crate::engine::model::{Engine, Model};
use crate::key::ModelHash;
use crate::key::fingerprint::{FileIdentity, hash_file};
use crate::report::progress::Unit;
use crate::store::Store;
use crate::store::index::StateRow;

/// How long a model loads before a bar appears.
const LOAD_WITHOUT_BAR: Duration = Duration::from_secs(1);
/// A file is hashed with a progress bar from this size on: about a second.
const WORTH_A_BAR: u64 = 2 << 30;

/// The model that `--model` or the environment names, else the only one in pcache's models folder.
pub fn chosen(app: &App) -> Result<PathBuf> {
    if let Some(named) = &app.global.model {
        return resolve(named);
    }
    let folder = user_cache()?.join("models");
    let found = gguf_files(&folder);
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => bail!(Failure::Usage(format!(
            "no model: pass --model FILE.gguf, set PCACHE_MODEL, or put one into {}",
            folder.display()
        ))),
        several => bail!(Failure::Usage(format!(
            "several models: say which one with --model or PCACHE_MODEL:\n{}",
            several.iter().map(|p| format!("  {}", p.display())).collect::<Vec<_>>().join("\n")
        ))),
    }
}

/// A path as it is, or the name of a model in pcache's models folder.
fn resolve(named: &Path) -> Result<PathBuf> {
    if named.exists() {
        return Ok(named.to_owned());
    }
    let folder = user_cache()?.join("models");
    if named.components().count() == 1 {
        let candidates = [folder.join(named), folder.join(format!("{}.gguf", named.display()))];
        if let Some(found) = candidates.into_iter().find(|p| p.is_file()) {
            return Ok(found);
        }
    }
    let known = gguf_files(&folder);
    let known: Vec<_> = known.iter().filter_map(|p| p.file_stem()).map(|s| s.to_string_lossy()).collect();
    let known = if known.is_empty() { "no models".into() } else { known.join(", ") };
    bail!("there is no model {}: no such file, and {} has {known}", named.display(), folder.display())
}

fn gguf_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")))
        .collect();
    found.sort();
    found
}

/// The hash of a model file: remembered if the file is the one that was hashed before, else computed now.
pub fn fingerprint(app: &App, store: &mut Store, path: &Path) -> Result<ModelHash> {
    let path = fs_err::canonicalize(path)?;
    let identity = FileIdentity::of(&path)?;
    check_gguf(&path)?;
    if let Some(hash) = store.index().model_of_file(&identity)? {
        // The same content under another path: that is where it is now.
        if store.index().model_path(&hash)?.as_deref() != path.to_str() {
            store.index_mut().remember_model(&identity, &path, &hash)?;
        }
        return Ok(hash);
    }
    let progress = app.progress();
    let show = identity.size >= WORTH_A_BAR;
    if show {
        progress.start(&format!("hashing {}", file_name(&path)), identity.size, Unit::Bytes);
    }
    let hash = hash_file(&path, |done| {
        if show {
            progress.set(done);
        }
    });
    progress.finish();
    let hash = hash.with_context(|| format!("cannot read {}", path.display()))?;
    // A file that changed while it was read has a hash that belongs to no version of it.
    if FileIdentity::of(&path)? != identity {
        bail!("{} changed while it was being hashed; try again when it is complete", path.display());
    }
    store.index_mut().remember_model(&identity, &path, &hash)?;
    Ok(hash)
}

/// Refuses what llama.cpp could only refuse with less to say.
fn check_gguf(path: &Path) -> Result<()> {
    if path.is_dir() {
        bail!("{} is a folder, expected a GGUF file", path.display());
    }
    let mut magic = Vec::new();
    let file = fs_err::File::open(path)?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, 4), &mut magic)?;
    if path.to_str().is_none() {
        bail!("{} is not a UTF-8 path, and llama.cpp opens no other; rename it", path.display());
    }
    if magic != b"GGUF" {
        bail!("{} is not a GGUF file: it begins with {:?}", path.display(), magic.escape_ascii().to_string());
    }
    Ok(())
}

/// The file of the model that a state was built with: the one named on the command line if there is one, else
/// where it was last seen, else what the environment or the models folder offers.
pub fn of_state(app: &App, store: &mut Store, state: &StateRow) -> Result<PathBuf> {
    if app.global.model_is_explicit {
        let path = chosen(app)?;
        let found = fingerprint(app, store, &path)?;
        if found != state.model {
            bail!(
                "state {} needs model {} (blake3 {}…), but {} has blake3 {}…",
                state.key.short(),
                file_name(Path::new(&state.model_path)),
                state.model.short(),
                path.display(),
                found.short()
            );
        }
        return Ok(path);
    }
    let last_seen = PathBuf::from(&state.model_path);
    for path in [Some(last_seen.clone()), chosen(app).ok()].into_iter().flatten() {
        if path.is_file() && fingerprint(app, store, &path).is_ok_and(|found| found == state.model) {
            return Ok(path);
        }
    }
    let fate = if last_seen.is_file() { "has changed" } else { "has moved" };
    bail!(
        "state {} needs model {} (blake3 {}…), which {fate}; pass --model",
        state.key.short(),
        last_seen.display(),
        state.model.short()
    )
}

/// Loads a model, with a progress bar when that takes long.
pub fn load<'e>(app: &App, engine: &'e Engine, path: &Path, gpu_layers: u32) -> Result<Model<'e>> {
    let bar = Rc::new(app.progress());
    let (shown, start, what) = (Rc::clone(&bar), Instant::now(), format!("loading {}", file_name(path)));
    let mut started = false;
    let loaded = engine.load(path, gpu_layers, move |share| {
        if !started && start.elapsed() > LOAD_WITHOUT_BAR {
            shown.start(&what, 100, Unit::Percent);
            started = true;
        }
        if started {
            shown.set((share * 100.0) as u64);
        }
    });
    bar.finish();
    Ok(loaded?)
}

/// The last part of a path, for people.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
