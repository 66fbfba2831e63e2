//! Throughput over depth and over batch as an SVG: two panels of lines, without a plotting library.

use std::fmt::Write;

use super::report::{Report, Test};

const PANEL: [f64; 2] = [420.0, 300.0];
/// Left, top, right and bottom of a panel that its axes leave free.
const MARGIN: [f64; 4] = [56.0, 34.0, 14.0, 40.0];
const COLOURS: [&str; 8] =
    ["#1f6f8b", "#d1495b", "#4f772d", "#8d5a97", "#e09f3e", "#2f4858", "#00916e", "#7f5539"];

/// A line: its name and its points.
struct Series {
    name: String,
    points: Vec<[f64; 2]>,
}

/// Lines that share their axes.
struct Panel {
    title: &'static str,
    x_label: &'static str,
    series: Vec<Series>,
}

/// The picture of a report.
pub(super) fn svg(report: &Report) -> String {
    let panels = [over_depth(report), over_batch(report)];
    let [width, height] = [PANEL[0] * panels.len() as f64, PANEL[1] + 26.0];
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    svg += &text([width / 2.0, 18.0], "middle", &format!("{}, {} threads", report.model, report.threads));
    for (idx, panel) in panels.iter().enumerate() {
        let _ = writeln!(svg, "<g transform=\"translate({} 26)\">", PANEL[0] * idx as f64);
        panel.draw(&mut svg);
        svg += "</g>\n";
    }
    svg + "</svg>\n"
}

fn over_depth(report: &Report) -> Panel {
    let mut panel = Panel { title: "over depth", x_label: "tokens in the cache", series: Vec::new() };
    for m in &report.measurements {
        let batch = if m.case.batch == 1 { String::new() } else { format!(" x {}", m.case.batch) };
        panel.push(m.case.name() + &batch, [m.case.depth as f64, m.median()]);
    }
    panel
}

fn over_batch(report: &Report) -> Panel {
    let mut panel = Panel { title: "over batch", x_label: "sequences", series: Vec::new() };
    for m in report.measurements.iter().filter(|m| m.case.test == Test::Decode) {
        let name = format!("{} at depth {}", m.case.name(), m.case.depth);
        panel.push(name, [m.case.batch as f64, m.median()]);
    }
    panel
}

impl Panel {
    fn push(&mut self, name: String, point: [f64; 2]) {
        match self.series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => self.series.push(Series { name, points: vec![point] }),
        }
    }

    /// The largest value of one coordinate, rounded up to a round number.
    fn limit(&self, axis: usize) -> f64 {
        let points = self.series.iter().flat_map(|series| &series.points);
        round_up(points.map(|point| point[axis]).fold(0.0, f64::max))
    }

    fn draw(&self, svg: &mut String) {
        let limits = [self.limit(0), self.limit(1)];
        let [left, top, right, bottom] = MARGIN;
        let size = [PANEL[0] - left - right, PANEL[1] - top - bottom];
        let place = |point: [f64; 2]| {
            [left + size[0] * point[0] / limits[0], top + size[1] * (1.0 - point[1] / limits[1])]
        };
        *svg += &text([left + size[0] / 2.0, top - 8.0], "middle", &format!("tokens/s {}", self.title));
        *svg += &text([left + size[0] / 2.0, PANEL[1] - 6.0], "middle", self.x_label);
        for tick in 0..=4 {
            let share = f64::from(tick) / 4.0;
            let y = place([0.0, limits[1] * share])[1];
            let _ = writeln!(svg, "<path d=\"M{left} {y:.1}h{}\" stroke=\"#ddd\" fill=\"none\"/>", size[0]);
            *svg += &text([left - 6.0, y + 4.0], "end", &number(limits[1] * share));
            let x = place([limits[0] * share, 0.0])[0];
            *svg += &text([x, top + size[1] + 16.0], "middle", &number(limits[0] * share));
        }
        for (idx, series) in self.series.iter().enumerate() {
            series.draw(svg, COLOURS[idx % COLOURS.len()], place);
            let at = [PANEL[0] - right - 4.0, top + 14.0 + 13.0 * idx as f64];
            let _ = writeln!(
                svg,
                "<g fill=\"{}\">{}</g>",
                COLOURS[idx % COLOURS.len()],
                text(at, "end", &series.name)
            );
        }
    }
}

impl Series {
    fn draw(&self, svg: &mut String, colour: &str, place: impl Fn([f64; 2]) -> [f64; 2]) {
        let mut points = self.points.clone();
        points.sort_by(|a, b| a[0].total_cmp(&b[0]));
        let mut line = String::new();
        for [x, y] in points.into_iter().map(place) {
            let _ = write!(line, "{x:.1},{y:.1} ");
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>");
        }
        let _ = writeln!(
            svg,
            "<polyline points=\"{line}\" stroke=\"{colour}\" fill=\"none\" stroke-width=\"1.5\"/>"
        );
    }
}

fn text([x, y]: [f64; 2], anchor: &str, content: &str) -> String {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>\n")
}

/// The least of 1, 2, 4, 5, 8, 10 times a power of ten that is not below `value`; 1 for nothing.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0];
    // A tenth of a billionth forgives the logarithm's rounding.
    steps.into_iter().map(|step| step * power).find(|&limit| limit >= value * (1.0 - 1e-10)).unwrap_or(value)
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_round_and_not_below_the_largest_value() {
        let limits = [0.0, 0.3, 1.0, 1.1, 3.9, 40.0, 41.0, 7_999.0, 99_999.0].map(round_up);
        let expected = [1.0, 0.4, 1.0, 2.0, 4.0, 40.0, 50.0, 8_000.0, 100_000.0];
        for (limit, expected) in limits.into_iter().zip(expected) {
            assert!((limit / expected - 1.0).abs() < 1e-9, "{limit} for {expected}");
        }
    }

    #[test]
    fn lines_pass_their_points_from_left_to_right() {
        let mut panel = Panel { title: "over depth", x_label: "tokens", series: Vec::new() };
        panel.push("tg<8".to_owned(), [100.0, 5.0]);
        panel.push("tg<8".to_owned(), [0.0, 10.0]);
        let mut svg = String::new();
        panel.draw(&mut svg);
        // Zero tokens at 10 of 10 is the upper left corner of the axes, the other half way down on the right.
        assert!(svg.contains("points=\"56.0,34.0 406.0,147.0 \""), "{svg}");
        assert!(svg.contains("tg&lt;8"), "{svg}");
    }
}
