//! `pcache tokens`: how a prompt is tokenised, and where its segments and its state end.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::app::App;
use super::{source, target};
use crate::cache::source::Source;
use crate::cache::target::Target;
use crate::cli::Run;
use crate::cli::args::dashes::escaped;
use crate::cli::args::{Output, ParamArgs, PromptFormatArgs};
use crate::cli::table::fitted;
use crate::text::{human, table};
use pcache_engine::model::Model;
use pcache_engine::prompt::{Asker, Prompt};
use pcache_engine::text::Text;

/// Arguments of `tokens`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache tokens menu.txt                  token count and segments
  pcache tokens menu.txt --list           every token with its position and id
  pcache tokens menu.txt --question \"Is there soup?\" --list
  pcache tokens menu.txt --raw --json

Nothing is evaluated or saved; only the vocabulary of the model is loaded.")]
pub struct Tokens {
    /// Prompt file; - is stdin
    #[arg(value_name = "PROMPT")]
    pub prompt: PathBuf,
    /// List every token: position, id, text, and whether it is the prompt's or the template's
    #[arg(long)]
    pub list: bool,
    /// Also show the tokens of a question after the state, \n for a newline
    #[arg(long, value_name = "TEXT", allow_negative_numbers = true, value_parser = escaped())]
    pub question: Option<String>,
    /// Prompt format.
    #[command(flatten)]
    pub framing: PromptFormatArgs,
    /// Parameters of the state.
    #[command(flatten)]
    pub params: ParamArgs,
}

/// Letters of a segment's beginning that are shown.
const BEGINNING: usize = 40;

/// JSON output.
#[derive(Debug, Serialize)]
struct Report {
    prompt: String,
    framing: String,
    model: String,
    /// Tokens of the state.
    tokens: usize,
    /// Those of them that the prompt's own text is spelled by.
    own_tokens: usize,
    /// Those that the template adds.
    template_tokens: usize,
    /// Text at the prompt's end that is evaluated with each question, and its tokens.
    carried: String,
    carried_tokens: usize,
    /// Text behind a question, and its tokens.
    suffix: String,
    suffix_tokens: usize,
    key: String,
    segments: Vec<SegmentReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    list: Vec<TokenReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    question: Vec<TokenReport>,
}

#[derive(Debug, Serialize)]
struct SegmentReport {
    first: usize,
    last: usize,
    tokens: usize,
    chain: String,
    begins: String,
}

#[derive(Debug, Clone, Serialize)]
struct TokenReport {
    position: usize,
    id: i32,
    text: String,
    /// The bytes as hexadecimal digits, where they are no text: parts of characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
    from: From,
}

impl TokenReport {
    fn new(model: &Model, position: usize, id: i32, from: From) -> Self {
        let bytes = model.bytes_of(id);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let hex = || bytes.iter().map(|b| format!("{b:02x}")).collect();
        let bytes = std::str::from_utf8(&bytes).is_err().then(hex);
        Self { position, id, text, bytes, from }
    }

    /// The text, for people.
    fn render(&self) -> String {
        match &self.bytes {
            Some(bytes) => format!("bytes {bytes}"),
            None => format!("\"{}\"", render(&self.text)),
        }
    }
}

/// Author of a token's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum From {
    Template,
    Prompt,
    Question,
}

impl From {
    fn name(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Prompt => "prompt",
            Self::Question => "question",
        }
    }
}

impl Run for Tokens {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }
}

fn run(app: &App, args: &Tokens) -> Result<()> {
    let framed = source::framed(&args.framing)?;
    let store = app.existing_store()?;
    let target = target::of_args(app, store.as_ref(), &args.params)?;
    let source = source::read(&args.prompt, &target.params.root(&target.model), &framed)?;
    let model = Model::load_vocabulary(&target.model_path)?;
    let prompt = source.tokenize(app, &model)?;
    let report = report(args, &source, &target, &model, &prompt)?;
    app.named_event("tokens", &report)?;
    match app.output() {
        Output::Text => app.print(text(&report, args)),
        Output::Json => app.print_json(&report),
        Output::Jsonl => Ok(()),
    }
}

fn report(
    args: &Tokens,
    source: &Source<'_>,
    target: &Target,
    model: &Model,
    prompt: &Prompt,
) -> Result<Report> {
    let prefix = target.prefix(model.layout(), prompt.tokens.clone())?;
    let list = listed(model, prompt);
    let own_tokens = list.iter().filter(|t| t.from == From::Prompt).count();
    let segments = prefix.pieces().into_iter().map(|piece| SegmentReport {
        first: piece.first,
        last: piece.end() - 1,
        tokens: piece.count,
        chain: piece.chain.to_hex(),
        begins: model.text_of(&prefix.tokens[piece.first..piece.end().min(piece.first + BEGINNING)]),
    });
    let count = |text: &Text| model.tokenize(text).len();
    Ok(Report {
        prompt: source.label(),
        framing: source.framing().to_owned(),
        model: target.model_name.clone(),
        tokens: list.len(),
        own_tokens,
        template_tokens: list.len() - own_tokens,
        carried_tokens: count(&Text::default().user(&prompt.pending_text)),
        carried: prompt.pending_text.clone(),
        suffix_tokens: count(&Text::default().template(&prompt.suffix)),
        suffix: prompt.suffix.clone(),
        key: prefix.chain.state_key(&prompt.pending_text, &prompt.suffix).to_hex(),
        segments: segments.collect(),
        question: args.question.as_ref().map_or_else(Vec::new, |q| asked(model, prompt, q)),
        list: if args.list { list } else { Vec::new() },
    })
}

