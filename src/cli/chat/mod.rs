//! `pcache chat`: a conversation from a saved state, which can be kept as a state of its own.

mod lines;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use lines::{Input, Lines};

use super::app::{App, read_text};
use super::ask::report::{self, Report};
use super::failure::{Failure, of_hint};
use super::signals::At;
use super::states::{self, check_name};
use super::{build, place, sampling, target};
use crate::cache::build::Builder;
use crate::cache::conversation::{Conversation, Said, next_message};
use crate::cache::open_state::{Answered, Behind, CachePolicy, ContextSize, OpenState, Question};
use crate::cache::target::Target;
use crate::cli::Run;
use crate::cli::args::{KeepArgs, Output, ParamArgs, SamplingArgs};
use crate::text::human;
use pcache_engine::generate::{self, Sampling, StopReason};
use pcache_engine::prompt::NextMessage;
use pcache_format::{RenderedWith, StateKind};

/// Arguments of `chat`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache chat menu
  pcache chat menu --temp 0.7
  pcache chat --resume monday             resumes what /save monday kept

In a conversation:
  /save NAME    save the conversation as a state
  /retry        another answer to the last message
  /drop [N]     forget the oldest N messages and their answers
  /reset        start over from the state
  /stats        timings of the last answer
  /help, /quit  (or Ctrl-D)
A line that ends with \\ continues on the next line. Ctrl-C stops an answer.")]
pub struct Chat {
    /// Key or name of a state, or a prompt file (built if missing)
    #[arg(value_name = "KEY", required_unless_present = "resume", conflicts_with = "resume")]
    pub key: Option<String>,
    /// Resume a saved conversation
    #[arg(long, value_name = "NAME")]
    pub resume: Option<String>,
    /// Chat template that the state was built with, if not the model's own
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// Template variable that the state was built with
    #[arg(long = "template-arg", value_name = "NAME=VALUE", value_parser = super::args::values::argument)]
    pub template_args: Vec<(String, serde_json::Value)>,
    /// Keep typed lines in FILE, to call them back in later chats
    #[arg(long, value_name = "FILE", value_parser = super::args::values::path())]
    pub history: Option<PathBuf>,
    /// Print a timing table on stderr after each answer
    #[arg(long)]
    pub stats: bool,
    /// Sampling.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Parameters that the state was built with; only needed to say where a LoRA adapter lies now.
    #[command(flatten)]
    pub params: ParamArgs,
}

/// Tokens of a conversation that there is room for from the beginning.
const ROOM: usize = 1024;
/// The temperature of another answer where the first one had none.
const RETRY_TEMPERATURE: f32 = 0.8;

const HELP: &str = "\
/save NAME    keep the conversation as a state of its own;
              pcache chat --resume NAME resumes it
/retry        another answer to the last message
/drop [N]     forget the oldest N messages (1) with their answers
/reset        start over from the state
/stats        where the last answer's time went, and how full the context is
/quit         or Ctrl-D
A line that ends with \\ continues on the next line. Ctrl-C stops an answer.
// begins a message with a /.";

impl Run for Chat {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }

    fn evaluates(&self) -> bool {
        true
    }
}

fn run(app: &App, args: &Chat) -> Result<()> {
    let text = args.key.as_deref().or(args.resume.as_deref()).unwrap_or_default();
    let place = place::find(app, text, &args.params, CachePolicy::default())?.state;
    let target = target::of_state(app, &place.store, &place.state, &args.params)?;
    let with = rendered_with(app, args, &place.state.manifest.rendered_with)?;
    let sampling = sampling::of_args(&args.sampling, args.sampling.seed);
    let size = |behind: Behind<'_>| {
        let next = next_message(behind.model, behind.state, with)?;
        let limit = Question::limit(behind.model, behind.prefix, ROOM, args.sampling.max_tokens);
        Ok((ContextSize::one(limit), next))
    };
    let (mut opened, next, _) = place.open(app.call(), CachePolicy::default(), None, size)?;
    app.signals.set(At::Answer);
    let mut chat = Repl { app, args, target: &target, sampling, last: None, first_failure: None };
    if next.leaves_out_system() {
        app.say(
            "the template moves the system message from message to message: it stays before the first one",
        );
    }
    if args.resume.is_some() && opened.state.manifest.kind != StateKind::Conversation {
        app.say("this is no conversation that /save kept: one begins behind the prompt");
    }
    chat.greet(&opened, args.resume.is_some(), &next);
    let mut said = Said::new(next);
    chat.converse(&mut Conversation::new(&mut opened, &mut said))?;
    opened.note_use();
    Ok(())
}

/// Template, arguments and date that the state was rendered with, or what the options say instead.
fn rendered_with(app: &App, args: &Chat, saved: &RenderedWith) -> Result<RenderedWith> {
    let mut with = saved.clone();
    if let Some(template) = args.template.as_deref() {
        with.template = Some(read_text(template)?);
    }
    if !args.template_args.is_empty() {
        with.arguments = args.template_args.iter().cloned().collect();
    }
    if with != *saved && *saved != RenderedWith::default() {
        app.warn(
            "the state was built with another template or other template arguments than the options say",
        );
    }
    Ok(with)
}

