//! The comparison as Markdown: medians, spreads, ratios, fractions of the ceiling.

use std::fmt::Write;

use super::BenchPeersArgs;
use super::sides::{Case, Line, Side};
use crate::command;

/// A page with one row per case; the first side is ours.
pub(super) fn markdown(
    args: &BenchPeersArgs,
    sides: &[Side<'_>],
    lines: &[Vec<Line>],
    read: &[f64],
) -> String {
    let mut text = format!("{} rounds in turns, {} threads", args.rounds, args.threads);
    if let Ok(commit) = command::output("git", &["rev-parse", "--short", "HEAD"]) {
        let _ = write!(text, ", commit {}", commit.trim());
    }
    let _ = write!(text, ". Memory read, best of each of our turns: ");
    let rates: Vec<String> = read.iter().map(|rate| format!("{:.1}", rate / 1e9)).collect();
    let _ = writeln!(text, "{} GB/s.\n", rates.join(", "));
    let mut head = "| test | depth | batch | ossia tokens/s (min to max) | of the roofline |".to_owned();
    for side in &sides[1..] {
        let _ = write!(head, " {} | ratio |", side.name());
    }
    let _ = writeln!(text, "{head}\n|{}", "---|".repeat(head.matches('|').count() - 1));
    for case in cases(lines) {
        row(&mut text, &case, lines);
    }
    text
}

/// Every case, in order.
fn cases(lines: &[Vec<Line>]) -> Vec<Case> {
    let mut cases: Vec<Case> = lines.iter().flatten().map(|line| line.case.clone()).collect();
    cases.sort();
    cases.dedup();
    cases
}

fn row(text: &mut String, case: &Case, lines: &[Vec<Line>]) {
    let of_case = |side: &[Line]| side.iter().filter(|line| line.case == *case).cloned().collect::<Vec<_>>();
    let ours = of_case(&lines[0]);
    let speeds = |lines: &[Line]| lines.iter().map(|line| line.tokens_per_s).collect::<Vec<_>>();
    let fraction = median(ours.iter().filter_map(|line| line.roofline_fraction).collect());
    let fraction = fraction.map_or_else(String::new, |fraction| format!("{:.0}%", fraction * 100.0));
    let Case { test, depth, batch } = case;
    let _ = write!(text, "| {test} | {depth} | {batch} | {} | {fraction} |", spread(speeds(&ours)));
    for side in &lines[1..] {
        let theirs = speeds(&of_case(side));
        let ratio = median(speeds(&ours)).zip(median(theirs.clone())).map(|(ours, theirs)| ours / theirs);
        let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let _ = write!(text, " {} | {ratio} |", spread(theirs));
    }
    text.push('\n');
}

/// `median (least to most)`, `-` of nothing.
fn spread(speeds: Vec<f64>) -> String {
    let [min, max] = [speeds.iter().copied().reduce(f64::min), speeds.iter().copied().reduce(f64::max)];
    match (median(speeds), min, max) {
        (Some(median), Some(min), Some(max)) => format!("{median:.2} ({min:.2} to {max:.2})"),
        _ => "-".to_owned(),
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(test: &str, tokens_per_s: f64, roofline_fraction: Option<f64>) -> Line {
        let case = Case { test: test.to_owned(), depth: 0, batch: 1 };
        Line { case, tokens_per_s, roofline_fraction }
    }

    #[test]
    fn a_row_has_medians_spreads_and_ratios() {
        let ours = [8.0, 12.0, 10.0].map(|speed| line("tg32", speed, Some(speed / 20.0))).to_vec();
        let theirs = [4.0, 6.0].map(|speed| line("tg32", speed, None)).to_vec();
        let mut text = String::new();
        row(&mut text, &ours[0].case.clone(), &[ours, theirs, Vec::new()]);
        assert_eq!(
            text,
            "| tg32 | 0 | 1 | 10.00 (8.00 to 12.00) | 50% | 5.00 (4.00 to 6.00) | 2.00 | - | - |\n"
        );
    }

    #[test]
    fn cases_of_all_sides_are_listed_once() {
        let lines = [vec![line("tg32", 1.0, None), line("pp128", 1.0, None)], vec![line("tg32", 1.0, None)]];
        let tests: Vec<String> = cases(&lines).into_iter().map(|case| case.test).collect();
        assert_eq!(tests, ["pp128", "tg32"]);
    }
}
