//! Which model is meant, and its hash.

pub mod catalog;
pub mod list;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::app::App;
use super::failure::Failure;
use crate::cache::progress::Unit;
use catalog::{Found, Places};
use pcache_engine::gguf::Header;
use pcache_format::ModelHash;
use pcache_store::State;
use pcache_store::fingerprint::{FileIdentity, hash_file};
use pcache_store::{Store, StoreError};

/// A file is hashed with a progress bar from this size on: about a second.
const WORTH_A_BAR: u64 = 2 << 30;

/// The model that `--model`, the environment or the config file names, else the only one in pcache's models folder,
/// else the only one that other programs have downloaded.
pub fn chosen(app: &App) -> Result<PathBuf> {
    if let Some(named) = &app.global.model {
        return resolve(named);
    }
    let places = Places::of_user()?;
    let own = places.own_models();
    let found =
        if own.is_empty() { places.models().into_iter().filter(Found::is_usable).collect() } else { own };
    match found.as_slice() {
        [only] => Ok(only.path.clone()),
        [] => bail!(Failure::Usage(format!(
            "no model: pass --model FILE.gguf, set PCACHE_MODEL, or put one into {}",
            places.own().display()
        ))),
        several => bail!(Failure::Usage(format!(
            "several models: say which one with --model or PCACHE_MODEL:\n{}",
            several.iter().map(|f| format!("  {}", f.name)).collect::<Vec<_>>().join("\n")
        ))),
    }
}

/// A path as it is, or the name of a model that `pcache models` lists.
pub fn resolve(named: &Path) -> Result<PathBuf> {
    if named.exists() {
        return Ok(named.to_owned());
    }
    let places = Places::of_user()?;
    let text = named.to_string_lossy();
    let known = places.models();
    let chosen = match catalog::named(&known, &text).as_slice() {
        [only] => only.path.clone(),
        [] => bail!(
            "there is no model {text}: no such file, and no model of that name in {}; pcache models lists them",
            places.own().display()
        ),
        several => {
            let lines = several.iter().map(|f| format!("  {}  {}", f.name, f.path.display()));
            bail!(Failure::Usage(format!(
                "several models are called {text}; pass one of these paths:\n{}",
                lines.collect::<Vec<_>>().join("\n")
            )))
        }
    };
    Ok(chosen)
}

/// The hash of a model file: remembered if the file is the one that was hashed before, else computed now.
pub fn fingerprint(app: &App, store: Option<&Store>, path: &Path) -> Result<ModelHash> {
    let check = |path: &Path, header: &Header| {
        if header.is_adapter() {
            bail!("{} is a LoRA adapter; pass it with --lora, and its model with --model", path.display());
        }
        if header.parts() > 1 {
            bail!(
                "{} is one of {} parts of a model; join them with llama-gguf-split --merge",
                path.display(),
                header.parts()
            );
        }
        if !header.is_causal() {
            let architecture = header.architecture();
            bail!(
                "{} ({architecture}) is not a model that continues text: its attention is not causal (an embedding model?)",
                path.display()
            );
        }
        Ok(())
    };
    fingerprint_file(app, store, path, &check)
}

/// The hash of a file that was used before, and so is known to be what it should be; else as [`fingerprint`].
fn fingerprint_again(app: &App, store: &Store, path: &Path) -> Result<ModelHash> {
    let known = FileIdentity::of(path).ok().map(|identity| store.model_of_file(&identity)).transpose()?;
    match known.flatten() {
        Some(hash) => Ok(hash),
        None => fingerprint(app, Some(store), path),
    }
}

/// The hash of a LoRA adapter's file.
pub fn fingerprint_adapter(app: &App, store: Option<&Store>, path: &Path) -> Result<ModelHash> {
    let check = |path: &Path, header: &Header| {
        if !header.is_adapter() {
            bail!("{} is not a LoRA adapter", path.display());
        }
        Ok(())
    };
    fingerprint_file(app, store, path, &check)
}

