//! Sizes, durations and ages as people say them.

use std::path::Path;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use pcache_format::StateKey;

/// The last part of a path.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Bytes with a binary unit and three digits or so: `46.1 MiB`, `928 KiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // What would be rounded to 1024 is 1.0 of the next unit.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value < 99.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A text without what a terminal would obey: control characters are shown as a replacement.
pub fn sanitize(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A model's file name as people say it: without its ending.
pub fn model(name: &str) -> &str {
    name.strip_suffix(".gguf").unwrap_or(name)
}

/// A text in at most so many columns of a terminal: cut in the middle if need be.
pub fn shortened(text: &str, width: usize) -> String {
    if text.width() <= width || width == 0 {
        return text.to_owned();
    }
    let half = (width - 1) / 2;
    let head = taken(text.chars(), width - 1 - half);
    let tail = taken(text.chars().rev(), half);
    head.into_iter().chain(['…']).chain(tail.into_iter().rev()).collect()
}

/// A path in at most so many columns: its beginning is cut, for the end tells files apart.
pub fn shortened_at_start(text: &str, width: usize) -> String {
    if text.width() <= width || width == 0 {
        return text.to_owned();
    }
    let tail = taken(text.chars().rev(), width - 1);
    std::iter::once('…').chain(tail.into_iter().rev()).collect()
}

/// As many letters as go into `width` columns.
fn taken(letters: impl Iterator<Item = char>, width: usize) -> Vec<char> {
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= width
    };
    letters.take_while(fits).collect()
}

/// Things after one another with commas, in lines of at most `width` letters that begin with `indent` spaces but for the
/// first.
pub fn wrap_list(things: &[String], width: usize, indent: usize) -> String {
    let (mut text, mut line) = (String::new(), 0);
    for (i, thing) in things.iter().enumerate() {
        let comma = usize::from(i + 1 < things.len());
        let length = thing.chars().count() + comma;
        if line > 0 && line + 1 + length > width {
            text.push_str(&format!("\n{}", " ".repeat(indent)));
            line = 0;
        } else if line > 0 {
            text.push(' ');
            line += 1;
        }
        text.push_str(thing);
        text.push_str(if comma > 0 { "," } else { "" });
        line += length;
    }
    text
}

/// A text in lines of at most `width` columns, as far as its words allow.
pub fn wrapped(text: &str, width: usize) -> String {
    let (mut out, mut line) = (String::new(), 0);
    for (i, word) in text.split(' ').enumerate() {
        if i > 0 && line + 1 + word.width() > width {
            out.push('\n');
            line = 0;
        } else if i > 0 {
            out.push(' ');
            line += 1;
        }
        out.push_str(word);
        line += word.width();
    }
    out
}

/// A duration in its largest unit, rounded: `45 days`, `3 hours`, `1 minute`.
pub fn duration(seconds: i64) -> String {
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute")];
    let (n, unit) = units
        .into_iter()
        .find(|(size, _)| seconds >= *size)
        .map_or((seconds.max(0), "second"), |(size, unit)| ((seconds + size / 2) / size, unit));
    format!("{n} {unit}{}", if n == 1 { "" } else { "s" })
}

/// An age, short enough for a table: `3h`, `now`.
pub fn age(seconds: i64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    units
        .into_iter()
        .find(|(size, _)| seconds >= *size)
        .map_or("now".into(), |(size, unit)| format!("{}{unit}", seconds / size))
}

/// A number of something: `1 segment`, `3 segments`.
pub fn count(n: usize, thing: &str) -> String {
    format!("{} {thing}{}", thousands(n), if n == 1 { "" } else { "s" })
}

/// A number with its thousands set off: `2,725`.
pub fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds for an estimate: `less than 1 s`, `about 31 s`, `about 4 min`.
pub fn estimate(seconds: f64) -> String {
    if seconds < 1.0 {
        "less than 1 s".into()
    } else if seconds < 120.0 {
        format!("about {seconds:.0} s")
    } else {
        format!("about {:.0} min", seconds / 60.0)
    }
}

/// Seconds that were measured: `0.42 s`, `6.5 s`, `4 min 10 s`, `3 h 5 min`.
pub fn seconds(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 if seconds < 0.95 => format!("{seconds:.2} s"),
        0..60 => format!("{seconds:.1} s"),
        60..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3_600, whole % 3_600 / 60),
    }
}

