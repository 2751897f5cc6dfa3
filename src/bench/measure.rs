//! One run, from the model to the results.

use anyhow::Result;

use super::evaluate::Seconds;
use super::first_token::Asked;
use super::results::{self, BreakEven, Length, Results, Settings, Setup, Stage};
use super::save::Place;
use super::subject::{Subject, check_cancelled, timed};
use super::{evaluate, first_token, limits, machine, plan, recall, save};
use crate::cache::Call;
use crate::cache::progress::Unit;
use crate::cache::target::Target;
use crate::text::human;
use pcache_engine::gguf::Header;
use pcache_engine::model::Model;
use pcache_engine::session::Session;
use pcache_engine::text::Text;
use pcache_format::Codec;
use pcache_format::epoch::LLAMA_CPP_BUILD;
use pcache_format::{KvType, SEGMENT_TOKENS};
use pcache_store::Prefix;
use pcache_store::Store;
use pcache_store::scratch::Scratch;

/// Text that is evaluated unless another is named: the long example.
const PROMPT: &str = include_str!("../../data/handbook.txt");
/// Question behind it.
const QUESTION: &str = "When is the library open on Friday?";

/// Options of a measurement.
#[derive(Debug, Clone)]
pub struct Options {
    /// Codecs; each is measured once.
    pub codecs: Vec<Codec>,
    /// Text that is evaluated, again and again until it is long enough; the long example without one.
    pub text: Option<String>,
    /// Tokens of the longest prompt; without it what can be evaluated in some minutes.
    pub max_tokens: Option<usize>,
    /// Samples of each stage, after one that does not count.
    pub runs: usize,
}

/// Measures each target, one for each KV type, in stores of its own beside `home`, which are removed afterwards. From where on
/// saving pays is noted in `home`.
///
/// # Errors
/// When it is cancelled, a model cannot be loaded, or a disk fails.
pub fn run(call: Call<'_>, home: &Store, targets: &[Target], options: &Options) -> Result<Results> {
    let options = Options { codecs: each_once(&options.codecs), ..options.clone() };
    let mut bench = Bench {
        call,
        options,
        home,
        drops_page_cache: true,
        lengths: Vec::new(),
        question_tokens: 0,
        baseline: None,
    };
    let mut setups = Vec::new();
    for (i, target) in targets.iter().enumerate() {
        setups.extend(bench.kv_type(target, i == 0)?);
    }
    let results = bench.results(&targets[0], setups)?;
    remember(home, call.threads, &targets[0], &results)?;
    Ok(results)
}

/// Each of several once, in their order.
pub fn each_once<T: PartialEq + Copy>(all: &[T]) -> Vec<T> {
    let mut once = Vec::new();
    all.iter().for_each(|one| {
        if !once.contains(one) {
            once.push(*one);
        }
    });
    once
}

/// State of the whole run.
struct Bench<'a> {
    call: Call<'a>,
    options: Options,
    /// The user's store: only the place of those that are measured in.
    home: &'a Store,
    drops_page_cache: bool,
    lengths: Vec<usize>,
    question_tokens: usize,
    /// The logits of an f16 cache.
    baseline: Option<Vec<f32>>,
}

