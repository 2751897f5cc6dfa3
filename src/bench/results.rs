//! Measurements of `pcache bench`, as they are written to files: the schema that `docs/performance.md` describes.

use serde::{Deserialize, Serialize};

/// The version of the schema. A field may be added without a new one; nothing changes its meaning.
pub const SCHEMA: u32 = 1;

/// Everything that one run measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The program.
    pub build: Build,
    /// Time, in seconds since 1970.
    pub created: i64,
    /// Machine that was measured.
    pub machine: Machine,
    /// With which model.
    pub model: Model,
    /// Number of repetitions and threads, and further settings.
    pub settings: Settings,
    /// For each KV type and codec.
    pub setups: Vec<Setup>,
}

/// No measurement takes longer, in seconds.
const LONGEST_S: f64 = 1e9;
/// No prompt has more tokens, and no state more bytes.
const MOST: u64 = 1 << 50;

impl Results {
    /// Returns the first value that cannot have been measured, if there is one.
    pub fn problem(&self) -> Option<String> {
        let lengths = || self.setups.iter().flat_map(|setup| &setup.lengths);
        let sizes =
            lengths().flat_map(|l| [l.tokens as u64, l.objects as u64, l.state_bytes, l.stored_bytes]);
        if let Some(size) = sizes.into_iter().find(|n| *n == 0 || *n > MOST) {
            return Some(format!("a length has {size} tokens, objects or bytes"));
        }
        let timed = || lengths().flat_map(|length| &length.stages);
        if let Some(empty) = timed().find(|timed| timed.samples_s.is_empty()) {
            return Some(format!("{} has no samples", empty.stage.name()));
        }
        let mut samples = timed().flat_map(|timed| &timed.samples_s);
        let wrong = samples.find(|s| !(0.0..=LONGEST_S).contains(*s) || **s > 0.0 && **s < 1e-12);
        wrong.map(|s| format!("a sample of {s:e} seconds"))
    }
}

/// The program that measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// pcache's version.
    pub pcache: String,
    /// The llama.cpp that is built in.
    pub llama_cpp: String,
}

/// The machine that measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Processors that the process may use.
    pub cores: usize,
    /// Bytes of memory, where the system tells.
    pub memory_bytes: Option<u64>,
    /// Operating system and architecture, as `linux x86_64`.
    pub system: String,
    /// The kind of file system that the store is on, where the system tells.
    pub file_system: Option<String>,
}

/// The model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Its file's name.
    pub name: String,
    /// BLAKE3 of its file.
    pub blake3: String,
    /// Bytes of its file.
    pub bytes: u64,
    /// As `llama`.
    pub architecture: String,
    /// As `Q4_K_M`.
    pub quantisation: String,
}

/// Settings of the measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Samples of each stage, after one that does not count.
    pub runs: usize,
    /// Threads that evaluate.
    pub threads: u32,
    /// Tokens of the question.
    pub question_tokens: usize,
    /// The page cache could be dropped: else nothing was read cold.
    pub drops_page_cache: bool,
}

/// One KV type in one codec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// As `f16`.
    pub kv_type: String,
    /// Attention was fused.
    pub flash_attention: bool,
    /// As `raw` or `zstd:1`.
    pub codec: String,
    /// The largest difference of a logit after the longest prompt and the question to the same in f16.
    pub largest_logit_difference: Option<f32>,
    /// For each length, rising.
    pub lengths: Vec<Length>,
}

/// One length of the prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Length {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Objects that its state is saved in.
    pub objects: usize,
    /// Bytes of the state as llama.cpp gives it.
    pub state_bytes: u64,
    /// Bytes of the objects.
    pub stored_bytes: u64,
    /// Times of the stages; stages of a later version are passed over.
    #[serde(deserialize_with = "known_stages")]
    pub stages: Vec<Timed>,
}