/// Seconds that were measured closely, with three digits: `0.062 ms`, `12.3 ms`, `1.24 s`.
pub fn precise(seconds: f64) -> String {
    let (value, unit) = if seconds < 0.9995 { (seconds * 1e3, "ms") } else { (seconds, "s") };
    let digits = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        v if v >= 0.9995 => 2,
        _ => 3,
    };
    format!("{value:.digits$} {unit}")
}

/// Bytes a second, in powers of ten as disks and memories are sold: `13.5 GB/s`, `850 MB/s`.
pub fn speed(bytes_per_second: f64) -> String {
    match bytes_per_second {
        s if s >= 99.95e9 => format!("{:.0} GB/s", s / 1e9),
        s if s >= 9.995e9 => format!("{:.1} GB/s", s / 1e9),
        s if s >= 0.9995e9 => format!("{:.2} GB/s", s / 1e9),
        s => format!("{:.0} MB/s", s / 1e6),
    }
}

/// Describes an age: `3 hours ago`, `just now`.
pub fn ago(seconds: i64) -> String {
    if seconds < 1 { "just now".into() } else { format!("{} ago", duration(seconds)) }
}

/// A point in time, in seconds since 1970, by the clock on the wall: `2026-11-23 22:10`.
pub fn time(at: i64) -> String {
    let zone = jiff::tz::TimeZone::system();
    let time = jiff::Timestamp::from_second(at).map(|t| t.to_zoned_datetime(zone));
    time.map_or_else(|_| at.to_string(), |t| t.strftime("%Y-%m-%d %H:%M").to_string())
}

/// Key and name of a state, for people.
pub fn label(key: &StateKey, name: Option<&str>) -> String {
    name.map_or_else(|| key.short(), |name| format!("{} {}", key.short(), sanitize(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_replaced() {
        assert_eq!(sanitize("a\x1b]0;b\x07\nc\u{9b}é"), "a\u{fffd}]0;b\u{fffd}\u{fffd}c\u{fffd}é");
    }

    #[test]
    fn people_read_these() {
        assert_eq!(
            [0, 1023, 1024, 927_700, 48_000_000, 1_048_575, 1 << 62].map(bytes).join(", "),
            "0 B, 1023 B, 1.0 KiB, 906 KiB, 45.8 MiB, 1.0 MiB, 4096 PiB"
        );
        assert_eq!(shortened("漢字漢字漢字", 7), "漢…字");
        assert_eq!([shortened("abcdefghijklmnop", 9), shortened("abc", 3)].join(" "), "abcd…mnop abc");
        let things = ["one", "two", "three"].map(str::to_owned);
        assert_eq!(wrap_list(&things, 9, 2), "one, two,\n  three");
        assert_eq!(wrapped("one two three, four", 9), "one two\nthree,\nfour");
        assert_eq!(duration(45 * 86_400 + 5), "45 days");
        assert_eq!(duration(61), "1 minute");
        assert_eq!(duration(30 * 86_400 - 5), "30 days");
        assert_eq!(age(7_300), "2h");
        assert_eq!(age(0), "now");
        assert_eq!(count(1, "segment"), "1 segment");
        assert_eq!(count(2_725, "token"), "2,725 tokens");
        assert_eq!(thousands(1_000_000), "1,000,000");
        assert_eq!(estimate(31.4), "about 31 s");
        assert_eq!(estimate(0.42), "less than 1 s");
        assert_eq!(
            [seconds(0.42), seconds(6.54), seconds(250.0), seconds(11_100.0)].join(", "),
            "0.42 s, 6.5 s, 4 min 10 s, 3 h 5 min"
        );
        assert_eq!(
            [0.000_061_7, 0.001_234, 0.0123, 0.5, 1.236, 16.16, 250.0].map(precise).join(", "),
            "0.062 ms, 1.23 ms, 12.3 ms, 500 ms, 1.24 s, 16.2 s, 250 s"
        );
        assert_eq!([13.52e9, 1.234e9, 8.5e8].map(speed).join(", "), "13.5 GB/s, 1.23 GB/s, 850 MB/s");
        assert_eq!((ago(0), ago(61)), ("just now".to_owned(), "1 minute ago".into()));
    }
}
