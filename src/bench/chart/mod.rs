//! Pictures as SVG, drawn by hand: two kinds of chart do not carry a plotting library, and what those write has fixed
//! colours. Here a colour is a class, and the style sheet has one set of them for light and one for dark.
//!
//! - [`lines`]: lines over two logarithmic axes.
//! - [`bars`]: horizontal bars in parts.

pub mod bars;
pub mod lines;

use std::fmt::Write;

/// Colours that can be told apart, in light and dark: `c0` to `c5`. Lightness and hue both differ between neighbours.
const LIGHT: [&str; COLOURS] = ["#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#a16207", "#0e7490"];
const DARK: [&str; COLOURS] = ["#fb923c", "#7aa2ff", "#4ade80", "#d8a4ff", "#facc15", "#4dd7f0"];
/// Number of colours.
pub const COLOURS: usize = 6;

/// A picture: the inside of an `svg` element.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    width: f64,
    height: f64,
    body: String,
}

impl Picture {
    fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    /// The element, for a page that has [`style`] in its head.
    pub fn inline(&self) -> String {
        format!(
            "<svg class=\"picture\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" role=\"img\" \
             xmlns=\"http://www.w3.org/2000/svg\">{}</svg>\n",
            self.body,
            w = self.width,
            h = self.height
        )
    }

    /// The element with its style and a background: a file of its own.
    pub fn standalone(&self) -> String {
        let head =
            format!("<style>{}</style><rect class=\"paper\" width=\"100%\" height=\"100%\"/>", style());
        let with_style = Self { body: head + &self.body, ..*self };
        with_style.inline()
    }

    fn text(&mut self, class: &str, at: (f64, f64), anchor: &str, text: &str) {
        let (x, y) = at;
        let text = escaped(text);
        let _ = write!(
            self.body,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let _ = write!(
            self.body,
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    fn rect(&mut self, class: &str, corner: (f64, f64), size: (f64, f64)) {
        let _ = write!(
            self.body,
            "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
            corner.0, corner.1, size.0, size.1
        );
    }
}

/// Text that is nothing but text in HTML and SVG.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A set of colours.
struct Palette {
    ink: &'static str,
    faint: &'static str,
    grid: &'static str,
    paper: &'static str,
    colours: [&'static str; COLOURS],
}

const ON_WHITE: Palette =
    Palette { ink: "#1f2328", faint: "#59636e", grid: "#d8dee4", paper: "#ffffff", colours: LIGHT };
const ON_BLACK: Palette =
    Palette { ink: "#e6edf3", faint: "#9aa4af", grid: "#373e47", paper: "#0d1117", colours: DARK };

impl Palette {
    /// The rules that colour pictures, and the same colours as variables for the page around them. Pictures have no
    /// variables in their rules: programs that are no browsers draw everything black then.
    fn rules(&self) -> String {
        let Self { ink, faint, grid, paper, colours } = self;
        let mut css = format!(
            ":root{{--ink:{ink};--faint:{faint};--grid:{grid};--paper:{paper}}}\
             .picture text{{fill:{ink}}}.picture .small{{fill:{faint}}}.picture .grid{{stroke:{grid}}}\
             .picture .axis{{stroke:{faint}}}.picture .paper{{fill:{paper}}}"
        );
        for (i, colour) in colours.iter().enumerate() {
            let _ = write!(
                css,
                ".picture .s{i}{{stroke:{colour}}}.picture .f{i}{{fill:{colour}}}.picture text.f{i}{{fill:{colour}}}"
            );
        }
        css
    }
}

/// The style sheet of the pictures, for light and dark.
pub fn style() -> String {
    let bold: String = (0..COLOURS).map(|i| format!(".picture text.f{i}{{font-weight:600}}")).collect();
    format!(
        ".picture text{{font:13px system-ui,sans-serif}}.picture .title{{font-size:16px;font-weight:600}}\
         .picture .small{{font-size:12px}}.picture .grid,.picture .axis{{stroke-width:1}}\
         .picture path{{fill:none;stroke-width:2.2}}{bold}{}@media (prefers-color-scheme:dark){{{}}}",
        ON_WHITE.rules(),
        ON_BLACK.rules()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_become_elements() {
        let mut picture = Picture::new(10.0, 10.0);
        picture.text("small", (1.0, 2.0), "start", "</text><script>\"&");
        assert!(picture.standalone().contains("&lt;/text&gt;&lt;script&gt;&quot;&amp;</text>"));
    }
}
