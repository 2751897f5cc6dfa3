//! Which content a model's file has: its hash, remembered.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::progress::Unit;
use super::{Failure, Observer};
use crate::text::file::Missing;
use crate::text::human::file_name;
use pcache_engine::gguf::Header;
use pcache_format::ModelHash;
use pcache_store::fingerprint::{FileIdentity, hash_file};
use pcache_store::{Store, StoreError};

/// A LoRA adapter was given where a model should be.
#[derive(Debug, thiserror::Error)]
#[error("{} is a LoRA adapter; it goes on top of a model", .0.display())]
pub struct IsAdapter(pub PathBuf);

/// A file is hashed with a progress bar from this size on: about a second.
const WORTH_A_BAR: u64 = 2 << 30;

/// The hash of a model file: remembered if the file is the one that was hashed before, else computed now.
///
/// # Errors
/// When it cannot be read, or is no model that continues text.
pub fn fingerprint(observer: &dyn Observer, store: Option<&Store>, path: &Path) -> Result<ModelHash> {
    let check = |path: &Path, header: &Header, bytes: u64| {
        if header.is_adapter() {
            bail!(IsAdapter(path.to_owned()));
        }
        if let Some(problem) = header.problem(bytes) {
            let architecture = header.architecture();
            bail!("{} ({architecture}) is not a model that continues text: {problem}", path.display());
        }
        Ok(())
    };
    fingerprint_file(observer, store, path, &check)
}

/// The hash of a file that was used before, and so is known to be what it should be; else as [`fingerprint`].
///
/// # Errors
/// As [`fingerprint`].
pub fn fingerprint_again(observer: &dyn Observer, store: &Store, path: &Path) -> Result<ModelHash> {
    let known = FileIdentity::read(path).ok().map(|identity| store.model_of_file(&identity)).transpose()?;
    match known.flatten() {
        Some(hash) => Ok(hash),
        None => fingerprint(observer, Some(store), path),
    }
}

/// The hash of a LoRA adapter's file.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn fingerprint_adapter(observer: &dyn Observer, store: Option<&Store>, path: &Path) -> Result<ModelHash> {
    let check = |path: &Path, header: &Header, _bytes: u64| {
        if !header.is_adapter() {
            bail!("{} is not a LoRA adapter", path.display());
        }
        Ok(())
    };
    fingerprint_file(observer, store, path, &check)
}

fn fingerprint_file(
    observer: &dyn Observer,
    store: Option<&Store>,
    path: &Path,
    check: &dyn Fn(&Path, &Header, u64) -> Result<()>,
) -> Result<ModelHash> {
    let meta = fs_err::metadata(path).map_err(|e| Missing::or(path, e))?;
    if !meta.is_file() {
        let found = if meta.is_dir() { "a folder" } else { "no regular file" };
        bail!(Failure::Model(format!("{} is {found}, expected a GGUF file", path.display())));
    }
    let path = std::path::absolute(path)?;
    if path.to_str().is_none() {
        bail!("{} is not a UTF-8 path, and llama.cpp opens no other; rename it", path.display());
    }
    let identity = FileIdentity::read(&path)?;
    let header = Header::read(&path).with_context(|| format!("cannot use {}", path.display()))?;
    check(&path, &header, identity.size)?;
    let Some(store) = store else { return hash(observer, &path, &identity) };
    if let Some(hash) = store.model_of_file(&identity)? {
        // The same content under another path: that is where it is now.
        if store.model_path(&hash)?.as_deref() != path.to_str() {
            remember(store, &identity, &path, &hash)?;
        }
        return Ok(hash);
    }
    let hash = hash(observer, &path, &identity)?;
    if !header.is_adapter() {
        observer.new_model(&path)?;
    }
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

fn hash(observer: &dyn Observer, path: &Path, identity: &FileIdentity) -> Result<ModelHash> {
    let progress = observer.progress();
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
    if FileIdentity::read(path)? != *identity {
        bail!("{} changed while it was being hashed; try again when it is complete", path.display());
    }
    Ok(hash)
}

/// Compares a file's hash with the wanted one. A file that cannot be hashed is not the one; a damaged index is another
/// matter, and no reason to say that the file has changed.
///
/// # Errors
/// When the index is damaged.
pub fn is_the_one(found: Result<ModelHash>, wanted: &ModelHash) -> Result<bool> {
    match found {
        Err(error) if error.is::<StoreError>() => Err(error),
        found => Ok(found.is_ok_and(|hash| hash == *wanted)),
    }
}
