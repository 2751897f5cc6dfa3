//! Finds the state that a command line names.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use super::app::App;
use super::{build, models, source, states, target};
use crate::cache::open_state::ResolvedState;
use crate::cache::whole_state;
use crate::cli::args::ParamArgs;
use pcache_store::{Lookup, Prefix, State};

/// Finds the state that a name or the beginning of a key means, its model and its adapter. The name of a prompt's file stands
/// for the state that `pcache build FILE` makes; a missing one is built.
pub fn find(app: &App, text: &str, params: &ParamArgs) -> Result<ResolvedState> {
    let file = Path::new(text);
    let known = app.existing_store()?.map(|store| store.lookup(text)).transpose()?;
    let (store, key) = match known {
        None | Some(Lookup::Unknown) if file.is_file() => build::of_file(app, file, params)?,
        _ => {
            let store = states::store_with(app, text)?;
            let key = states::key(&store, text)?;
            (store, key)
        }
    };
    let state = whole_state(&store, &key)?;
    app.say_if(outdated(&state));
    let prefix = Arc::new(Prefix::of_manifest(&state.manifest));
    let adapter = target::adapter_of_state(app, &store, &state, params)?;
    let model = models::of_state(app, &store, &state)?;
    Ok(ResolvedState { store, state: Arc::new(state), prefix, model, adapter, gpu_layers: app.gpu_layers()? })
}

/// Says that the prompt's file, where it lies in this folder, has another text by now.
fn outdated(state: &State) -> Option<String> {
    let file = Path::new(&state.label.origin);
    let text = state.label.text.filter(|_| file.is_file())?;
    let now = source::text_digest(file).ok()?;
    let (label, file) = (states::label(&state.key(), state.label.name()), file.display());
    (now != text).then(|| {
        format!("{file} has changed since state {label} was built; pcache build {file} saves the new text")
    })
}
