//! `pcache ls`: what is saved, and what it costs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::app::App;
use super::models::shown_name;
use super::table;
use crate::cli::Run;
use crate::cli::args::Output;
use crate::cli::args::values::choice;
use crate::text::human;
use pcache_format::{Lineage, ModelHash, StateKind};
use pcache_store::Store;
use pcache_store::{ListedState, SegmentRow};

/// Arguments of `ls`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache ls
  pcache ls --sort size
  pcache ls -q                            keys only, one a line
  pcache ls --model smollm2 --json        models with this in their file name

SIZE is all a state needs, OWN what would be freed without it; the rest is
shared with other states. A state without a name shows its prompt file in
parentheses. Marks: * pinned, ! expired, + has more names.")]
pub struct Ls {
    /// Order: newest, largest or most first; by name from A to Z
    #[arg(long, value_name = "BY", default_value = "used", value_parser = choice::<Sort>())]
    pub sort: Sort,
}

/// Orders of `ls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// By last use.
    Used,
    /// By when it was built.
    Created,
    /// By size.
    Size,
    /// By number of tokens.
    Tokens,
    /// By number of hits.
    Hits,
    /// By prompt file: its versions, newest first.
    Prompt,
    /// By name, then key.
    Name,
}

/// JSON output.
#[derive(Debug, Serialize)]
struct Listing {
    states: Vec<Listed>,
    /// Objects of the listed states, shared ones counted once.
    total_bytes: u64,
    objects: usize,
}

#[derive(Debug, Serialize)]
struct Listed {
    key: String,
    /// The oldest of its names.
    name: Option<String>,
    names: Vec<String>,
    model: String,
    /// Identity of the model: two may have one name.
    #[serde(skip)]
    model_hash: ModelHash,
    /// The model's file is where it was last seen.
    model_exists: bool,
    kind: StateKind,
    tokens: usize,
    bytes: u64,
    unique_bytes: u64,
    created: i64,
    last_used: i64,
    hits: u64,
    pinned: bool,
    expires: Option<i64>,
    /// The prompt file.
    prompt: String,
    /// Lineage of what computed it.
    compute: Lineage,
}

/// Warns of an index that is empty beside objects. Returns whether it is.
pub fn warn_if_lost(app: &App, store: Option<&Store>) -> Result<bool> {
    let lost = store.map(Store::is_index_lost).transpose()?.unwrap_or(false);
    if lost {
        app.warn(format!(
            "the index of {} lists no states, but there are objects; pcache verify --repair puts back what it lost",
            app.cache_dir()?.display()
        ));
    }
    Ok(lost)
}

impl Run for Ls {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }
}

fn run(app: &App, args: &Ls) -> Result<()> {
    let store = app.existing_store()?;
    let (states, segments, now, unused) = match &store {
        Some(store) => {
            let (states, segments) = store.list()?;
            (states, segments, store.now(), unused(store)?)
        }
        None => (Vec::new(), Vec::new(), 0, None),
    };
    let filter = app.global.model.as_ref().filter(|_| app.global.model_is_explicit);
    let filter = filter.map(|m| human::file_name(m).to_lowercase());
    let listing = listing(&states, &segments, args.sort, filter.as_deref());
    let own = store.as_ref().map(Store::own_lineage);

    // A program that reads the list should not take this for an empty store either.
    let lost = warn_if_lost(app, store.as_ref())?;
    listing.states.iter().try_for_each(|s| app.named_event("state", s))?;
    match app.output() {
        Output::Json => app.print_json(&listing),
        Output::Jsonl => Ok(()),
        Output::Text if listing.states.is_empty() => {
            if !lost {
                app.say(nothing_to_list(app, states.len(), filter.as_deref())?);
            }
            app.say_if(unused);
            Ok(())
        }
        // As `docker ps -q`: for a script's next command.
        Output::Text if app.global.quiet => listing.states.iter().try_for_each(|s| app.print(&s.key[..12])),
        Output::Text => {
            app.print(text(&listing, now, app.explains(), own))?;
            let n = human::count(listing.states.len(), "state");
            let objects = human::count(listing.objects, "object");
            totals(&listing).into_iter().for_each(|line| app.say(line));
            app.say(format!("{n}, {objects}, {}", human::bytes(listing.total_bytes)));
            app.say_if(unused);
            Ok(())
        }
    }
}

