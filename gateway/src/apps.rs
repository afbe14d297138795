//! One App as the gateway serves it: its table, with the broker names that follow from it worked out once.
//! Never performs I/O; the counts in it outlive a change of the table.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use funcatron_broker::names::{AppNames, ExchangeName, Installation, NameError, QueueName};
use funcatron_routing::app_table::{
    AppBounds, AppTable, AsyncPolicy, FnEntry, HttpTriggerEntry, RevisionEntry,
};

/// An App that is in the tables.
#[derive(Debug)]
pub(crate) struct AppPart {
    pub(crate) namespace: Arc<str>,
    pub(crate) app: Arc<str>,
    /// Who must have sent a reply.
    pub(crate) user: Arc<str>,
    pub(crate) cancel: ExchangeName,
    pub(crate) body_bytes_max: u64,
    /// Calls at once; the gateway's own bound where its table says nothing.
    pub(crate) in_flight_max: Option<usize>,
    /// Whether the ledger is told of calls that somebody waits for.
    pub(crate) records_all: bool,
    fns: HashMap<Box<str>, Arc<FnPart>>,
    triggers: Vec<TriggerPart>,
    pub(crate) counts: Arc<AppCounts>,
}

/// A Fn that is in the tables.
#[derive(Debug)]
pub(crate) struct FnPart {
    pub(crate) name: Arc<str>,
    pub(crate) timeout_ms: u64,
    pub(crate) revision: Option<Arc<RevisionPart>>,
    /// Where calls wait that nobody waits for; made at its first need.
    pub(crate) durable: QueueName,
    /// How those are tried.
    pub(crate) detached: AsyncPolicy,
    pub(crate) in_flight: Arc<AtomicUsize>,
}

/// The revision that serves a Fn.
#[derive(Debug)]
pub(crate) struct RevisionPart {
    pub(crate) entry: RevisionEntry,
    pub(crate) fn_name: Arc<str>,
    pub(crate) queue: QueueName,
    /// Where wakes go; a dedicated revision has none.
    pub(crate) wake: Option<QueueName>,
    pub(crate) durable: Option<QueueName>,
    /// When the operator was last told that its queue is missing, in Unix milliseconds.
    pub(crate) told_missing_ms: AtomicU64,
}

/// An HTTP trigger that is in the tables.
#[derive(Debug)]
pub(crate) struct TriggerPart {
    /// Without a slash at its end.
    pub(crate) source: Box<str>,
    pub(crate) target: Arc<FnPart>,
    /// Whether its calls are answered at once and run later.
    pub(crate) is_async: bool,
}

/// What is counted of one App, whatever becomes of its table.
#[derive(Debug, Default)]
pub(crate) struct AppCounts {
    pub(crate) in_flight: Arc<AtomicUsize>,
    /// Runners' streams that are open for it.
    pub(crate) streams: Arc<AtomicUsize>,
    /// Runners' lines that are open for it.
    pub(crate) lines: Arc<AtomicUsize>,
    /// Answers by the hundreds of their status, from 1xx to 5xx.
    answers: [AtomicU64; 5],
}

impl AppCounts {
    pub(crate) fn answered(&self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.answers[class].fetch_add(1, Ordering::Relaxed);
    }

    /// Answers so far with the class of each: `2xx`, …
    pub(crate) fn answers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        classes.into_iter().zip(self.answers.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

impl AppPart {
    /// Works out an App's names; keeps the counts of the part that it replaces.
    pub(crate) fn build(
        installation: &Installation,
        table: AppTable,
        earlier: Option<&Self>,
    ) -> Result<Self, NameError> {
        let AppTable { version: _, namespace, app, bounds, fns, triggers } = table;
        let AppBounds { body_bytes_max, in_flight_max, records_all } = bounds;
        let names = AppNames::new(installation, &namespace, &app)?;
        let mut parts = HashMap::with_capacity(fns.len());
        for (name, entry) in fns {
            let in_flight = earlier.and_then(|part| part.fns.get(name.as_str()));
            let in_flight = in_flight.map(|part| Arc::clone(&part.in_flight)).unwrap_or_default();
            let part = FnPart::build(&names, &name, entry, in_flight)?;
            parts.insert(name.into_boxed_str(), Arc::new(part));
        }
        let mut triggers: Vec<_> = triggers
            .into_iter()
            .filter_map(|entry| {
                let HttpTriggerEntry { name: _, source, fn_name, is_async } = entry;
                let target = Arc::clone(parts.get(fn_name.as_str())?);
                Some(TriggerPart { source: source.trim_end_matches('/').into(), target, is_async })
            })
            .collect();
        // The longest first, so that the first that fits is the most precise.
        triggers.sort_by_key(|trigger| std::cmp::Reverse(trigger.source.len()));
        Ok(Self {
            user: names.user().into(),
            cancel: names.cancel_exchange(),
            namespace: namespace.into(),
            app: app.into(),
            body_bytes_max,
            in_flight_max: in_flight_max.map(|max| usize::try_from(max).unwrap_or(usize::MAX)),
            records_all,
            fns: parts,
            triggers,
            counts: earlier.map(|part| Arc::clone(&part.counts)).unwrap_or_default(),
        })
    }

    /// A Fn by name.
    pub(crate) fn function(&self, name: &str) -> Option<&Arc<FnPart>> {
        self.fns.get(name)
    }

    /// All its Fns' names.
    pub(crate) fn fn_names(&self) -> impl Iterator<Item = &str> {
        self.fns.keys().map(|name| &**name)
    }

    /// The trigger whose source is this path or leads it by whole segments; the longest source wins.
    pub(crate) fn trigger(&self, path: &str) -> Option<&TriggerPart> {
        self.triggers.iter().find(|trigger| {
            path.strip_prefix(&*trigger.source).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

impl FnPart {
    fn build(
        names: &AppNames,
        name: &str,
        entry: FnEntry,
        in_flight: Arc<AtomicUsize>,
    ) -> Result<Self, NameError> {
        let FnEntry { revision, timeout_ms, detached } = entry;
        let name: Arc<str> = name.into();
        let revision = revision.map(|entry| RevisionPart::build(names, &name, entry)).transpose()?;
        let durable = names.durable_queue(&name)?;
        Ok(Self { name, timeout_ms, revision: revision.map(Arc::new), durable, detached, in_flight })
    }
}

impl RevisionPart {
    fn build(names: &AppNames, fn_name: &Arc<str>, entry: RevisionEntry) -> Result<Self, NameError> {
        Ok(Self {
            queue: names.revision_queue(entry.name.as_str())?,
            wake: entry.runtime.as_deref().map(|runtime| names.wake_queue(runtime)).transpose()?,
            durable: entry.durable.then(|| names.durable_queue(fn_name)).transpose()?,
            fn_name: Arc::clone(fn_name),
            told_missing_ms: AtomicU64::new(0),
            entry,
        })
    }
}
