//! What is measured, and what is asked of it. Pure.

use crate::lanes::{Measured, Order, Way};

/// Calls in flight where throughput is measured.
const MANY: usize = 64;
/// How long each measurement lasts; all works together take about six minutes.
const LASTING_MS: u64 = 5_000;
/// Of works that only choose between two ways.
const SHORTER_MS: u64 = 3_000;

/// One work, done by the baseline and by the product in turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) order: Order,
    pub(crate) baseline: Baseline,
    pub(crate) value: Value,
    pub(crate) target: Target,
}

/// Who does it on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Baseline {
    /// A client with a reply queue, and a consumer that echoes.
    Rpc,
    /// A publisher that waits for each confirm.
    Confirms,
}

/// Which figure a work is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value {
    PerSecond,
    P50,
}

impl Value {
    pub(crate) fn of(self, measured: &Measured) -> f64 {
        match self {
            Self::PerSecond => measured.per_second,
            Self::P50 => measured.p50_ms,
        }
    }
}

/// What is asked of a figure beside its baseline's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    /// The figure over its baseline's.
    RatioAtLeast(f64),
    RatioAtMost(f64),
    /// The figure less its baseline's, in the unit of the work.
    AddedAtMost(f64),
    /// The figure itself.
    AtMost(f64),
    /// It serves to choose.
    None,
}

impl Target {
    /// Whether it is met; nothing where nothing is asked.
    pub(crate) fn is_met(self, baseline: f64, ours: f64) -> Option<bool> {
        match self {
            Self::RatioAtLeast(least) => Some(ours >= least * baseline),
            Self::RatioAtMost(most) => Some(ours <= most * baseline),
            Self::AddedAtMost(most) => Some(ours - baseline <= most),
            Self::AtMost(most) => Some(ours <= most),
            Self::None => None,
        }
    }

    /// In words.
    pub(crate) fn words(self, unit: &str) -> String {
        match self {
            Self::RatioAtLeast(least) => format!("at least {least} of the baseline"),
            Self::RatioAtMost(most) => format!("at most {most} of the baseline"),
            Self::AddedAtMost(most) => format!("at most {most} {unit} above the baseline"),
            Self::AtMost(most) => format!("at most {most} {unit}"),
            Self::None => String::new(),
        }
    }
}

const fn order(in_flight: usize, bytes: usize, way: Way, lasting_ms: u64) -> Order {
    Order { in_flight, bytes, way, lasting_ms }
}

const fn throughput(name: &'static str, bytes: usize, way: Way, target: Target) -> Work {
    let lasting_ms = if matches!(target, Target::None) { SHORTER_MS } else { LASTING_MS };
    let order = order(MANY, bytes, way, lasting_ms);
    Work { name, unit: "calls/s", order, baseline: Baseline::Rpc, value: Value::PerSecond, target }
}

/// The work whose CPU time is a figure of its own.
pub(crate) const SMALL: Work =
    throughput("100 B, 64 in flight, throughput", 100, Way::Auto, Target::RatioAtLeast(0.65));

const ALONE: Work = Work {
    name: "100 B, 1 in flight, p50",
    unit: "ms",
    order: order(1, 100, Way::Auto, LASTING_MS),
    baseline: Baseline::Rpc,
    value: Value::P50,
    target: Target::AddedAtMost(0.35),
};

const ACCEPTED: Work = Work {
    name: "100 B, 64 in flight, async, accepted",
    unit: "calls/s",
    order: order(MANY, 100, Way::Async, LASTING_MS),
    baseline: Baseline::Confirms,
    value: Value::PerSecond,
    target: Target::RatioAtLeast(0.5),
};

/// All of them. The pairs of one size by both ways choose the size from which bodies go past the broker.
pub(crate) const WORKS: [Work; 12] = [
    SMALL,
    ALONE,
    throughput("1 KiB, 64 in flight, throughput", 1 << 10, Way::Auto, Target::RatioAtLeast(1.0)),
    throughput("16 KiB, 64 in flight, throughput", 16 << 10, Way::Auto, Target::RatioAtLeast(1.0)),
    throughput("64 KiB, 64 in flight, throughput", 64 << 10, Way::Auto, Target::RatioAtLeast(1.0)),
    throughput("4 KiB in messages", 4 << 10, Way::Messages, Target::None),
    throughput("4 KiB direct", 4 << 10, Way::Direct, Target::None),
    throughput("16 KiB in messages", 16 << 10, Way::Messages, Target::None),
    throughput("16 KiB direct", 16 << 10, Way::Direct, Target::None),
    throughput("64 KiB in messages", 64 << 10, Way::Messages, Target::None),
    throughput("64 KiB direct", 64 << 10, Way::Direct, Target::None),
    ACCEPTED,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_or_missed_by_its_own_measure() {
        assert_eq!(Target::RatioAtLeast(0.5).is_met(10.0, 5.0), Some(true));
        assert_eq!(Target::RatioAtLeast(0.5).is_met(10.0, 4.9), Some(false));
        assert_eq!(Target::RatioAtMost(1.25).is_met(100.0, 126.0), Some(false));
        assert_eq!(Target::AddedAtMost(0.5).is_met(1.0, 1.5), Some(true));
        assert_eq!(Target::AtMost(45.0).is_met(f64::NAN, 45.1), Some(false));
        assert_eq!(Target::None.is_met(1.0, 0.0), None);
    }
}
