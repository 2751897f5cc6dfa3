//! Jinja as chat templates are written for it: Jinja2 with the settings, filters and variables of the transformers library.
//!
//! Adds what differs there and is not in minijinja. `scripts/check-templates` compares the two on published
//! templates.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::civil::Date;
use jiff::fmt::strtime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};
use serde::Serialize;

use super::TemplateError;

/// Steps of rendering at most. Real templates take some hundreds; one that goes on for ever should end.
const MAX_STEPS: u64 = 5_000_000;
/// Name of the template in its environment.
const NAME: &str = "chat";

/// A template, compiled.
#[derive(Debug)]
pub(super) struct Jinja {
    environment: Environment<'static>,
    asked_for_date: Arc<AtomicBool>,
}

impl Jinja {
    /// Compiles `source`; `date` is what it gets for today's.
    ///
    /// # Errors
    /// [`TemplateError::Fails`] when it does not parse.
    pub(super) fn new(source: &str, date: Option<Date>) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(fails)?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(MAX_STEPS));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |text: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, text))
        });
        let asked_for_date = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&asked_for_date);
        environment.add_function("strftime_now", move |format: String| {
            asked.store(true, Ordering::Relaxed);
            format_date(&format, date)
        });
        environment.add_filter("tojson", to_json);
        environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
        environment.add_test("sequence", is_sequence);
        let source = without_generation_tags(&with_unix_line_ends(source));
        environment.add_template_owned(NAME, source).map_err(fails)?;
        Ok(Self { environment, asked_for_date })
    }

    /// The text that it gives for `variables`.
    ///
    /// # Errors
    /// [`TemplateError::Fails`] when it raises an error, or never ends.
    pub(super) fn render(&self, variables: BTreeMap<&str, Value>) -> Result<String, TemplateError> {
        let template = self.environment.get_template(NAME).map_err(fails)?;
        template.render(Value::from(variables)).map_err(fails)
    }

    /// It asked for today's date.
    pub(super) fn asked_for_date(&self) -> bool {
        self.asked_for_date.load(Ordering::Relaxed)
    }
}

fn format_date(format: &str, date: Option<Date>) -> Result<String, Error> {
    let text = match date {
        Some(date) => strtime::format(format, date.at(0, 0, 0, 0)),
        None => strtime::format(format, &jiff::ZonedDateTime::now()),
    };
    text.map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
}

/// Python's `len()` and `[]` work on strings and mappings too.
fn is_sequence(value: &Value) -> bool {
    value.is_undefined() || matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
}

/// Python's `json.dumps(value, ensure_ascii=False)`, with its separators: Jinja2's own filter escapes HTML, and templates
/// do not want that.
fn to_json(value: &Value, positional: Rest<Value>, options: Kwargs) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::InvalidOperation, "undefined is not JSON"));
    }
    let given = |name: &str| -> Result<Option<Value>, Error> {
        Ok(options.get::<Option<Value>>(name)?.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let ascii = given("ensure_ascii")?.or(positional.first().cloned()).is_some_and(|value| value.is_true());
    let indent = given("indent")?.or(positional.get(1).cloned().filter(|value| !value.is_none()));
    let indent = indent.map(usize::try_from).transpose()?;
    let separators =
        given("separators")?.map(|value| value.try_iter().map(|all| all.map(|s| s.to_string()).collect()));
    let separators: Option<Vec<String>> = separators.transpose()?;
    let sorted = given("sort_keys")?.is_some_and(|value| value.is_true());
    options.assert_all_used()?;

    let mut json =
        serde_json::to_value(value).map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))?;
    if sorted {
        json.sort_all_objects();
    }
    let comma = if indent.is_some() { "," } else { ", " };
    let (comma, colon) = match separators.as_deref() {
        Some([comma, colon]) => (comma.clone(), colon.clone()),
        _ => (comma.to_owned(), ": ".to_owned()),
    };
    let mut bytes = Vec::new();
    let style = Dumps { indent, comma, colon, level: 0, filled: false };
    json.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, style))
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(Value::from(if ascii { escape_non_ascii(&text) } else { text }))
}

/// JSON as Python writes it.
struct Dumps {
    indent: Option<usize>,
    comma: String,
    colon: String,
    level: usize,
    /// The array or object that ends next holds something.
    filled: bool,
}

impl Dumps {
    fn open<W: std::io::Write + ?Sized>(&mut self, writer: &mut W, bracket: &[u8]) -> std::io::Result<()> {
        self.level += 1;
        self.filled = false;
        writer.write_all(bracket)
    }

    fn close<W: std::io::Write + ?Sized>(&mut self, writer: &mut W, bracket: &[u8]) -> std::io::Result<()> {
        self.level -= 1;
        if self.filled {
            self.line(writer, self.level)?;
        }
        self.filled = true;
        writer.write_all(bracket)
    }

    fn item<W: std::io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        self.filled = true;
        if !first {
            writer.write_all(self.comma.as_bytes())?;
        }
        self.line(writer, self.level)
    }

    fn line<W: std::io::Write + ?Sized>(&self, writer: &mut W, level: usize) -> std::io::Result<()> {
        match self.indent {
            Some(indent) => writer.write_all(format!("\n{}", " ".repeat(indent * level)).as_bytes()),
            None => Ok(()),
        }
    }
}

impl serde_json::ser::Formatter for Dumps {
    fn begin_array<W: std::io::Write + ?Sized>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: std::io::Write + ?Sized>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: std::io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object<W: std::io::Write + ?Sized>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: std::io::Write + ?Sized>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: std::io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object_value<W: std::io::Write + ?Sized>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(self.colon.as_bytes())
    }
}

fn escape_non_ascii(text: &str) -> String {
    let escape = |c: char| {
        let mut units = [0u16; 2];
        c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>()
    };
    text.chars().map(|c| if c.is_ascii() { c.to_string() } else { escape(c) }).collect()
}

/// Jinja2 makes one newline of each line end of a template before anything else; line ends of messages stay.
fn with_unix_line_ends(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

/// Some templates mark the assistant's words for training with `{% generation %}`, a tag that Jinja itself does
/// not have. It becomes a comment, which keeps its effect on white space.
fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        text.push_str(before);
        let inner = tag.split_once("%}");
        let name = inner.map(|(inner, _)| inner.trim_matches(['-', '+']).trim());
        match inner.filter(|_| matches!(name, Some("generation" | "endgeneration"))) {
            Some((inner, after)) => {
                text.push_str(&format!("{{#{inner}#}}"));
                rest = after;
            }
            None => {
                text.push_str("{%");
                rest = tag;
            }
        }
    }
    text + rest
}

fn fails(error: Error) -> TemplateError {
    TemplateError::Fails(match error.detail() {
        Some(detail) => format!("{detail} (line {})", error.line().unwrap_or(0)),
        None => error.to_string(),
    })
}