fn known_stages<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Timed>, D::Error> {
    let all: Vec<serde_json::Value> = Deserialize::deserialize(deserializer)?;
    let known = |timed: &serde_json::Value| Stage::deserialize(timed.get("stage").unwrap_or(timed)).is_ok();
    all.into_iter().filter(known).map(|t| Timed::deserialize(t).map_err(serde::de::Error::custom)).collect()
}

/// The samples of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    /// Stage.
    pub stage: Stage,
    /// Seconds, in the order in which they were taken.
    pub samples_s: Vec<f64>,
}

/// Stage that is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Evaluating the prompt.
    Prefill,
    /// Taking its state out of llama.cpp, segment by segment, into memory that is used again.
    Snapshot,
    /// Describing it (with the hash of what llama.cpp gave) and compressing it, if the codec does.
    Encode,
    /// Hashing the objects for their names.
    Hash,
    /// Writing them, without waiting for the disk.
    Write,
    /// Waiting for the disk.
    Sync,
    /// All of it as a build does it: snapshot to committed row, one stage beside the other.
    Save,
    /// Reading the objects into memory from the disk.
    ReadCold,
    /// Reading the objects from the page cache.
    ReadWarm,
    /// Comparing every byte with its hash, on all cores.
    Verify,
    /// Decompressing, on all cores.
    Decode,
    /// Putting the state into llama.cpp.
    Restore,
    /// Loading the model; this does not depend on the prompt.
    ModelLoad,
    /// Making a context for the prompt.
    Context,
    /// Evaluating the question behind the prompt.
    Question,
    /// From nothing to the first token of the answer: the model is loaded and the prompt evaluated.
    FirstTokenEvaluated,
    /// The same with the state restored from the disk.
    FirstTokenCold,
    /// The same with the state restored from the page cache.
    FirstTokenWarm,
    /// A limit: copying as many bytes as the state has from memory to memory.
    MemoryCopy,
    /// A limit: reading as many bytes as the objects have from one file that is not in the page cache.
    SequentialRead,
    /// A limit: writing as many bytes as the objects have to one file, and syncing it.
    SyncedWrite,
}

/// Kind of data that a stage moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moves {
    /// The state as llama.cpp gives it.
    State,
    /// The objects.
    Objects,
    /// Nothing that would be counted in bytes.
    Nothing,
}

impl Stage {
    /// The name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Snapshot => "snapshot",
            Self::Encode => "encode",
            Self::Hash => "hash",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Save => "save",
            Self::ReadCold => "read_cold",
            Self::ReadWarm => "read_warm",
            Self::Verify => "verify",
            Self::Decode => "decode",
            Self::Restore => "restore",
            Self::ModelLoad => "model_load",
            Self::Context => "context",
            Self::Question => "question",
            Self::FirstTokenEvaluated => "first_token_evaluated",
            Self::FirstTokenCold => "first_token_cold",
            Self::FirstTokenWarm => "first_token_warm",
            Self::MemoryCopy => "memory_copy",
            Self::SequentialRead => "sequential_read",
            Self::SyncedWrite => "synced_write",
        }
    }

    fn moves(self) -> Moves {
        match self {
            Self::Snapshot | Self::Encode | Self::Decode | Self::Restore | Self::MemoryCopy => Moves::State,
            Self::Hash | Self::Write | Self::Sync | Self::Save | Self::ReadCold | Self::ReadWarm => {
                Moves::Objects
            }
            Self::Verify | Self::SequentialRead | Self::SyncedWrite => Moves::Objects,
            _ => Moves::Nothing,
        }
    }

    /// The machine's own limit for this stage.
    pub fn limit(self) -> Option<Self> {
        match self {
            Self::Snapshot | Self::Encode | Self::Hash | Self::Write => Some(Self::MemoryCopy),
            Self::ReadWarm | Self::Verify | Self::Decode | Self::Restore => Some(Self::MemoryCopy),
            Self::Sync | Self::Save => Some(Self::SyncedWrite),
            Self::ReadCold => Some(Self::SequentialRead),
            _ => None,
        }
    }
}