/// Parts that stay the same from message to message.
struct Repl<'a> {
    app: &'a App,
    args: &'a Chat,
    target: &'a Target,
    sampling: Sampling,
    last: Option<Answered>,
    /// The first failure.
    first_failure: Option<anyhow::Error>,
}

impl Repl<'_> {
    fn greet(&self, opened: &OpenState<'_>, resumed: bool, next: &NextMessage) {
        let label = states::label(&opened.state.key(), opened.state.label.name());
        let tokens = human::count(opened.prefix.tokens.len(), "token");
        self.app.say(format!("{label}: {tokens}; /help lists commands, /quit ends"));
        let whole = opened.session.model().text_of(&opened.state.manifest.tokens)
            + &opened.state.manifest.pending_text;
        let last =
            whole.strip_suffix(next.between()).and_then(|t| t.rsplit_once(&opened.state.manifest.suffix));
        if let Some((_, answer)) = last.filter(|_| resumed && !opened.state.manifest.suffix.is_empty()) {
            self.app.say(format!("the last answer was: {}", answer.trim()));
        }
    }

    fn converse(&mut self, talk: &mut Conversation<'_, '_>) -> Result<()> {
        let mut lines = Lines::of_stdin(self.args.history.clone())?;
        loop {
            self.app.take_interrupt();
            let line = match self.app.listen(|| lines.next())? {
                Input::Line(line) => line,
                Input::Unreadable => {
                    self.failed(anyhow::anyhow!("the message is not UTF-8 text; nothing was asked"));
                    continue;
                }
                Input::End => return self.end(&lines),
                Input::Interrupt => {
                    self.app.say("/quit or Ctrl-D ends the conversation");
                    continue;
                }
            };
            let done = match line.trim() {
                "" => Ok(()),
                "/quit" | "/exit" | "/q" | "quit" | "exit" => return self.end(&lines),
                command if command.starts_with('/') && !command.starts_with("//") => {
                    self.command(talk, command)
                }
                _ => self.say(talk, line.strip_prefix('/').unwrap_or(&line)),
            };
            match done {
                _ if self.app.signals.told_to_end() => {
                    bail!(Failure::Interrupted("interrupted".into()))
                }
                // What is piped in is stopped as a whole.
                Ok(()) if !lines.are_typed() && self.was_stopped() => {
                    bail!(Failure::Interrupted("interrupted; the answer is not complete".into()))
                }
                Ok(()) => {}
                // An answer that cannot be shown any more ends the conversation.
                Err(error) if is_broken_pipe(&error) => return Err(error),
                // An answer that was stopped without a person at the terminal stops the rest.
                Err(error) if !lines.are_typed() && is_interruption(&error) => return Err(error),
                Err(error) => self.failed(error),
            }
        }
    }

    /// Tells what went wrong; the conversation goes on.
    fn failed(&mut self, error: anyhow::Error) {
        // A word of an answer that failed is still held back; a terminal that is gone has other troubles.
        let _ = self.app.end_stream("");
        self.app.warn(format!("{error:#}"));
        if let Some(Failure::Refused { hint, .. }) = error.downcast_ref() {
            self.app.say(of_hint(*hint));
        }
        self.first_failure.get_or_insert(error);
    }

    /// A program that talks should hear that something went wrong; a person has.
    fn end(&mut self, lines: &Lines) -> Result<()> {
        match self.first_failure.take().filter(|_| !lines.are_typed()) {
            Some(failure) => Err(failure.context("not everything was done")),
            None => Ok(()),
        }
    }

    fn command(&mut self, talk: &mut Conversation<'_, '_>, command: &str) -> Result<()> {
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (name, rest.trim()) {
            ("/help" | "/?", _) => self.app.say(HELP),
            ("/quit" | "/exit" | "/q", _) => bail!(Failure::Usage(format!("{name} takes nothing behind it"))),
            ("/save", "") => bail!(Failure::Usage("/save needs a name".into())),
            ("/save", name) => self.save(talk, name)?,
            ("/retry", _) => self.retry(talk)?,
            ("/reset", _) => {
                talk.drop_oldest(usize::MAX);
                self.app.say("starting over");
            }
            ("/drop", count) => {
                let count = if count.is_empty() { Ok(1) } else { count.parse() };
                let Ok(count) = count else {
                    bail!(Failure::Usage("/drop takes a number of messages".into()))
                };
                let before = talk.said_so_far();
                if before == 0 {
                    bail!(Failure::Usage(self.nothing_said("dropped")));
                }
                talk.drop_oldest(count);
                let (gone, left) = (before - talk.said_so_far(), talk.said_so_far());
                let gone = human::count(gone, "message");
                self.app.say(format!("{gone} forgotten, {} left", human::thousands(left)));
            }
            ("/stats", _) => self.stats(talk),
            _ => bail!(Failure::Usage(format!("unknown command {name}; /help lists commands"))),
        }
        Ok(())
    }

    fn say(&mut self, talk: &mut Conversation<'_, '_>, message: &str) -> Result<()> {
        let sampling = self.sampling.clone();
        let answered = talk.say(message, &sampling, |text| self.emit(text))?;
        self.told(talk, message, sampling.seed, answered)
    }

    fn retry(&mut self, talk: &mut Conversation<'_, '_>) -> Result<()> {
        let Some(message) = talk.last_message().map(str::to_owned) else {
            bail!(Failure::Usage(self.nothing_said("answered again")));
        };
        self.sampling.seed = generate::trial_seed(self.sampling.seed, 1);
        let mut sampling = self.sampling.clone();
        if sampling.temperature <= 0.0 {
            sampling.temperature = RETRY_TEMPERATURE;
            self.app
                .say(format!("with --temp 0 the answer would be the same: this one has {RETRY_TEMPERATURE}"));
        }
        let answered = talk.retry(&sampling, |text| self.emit(text))?;
        self.told(talk, &message, sampling.seed, answered)
    }

    /// Says that there is no message for a command.
    fn nothing_said(&self, done: &str) -> String {
        match self.args.resume {
            Some(_) => format!(
                "nothing was said since; what was said before /save is part of the state and cannot be {done}"
            ),
            None => "nothing was said yet".into(),
        }
    }

    fn emit(&self, text: &str) -> Result<()> {
        match self.app.output() {
            Output::Text => self.app.stream(text),
            Output::Jsonl => self.app.named_event("text", &serde_json::json!({ "text": text })),
            Output::Json => Ok(()),
        }
    }

    /// Ends an answer that was shown.
    fn told(
        &mut self,
        talk: &Conversation<'_, '_>,
        message: &str,
        seed: u32,
        answered: Answered,
    ) -> Result<()> {
        let report = Report {
            key: talk.opened.state.key().to_hex(),
            question: message,
            answer: answered.answer.text.as_str().into(),
            stop_reason: answered.answer.stop,
            answer_tokens: answered.answer.tokens.len(),
            seed,
            cache: &answered.verdict,
            time_to_first_token_s: answered.time_to_first_token.as_secs_f64(),
            timings: &answered.timings,
        };
        report::print(self.app, &report, None, self.args.stats, self.tells(&answered))?;
        self.last = Some(answered);
        Ok(())
    }

    /// Ctrl-C stopped the last answer.
    fn was_stopped(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.answer.stop == StopReason::Interrupted)
    }

    /// Returns true if an answer's statistics are printed: if they were asked for, or if something is out of the ordinary.
    fn tells(&self, answered: &Answered) -> bool {
        let usual = answered.verdict.reason.is_none() && answered.answer.stop == StopReason::Eos;
        !usual || self.args.stats || self.app.explains()
    }

    fn stats(&self, talk: &Conversation<'_, '_>) {
        let (used, most) = talk.fill();
        let state = talk.opened.prefix.tokens.len();
        self.app.say(format!(
            "{} of {} used: the state {}, {} since",
            human::thousands(used),
            human::count(most, "token"),
            human::thousands(state),
            human::count(talk.said_so_far(), "message")
        ));
        if let Some(last) = &self.last {
            self.app.say(last.timings.table().trim_end());
        }
    }

    /// Keeps the conversation as a state. It is evaluated again in whole segments, as a build would: what was evaluated
    /// message by message has other bytes, and a key means the same bytes always.
    fn save(&mut self, talk: &mut Conversation<'_, '_>, name: &str) -> Result<()> {
        check_name(name)?;
        if talk.said_so_far() == 0 {
            bail!(Failure::Usage("nothing was said behind the state, so there is nothing to save".into()));
        }
        let (prompt, origin) = talk.prompt();
        let model = &talk.opened.session.model().clone();
        let opened = &mut *talk.opened;
        let keep = KeepArgs { name: Some(name.to_owned()), ..KeepArgs::default() };
        let keep = build::keep(opened.store, &keep);
        let mut builder = Builder::new(self.app.call(), &keep, opened.store, self.target);
        let report = builder.save(model, &prompt, &origin, None);
        let report = report.context("the conversation is not saved; /drop makes it shorter")?;
        let saved =
            format!("saved {} as {name} ({})", human::count(report.tokens, "token"), &report.key[..12]);
        match talk.can_be_resumed() {
            Ok(()) => self.app.say(format!("{saved}; pcache chat --resume {name} resumes here")),
            Err(why) => self.app.warn(format!("{saved}, but it can be asked and not resumed: {why:#}")),
        }
        Ok(())
    }
}

fn is_interruption(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Failure::Interrupted(_)))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|e| e.downcast_ref().is_some_and(broken))
}
