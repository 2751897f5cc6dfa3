//! Where a state that is to be opened lies, by what the command line says.

use std::sync::Arc;

use anyhow::{Result, bail};

use super::app::App;
use super::failure::Failure;
use super::{models, states, target};
use crate::cache::opened::Place;
use crate::cli::ParamArgs;
use pcache_store::Prefix;

/// Finds the state that a name or the beginning of a key means, its model and its adapter.
pub fn find(app: &App, text: &str, params: &ParamArgs) -> Result<Place> {
    let store = states::store_with(app, text)?;
    let key = states::key(&store, text)?;
    let state = states::state(&store, &key)?;
    if !state.is_whole() {
        let why = state.damage.as_ref().map(ToString::to_string).unwrap_or_default();
        bail!(Failure::Corrupt(format!(
            "the tokens of state {} are lost: {why}; building the prompt again saves it anew",
            state.key().short()
        )));
    }
    let prefix = Arc::new(Prefix::of_manifest(&state.manifest));
    let adapter = target::adapter_of_state(app, &store, &state, params)?;
    let model = models::of_state(app, &store, &state)?;
    Ok(Place { store, state: Arc::new(state), prefix, model, adapter, gpu_layers: app.gpu_layers()? })
}