impl Bench<'_> {
    /// Measures all codecs of a KV type; the first of them gets first tokens for all lengths, the others for the longest.
    fn kv_type(&mut self, target: &Target, first: bool) -> Result<Vec<Setup>> {
        let model = target.load(self.call.observer)?;
        let question = model.tokenize(&Text::default().user(QUESTION));
        self.question_tokens = question.len();
        if self.lengths.is_empty() {
            self.lengths = self.choose_lengths(&model, target)?;
        }
        let longest = self.lengths.last().copied().unwrap_or(1);
        let prefix = target.prefix(model.layout(), tokens(&model, self.text(), longest))?;
        let runs = self.options.runs;
        let subject = Subject {
            call: self.call,
            model: &model,
            runs,
            longest: &prefix,
            question: &question,
            on_gpu: target.gpu_layers > 0,
        };

        let mut stores = self.options.codecs.iter().map(|_| self.scratch()).collect::<Result<Vec<_>>>()?;
        let mut setups: Vec<Setup> =
            self.options.codecs.iter().map(|codec| setup(&prefix, *codec, &self.lengths)).collect();
        let (seconds, logits) = self.evaluate(&subject, &mut stores, &mut setups)?;
        self.compare_logits(&subject, target, logits, &mut setups)?;
        self.restore(&subject, &stores, &mut setups)?;
        drop(model);
        for (n, (setup, (_, store))) in setups.iter_mut().zip(&stores).enumerate() {
            let all = first && n == 0;
            self.first_tokens(target, store, &prefix, &question, setup, &seconds, all)?;
        }
        Ok(setups)
    }

    fn text(&self) -> &str {
        self.options.text.as_deref().unwrap_or(PROMPT)
    }

    /// A store to measure in.
    fn scratch(&self) -> Result<(Scratch, Store)> {
        Ok(self.home.scratch(|folder| self.call.observer.scratch(folder))?)
    }

    /// Those that were asked for; else as long as evaluating them several times takes not too long.
    fn choose_lengths(&self, model: &Model, target: &Target) -> Result<Vec<usize>> {
        let most = model.usable_context(&target.params).saturating_sub(self.question_tokens + 1).max(1);
        let wanted = match self.options.max_tokens {
            Some(n) => n,
            None => plan::affordable(self.speed(model, target)?, self.options.runs).min(plan::USUAL),
        };
        if wanted > most {
            let (most, wanted) = (human::thousands(most), human::thousands(wanted));
            self.call.say(format!(
                "the model reads {most} tokens before a question, not {wanted}: measuring up to {most}"
            ));
        }
        let longest = wanted.min(most);
        if self.options.max_tokens.is_none() && longest < plan::USUAL.min(most) {
            let longest = human::thousands(longest);
            self.call.say(format!(
                "up to {longest} tokens, because this model takes its time here, unless a longest prompt is named"
            ));
        }
        Ok(plan::lengths(longest))
    }

    /// Tokens per second, by a batch that is evaluated twice; the first one brings the weights into memory.
    fn speed(&self, model: &Model, target: &Target) -> Result<f64> {
        let prefix = target.prefix(model.layout(), tokens(model, self.text(), SEGMENT_TOKENS))?;
        let mut session = Session::new(model, &prefix.params, prefix.tokens.len(), self.call.threads)?;
        let mut seconds = f64::INFINITY;
        for _ in 0..2 {
            check_cancelled(self.call)?;
            session.reset();
            let (evaluated, took) =
                timed(|| session.evaluate(&prefix.tokens, false).map(|()| session.wait()));
            evaluated?;
            seconds = took;
        }
        Ok(prefix.tokens.len() as f64 / seconds.max(1e-9))
    }

    fn evaluate(
        &self,
        subject: &Subject<'_>,
        stores: &mut [(Scratch, Store)],
        setups: &mut [Setup],
    ) -> Result<(Seconds, Vec<f32>)> {
        let what = format!("evaluating, {}", subject.longest.params.kv_type.name());
        let (mut state, mut buffers) = (Vec::new(), limits::Buffers::default());
        let (seconds, logits) = evaluate::rounds(subject, &self.lengths, &what, |session, tokens| {
            for ((setup, (_, store)), codec) in setups.iter_mut().zip(&mut *stores).zip(&self.options.codecs)
            {
                let prefix = subject.prefix(tokens);
                let Some(length) = length_of(setup, tokens) else { continue };
                let mut place =
                    Place { store, state: std::mem::take(&mut state), buffers: std::mem::take(&mut buffers) };
                save::measure(subject.call, &mut place, session, &prefix, *codec, length, subject.runs)?;
                Place { state, buffers, .. } = place;
            }
            Ok(())
        })?;
        for setup in setups {
            for (tokens, samples) in &seconds {
                let length = length_of(setup, *tokens);
                length.into_iter().for_each(|l| samples.iter().for_each(|s| l.add(Stage::Prefill, *s)));
            }
        }
        Ok((seconds, logits))
    }

    /// Measures how far the logits are from those of an f16 cache; if that was not measured, it is evaluated once for this.
    fn compare_logits(
        &mut self,
        subject: &Subject<'_>,
        target: &Target,
        logits: Vec<f32>,
        setups: &mut [Setup],
    ) -> Result<()> {
        if target.params.kv_type == KvType::F16 {
            let usual = pcache_format::Params::new(KvType::F16, target.gpu_layers > 0);
            if target.params.flash_attention == usual.flash_attention {
                self.baseline = Some(logits);
            }
            return Ok(());
        }
        // With flash attention as an f16 cache has it, whatever was asked for beside it.
        let baseline = match &self.baseline {
            Some(baseline) => baseline,
            None => self.baseline.insert(exact_logits(subject)?),
        };
        let differences = baseline.iter().zip(&logits).map(|(a, b)| (a - b).abs());
        let largest = differences.fold(0.0, f32::max);
        setups.iter_mut().for_each(|setup| setup.largest_logit_difference = Some(largest));
        Ok(())
    }

    fn restore(
        &mut self,
        subject: &Subject<'_>,
        stores: &[(Scratch, Store)],
        setups: &mut [Setup],
    ) -> Result<()> {
        let progress = self.call.progress();
        progress.start("restoring", (setups.len() * self.lengths.len()) as u64, Unit::Percent);
        let mut done = 0;
        let mut all = || -> Result<bool> {
            let mut cold = true;
            for ((setup, (_, store)), codec) in setups.iter_mut().zip(stores).zip(&self.options.codecs) {
                for length in &mut setup.lengths {
                    let prefix = subject.prefix(length.tokens);
                    cold &= recall::measure(subject, store, &prefix, *codec, length, subject.runs)?;
                    done += 1;
                    progress.set(done);
                }
            }
            Ok(cold)
        };
        let cold = all();
        progress.finish();
        self.drops_page_cache &= cold?;
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "what one setup is measured with")]
    fn first_tokens(
        &self,
        target: &Target,
        store: &Store,
        longest: &Prefix,
        question: &[i32],
        setup: &mut Setup,
        seconds: &Seconds,
        all: bool,
    ) -> Result<()> {
        let (call, runs) = (self.call, self.options.runs);
        let label = setup.label();
        let first = if all { 0 } else { setup.lengths.len() - 1 };
        let lengths = &mut setup.lengths[first..];
        let progress = call.progress();
        let what = format!("asking, {label}");
        progress.start(&what, (lengths.len() * (runs + 1)) as u64, Unit::Percent);
        let mut done = 0;
        let asked_all = || -> Result<()> {
            for length in lengths {
                let params = longest.params.clone();
                let tokens = longest.tokens[..length.tokens].to_vec();
                let prefix = Prefix::new(longest.model, params, longest.layout, tokens);
                let asked = Asked { call, target, store, prefix: &prefix, question };
                let prefill = seconds.iter().find(|(n, _)| *n == length.tokens);
                for run in 0..=runs {
                    check_cancelled(call)?;
                    let prefill_s = prefill.and_then(|(_, s)| s.get(run.saturating_sub(1))).copied();
                    let mut unused = Length::new(length.tokens);
                    let to = if run == 0 { &mut unused } else { &mut *length };
                    first_token::sample(&asked, true, prefill_s.unwrap_or_default(), to)?;
                    first_token::sample(&asked, false, prefill_s.unwrap_or_default(), to)?;
                    done += 1;
                    progress.set(done);
                }
            }
            Ok(())
        };
        let asked = asked_all();
        progress.finish();
        asked
    }

    fn results(&self, target: &Target, setups: Vec<Setup>) -> Result<Results> {
        let header = Header::read(&target.model_path)?;
        Ok(Results {
            schema: results::SCHEMA,
            build: results::Build {
                pcache: env!("CARGO_PKG_VERSION").into(),
                llama_cpp: LLAMA_CPP_BUILD.into(),
            },
            created: self.home.now(),
            machine: machine::this(self.home.root()),
            model: results::Model {
                name: target.model_name.clone(),
                blake3: target.model.to_hex(),
                bytes: fs_err::metadata(&target.model_path)?.len(),
                architecture: header.architecture().to_owned(),
                quantisation: header.quantisation(),
            },
            settings: Settings {
                runs: self.options.runs,
                threads: self.call.threads,
                question_tokens: self.question_tokens,
                drops_page_cache: self.drops_page_cache,
            },
            setups,
        })
    }
}

