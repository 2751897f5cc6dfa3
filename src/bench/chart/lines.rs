//! Lines over two logarithmic axes.

use std::fmt::Write;

use super::{COLOURS, Picture};

const WIDTH: f64 = 790.0;
const HEIGHT: f64 = 430.0;
/// Space for the axis labels, and for what is written at the lines' ends.
const LEFT: f64 = 66.0;
const RIGHT: f64 = 220.0;
const TOP: f64 = 62.0;
const BOTTOM: f64 = 46.0;
/// Labels at the lines' ends keep this distance.
const LABEL_GAP: f64 = 17.0;

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Text at its end.
    pub label: String,
    /// A colour's number.
    pub colour: usize,
    /// Length of its dashes; 0 is a solid line.
    pub dash: usize,
    /// Points that it goes through; both coordinates above 0.
    pub points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Debug, Clone)]
pub struct Lines {
    /// Above it.
    pub title: String,
    /// Below the title.
    pub subtitle: String,
    /// Below the horizontal axis.
    pub x_label: String,
    /// The places on the horizontal axis that have a label, with it.
    pub x_ticks: Vec<(f64, String)>,
    /// Writes a value of the vertical axis.
    pub y_text: fn(f64) -> String,
    /// The lines.
    pub lines: Vec<Line>,
}

/// A logarithmic scale from a range of values to one of places.
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let span = (self.high / self.low).ln();
        let share = if span > 0.0 { (value / self.low).ln() / span } else { 0.5 };
        self.from + (self.to - self.from) * share
    }
}

/// Smallest and largest of values above 0; 1 and 1 if there are none.
fn range(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let good = values.filter(|v| v.is_finite() && *v > 0.0);
    let low = good.clone().fold(f64::INFINITY, f64::min);
    if low.is_infinite() { (1.0, 1.0) } else { (low, good.fold(low, f64::max)) }
}

/// The values 1, 2 and 5 times a power of ten from `low` to `high`; only the powers where that is enough.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
    let of = |steps: &[f64]| -> Vec<f64> {
        let all = decades.clone().flat_map(|d| steps.iter().map(move |s| s * 10f64.powi(d)));
        all.filter(|v| *v >= low * 0.999 && *v <= high * 1.001).collect()
    };
    let powers = of(&[1.0]);
    if powers.len() > 3 { powers } else { of(&[1.0, 2.0, 5.0]) }
}

impl Lines {
    /// Draws it.
    pub fn draw(&self) -> Picture {
        let points = || self.lines.iter().flat_map(|line| line.points.iter());
        let (x_low, x_high) = range(points().map(|(x, _)| *x));
        let (y_low, y_high) = range(points().map(|(_, y)| *y));
        let x = Scale { low: x_low, high: x_high, from: LEFT, to: WIDTH - RIGHT };
        // Some air above and below.
        let y = Scale { low: y_low / 1.3, high: y_high * 1.3, from: HEIGHT - BOTTOM, to: TOP };
        let mut picture = Picture::new(WIDTH, HEIGHT);
        picture.text("title", (16.0, 26.0), "start", &self.title);
        picture.text("small", (16.0, 45.0), "start", &self.subtitle);
        for value in ticks(y.low, y.high) {
            let at = y.at(value);
            picture.line("grid", (LEFT, at), (WIDTH - RIGHT, at));
            picture.text("small", (LEFT - 8.0, at + 4.0), "end", &(self.y_text)(value));
        }
        for (value, label) in &self.x_ticks {
            let at = x.at(*value);
            picture.line("axis", (at, y.from), (at, y.from + 4.0));
            picture.text("small", (at, y.from + 18.0), "middle", label);
        }
        picture.line("axis", (LEFT, y.from), (WIDTH - RIGHT, y.from));
        picture.text("small", (WIDTH - RIGHT, HEIGHT - 8.0), "end", &self.x_label);
        for line in &self.lines {
            let places: Vec<(f64, f64)> = line.points.iter().map(|(a, b)| (x.at(*a), y.at(*b))).collect();
            curve(&mut picture, line, &places);
        }
        self.label_ends(&mut picture, &y);
        picture
    }

    /// Writes each line's name at its end; names that would lie on each other are moved apart.
    fn label_ends(&self, picture: &mut Picture, y: &Scale) {
        let mut ends: Vec<(f64, &Line)> =
            self.lines.iter().filter_map(|line| Some((y.at(line.points.last()?.1), line))).collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut above = f64::NEG_INFINITY;
        for (at, _) in &mut ends {
            *at = at.max(above + LABEL_GAP);
            above = *at;
        }
        // What was pushed below the axis pushes the others up again.
        let mut below = HEIGHT - BOTTOM + LABEL_GAP;
        for (at, _) in ends.iter_mut().rev() {
            *at = at.min(below - LABEL_GAP);
            below = *at;
        }
        for (at, line) in ends {
            let class = format!("f{}", line.colour % COLOURS);
            picture.text(&class, (WIDTH - RIGHT + 10.0, at + 4.0), "start", &line.label);
        }
    }
}

fn curve(picture: &mut Picture, line: &Line, places: &[(f64, f64)]) {
    let colour = line.colour % COLOURS;
    let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let dash = match line.dash % 3 {
        0 => "",
        1 => " stroke-dasharray=\"7 4\"",
        _ => " stroke-dasharray=\"2 4\"",
    };
    let _ = write!(picture.body, "<path class=\"s{colour}\"{dash} d=\"M{}\"/>", path.join("L"));
    for (x, y) in places {
        let _ = write!(picture.body, "<circle class=\"f{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(0.3, 30.0), [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(ticks(0.001, 10.0), [0.001, 0.01, 0.1, 1.0, 10.0]);
    }

    #[test]
    fn the_scale_is_logarithmic() {
        let scale = Scale { low: 1.0, high: 100.0, from: 0.0, to: 10.0 };
        assert_eq!([1.0, 10.0, 100.0].map(|v| scale.at(v)), [0.0, 5.0, 10.0]);
        assert_eq!(Scale { high: 1.0, ..scale }.at(1.0), 5.0, "a single value stands in the middle");
    }

    #[test]
    fn nothing_to_draw_is_a_picture_too() {
        let lines = Lines {
            title: String::new(),
            subtitle: String::new(),
            x_label: String::new(),
            x_ticks: Vec::new(),
            y_text: |v| v.to_string(),
            lines: Vec::new(),
        };
        assert!(!lines.draw().inline().contains("NaN"));
    }
}
