//! Horizontal bars in parts.

use super::{COLOURS, Picture};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 84.0;
const BAR: f64 = 22.0;
const STEP: f64 = 34.0;
/// The width of a letter, about, to place the names of the parts.
const LETTER: f64 = 7.2;

/// A bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// Text before it.
    pub label: String,
    /// Its parts from the left, one for each of the chart's.
    pub parts: Vec<f64>,
    /// Text behind it.
    pub total: String,
}

/// A chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    /// Above it.
    pub title: String,
    /// Below the title.
    pub subtitle: String,
    /// The names of the parts, each with the number of its colour; a single one is not named.
    pub parts: Vec<(String, usize)>,
    /// The bars.
    pub bars: Vec<Bar>,
}

impl Bars {
    /// Draws it; the longest bar takes the whole width.
    pub fn draw(&self) -> Picture {
        let height = TOP + STEP * self.bars.len() as f64 + 10.0;
        let mut picture = Picture::new(WIDTH, height);
        picture.text("title", (16.0, 26.0), "start", &self.title);
        picture.text("small", (16.0, 45.0), "start", &self.subtitle);
        if self.parts.len() > 1 {
            self.name_parts(&mut picture);
        }
        let longest = self.bars.iter().map(|bar| bar.parts.iter().sum::<f64>()).fold(0.0, f64::max);
        let scale = if longest > 0.0 { (WIDTH - LEFT - RIGHT) / longest } else { 0.0 };
        for (n, bar) in self.bars.iter().enumerate() {
            let y = TOP + STEP * n as f64;
            picture.text("", (LEFT - 10.0, y + BAR / 2.0 + 4.5), "end", &bar.label);
            let mut x = LEFT;
            for (part, (_, colour)) in bar.parts.iter().zip(&self.parts) {
                let width = part * scale;
                picture.rect(&format!("f{}", colour % COLOURS), (x, y), (width, BAR));
                x += width;
            }
            picture.text("small", (x + 8.0, y + BAR / 2.0 + 4.5), "start", &bar.total);
        }
        picture
    }

    fn name_parts(&self, picture: &mut Picture) {
        let mut x = LEFT;
        for (name, colour) in &self.parts {
            picture.rect(&format!("f{}", colour % COLOURS), (x, 58.0), (11.0, 11.0));
            picture.text("small", (x + 16.0, 68.0), "start", name);
            x += 34.0 + LETTER * name.chars().count() as f64;
        }
    }
}