/// Median, smallest and largest of samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Number of samples.
    pub samples: usize,
}

/// Samples that differ by more than this share of their median say little.
const WIDE: f64 = 0.5;
/// Below this many seconds the clock and the scheduler are most of it.
const SHORT_S: f64 = 1e-3;

impl Summary {
    /// Of samples in any order; nothing of none.
    pub fn new(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Self { median, min, max, samples: sorted.len() })
    }

    /// Returns true if the samples lie so far apart that the median says little.
    pub fn is_wide(&self) -> bool {
        self.median > SHORT_S && self.max - self.min > WIDE * self.median
    }
}

impl Length {
    /// Of so many tokens, with nothing timed yet.
    pub fn new(tokens: usize) -> Self {
        Self { tokens, objects: 0, state_bytes: 0, stored_bytes: 0, stages: Vec::new() }
    }

    /// Adds a sample of a stage.
    pub fn add(&mut self, stage: Stage, seconds: f64) {
        match self.stages.iter_mut().find(|t| t.stage == stage) {
            Some(timed) => timed.samples_s.push(seconds),
            None => self.stages.push(Timed { stage, samples_s: vec![seconds] }),
        }
    }

    /// The samples of a stage, none if it was not timed.
    pub fn samples(&self, stage: Stage) -> &[f64] {
        self.stages.iter().find(|t| t.stage == stage).map_or(&[], |t| &t.samples_s)
    }

    /// The summary of a stage, if it was timed.
    pub fn summary(&self, stage: Stage) -> Option<Summary> {
        Summary::new(self.samples(stage))
    }

    /// The median of a stage in seconds, if it was timed.
    pub fn median(&self, stage: Stage) -> Option<f64> {
        self.summary(stage).map(|s| s.median)
    }

    /// Bytes that a stage moves.
    pub fn bytes(&self, stage: Stage) -> Option<u64> {
        match stage.moves() {
            Moves::State => Some(self.state_bytes),
            Moves::Objects => Some(self.stored_bytes),
            Moves::Nothing => None,
        }
    }

    /// Bytes per second of a stage.
    pub fn speed(&self, stage: Stage) -> Option<f64> {
        let seconds = self.median(stage).filter(|s| *s > 0.0)?;
        self.bytes(stage).map(|bytes| bytes as f64 / seconds)
    }

    /// Which part of the machine's limit a stage reaches: 1 is all of it.
    pub fn reached(&self, stage: Stage) -> Option<f64> {
        Some(self.speed(stage)? / self.speed(stage.limit()?)?)
    }

    /// Returns how many times sooner the first token comes with the state restored.
    pub fn speed_up(&self, cached: Stage) -> Option<f64> {
        Some(self.median(Stage::FirstTokenEvaluated)? / self.median(cached)?)
    }
}

/// From how many tokens on a saved state is the faster way to a first token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BreakEven {
    /// From so many on: no sample of an ask is slower than one of an evaluation. Where one length loses and the next one
    /// wins, a straight line between them is assumed.
    From(usize),
    /// At none of the lengths that were measured.
    Never,
}

impl Setup {
    /// Returns the length from which caching pays off; nothing if it was not measured.
    pub fn break_even(&self, cached: Stage) -> Option<BreakEven> {
        let point = |l: &Length| {
            let (evaluated, cached) = (l.summary(Stage::FirstTokenEvaluated)?, l.summary(cached)?);
            Some((l.tokens as f64, evaluated.median - cached.median, evaluated.min > cached.max))
        };
        let points: Vec<(f64, f64, bool)> = self.lengths.iter().filter_map(point).collect();
        let last = points.len().checked_sub(1)?;
        // From the long end: a lucky sample of a short prompt is no reason to cache.
        let Some(loses) = points.iter().rposition(|(_, _, wins)| !wins) else {
            return Some(BreakEven::From(points[0].0 as usize));
        };
        if loses == last {
            return Some(BreakEven::Never);
        }
        let ((x0, y0, _), (x1, y1, _)) = (points[loses], points[loses + 1]);
        // Faster by the median, but not surely: what is sure begins with the next length.
        let between = if y0 > 0.0 { x1 } else { x0 + (x1 - x0) * -y0 / (y1 - y0) };
        Some(BreakEven::From(between.ceil() as usize))
    }

