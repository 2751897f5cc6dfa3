//! Reading the values of options.

use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser};
use jiff::civil::Date;

/// A path that may be empty: an environment variable that is set to nothing is as good as unset.
/// A `~` at its beginning is the home folder, as shells have it where they see it.
pub fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(|text| expanded(PathBuf::from(text)))
}

fn expanded(path: PathBuf) -> PathBuf {
    match (path.strip_prefix("~"), etcetera::home_dir()) {
        (Ok(rest), Ok(home)) => home.join(rest),
        _ => path,
    }
}

/// One of some named values.
pub fn named<T: Copy + Send + Sync + 'static>(
    all: &'static [T],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    let names = PossibleValuesParser::new(all.iter().map(|value| name(*value)));
    names.try_map(move |text| all.iter().copied().find(|value| name(*value) == text).ok_or("not one of them"))
}

/// Parses one of an enum's names; unlike clap's own parser it gives each value no help of its own.
pub fn choice<T: ValueEnum + Clone + Send + Sync + 'static>() -> impl TypedValueParser<Value = T> {
    let names = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    let names = PossibleValuesParser::new(names.map(|value| value.get_name().to_owned()));
    names.try_map(|text| T::from_str(&text, false))
}

pub fn size(text: &str) -> Result<u64, String> {
    let bytes: Result<bytesize::ByteSize, _> = text.parse();
    let bytes =
        bytes.map(|b| b.as_u64()).map_err(|_| "expected a size, e.g. 10GiB, 500MB or 1000000".to_owned())?;
    if (1..1 << 16).contains(&bytes) && text.trim().bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{bytes} bytes hold no state; say {bytes}GiB or {bytes}MiB"));
    }
    Ok(bytes)
}

/// A size that something can be kept within.
pub fn budget(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("0 bytes hold no state; without a size there is no limit".into()),
        bytes => Ok(bytes),
    }
}

pub fn temperature(text: &str) -> Result<f32, String> {
    number(text, "a number from 0 to 100", |t| (0.0..=100.0).contains(&t))
}

pub fn probability(text: &str) -> Result<f32, String> {
    number(text, "a probability from 0 to 1", |p| (0.0..=1.0).contains(&p))
}

/// A share, exactly as it is written: 0.8 is reached by 4 of 5.
pub fn share(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|v| (0.0..=1.0).contains(v));
    value.ok_or_else(|| "expected a share from 0 to 1".into())
}

pub fn penalty(text: &str) -> Result<f32, String> {
    number(text, "a number above 0 and up to 100", |x| x > 0.0 && x <= 100.0)
}

fn number(text: &str, expected: &str, fits: impl Fn(f32) -> bool) -> Result<f32, String> {
    let value = text.parse().ok().filter(|v| fits(*v));
    value.ok_or_else(|| format!("expected {expected}"))
}

/// A length of time, as `30d`, `12h` or `1h 30m`, in seconds.
pub fn seconds(text: &str) -> Result<i64, String> {
    let time =
        humantime::parse_duration(text).map_err(|e| format!("expected a time, e.g. 30d or 12h: {e}"))?;
    i64::try_from(time.as_secs()).map_err(|_| "that is longer than any clock runs".into())
}

/// Life span of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// So many seconds.
    For(i64),
    /// As long as there is room.
    Never,
}

/// A time to live: a length of time above 0, or `never`.
pub fn ttl(text: &str) -> Result<Ttl, String> {
    if text == "never" {
        return Ok(Ttl::Never);
    }
    match seconds(text)? {
        0 => Err("expected a time above 0, or never".into()),
        seconds => Ok(Ttl::For(seconds)),
    }
}

/// A base frequency of the rotary embedding: above 0.
pub fn base(text: &str) -> Result<f32, String> {
    number(text, "a number above 0 and up to 1e12", |x| x > 0.0 && x <= 1e12)
}

/// A factor of the rotary embedding's frequencies: a context a thousand times as long is beyond any model.
pub fn factor(text: &str) -> Result<f32, String> {
    number(text, "a number from 0.001 to 1000", |x| (0.001..=1000.0).contains(&x))
}

/// Any finite number.
pub fn finite(text: &str) -> Result<f32, String> {
    number(text, "a number", |x| x.is_finite())
}

/// A day, as `2026-01-31`.
pub fn date(text: &str) -> Result<Date, String> {
    text.parse().map_err(|_| "expected a date, e.g. 2026-01-31".into())
}

/// `NAME=VALUE`, where the value is JSON or else a text.
pub fn argument(text: &str) -> Result<(String, serde_json::Value), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, as enable_thinking=false")?;
    if name.trim().is_empty() {
        return Err("expected a name before the =".into());
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.trim().to_owned(), value))
}

/// An adapter's file and how strongly it applies.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraFile {
    /// The adapter's file.
    pub path: PathBuf,
    /// 1 is as trained.
    pub scale: f32,
}

/// `FILE` or `FILE=SCALE`; a file whose name has a `=` is found as it is.
pub fn lora(text: &str) -> Result<LoraFile, String> {
    let whole = PathBuf::from(text);
    match text.rsplit_once('=') {
        Some((file, scale)) if !whole.exists() => {
            Ok(LoraFile { path: file.into(), scale: finite(scale).map_err(|e| format!("the scale: {e}"))? })
        }
        _ => Ok(LoraFile { path: whole, scale: 1.0 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_numbers_are_checked() {
        assert_eq!(size("10GiB"), Ok(10 << 30));
        assert!(size("ten").is_err() && size("10").unwrap_err().contains("10GiB"));
        assert_eq!((size("0"), size("70000")), (Ok(0), Ok(70_000)));
        assert_eq!((ttl("2h"), ttl("never")), (Ok(Ttl::For(7200)), Ok(Ttl::Never)));
        assert!(ttl("0s").is_err());
        assert!(temperature("-1").is_err());
        assert!(temperature("nan").is_err());
        assert!(probability("1.5").is_err());
        assert!(penalty("0").is_err());
        assert_eq!(seconds("2h"), Ok(7200));
        assert!(seconds("soon").is_err() && factor("0").is_err() && factor("inf").is_err());
        assert!(date("2026-02-30").is_err() && date("2026-02-03").is_ok());
    }

    #[test]
    fn an_adapter_may_have_a_scale_and_an_argument_is_json_or_text() {
        assert_eq!(lora("a.gguf"), Ok(LoraFile { path: "a.gguf".into(), scale: 1.0 }));
        assert_eq!(lora("a.gguf=0.5"), Ok(LoraFile { path: "a.gguf".into(), scale: 0.5 }));
        assert!(lora("a.gguf=strong").is_err());
        assert_eq!(argument("x=false").unwrap().1, serde_json::json!(false));
        assert_eq!(argument("x=le chat").unwrap().1, serde_json::json!("le chat"));
        assert!(argument("x").is_err());
    }
}
