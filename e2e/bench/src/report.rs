//! From rounds to rows, tables and JSON. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use crate::lanes::Measured;
use crate::works::{SMALL, Target, Work};

/// CPU microseconds per call of each process; none where a process cannot be looked at.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Costs(Vec<(&'static str, Option<f64>)>);

/// CPU time of processes so far, by name.
pub(crate) type Times = Vec<(&'static str, Option<Duration>)>;

impl Costs {
    /// From CPU times before and after that many calls.
    pub(crate) fn of(before: Times, after: Times, calls: usize) -> Self {
        let cost = |before: Duration, after: Duration| {
            after.saturating_sub(before).as_secs_f64() * 1e6 / calls.max(1) as f64
        };
        let pairs = before.into_iter().zip(after);
        Self(
            pairs
                .map(|((name, before), (_, after))| (name, before.zip(after).map(|(b, a)| cost(b, a))))
                .collect(),
        )
    }

    /// Of some processes together; none where one of them could not be looked at.
    fn together(&self, names: &[&str]) -> Option<f64> {
        let costs =
            names.iter().map(|name| self.0.iter().find(|(of, _)| of == name).and_then(|(_, cost)| *cost));
        costs.sum()
    }

    /// Of each, by name.
    pub(crate) fn each(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        self.0.iter().filter_map(|(name, cost)| Some((*name, (*cost)?)))
    }

    fn show(&self) -> String {
        let all: Option<f64> = self.0.iter().map(|(_, cost)| *cost).sum();
        let one = |(name, cost): &(&str, Option<f64>)| {
            cost.map_or_else(|| format!("{name} -"), |cost| format!("{name} {cost:.0}"))
        };
        let mut parts: Vec<String> = self.0.iter().map(one).collect();
        parts.extend(all.map(|all| format!("all {all:.0}")));
        parts.join(", ")
    }

    fn json(&self) -> Json {
        let rounded = |cost: f64| (cost * 10.0).round() / 10.0;
        let entries = self.0.iter().map(|(name, cost)| ((*name).to_owned(), json!(cost.map(rounded))));
        Json::Object(entries.collect::<Map<_, _>>())
    }
}

/// One round: the baseline and the product, one right after the other.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) raw: (Measured, Costs),
    pub(crate) ours: (Measured, Costs),
}

/// The pair with the median ratio: what disturbs the machine disturbs both of a pair.
pub(crate) fn median(work: Work, mut pairs: Vec<Pair>) -> Option<Pair> {
    pairs.sort_by(|a, b| ratio(work, a).total_cmp(&ratio(work, b)));
    let middle = pairs.len() / 2;
    pairs.into_iter().nth(middle)
}

fn ratio(work: Work, pair: &Pair) -> f64 {
    work.value.of(&pair.ours.0) / work.value.of(&pair.raw.0)
}

/// One round in a line.
pub(crate) fn progress(work: Work, pair: &Pair) -> String {
    let show = |measured: &Measured| figure(work.value.of(measured));
    let (raw, ours) = (show(&pair.raw.0), show(&pair.ours.0));
    format!("baseline {raw}, product {ours} {}, ratio {:.2}", work.unit, ratio(work, pair))
}

/// One figure beside its baseline's.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) work: String,
    pub(crate) unit: &'static str,
    /// None where there is nothing to compare with.
    pub(crate) baseline: Option<f64>,
    pub(crate) ours: f64,
    pub(crate) target: Target,
    /// What each process took, of the baseline and of the product, with the 99th percentiles in milliseconds.
    pub(crate) costs: Option<Box<[(Costs, f64); 2]>>,
}

impl Row {
    /// Over the baseline's.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.baseline.map(|baseline| self.ours / baseline)
    }

    /// Whether what is asked for is met.
    pub(crate) fn is_met(&self) -> Option<bool> {
        self.target.is_met(self.baseline.unwrap_or(f64::NAN), self.ours)
    }
}

/// The rows of a work: its own figure and, for the one that is asked for it, the CPU time of a call.
pub(crate) fn rows(work: Work, pair: Pair) -> Vec<Row> {
    let Pair { raw: (raw, raw_costs), ours: (ours, our_costs) } = pair;
    let mut rows = vec![Row {
        work: work.name.to_owned(),
        unit: work.unit,
        baseline: Some(work.value.of(&raw)),
        ours: work.value.of(&ours),
        target: work.target,
        costs: Some(Box::new([(raw_costs.clone(), raw.p99_ms), (our_costs.clone(), ours.p99_ms)])),
    }];
    if work.name == SMALL.name {
        let baseline = raw_costs.together(&["client", "broker", "server"]);
        rows.extend(cost(&our_costs, &["gateway", "broker", "runner"], baseline, Target::RatioAtMost(1.25)));
        rows.extend(cost(&our_costs, &["gateway"], None, Target::AtMost(45.0)));
        rows.extend(cost(&our_costs, &["runner"], None, Target::AtMost(45.0)));
    }
    rows
}

