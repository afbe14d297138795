//! From rounds to medians, tables and JSON. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use crate::lanes::Measured;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) in_flight: usize,
    pub(crate) value: Value,
}

/// Which figure a work is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value {
    PerSecond,
    P50,
}

impl Value {
    fn of(self, measured: &Measured) -> f64 {
        match self {
            Self::PerSecond => measured.per_second,
            Self::P50 => measured.p50_ms,
        }
    }

    /// As a person reads it.
    fn show(self, value: f64) -> String {
        match self {
            Self::PerSecond => format!("{value:.0}"),
            Self::P50 => format!("{value:.2}"),
        }
    }

    /// What is asked for, and whether it is met.
    fn target(self, pair: &Pair) -> (&'static str, bool) {
        let (raw, ours) = (self.of(&pair.raw.0), self.of(&pair.ours.0));
        match self {
            Self::PerSecond => ("at least 0.5 of raw RPC", ours >= 0.5 * raw),
            Self::P50 => ("at most 0.5 ms above raw RPC", ours <= raw + 0.5),
        }
    }
}

/// CPU microseconds per call of each process; none where a process cannot be looked at.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Costs(Vec<(&'static str, Option<f64>)>);

impl Costs {
    /// From CPU times before and after that many calls.
    pub(crate) fn of(
        before: Vec<(&'static str, Option<Duration>)>,
        after: Vec<(&'static str, Option<Duration>)>,
        calls: usize,
    ) -> Self {
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
    let show = |measured: &Measured| work.value.show(work.value.of(measured));
    let (raw, ours) = (show(&pair.raw.0), show(&pair.ours.0));
    format!("raw RPC {raw}, product {ours} {}, ratio {:.2}", work.unit, ratio(work, pair))
}

/// What a person reads at the end.
pub(crate) fn tables(medians: &[(Work, Pair)]) -> String {
    let mut out = String::from(
        "\n| work | unit | raw RPC | product | ratio | target | |\n|---|---|---|---|---|---|---|\n",
    );
    for (work, pair) in medians {
        let show = |measured: &Measured| work.value.show(work.value.of(measured));
        let (raw, ours, ratio) = (show(&pair.raw.0), show(&pair.ours.0), ratio(*work, pair));
        let (target, met) = work.value.target(pair);
        let met = if met { "met" } else { "missed" };
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "| {} | {} | {raw} | {ours} | {ratio:.2} | {target} | {met} |",
            work.name, work.unit
        );
    }
    out.push_str("\nCPU microseconds per call, and the 99th percentile\n");
    for (work, Pair { raw, ours }) in medians {
        for (who, (measured, costs)) in [("raw RPC", raw), ("product", ours)] {
            let _ = writeln!(out, "{}, {who}: {}; p99 {:.2} ms", work.name, costs.show(), measured.p99_ms);
        }
    }
    out
}

/// One object a line.
pub(crate) fn json(medians: &[(Work, Pair)]) -> String {
    let line = |(work, pair): &(Work, Pair)| {
        let value = |measured: &Measured| (work.value.of(measured) * 1000.0).round() / 1000.0;
        let object = json!({
            "work": work.name,
            "unit": work.unit,
            "baseline": value(&pair.raw.0),
            "ours": value(&pair.ours.0),
            "ratio": (ratio(*work, pair) * 1000.0).round() / 1000.0,
            "cpu_us": pair.ours.1.json(),
        });
        format!("{object}\n")
    };
    medians.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Work = Work { name: "w", unit: "calls/s", in_flight: 1, value: Value::PerSecond };

    fn pair(raw: f64, ours: f64) -> Pair {
        let measured = |per_second| Measured { calls: 100, per_second, p50_ms: 1.0, p99_ms: 2.0 };
        let time = |ms| Some(Duration::from_millis(ms));
        let costs = Costs::of(
            vec![("load", time(1)), ("broker", None)],
            vec![("load", time(3)), ("broker", None)],
            100,
        );
        Pair { raw: (measured(raw), costs.clone()), ours: (measured(ours), costs) }
    }

    #[test]
    fn the_median_pair_is_the_one_of_the_median_ratio() {
        let pairs = vec![pair(100.0, 70.0), pair(1000.0, 400.0), pair(10.0, 5.0)];
        let median = median(WORK, pairs).unwrap();
        assert_eq!((median.raw.0.per_second, median.ours.0.per_second), (10.0, 5.0));
    }

    #[test]
    fn json_is_an_object_a_line() {
        let text = json(&[(WORK, pair(10.0, 5.0)), (WORK, pair(10.0, 4.0))]);
        let lines: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected = json!({
            "work": "w", "unit": "calls/s", "baseline": 10.0, "ours": 5.0, "ratio": 0.5,
            "cpu_us": {"load": 20.0, "broker": null},
        });
        assert_eq!((lines.len(), &lines[0]), (2, &expected));
    }

    #[test]
    fn a_missed_target_is_said() {
        let shown = tables(&[(WORK, pair(10.0, 5.0)), (WORK, pair(10.0, 4.9))]);
        assert_eq!((shown.matches("| met |").count(), shown.matches("| missed |").count()), (1, 1));
    }
}
