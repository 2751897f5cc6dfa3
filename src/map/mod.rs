//! One answer for each record of a file or a stream, in order.
//!
//! The model is loaded once. One after the other, each record starts from the restored state just as a question of an ask
//! does; several at once, the state is restored once and they go on from it in the same batches.

mod context_size;
mod fields;
mod format;
pub(crate) mod input;
pub mod journal;
pub mod layout;
pub(crate) mod names;
pub mod output;
mod parallel;
pub mod question;
mod quotes;
mod reader;
pub mod records;
mod sequential;
pub mod tally;
pub(crate) mod tsv;
mod work;

use anyhow::Result;

use crate::cache::Call;
use crate::cache::open_state::{Behind, CachePolicy, ResolvedState};
use crate::cache::progress::Silent;
use crate::cache::source::named;
pub use format::RecordFormat;
use layout::Layout;
use output::Output;
use pcache_engine::Slots;
use pcache_engine::constraint::Constraint;
use pcache_engine::generate::Sampling;
use pcache_format::StateKey;
use question::Template;
use reader::Reader;
use records::Records;
use tally::Tally;
use work::MapRun;

/// Options of a run.
pub struct Options {
    /// Question, as it was given.
    pub asked: Wording,
    /// The same, understood.
    pub template: Template,
    /// The field for the answer.
    pub into: String,
    /// An answer takes the place of a field that a record came with.
    pub replace: bool,
    /// Delimiter of columns, where it was given.
    pub delimiter: Option<u8>,
    /// Choice of tokens.
    pub sampling: Sampling,
    /// Constraint on answers.
    pub constraint: Option<Constraint>,
    /// Records that are answered at once.
    pub parallel: u32,
    /// Each of several at once has the answer that it has alone.
    pub exact: bool,
    /// A miss is a failure.
    pub require_hit: bool,
    /// Records at most.
    pub limit: Option<u64>,
    /// Progress is shown.
    pub progress: bool,
}

/// Question about each record, as it was given.
pub struct Wording {
    /// A field.
    pub field: String,
    /// A text with fields in it, instead.
    pub template: Option<String>,
}

/// Answers all records from the state at `place`. `layout` is how the output has them; `open` opens it, once it is known that
/// something can be answered, under a name for everything that the answers follow from. `total` is the number of records, where
/// it is known.
///
/// # Errors
/// When it is cancelled, the input cannot be read any further, or the output cannot be written.
pub fn run<'o>(
    call: Call<'_>,
    place: &ResolvedState,
    options: &Options,
    (records, total): (Records, Option<usize>),
    layout: Layout,
    open: impl FnOnce(Layout, &str) -> Result<Output<'o>>,
) -> Result<Tally> {
    let run = run_id(&place.state.key(), options, &layout);
    let json = matches!(options.constraint, Some(Constraint::Schema(_)));
    let format = records.format;
    let how = CachePolicy { no_cache: false, require_hit: options.require_hit };
    let is_lines = layout.format == RecordFormat::Lines;
    let size = |behind: Behind<'_>| {
        let room = context_size::first(behind.model, behind.prefix, options, format);
        context_size::check_memory(behind.state, behind.prefix, room)?;
        Ok((room, room.slots))
    };
    let (mut opened, slots, timings) = place.open(call, how, options.constraint.as_ref(), size)?;
    let slots = context_size::exact(call, &mut opened, slots)?;
    // Only now: what cannot be answered should leave no file.
    let output = open(layout, &run)?;
    let limit = options.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX).max(output.done()));
    let records = Reader::new(records, limit);
    let progress = if options.progress { call.progress() } else { Box::new(Silent) };
    let tally = Tally { is_lines, timings, ..Tally::default() };
    let mut work = MapRun { call, options, records, output, json, progress, tally };
    work.skip_done(limit.map_or(total, |limit| total.map(|total| total.min(limit))))?;
    let done = match slots {
        Slots::None => sequential::run(&mut opened, &mut work),
        slots => parallel::run(&mut opened, &mut work, slots),
    };
    work.progress.finish();
    done?;
    let MapRun { output, mut tally, .. } = work;
    let is_complete = limit.is_none_or(|limit| tally.done() < limit || total == Some(limit));
    tally.goes_on = !is_complete && output.is_file();
    output.close()?;
    opened.note_use();
    Ok(tally)
}

/// Names everything that the answers follow from but the records: by name, so that no change of the code changes it
/// unnoticed.
fn run_id(key: &StateKey, options: &Options, layout: &Layout) -> String {
    let sampling = &options.sampling;
    let number = |n: f32| n.to_string();
    let mut parts: Vec<(&str, String)> = vec![
        ("key", key.to_hex()),
        ("temperature", number(sampling.temperature)),
        ("top_k", sampling.top_k.to_string()),
        ("top_p", number(sampling.top_p)),
        ("min_p", number(sampling.min_p)),
        ("repeat_penalty", number(sampling.repeat_penalty)),
        ("seed", sampling.seed.to_string()),
        ("max_tokens", sampling.max_tokens.to_string()),
        ("format", layout.format.name().to_owned()),
        ("replace", options.replace.to_string()),
    ];
    parts.extend(sampling.stop.iter().map(|stop| ("stop", stop.clone())));
    parts.extend(options.constraint.as_ref().map(|constraint| (constraint.kind(), constraint.source())));
    if options.parallel > 1 && !options.exact {
        // Such answers may be others than those of one after the other, which exact ones are.
        parts.push(("together", "true".into()));
    }
    parts.push(("field", options.asked.field.clone()));
    parts.extend(options.asked.template.iter().map(|template| ("template", template.clone())));
    parts.push(("into", options.into.clone()));
    parts.extend(options.delimiter.map(|delimiter| ("delimiter", delimiter.to_string())));
    parts.extend(layout.parts.iter().map(|part| ("part", part.clone())));
    parts.extend(layout.columns.iter().map(|column| ("column", column.clone())));
    let parts: Vec<(&str, &str)> = parts.iter().map(|(name, value)| (*name, value.as_str())).collect();
    hex::encode(&blake3::derive_key("pcache map run v1", named(&parts).as_bytes())[..16])
}
