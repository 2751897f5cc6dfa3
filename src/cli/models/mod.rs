//! Which model is meant, and its hash.

pub mod catalog;
pub mod list;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use catalog::{Found, Places};

use super::app::App;
use super::failure::Failure;
use crate::cache::fingerprint::{fingerprint, fingerprint_again, is_the_one};
use crate::text::human;
pub use crate::text::human::file_name;
use crate::text::similar::similar;
use pcache_store::State;
use pcache_store::Store;

/// The model that `--model`, the environment or the config file names, else the only one in pcache's models folder,
/// else the only one that other programs have downloaded.
pub fn chosen(app: &App) -> Result<PathBuf> {
    let path = find(app)?;
    // A part of a name may mean another model than was thought.
    if let Some(named) = app.global.model.as_ref().filter(|named| !named.exists()) {
        let stem = |name: &str| human::model(name).to_lowercase();
        if stem(&named.to_string_lossy()) != stem(&file_name(&path)) {
            app.say(format!("model {} is {}", named.display(), path.display()));
        }
    }
    Ok(path)
}

/// Returns the same as [`chosen`], without a message.
pub fn find(app: &App) -> Result<PathBuf> {
    if let Some(named) = &app.global.model {
        return resolve(named);
    }
    let places = Places::of_user()?;
    let own = places.own_models();
    let found =
        if own.is_empty() { places.models().into_iter().filter(Found::is_usable).collect() } else { own };
    match found.as_slice() {
        [only] => Ok(only.path.clone()),
        [] => bail!(Failure::Model(format!(
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
        [] => {
            // A part of a name is enough, so a beginning with a slip is near, too.
            let begins = |model: &Found| model.name.chars().take(text.chars().count()).collect::<String>();
            let near = similar(&text, known.iter().map(|model| model.name.clone())).or_else(|| {
                let near = similar(&text, known.iter().map(&begins))?;
                known.iter().find(|model| begins(model) == near).map(|model| model.name.clone())
            });
            let near = near.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
            bail!(Failure::Model(format!(
                "no model {text:?}: it is no file, and `pcache models` lists none of that name{near}"
            )))
        }
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

/// The file of the model that a state was built with: the one named on the command line if there is one, else
/// where it was last seen, else what the environment or the models folder offers.
pub fn of_state(app: &App, store: &Store, state: &State) -> Result<PathBuf> {
    if app.global.model_is_explicit {
        let path = chosen(app)?;
        let found = fingerprint(app, Some(store), &path)?;
        if found != state.manifest.model {
            bail!(Failure::Model(format!(
                "state {} needs model {} (blake3 {}…), but {} has blake3 {}…",
                state.key().short(),
                file_name(Path::new(&state.label.model_path)),
                state.manifest.model.short(),
                path.display(),
                found.short()
            )));
        }
        return Ok(path);
    }
    let last_seen = PathBuf::from(&state.label.model_path);
    for path in [Some(last_seen.clone()), chosen(app).ok()].into_iter().flatten() {
        if path.is_file() && is_the_one(fingerprint_again(app, store, &path), &state.manifest.model)? {
            return Ok(path);
        }
    }
    let fate = if last_seen.is_file() { "has changed" } else { "no longer exists" };
    bail!(Failure::Model(format!(
        "state {} needs model {} (blake3 {}…), which {fate}; pass --model FILE if it is elsewhere",
        state.key().short(),
        last_seen.display(),
        state.manifest.model.short()
    )))
}
