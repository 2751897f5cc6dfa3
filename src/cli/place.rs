//! Finds the state that a command line names.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};

use super::app::App;
use super::failure::Failure;
use super::{build, models, source, states, target};
use crate::cache::open_state::{CachePolicy, ResolvedState};
use crate::cache::verdict::Verdict;
use crate::cache::whole_state;
use crate::cli::args::ParamArgs;
use pcache_format::StateKey;
use pcache_store::{Lookup, Prefix, State, Store};

/// A state, and the verdict of the build that made it just now, if it was missing.
pub struct ChosenState {
    /// The state.
    pub state: ResolvedState,
    /// Share of it that was saved before.
    pub built: Option<Verdict>,
}

/// Finds the state that a name, the beginning of a key or a prompt's file means, its model and its adapter. A file's state is
/// built if it is missing, unless `policy` forbids it.
pub fn find(app: &App, text: &str, params: &ParamArgs, policy: CachePolicy) -> Result<ChosenState> {
    let file = Path::new(text);
    let known = app.existing_store()?.map(|store| store.lookup(text)).transpose()?;
    let (store, key, built) = match known {
        None | Some(Lookup::Unknown) if file.is_file() => of_file(app, file, params, policy)?,
        None | Some(Lookup::Unknown) if is_path(text) => {
            if file.exists() && !file.is_dir() {
                bail!(Failure::Usage(format!(
                    "{text:?} can be read only once; build its state with pcache build"
                )));
            }
            let what = if file.is_dir() { "a folder" } else { "no file" };
            bail!(Failure::NotFound(format!("{text:?} is no state and {what}; pcache ls lists the states")))
        }
        _ => {
            let store = states::store_with(app, text)?;
            let key = states::key(&store, text)?;
            if file.is_file() {
                app.say(format!("{text} is the name of a state here; ./{text} would be the file"));
            }
            (store, key, None)
        }
    };
    let state = whole_state(&store, &key)?;
    app.say_if(outdated(&state));
    let prefix = Arc::new(Prefix::of_manifest(&state.manifest));
    let adapter = target::adapter_of_state(app, &store, &state, params)?;
    let model = models::of_state(app, &store, &state)?;
    let gpu_layers = app.gpu_layers()?;
    let state = ResolvedState { store, state: Arc::new(state), prefix, model, adapter, gpu_layers };
    Ok(ChosenState { state, built })
}

/// Refuses what is neither a state nor a file.
///
/// # Errors
/// [`Failure::NotFound`] where nothing is there.
pub fn check(app: &App, text: &str) -> Result<()> {
    if Path::new(text).exists() {
        return Ok(());
    }
    let store = states::store_with(app, text)?;
    states::key(&store, text).map(drop)
}

/// Only a path has a separator; a name may have a dot, which most files have.
fn is_path(text: &str) -> bool {
    text.contains(std::path::MAIN_SEPARATOR) || Path::new(text).extension().is_some()
}

/// The state of a prompt's file: one of the same text, the last used first, else the one that a build makes.
fn of_file(
    app: &App,
    file: &Path,
    params: &ParamArgs,
    policy: CachePolicy,
) -> Result<(Store, StateKey, Option<Verdict>)> {
    let digest = source::text_digest(file)?;
    if let Some(store) = app.existing_store()?
        && !app.global.model_is_explicit
        && let Some(key) = store.states_of_text(&digest)?.first().copied()
    {
        return Ok((store, key, None));
    }
    if policy.require_hit || policy.no_cache {
        let file = file.display();
        bail!(Failure::Miss(format!(
            "{file} is not saved, so there is no hit; pcache build {file} saves it"
        )));
    }
    let (store, report) = build::of_file(app, file, params)?;
    let built = (report.cache.evaluated_tokens > 0).then_some(report.cache);
    Ok((store, report.key.parse()?, built))
}

/// Says that the prompt's file, where it lies in this folder, has another text by now.
fn outdated(state: &State) -> Option<String> {
    let file = Path::new(&state.label.origin);
    let text = state.label.text.filter(|_| file.is_file())?;
    let now = source::text_digest(file).ok()?;
    let (label, file) = (states::label(&state.key(), state.label.name()), file.display());
    let name = state.label.name().map(|name| format!(" --name {name}")).unwrap_or_default();
    (now != text).then(|| {
        format!(
            "{file} in this folder has another text than state {label}; pcache build {file}{name} saves it"
        )
    })
}