    /// The longest prompt.
    pub fn longest(&self) -> Option<&Length> {
        self.lengths.last()
    }

    /// KV type and codec, as `f16 raw`.
    pub fn label(&self) -> String {
        format!("{} {}", self.kv_type, self.codec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(tokens: usize, evaluated: f64, cold: f64) -> Length {
        let timed = |stage, s: f64| Timed { stage, samples_s: vec![s] };
        Length {
            tokens,
            objects: 1,
            state_bytes: 1000,
            stored_bytes: 500,
            stages: vec![
                timed(Stage::FirstTokenEvaluated, evaluated),
                timed(Stage::FirstTokenCold, cold),
                timed(Stage::Restore, 0.5),
                timed(Stage::MemoryCopy, 0.25),
            ],
        }
    }

    fn setup(lengths: &[(usize, f64, f64)]) -> Setup {
        Setup {
            kv_type: "f16".into(),
            flash_attention: false,
            codec: "raw".into(),
            largest_logit_difference: None,
            lengths: lengths.iter().map(|&(n, e, c)| length(n, e, c)).collect(),
        }
    }

    #[test]
    fn a_summary_is_of_the_samples() {
        let odd = Summary::new(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(Summary::new(&[1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Summary::new(&[]), None);
        assert!(odd.is_wide() && !Summary::new(&[1.0, 1.4]).unwrap().is_wide());
        assert!(!Summary::new(&[1e-5, 9e-5]).unwrap().is_wide(), "too short to tell");
    }

    #[test]
    fn a_stage_is_seen_beside_its_limit() {
        let length = length(1, 1.0, 1.0);
        assert_eq!(length.speed(Stage::Restore), Some(2000.0));
        assert_eq!(length.reached(Stage::Restore), Some(0.5));
        assert_eq!(length.reached(Stage::Prefill), None);
        assert_eq!(length.bytes(Stage::Verify), Some(500));
    }

    #[test]
    fn the_break_even_lies_between_two_lengths() {
        let even = |lengths: &[_]| setup(lengths).break_even(Stage::FirstTokenCold);
        assert_eq!(even(&[(10, 1.0, 2.0), (20, 3.0, 2.0)]), Some(BreakEven::From(15)));
        assert_eq!(even(&[(10, 3.0, 2.0), (20, 5.0, 2.0)]), Some(BreakEven::From(10)));
        assert_eq!(even(&[(10, 1.0, 2.0), (20, 1.5, 2.0)]), Some(BreakEven::Never));
        let lucky = [(10, 2.1, 2.0), (20, 1.9, 2.0), (30, 2.1, 2.0)];
        assert_eq!(even(&lucky), Some(BreakEven::From(25)));
        assert_eq!(even(&[]), None);
        let mut noisy = setup(&[(10, 2.1, 2.0), (20, 9.0, 2.0)]);
        noisy.lengths[0].add(Stage::FirstTokenCold, 2.2);
        noisy.lengths[0].add(Stage::FirstTokenCold, 2.0);
        assert_eq!(noisy.break_even(Stage::FirstTokenCold), Some(BreakEven::From(20)), "10 may be chance");
        assert_eq!(setup(&[(10, 1.0, 2.0)]).break_even(Stage::FirstTokenWarm), None);
    }

    /// Files that were written once stay readable.
    #[test]
    fn the_names_in_files_are_those_of_the_stages() {
        for stage in [Stage::ReadCold, Stage::FirstTokenEvaluated, Stage::SyncedWrite, Stage::Prefill] {
            assert_eq!(serde_json::to_string(&stage).unwrap(), format!("{:?}", stage.name()));
        }
    }
}
