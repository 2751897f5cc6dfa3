//! Model and parameters that a prompt is evaluated with, from the command line.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::app::App;
use super::failure::Failure;
use super::models;
use crate::cache::fingerprint::{fingerprint, fingerprint_adapter, is_the_one};
use crate::cache::target::Target;
use crate::cli::args::{FlashAttention, LoraFile, ParamArgs};
use pcache_format::{KvType, Lora, ModelHash, Params, Rope};
use pcache_store::State;
use pcache_store::Store;

/// Reads the model and the parameters of the command line; hashes the files if they are new.
pub fn of_args(app: &App, store: Option<&Store>, args: &ParamArgs) -> Result<Target> {
    of_model(app, store, models::chosen(app)?, args)
}

/// As [`of_args`], with this model.
pub fn of_model(app: &App, store: Option<&Store>, model_path: PathBuf, args: &ParamArgs) -> Result<Target> {
    let model = fingerprint(app, store, &model_path)?;
    let lora = args.lora.as_ref();
    let hash = lora.map(|l| fingerprint_adapter(app, store, &l.path)).transpose()?;
    let params = params(args, app.gpu_layers()? > 0, hash.zip(lora))?;
    let any_attention = matches!(args.flash_attn, None | Some(FlashAttention::Auto));
    let lora = lora.map(|l| l.path.clone());
    let (model_name, gpu_layers) = (models::shown_name(&model_path), app.gpu_layers()?);
    Ok(Target { model_path, model_name, model, params, any_attention, lora, gpu_layers })
}

/// Returns the model and the parameters of a saved state; refuses parameters on the command line that say otherwise.
pub fn of_state(app: &App, store: &Store, state: &State, args: &ParamArgs) -> Result<Target> {
    let lora = adapter_of_state(app, store, state, args)?;
    let model_path = models::of_state(app, store, state)?;
    let manifest = &state.manifest;
    let params = Params { rope_factors: None, ..manifest.params.clone() };
    let gpu_layers = app.gpu_layers()?;
    let (model_name, model) = (models::shown_name(&model_path), manifest.model);
    Ok(Target { model_path, model_name, model, params, any_attention: false, lora, gpu_layers })
}

/// The parameters that the command line asks for.
fn params(args: &ParamArgs, on_gpu: bool, lora: Option<(ModelHash, &LoraFile)>) -> Result<Params> {
    let kv_type = args.kv_type.unwrap_or_default();
    let mut params = Params::new(kv_type, on_gpu);
    match args.flash_attn.unwrap_or(FlashAttention::Auto) {
        FlashAttention::Auto => {}
        FlashAttention::On => params.flash_attention = true,
        FlashAttention::Off if kv_type != KvType::F16 => {
            let kv_type = kv_type.name();
            bail!(Failure::Usage(format!(
                "a {kv_type} cache needs flash attention; use --kv-type f16 without it"
            )));
        }
        FlashAttention::Off => params.flash_attention = false,
    }
    params.rope = rope(args);
    params.lora = lora.map(|(hash, file)| Lora { hash, scale: file.scale });
    Ok(params)
}

fn rope(args: &ParamArgs) -> Rope {
    Rope {
        scaling: args.rope_scaling,
        freq_base: args.rope_freq_base,
        freq_scale: args.rope_freq_scale,
        yarn_ext_factor: args.yarn_ext_factor,
        yarn_attn_factor: args.yarn_attn_factor,
        yarn_beta_fast: args.yarn_beta_fast,
        yarn_beta_slow: args.yarn_beta_slow,
        yarn_orig_ctx: args.yarn_orig_ctx,
    }
}

/// Refuses parameters on the command line that a state was not built with, and says where its adapter lies.
pub fn adapter_of_state(
    app: &App,
    store: &Store,
    state: &State,
    args: &ParamArgs,
) -> Result<Option<PathBuf>> {
    let asked = asked_for(app, store, state, args)?;
    if let Some(d) = asked.differences(&state.manifest.params).into_iter().next() {
        bail!(Failure::Usage(format!(
            "state {} was built with {} {}, not {}; build it again with the other one",
            state.key().short(),
            option(&d.name),
            d.there,
            d.here
        )));
    }
    match (&args.lora, &state.manifest.params.lora) {
        (Some(file), _) => Ok(Some(file.path.clone())),
        (None, Some(lora)) => find_adapter(app, store, state, lora).map(Some),
        (None, None) => Ok(None),
    }
}

/// The state's parameters with those in place that the command line gives.
fn asked_for(app: &App, store: &Store, state: &State, args: &ParamArgs) -> Result<Params> {
    let mut asked = state.manifest.params.clone();
    asked.kv_type = args.kv_type.unwrap_or(asked.kv_type);
    match args.flash_attn {
        Some(FlashAttention::On) => asked.flash_attention = true,
        Some(FlashAttention::Off) => asked.flash_attention = false,
        Some(FlashAttention::Auto) | None => {}
    }
    let (given, built) = (rope(args), &state.manifest.params.rope);
    asked.rope = Rope {
        scaling: given.scaling.or(built.scaling),
        freq_base: given.freq_base.or(built.freq_base),
        freq_scale: given.freq_scale.or(built.freq_scale),
        yarn_ext_factor: given.yarn_ext_factor.or(built.yarn_ext_factor),
        yarn_attn_factor: given.yarn_attn_factor.or(built.yarn_attn_factor),
        yarn_beta_fast: given.yarn_beta_fast.or(built.yarn_beta_fast),
        yarn_beta_slow: given.yarn_beta_slow.or(built.yarn_beta_slow),
        yarn_orig_ctx: given.yarn_orig_ctx.or(built.yarn_orig_ctx),
    };
    if let Some(file) = &args.lora {
        let hash = fingerprint_adapter(app, Some(store), &file.path)?;
        asked.lora = Some(Lora { hash, scale: file.scale });
    }
    Ok(asked)
}

/// The flag of a parameter's canonical name.
fn option(name: &str) -> String {
    match name {
        "flash_attention" => "--flash-attn".into(),
        name => format!("--{}", name.replace('_', "-")),
    }
}

fn find_adapter(app: &App, store: &Store, state: &State, lora: &Lora) -> Result<PathBuf> {
    let last_seen = store.model_path(&lora.hash)?.map(PathBuf::from);
    if let Some(path) = last_seen.as_deref().filter(|p| p.is_file())
        && is_the_one(fingerprint_adapter(app, Some(store), path), &lora.hash)?
    {
        return Ok(path.to_owned());
    }
    let shown = last_seen.as_deref().unwrap_or(Path::new("that is not known any more")).display().to_string();
    bail!(
        "state {} needs the LoRA adapter {shown} (blake3 {}…), which no longer exists or has changed; pass --lora FILE={}",
        state.key().short(),
        lora.hash.short(),
        lora.scale
    )
}