fn cost(costs: &Costs, names: &[&str], baseline: Option<f64>, target: Target) -> Option<Row> {
    let work = format!("there, CPU of {}", names.join(" + "));
    let ours = costs.together(names)?;
    Some(Row { work, unit: "µs/call", baseline, ours, target, costs: None })
}

/// As many digits as a figure bears.
fn figure(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

/// What a person reads at the end.
pub(crate) fn tables(rows: &[Row]) -> String {
    let mut out = String::from(
        "\n| work | unit | baseline | product | ratio | target | |\n|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let or_nothing = |value: Option<String>| value.unwrap_or_default();
        let baseline = or_nothing(row.baseline.map(figure));
        let ratio = or_nothing(row.ratio().map(|ratio| format!("{ratio:.2}")));
        let met = row.is_met().map_or("", |met| if met { "met" } else { "missed" });
        let (ours, target) = (figure(row.ours), row.target.words(row.unit));
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "| {} | {} | {baseline} | {ours} | {ratio} | {target} | {met} |",
            row.work, row.unit
        );
    }
    out.push_str("\nCPU microseconds per call, and the 99th percentile\n");
    for row in rows {
        let Some(costs) = &row.costs else { continue };
        for (who, (costs, p99_ms)) in ["baseline", "product"].iter().zip(&**costs) {
            let _ = writeln!(out, "{}, {who}: {}; p99 {p99_ms:.2} ms", row.work, costs.show());
        }
    }
    out
}

/// One object a line.
pub(crate) fn json(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
        let object = json!({
            "work": row.work,
            "unit": row.unit,
            "baseline": row.baseline.map(rounded),
            "ours": rounded(row.ours),
            "ratio": row.ratio().map(rounded),
            "target": row.target.words(row.unit),
            "met": row.is_met(),
            "cpu_us": row.costs.as_ref().map(|costs| costs[1].0.json()),
        });
        format!("{object}\n")
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::works::WORKS;

    const OTHER: Work = WORKS[2];

    fn pair(raw: f64, ours: f64) -> Pair {
        let measured = |per_second| Measured { calls: 100, per_second, p50_ms: 1.0, p99_ms: 2.0 };
        let time = |ms| Some(Duration::from_millis(ms));
        let costs = |names: &[&'static str]| {
            let at = |ms| names.iter().map(|name| (*name, time(ms))).collect::<Times>();
            Costs::of(at(1), at(3), 100)
        };
        let raw_costs = costs(&["client", "broker", "server"]);
        Pair {
            raw: (measured(raw), raw_costs),
            ours: (measured(ours), costs(&["gateway", "broker", "runner"])),
        }
    }

    #[test]
    fn the_median_pair_is_the_one_of_the_median_ratio() {
        let pairs = vec![pair(100.0, 70.0), pair(1000.0, 400.0), pair(10.0, 5.0)];
        let median = median(OTHER, pairs).unwrap();
        assert_eq!((median.raw.0.per_second, median.ours.0.per_second), (10.0, 5.0));
    }

    #[test]
    fn json_is_an_object_a_line() {
        let text = json(&rows(OTHER, pair(10.0, 5.0)));
        let lines: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected = json!({
            "work": OTHER.name, "unit": "calls/s", "baseline": 10.0, "ours": 5.0, "ratio": 0.5,
            "target": "at least 1 of the baseline", "met": false,
            "cpu_us": {"gateway": 20.0, "broker": 20.0, "runner": 20.0},
        });
        assert_eq!((lines.len(), &lines[0]), (1, &expected));
    }

    #[test]
    fn what_a_call_costs_is_a_figure_of_its_own_where_it_is_asked_for() {
        let rows = rows(SMALL, pair(10.0, 5.0));
        let costs: Vec<_> = rows[1..].iter().map(|row| (row.ours, row.baseline, row.is_met())).collect();
        let expected = [(60.0, Some(60.0), Some(true)), (20.0, None, Some(true)), (20.0, None, Some(true))];
        assert_eq!(costs, expected);
    }

    #[test]
    fn a_missed_target_is_said() {
        let mut both = rows(OTHER, pair(10.0, 10.0));
        both.extend(rows(OTHER, pair(10.0, 9.9)));
        let shown = tables(&both);
        assert_eq!((shown.matches("| met |").count(), shown.matches("| missed |").count()), (1, 1));
    }
}
