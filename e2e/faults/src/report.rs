//! The table for people and the lines for programs. Pure.

use std::fmt::Write as _;

use serde_json::json;

use crate::tally::Figures;

/// A round and what came of it.
pub(crate) type Line = (String, Figures);

/// What a person reads at the end; it is Markdown, as the documentation shows it.
pub(crate) fn table(lines: &[Line]) -> String {
    let mut out = String::from(
        "| fault | sync calls | async accepted | lost | duplicated | recovered | unexpected | explained | first success, ms |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for (fault, figures) in lines {
        let Figures { sync, accepted, excused, lost, duplicated, recovered, unexpected, .. } = figures;
        let first = figures.first_success_ms.map_or("none".to_owned(), |ms| ms.to_string());
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "| {fault} | {sync} | {accepted} | {lost} | {duplicated} | {recovered} | {unexpected} | {excused} | {first} |"
        );
    }
    out
}

/// One object.
pub(crate) fn json(fault: &str, figures: &Figures) -> String {
    let Figures { lost, duplicated, recovered, unexpected, first_success_ms, .. } = figures;
    json!({
        "fault": fault,
        "lost": lost,
        "duplicated": duplicated,
        "recovered": recovered,
        "unexpected": unexpected,
        "first_success_ms": first_success_ms,
    })
    .to_string()
}

/// The last line, which a test's count is read from.
pub(crate) fn sum(lines: &[Line], not_run: usize) -> String {
    let withstood = lines.iter().filter(|(_, figures)| figures.is_withstood()).count();
    let broken = lines.len() - withstood + not_run;
    format!("faults: {withstood} withstood, {broken} not withstood")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures { recovered: 3, first_success_ms: Some(40), ..Figures::default() }
    }

    #[test]
    fn a_line_for_programs_has_these_members_and_no_others() {
        assert_eq!(
            json("kill runner", &figures()),
            r#"{"duplicated":0,"fault":"kill runner","first_success_ms":40,"lost":0,"recovered":3,"unexpected":0}"#
        );
    }

    #[test]
    fn a_round_that_could_not_be_finished_is_not_withstood() {
        let bad = Figures { lost: 1, ..figures() };
        let lines = [("a".to_owned(), figures()), ("b".to_owned(), bad)];
        assert_eq!(sum(&lines, 1), "faults: 1 withstood, 2 not withstood");
    }

    #[test]
    fn a_row_has_as_many_cells_as_the_head() {
        let table = table(&[("kill runner".to_owned(), figures())]);
        let cells: Vec<usize> = table.lines().map(|line| line.matches('|').count()).collect();
        assert_eq!(cells, [10, 10, 10]);
    }
}