fn setup(prefix: &Prefix, codec: Codec, lengths: &[usize]) -> Setup {
    Setup {
        kv_type: prefix.params.kv_type.name().into(),
        flash_attention: prefix.params.flash_attention,
        codec: codec.to_string(),
        largest_logit_difference: None,
        lengths: lengths.iter().map(|n| Length::new(*n)).collect(),
    }
}

fn length_of(setup: &mut Setup, tokens: usize) -> Option<&mut Length> {
    setup.lengths.iter_mut().find(|l| l.tokens == tokens)
}

/// The tokens of a text, again and again until there are enough.
fn tokens(model: &Model, text: &str, wanted: usize) -> Vec<i32> {
    let once = model.tokenize(&Text::default().user(text));
    let bos = model.required_bos();
    let again = once.iter().cycle().take(if once.is_empty() { 0 } else { wanted });
    bos.into_iter().chain(again.copied()).take(wanted).collect()
}

/// The logits after the longest prompt and the question, of a cache that is not quantised.
fn exact_logits(subject: &Subject<'_>) -> Result<Vec<f32>> {
    let call = subject.call;
    let usual = pcache_format::Params::new(KvType::F16, subject.on_gpu);
    let params = pcache_format::Params {
        kv_type: KvType::F16,
        flash_attention: usual.flash_attention,
        ..subject.longest.params.clone()
    };
    let cells = subject.cells(subject.longest.tokens.len());
    let mut session = Session::new(subject.model, &params, cells, call.threads)?;
    let progress = call.progress();
    progress.start("evaluating, f16, to compare", subject.longest.tokens.len() as u64, Unit::Tokens);
    let mut evaluated = || -> Result<()> {
        for batch in subject.longest.tokens.chunks(SEGMENT_TOKENS) {
            check_cancelled(call)?;
            session.evaluate(batch, false)?;
            session.wait();
            progress.set(session.position() as u64);
        }
        Ok(session.evaluate(subject.question, true)?)
    };
    let evaluated = evaluated();
    progress.finish();
    evaluated?;
    Ok(session.logits().unwrap_or_default().to_vec())
}

/// Notes from where on saving pays, for what `build` says of shorter prompts.
fn remember(home: &Store, threads: u32, target: &Target, results: &Results) -> Result<()> {
    // What is said without a word of the cache's type is said of the usual one.
    let usual = results.setups.iter().find(|s| s.kv_type == KvType::F16.name() && s.codec == "raw");
    let measured = usual.and_then(|setup| {
        setup.break_even(Stage::FirstTokenCold).or(setup.break_even(Stage::FirstTokenWarm))
    });
    let Some(BreakEven::From(tokens)) = measured else { return Ok(()) };
    match home.record_break_even(&target.model, threads, tokens) {
        Err(error) if !error.is_unwritable() => Err(error.into()),
        _ => Ok(()),
    }
}
