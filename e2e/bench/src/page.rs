//! A page that shows the rows as plots. Pure: HTML with SVG in it, and nothing to be fetched.

use std::fmt::Write as _;

use crate::report::Row;
use crate::works::Target;

const WIDTH: f64 = 640.0;
const BAR: f64 = 18.0;
const STEP: f64 = 26.0;
/// Right of the names.
const LEFT: f64 = 300.0;
/// Shown at the right edge: twice the baseline, and what is longer ends there.
const RATIO_MAX: f64 = 2.0;
const COLOURS: [&str; 6] = ["#4e79a7", "#f28e2b", "#76b7b2", "#e15759", "#59a14f", "#b07aa1"];

/// The whole page.
pub(crate) fn page(rows: &[Row]) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Benchmark</title>\
         <style>body{{font:14px sans-serif;margin:2em}}text{{font:12px sans-serif}}</style>\
         <h1>Benchmark</h1><h2>Over the baseline</h2><p>The dark line is the baseline, the red one the target.</p>{}\
         <h2>CPU per call</h2>{}</html>\n",
        ratios(rows),
        costs(rows)
    )
}

fn ratios(rows: &[Row]) -> String {
    let shown: Vec<(&Row, f64)> = rows.iter().filter_map(|row| Some((row, row.ratio()?))).collect();
    let height = STEP * shown.len() as f64;
    let mut svg = open(height);
    let x = |ratio: f64| LEFT + (WIDTH - LEFT) * (ratio / RATIO_MAX).min(1.0);
    for (at, (row, ratio)) in shown.iter().enumerate() {
        let y = STEP * at as f64;
        let colour = if row.is_met() == Some(false) { COLOURS[1] } else { COLOURS[0] };
        name(&mut svg, y, &row.work);
        bar(&mut svg, (LEFT, x(*ratio)), y, colour, &format!("{ratio:.2}"));
        if let Target::RatioAtLeast(target) | Target::RatioAtMost(target) = row.target {
            line(&mut svg, x(target), (y, y + BAR), COLOURS[3]);
        }
    }
    line(&mut svg, x(1.0), (0.0, height), "#222");
    svg + "</svg>"
}

fn costs(rows: &[Row]) -> String {
    let sides = rows.iter().filter_map(|row| Some((row, row.costs.as_ref()?))).flat_map(|(row, costs)| {
        let named = ["baseline", "product"].into_iter().zip(costs.iter());
        named.map(move |(who, (costs, _))| (format!("{}, {who}", row.work), costs))
    });
    let sides: Vec<_> = sides.collect();
    let total = |costs: &crate::report::Costs| costs.each().map(|(_, cost)| cost).sum::<f64>();
    let longest = sides.iter().map(|(_, costs)| total(costs)).fold(1.0, f64::max);
    let mut svg = open(STEP * sides.len() as f64);
    for (at, (title, costs)) in sides.iter().enumerate() {
        let y = STEP * at as f64;
        name(&mut svg, y, title);
        let mut from = LEFT;
        for (number, (process, cost)) in costs.each().enumerate() {
            let to = from + (WIDTH - LEFT) * cost / longest;
            bar(&mut svg, (from, to), y, COLOURS[number % COLOURS.len()], &format!("{process} {cost:.0} µs"));
            from = to;
        }
    }
    svg + "</svg>"
}

fn open(height: f64) -> String {
    format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\">")
}

// Writing to a string cannot fail.

fn name(svg: &mut String, y: f64, text: &str) {
    let _ = write!(svg, "<text x=\"0\" y=\"{}\">{text}</text>", y + BAR * 0.75);
}

/// A bar whose value is shown by pointing at it, and beside it where there is room.
fn bar(svg: &mut String, (from, to): (f64, f64), y: f64, colour: &str, value: &str) {
    let width = (to - from).max(1.0);
    let _ = write!(
        svg,
        "<rect x=\"{from:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"><title>{value}</title></rect>"
    );
    // A character takes about 6 pixels.
    if width > value.len() as f64 * 6.0 {
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" fill=\"#fff\">{value}</text>",
            from + 3.0,
            y + BAR * 0.75
        );
    }
}

fn line(svg: &mut String, x: f64, (from, to): (f64, f64), colour: &str) {
    let _ = write!(
        svg,
        "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{from}\" y2=\"{to}\" stroke=\"{colour}\" stroke-width=\"2\"/>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_a_bar_and_its_target_a_line() {
        let row = |target| Row {
            work: "w".into(),
            unit: "calls/s",
            baseline: Some(10.0),
            ours: 5.0,
            target,
            costs: None,
        };
        let page = page(&[row(Target::RatioAtLeast(0.5)), row(Target::None)]);
        assert_eq!(page.matches("<rect").count(), 2);
        assert_eq!(page.matches("<line").count(), 2, "one target and the baseline");
        assert!(page.contains("<title>0.50</title>"));
    }

    #[test]
    fn what_has_no_baseline_is_no_bar() {
        let row = Row {
            work: "memory".into(),
            unit: "MB",
            baseline: None,
            ours: 5.0,
            target: Target::AtMost(150.0),
            costs: None,
        };
        assert_eq!(page(&[row]).matches("<rect").count(), 0);
    }
}
