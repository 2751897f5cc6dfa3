//! Loading a model.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Observer;
use super::progress::Unit;
use crate::text::human::file_name;
use pcache_engine::model::{Model, ModelOptions};

/// Loads that take no longer show no bar.
const LOAD_WITHOUT_BAR: Duration = Duration::from_secs(1);

/// Loads a model and its adapter; tells how far it is when that takes long.
///
/// # Errors
/// When llama.cpp refuses one of the files.
pub fn load(observer: &dyn Observer, path: &Path, gpu_layers: u32, adapter: Option<&Path>) -> Result<Model> {
    let bar = Rc::new(observer.progress());
    let (shown, start, what) = (Rc::clone(&bar), Instant::now(), format!("loading {}", file_name(path)));
    let mut started = false;
    let options = ModelOptions::default().gpu_layers(gpu_layers).progress(move |share| {
        if !started && start.elapsed() > LOAD_WITHOUT_BAR {
            shown.start(&what, 100, Unit::Percent);
            started = true;
        }
        if started {
            shown.set((share * 100.0) as u64);
        }
    });
    let options = match adapter {
        Some(adapter) => options.adapter(adapter),
        None => options,
    };
    let loaded = Model::load(path, options);
    bar.finish();
    Ok(loaded?)
}