fn nothing_to_list(app: &App, states: usize, filter: Option<&str>) -> Result<String> {
    let folder = app.cache_dir()?;
    Ok(match filter {
        Some(filter) if states > 0 => {
            format!("none of {} has a model with {filter:?} in its name", human::count(states, "state"))
        }
        _ if !folder.exists() => {
            format!(
                "no states: there is no folder {}; pcache build makes it, or --cache-dir is mistyped",
                folder.display()
            )
        }
        _ => format!("no states in {}; pcache build makes one", folder.display()),
    })
}

/// Describes the segments that interrupted builds left, in a line.
fn unused(store: &Store) -> Result<Option<String>> {
    let (count, bytes) = store.unused_segments()?;
    let (n, size) = (human::count(count, "segment"), human::bytes(bytes));
    let line = format!(
        "{n} ({size}) of builds that are running or were interrupted; the same build continues from them until gc removes them"
    );
    Ok((count > 0).then_some(line))
}

fn listing(states: &[ListedState], segments: &[SegmentRow], sort: Sort, filter: Option<&str>) -> Listing {
    let mut users = vec![0usize; segments.len()];
    states.iter().flat_map(|s| &s.segments).for_each(|&n| users[n] += 1);
    let mut names: HashMap<&str, String> = HashMap::new();
    for state in states {
        names.entry(&state.model_path).or_insert_with(|| shown_name(Path::new(&state.model_path)));
    }
    let name_of = |state: &ListedState| names.get(state.model_path.as_str()).cloned().unwrap_or_default();
    let is_wanted = |s: &&ListedState| filter.is_none_or(|f| name_of(s).to_lowercase().contains(f));
    let shown: Vec<&ListedState> = states.iter().filter(is_wanted).collect();
    let mut used = vec![false; segments.len()];
    shown.iter().flat_map(|s| &s.segments).for_each(|&n| used[n] = true);
    let described: u64 = shown.iter().map(|s| s.description_bytes).sum();
    let shared = segments.iter().zip(&used).filter(|(_, used)| **used).map(|(s, _)| s.file_bytes);
    let sizes: Vec<u64> = shared.collect();

    let size = |ns: &[usize], own: bool| -> u64 {
        ns.iter().filter(|&&n| !own || users[n] == 1).map(|&n| segments[n].file_bytes).sum()
    };
    let mut exists = HashMap::new();
    let mut rows: Vec<Listed> = shown
        .into_iter()
        .map(|s| Listed {
            key: s.key.to_hex(),
            name: s.name().map(str::to_owned),
            names: s.names.iter().map(|n| n.name.clone()).collect(),
            kind: s.kind,
            compute: s.lineage,
            model: name_of(s),
            model_hash: s.model,
            model_exists: *exists.entry(&s.model_path).or_insert_with(|| Path::new(&s.model_path).exists()),
            tokens: s.tokens,
            bytes: size(&s.segments, false) + s.description_bytes,
            unique_bytes: size(&s.segments, true) + s.description_bytes,
            created: s.created,
            last_used: s.last_used,
            hits: s.hits,
            pinned: s.pinned,
            expires: s.expires,
            prompt: s.origin.clone(),
        })
        .collect();
    match sort {
        // They come in this order, uses within a second too.
        Sort::Used => {}
        Sort::Created => rows.sort_by_key(|s| Reverse(s.created)),
        Sort::Size => rows.sort_by_key(|s| Reverse(s.bytes)),
        Sort::Tokens => rows.sort_by_key(|s| Reverse(s.tokens)),
        Sort::Hits => rows.sort_by_key(|s| Reverse(s.hits)),
        Sort::Prompt => rows.sort_by_key(|s| (s.prompt.clone(), Reverse(s.created))),
        Sort::Name => rows.sort_by_key(|s| (s.name.is_none(), s.name.clone(), s.key.clone())),
    }
    Listing { states: rows, total_bytes: sizes.iter().sum::<u64>() + described, objects: sizes.len() }
}

