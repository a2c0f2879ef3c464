//! How do figures become a picture?

use std::fmt::Write;

/// A bar and what is written beside it.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Whose it is.
    pub name: String,
    /// How long it is.
    pub value: f64,
    /// Whether it is one of ours.
    pub ours: bool,
}

const WIDTH: f64 = 720.0;
const NAMES: f64 = 210.0;
const VALUES: f64 = 70.0;
const BAR: f64 = 22.0;
const ROW: f64 = 32.0;
const TOP: f64 = 48.0;

/// A chart of horizontal bars as SVG, legible on light and dark pages.
#[must_use]
pub fn bars(title: &str, unit: &str, bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let height = TOP + ROW * bars.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"14\" fill=\"#888\">\n<title>{0}</title>\n<text x=\"0\" y=\"20\" font-size=\"16\">{0}</text>\n",
        escaped(title)
    );
    for (row, bar) in bars.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        let length = (WIDTH - NAMES - VALUES) * bar.value / most;
        let colour = if bar.ours { "#d9622b" } else { "#8a9bb0" };
        let (name, middle) = (escaped(&bar.name), y + BAR * 0.7);
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{middle:.1}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{NAMES}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{middle:.1}\">{:.1} {unit}</text>",
            NAMES - 10.0,
            NAMES + length + 8.0,
            bar.value
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_its_place_and_others_their_share() {
        let bar = |name: &str, value| Bar { name: name.to_owned(), value, ours: false };
        let svg = bars("a < b", "s", &[bar("x", 2.0), bar("y", 1.0)]);
        assert!(
            svg.contains("a &lt; b") && svg.contains("width=\"440.0\"") && svg.contains("width=\"220.0\""),
            "{svg}"
        );
    }
}
