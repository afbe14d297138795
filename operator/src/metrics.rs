//! The operator's numbers, in Prometheus' text. Counts; never decides.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// A reconcile, by kind and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReconcileLabels {
    /// The kind.
    pub(crate) kind: &'static str,
    /// `done`, `waiting` or `failed`.
    pub(crate) outcome: &'static str,
}

/// A report, by what was done with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReportLabels {
    /// `taken`, `unreadable`, `forged` or `unknown`.
    pub(crate) fate: &'static str,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    /// Reconciles that ended.
    pub(crate) reconciles: Family<ReconcileLabels, Counter>,
    /// Runners' reports that came.
    pub(crate) reports: Family<ReportLabels, Counter>,
    /// Objects that wait for a reconcile.
    pub(crate) queued: Gauge,
    /// 1 on the leader.
    pub(crate) leader: Gauge,
    /// 1 while there is a link to the broker.
    pub(crate) broker_up: Gauge,
}

impl Metrics {
    /// Counts a report.
    pub(crate) fn report(&self, fate: &'static str) {
        self.reports.get_or_create(&ReportLabels { fate }).inc();
    }

    /// A registry that hands them out.
    pub(crate) fn registry(&self) -> Registry {
        let Self { reconciles, reports, queued, leader, broker_up } = self.clone();
        let mut registry = Registry::with_prefix("funcatron_operator");
        registry.register("reconciles", "Reconciles that ended", reconciles);
        registry.register("reports", "Reports of runners, by what was done with them", reports);
        registry.register("queued", "Objects that wait for a reconcile", queued);
        registry.register("leader", "1 on the leader", leader);
        registry.register("broker_up", "1 while there is a link to the broker", broker_up);
        registry
    }
}

/// The registry as text.
pub(crate) fn text(registry: &Registry) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail; a metric that could not be encoded is missing, no more.
    let _ = encode(&mut out, registry);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_handed_out() {
        let metrics = Metrics::default();
        metrics.report("forged");
        metrics.leader.set(1);
        let text = text(&metrics.registry());
        assert!(text.contains("funcatron_operator_reports_total{fate=\"forged\"} 1"));
        assert!(text.contains("funcatron_operator_leader 1"));
    }
}