/// Letters of a model's name that are shown at least, and at most.
const MODEL_WIDTH: RangeInclusive<usize> = 8..=40;

/// Letters of a state's name that are shown, where there is room and where there is not.
const NAME_WIDTHS: [usize; 5] = [30, 22, 16, 12, 8];

fn text(listing: &Listing, now: i64, verbose: bool, own: Option<Lineage>) -> String {
    let row = |s: &Listed, name_width: usize, model_width: usize| {
        [
            s.key[..12].to_owned(),
            name(s, name_width, now),
            model_name(s, model_width),
            human::thousands(s.tokens),
            human::bytes(s.bytes),
            human::bytes(s.unique_bytes),
            human::age(now - s.created),
            human::age(now - s.last_used),
            s.hits.to_string(),
            if Some(s.compute) == own { "this".into() } else { s.compute.short() },
        ]
    };
    let header = ["KEY", "NAME", "MODEL", "TOKENS", "SIZE", "OWN", "AGE", "USED", "HITS", "BY"];
    let columns = header.len() - usize::from(!verbose);
    let table = |name_width| {
        table::fitted(&header[..columns], &[3, 4, 5, 6, 7, 8], MODEL_WIDTH, |model_width| {
            let rows = listing.states.iter().map(|s| row(s, name_width, model_width));
            rows.map(|row| row[..columns].to_vec()).collect()
        })
    };
    let (narrowest, wider) = (NAME_WIDTHS[4], &NAME_WIDTHS[..4]);
    wider.iter().map(|w| table(*w)).find(|text| table::fits(text)).unwrap_or_else(|| table(narrowest))
}

/// The name, or without one the prompt file; `*` for pinned, `!` for expired.
fn name(state: &Listed, width: usize, now: i64) -> String {
    let pin = if state.pinned { "*" } else { "" };
    let expired = if state.expires.is_some_and(|at| at <= now) { "!" } else { "" };
    match &state.name {
        Some(name) => {
            // The others are shown as far as there is room.
            let all = if width >= NAME_WIDTHS[0] { state.names.join(",") } else { name.clone() };
            let more = if all == *name && state.names.len() > 1 { "+" } else { "" };
            format!("{}{more}{pin}{expired}", human::shortened(&human::sanitize(&all), width))
        }
        None => {
            format!("({}){pin}{expired}", human::shortened(&human::sanitize(&state.prompt), width - 2))
        }
    }
}

/// A model's name in a table's width, without the ending; `(gone)` where its file no longer exists.
fn model_name(state: &Listed, width: usize) -> String {
    let gone = if state.model_exists { "" } else { " (gone)" };
    human::shortened(&human::sanitize(human::model(&state.model)), width.saturating_sub(gone.len())) + gone
}

/// Number of each model's states and the bytes that no other state shares, where there are several models.
fn totals(listing: &Listing) -> Vec<String> {
    let mut models: BTreeMap<(&str, ModelHash), (usize, u64)> = BTreeMap::new();
    for state in &listing.states {
        let (states, bytes) = models.entry((human::model(&state.model), state.model_hash)).or_default();
        *states += 1;
        *bytes += state.unique_bytes;
    }
    let line = |((name, hash), (states, bytes)): (&(&str, ModelHash), &(usize, u64))| {
        let same_name = models.keys().filter(|(other, _)| other == name).count() > 1;
        let hash = if same_name { format!(" ({})", hash.short()) } else { String::new() };
        let (states, bytes) = (human::count(*states, "state"), human::bytes(*bytes));
        format!("{}{hash}: {states}, {bytes} not shared", human::sanitize(name))
    };
    if models.len() > 1 { models.iter().map(line).collect() } else { Vec::new() }
}