fn fingerprint_file(
    app: &App,
    store: Option<&Store>,
    path: &Path,
    check: &dyn Fn(&Path, &Header) -> Result<()>,
) -> Result<ModelHash> {
    let path = fs_err::canonicalize(path)?;
    if path.is_dir() {
        bail!("{} is a folder, expected a GGUF file", path.display());
    }
    if path.to_str().is_none() {
        bail!("{} is not a UTF-8 path, and llama.cpp opens no other; rename it", path.display());
    }
    let identity = FileIdentity::of(&path)?;
    let header = Header::of(&path).with_context(|| format!("cannot use {}", path.display()))?;
    check(&path, &header)?;
    let Some(store) = store else { return hash(app, &path, &identity) };
    if let Some(hash) = store.model_of_file(&identity)? {
        // The same content under another path: that is where it is now.
        if store.model_path(&hash)?.as_deref() != path.to_str() {
            remember(store, &identity, &path, &hash)?;
        }
        return Ok(hash);
    }
    let hash = hash(app, &path, &identity)?;
    remember(store, &identity, &path, &hash)?;
    Ok(hash)
}

/// Remembers a hash, where that can be written.
fn remember(store: &Store, identity: &FileIdentity, path: &Path, hash: &ModelHash) -> Result<()> {
    match store.remember_model(identity, path, hash) {
        Err(_) if !store.is_writable() => Ok(()),
        other => Ok(other?),
    }
}

fn hash(app: &App, path: &Path, identity: &FileIdentity) -> Result<ModelHash> {
    let progress = app.progress();
    let show = identity.size >= WORTH_A_BAR;
    if show {
        progress.start(&format!("hashing {}", file_name(path)), identity.size, Unit::Bytes);
    }
    let hash = hash_file(path, |done| {
        if show {
            progress.set(done);
        }
    });
    progress.finish();
    let hash = hash.with_context(|| format!("cannot read {}", path.display()))?;
    // A file that changed while it was read has a hash that belongs to no version of it.
    if FileIdentity::of(path)? != *identity {
        bail!("{} changed while it was being hashed; try again when it is complete", path.display());
    }
    Ok(hash)
}

/// The file of the model that a state was built with: the one named on the command line if there is one, else
/// where it was last seen, else what the environment or the models folder offers.
pub fn of_state(app: &App, store: &Store, state: &State) -> Result<PathBuf> {
    if app.global.model_is_explicit {
        let path = chosen(app)?;
        let found = fingerprint(app, Some(store), &path)?;
        if found != state.manifest.model {
            bail!(
                "state {} needs model {} (blake3 {}…), but {} has blake3 {}…",
                state.key().short(),
                file_name(Path::new(&state.label.model_path)),
                state.manifest.model.short(),
                path.display(),
                found.short()
            );
        }
        return Ok(path);
    }
    let last_seen = PathBuf::from(&state.label.model_path);
    for path in [Some(last_seen.clone()), chosen(app).ok()].into_iter().flatten() {
        if path.is_file() && is_the_one(fingerprint_again(app, store, &path), &state.manifest.model)? {
            return Ok(path);
        }
    }
    let fate = if last_seen.is_file() { "has changed" } else { "has moved" };
    bail!(
        "state {} needs model {} (blake3 {}…), which {fate}; pass --model",
        state.key().short(),
        last_seen.display(),
        state.manifest.model.short()
    )
}

/// Whether a file's hash is the wanted one. A file that cannot be hashed is not the one; a damaged index is another
/// matter, and no reason to say that the file has changed.
pub fn is_the_one(found: Result<ModelHash>, wanted: &ModelHash) -> Result<bool> {
    match found {
        Err(error) if error.is::<StoreError>() => Err(error),
        found => Ok(found.is_ok_and(|hash| hash == *wanted)),
    }
}

/// The last part of a path, for people.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