/// The state's tokens, and whether the prompt's own text or the template is in each.
fn listed(model: &Model, prompt: &Prompt) -> Vec<TokenReport> {
    let own = prompt.own.map_or(0..0, |(first, bytes)| first..first + bytes);
    let mut end = 0;
    let tokens = prompt.tokens.iter().enumerate().map(|(position, id)| {
        let first = end;
        end += model.bytes_of(*id).len();
        let from = if first < own.end && end > own.start { From::Prompt } else { From::Template };
        TokenReport::new(model, position, *id, from)
    });
    tokens.collect()
}

/// The tokens that an ask evaluates behind the state.
fn asked(model: &Model, prompt: &Prompt, question: &str) -> Vec<TokenReport> {
    let ids = Asker::new(model, prompt.ending()).ask(model, question).tokens;
    let suffix = model.tokenize(&Text::default().template(&prompt.suffix)).len();
    let own = ids.len().saturating_sub(suffix);
    let first = prompt.tokens.len();
    let token = |(n, id): (usize, i32)| {
        let from = if n < own { From::Question } else { From::Template };
        TokenReport::new(model, first + n, id, from)
    };
    ids.into_iter().enumerate().map(token).collect()
}

fn text(report: &Report, args: &Tokens) -> String {
    let count = |n| human::count(n, "token");
    let mut rows = vec![
        ("prompt", format!("{} ({})", human::sanitize(&report.prompt), report.framing)),
        ("model", report.model.clone()),
        ("key", report.key.clone()),
        (
            "tokens",
            format!(
                "{}: {} of the prompt, {} of the template",
                human::thousands(report.tokens),
                human::thousands(report.own_tokens),
                human::thousands(report.template_tokens)
            ),
        ),
        (
            "state ends",
            match report.carried.as_str() {
                "" => "behind all of them: no question changes their tokens".to_owned(),
                text => format!(
                    "before {:?}: {} that a question could change",
                    text,
                    count(report.carried_tokens)
                ),
            },
        ),
    ];
    if !report.suffix.is_empty() {
        let suffix = format!("{:?} ({})", report.suffix, count(report.suffix_tokens));
        rows.push(("question", format!("is followed by {suffix}")));
    }
    let rows: Vec<_> = rows.into_iter().map(|(name, value)| format!("{name:<12}{value}")).collect();
    let mut parts = vec![rows.join("\n"), segments(report)];
    if args.list {
        parts.push(tokens(&report.list, &report.segments));
    }
    if !report.question.is_empty() {
        let list = &report.question;
        let title = format!("Behind the state, with this question: {}", count(list.len()));
        parts.push(format!("{title}\n\n{}", tokens(list, &[])));
    }
    parts.join("\n\n")
}

fn segments(report: &Report) -> String {
    let rows = |width| {
        let row = |(n, s): (usize, &SegmentReport)| {
            let begins = shown_within(&s.begins, width);
            let [first, last, tokens] = [s.first, s.last, s.tokens].map(human::thousands);
            vec![(n + 1).to_string(), first, last, tokens, s.chain[..12].to_owned(), begins]
        };
        report.segments.iter().enumerate().map(row).collect()
    };
    let header = ["SEGMENT", "FIRST", "LAST", "TOKENS", "CHAIN KEY", "BEGINS WITH"];
    fitted(&header, &[0, 1, 2, 3], 11..=60, rows)
}

/// One token a row, with a line between segments.
fn tokens(list: &[TokenReport], segments: &[SegmentReport]) -> String {
    let rows = list
        .iter()
        .map(|t| [human::thousands(t.position), t.id.to_string(), t.from.name().to_owned(), t.render()]);
    let all = table::plain(&["POSITION", "TOKEN", "FROM", "TEXT"], &[0, 1], rows);
    let ends = |row: usize| segments.iter().any(|s| s.last + 1 == row && row < list.len());
    let lines = all.lines().enumerate().map(|(row, line)| {
        let rule = if ends(row) { "\n--- segment ends ---" } else { "" };
        format!("{line}{rule}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// As much of a text as fits, with no escape cut in two.
fn shown_within(text: &str, width: usize) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        let letter = render(&letter.to_string());
        if out.chars().count() + letter.chars().count() > width {
            break;
        }
        out.push_str(&letter);
    }
    out
}

/// Text with its white space at the ends and its control characters to be seen.
fn render(text: &str) -> String {
    let quoted = format!("{text:?}");
    human::sanitize(&quoted[1..quoted.len() - 1])
}
