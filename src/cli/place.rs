//! Where a state that is to be opened lies, by what the command line says.

use std::sync::Arc;

use anyhow::Result;

use super::app::App;
use super::{models, states, target};
use crate::cache::opened::Place;
use crate::cache::whole_state;
use crate::cli::args::ParamArgs;
use pcache_store::Prefix;

/// Finds the state that a name or the beginning of a key means, its model and its adapter.
pub fn find(app: &App, text: &str, params: &ParamArgs) -> Result<Place> {
    let store = states::store_with(app, text)?;
    let key = states::key(&store, text)?;
    let state = whole_state(&store, &key)?;
    let prefix = Arc::new(Prefix::of_manifest(&state.manifest));
    let adapter = target::adapter_of_state(app, &store, &state, params)?;
    let model = models::of_state(app, &store, &state)?;
    Ok(Place { store, state: Arc::new(state), prefix, model, adapter, gpu_layers: app.gpu_layers()? })
}
