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
/// How many of them there are.
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

/// The style sheet of the pictures, for light and dark.
pub fn style() -> String {
    let colours = |set: [&str; COLOURS]| {
        let each = set.iter().enumerate().map(|(i, colour)| format!("--c{i}:{colour};"));
        each.collect::<String>()
    };
    let mut css = format!(
        ":root{{--ink:#1f2328;--faint:#59636e;--grid:#d8dee4;--paper:#ffffff;{}}}\
         @media (prefers-color-scheme:dark){{:root{{--ink:#e6edf3;--faint:#9aa4af;--grid:#373e47;--paper:#0d1117;{}}}}}\
         .picture text{{font:13px system-ui,sans-serif;fill:var(--ink)}}\
         .picture .title{{font-size:16px;font-weight:600}}.picture .small{{font-size:12px;fill:var(--faint)}}\
         .picture .grid{{stroke:var(--grid);stroke-width:1}}.picture .axis{{stroke:var(--faint);stroke-width:1}}\
         .picture .paper{{fill:var(--paper)}}.picture path{{fill:none;stroke-width:2.2}}",
        colours(LIGHT),
        colours(DARK)
    );
    for i in 0..COLOURS {
        let _ = write!(
            css,
            ".picture .s{i}{{stroke:var(--c{i})}}.picture .f{i}{{fill:var(--c{i})}}\
             .picture text.f{i}{{font-weight:600;fill:var(--c{i})}}"
        );
    }
    css
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
