//! What a ledger counts, for Prometheus. Labels are words of this crate, never a tenant's.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::store::Swept;

type Labelled = Family<[(&'static str, &'static str); 1], Counter>;

/// What a ledger counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    events: Labelled,
    claims: Labelled,
    callbacks: Labelled,
    pub(crate) callbacks_waiting: Gauge,
    requests: Family<[(&'static str, String); 1], Counter>,
    pub(crate) database_failures: Counter,
    swept: Counter,
    trimmed: Counter,
    given_up: Counter,
    pub(crate) redriven: Counter,
    pub(crate) objects_written: Counter,
    pub(crate) objects_collected: Counter,
    pub(crate) link_up: Gauge,
    pub(crate) database_up: Gauge,
}

impl Metrics {
    pub(crate) fn event(&self, fate: &'static str) {
        self.events.get_or_create(&[("fate", fate)]).inc();
    }

    pub(crate) fn claim(&self, verdict: &'static str) {
        self.claims.get_or_create(&[("verdict", verdict)]).inc();
    }

    pub(crate) fn callback(&self, fate: &'static str) {
        self.callbacks.get_or_create(&[("fate", fate)]).inc();
    }

    pub(crate) fn request(&self, status: u16) {
        self.requests.get_or_create(&[("code", status.to_string())]).inc();
    }

    pub(crate) fn sweep(&self, swept: Swept) {
        let Swept { forgotten, trimmed, given_up } = swept;
        self.swept.inc_by(forgotten);
        self.trimmed.inc_by(trimmed);
        self.given_up.inc_by(given_up);
    }

    /// Puts all that is counted under its names.
    pub(crate) fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("funcatron_ledger");
        registry.register("events", "Events by what became of them", self.events.clone());
        registry.register("claims", "Claims by the word on them", self.claims.clone());
        registry.register(
            "callbacks",
            "Attempts at telling the end of a call, by what became of them",
            self.callbacks.clone(),
        );
        registry.register(
            "callbacks_waiting",
            "Ends of calls that are still to be told, over all replicas",
            self.callbacks_waiting.clone(),
        );
        registry.register("requests", "Requests answered", self.requests.clone());
        let counters = [
            ("database_failures", "Times that the database took no events", &self.database_failures),
            (
                "calls_swept",
                "Calls forgotten at the end of their retention, or beyond what is kept of an App",
                &self.swept,
            ),
            ("calls_trimmed", "Calls whose bodies and logs made room for newer ones", &self.trimmed),
            ("calls_given_up", "Calls that ended since nothing was heard of them", &self.given_up),
            ("calls_redriven", "Dead letters put back into their queue", &self.redriven),
            ("objects_written", "Bodies put into the object store", &self.objects_written),
            ("objects_collected", "Bodies taken away, since nobody needed them", &self.objects_collected),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register("link_up", "Whether there is a link to the broker", self.link_up.clone());
        registry.register(
            "database_up",
            "Whether the database took what it was last given",
            self.database_up.clone(),
        );
        registry
    }
}
