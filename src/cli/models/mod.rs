//! Which model is meant, and its hash.

pub mod catalog;
pub mod list;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use catalog::{Found, OWN, Places};

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
    let usable: Vec<Found> = places.models().into_iter().filter(|found| found.problem().is_none()).collect();
    let own: Vec<Found> = usable.iter().filter(|found| found.place == OWN).cloned().collect();
    match if own.is_empty() { usable } else { own }.as_slice() {
        [only] => Ok(only.path.clone()),
        [] => bail!(Failure::Model(format!(
            "no model: pass --model FILE.gguf, set PCACHE_MODEL, or put one into {}",
            places.own().display()
        ))),
        several => bail!(Failure::Usage(format!(
            "several models: say which one with --model or PCACHE_MODEL:\n{}",
            names_of(several).iter().map(|name| format!("  {name}")).collect::<Vec<_>>().join("\n")
        ))),
    }
}

/// Names of models, longer ones where several have the same.
fn names_of(models: &[Found]) -> Vec<&str> {
    let is_shared = |found: &Found| models.iter().filter(|other| other.name == found.name).count() > 1;
    models.iter().map(|found| if is_shared(found) { &found.full } else { &found.name }.as_str()).collect()
}

/// The name of a model that is kept under its hash, as Ollama and the Hugging Face cache keep theirs: that which finds it.
/// Otherwise the file's own.
pub fn shown_name(path: &Path) -> String {
    let name = file_name(path);
    let hash = name.strip_prefix("sha256-").unwrap_or(&name);
    if hash.len() < 32 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return name;
    }
    let known = Places::of_user().map(|places| places.models()).unwrap_or_default();
    let found = known.into_iter().find(|found| same_file::is_same_file(&found.path, path).unwrap_or(false));
    found.map_or(name, |found| found.name)
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
            let lines = names_of(several).into_iter().zip(several);
            let lines = lines.map(|(name, found)| format!("  {name}  {}", found.path.display()));
            bail!(Failure::Usage(format!(
                "several models are called {text}; pass one of these names or paths:\n{}",
                lines.collect::<Vec<_>>().join("\n")
            )))
        }
    };
    Ok(chosen)
}

/// Files that may be a state's model, where it is not where it was last seen: what the environment or the models folder offers,
/// where another state of it was built, and files of its size in the folders that models are looked for in.
fn elsewhere(app: &App, store: &Store, state: &State) -> Result<Vec<PathBuf>> {
    let model = &state.manifest.model;
    let size = store.model_size(model)?;
    let of_size = |found: &Found| size.is_some() && found.path.metadata().ok().map(|meta| meta.len()) == size;
    let known = Places::of_user().map(|places| places.models()).unwrap_or_default();
    let known = known.into_iter().filter(of_size).map(|found| found.path);
    let seen = store.model_path(model)?.map(PathBuf::from);
    Ok(seen.into_iter().chain(chosen(app).ok()).chain(known).collect())
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
    let is_it = |path: &Path| -> Result<bool> {
        Ok(path.is_file() && is_the_one(fingerprint_again(app, store, path), &state.manifest.model)?)
    };
    if is_it(&last_seen)? {
        return Ok(last_seen);
    }
    for path in elsewhere(app, store, state)? {
        if is_it(&path)? {
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
