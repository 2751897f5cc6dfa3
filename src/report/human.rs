//! Sizes, durations and ages as people say them.

/// Bytes with a binary unit: `46.1 MiB`.
pub fn bytes(n: u64) -> String {
    bytesize::ByteSize::b(n).display().iec().to_string()
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

/// How long ago something was: `3 hours ago`, `just now`.
pub fn ago(seconds: i64) -> String {
    if seconds < 1 { "just now".into() } else { format!("{} ago", duration(seconds)) }
}

/// A point in time, in seconds since 1970, by the clock on the wall: `2026-11-23 22:10`.
pub fn time(at: i64) -> String {
    let zone = jiff::tz::TimeZone::system();
    let time = jiff::Timestamp::from_second(at).map(|t| t.to_zoned_datetime(zone));
    time.map_or_else(|_| at.to_string(), |t| t.strftime("%Y-%m-%d %H:%M").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_these() {
        assert_eq!(bytes(48_000_000), "45.8 MiB");
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
        assert_eq!((ago(0), ago(61)), ("just now".to_owned(), "1 minute ago".into()));
    }
}
