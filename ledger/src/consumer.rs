//! From the ledger's queue into the database: many events at once, acknowledged after their commit.
//!
//! While the database is away nothing is settled: a bounded number of deliveries stays out, the rest waits in the queue.
//! Never drops an event that counts, except one that no database could ever hold.

use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::link::{ConsumeOptions, Consumer, Delivery, Event, Link, LinkError, Target};
use funcatron_broker::message::{Claimed, Verdict};
use funcatron_broker::names::QueueName;
use funcatron_broker::topology;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::clock::now_ms;
use crate::core::Core;
use crate::store::{Entry, Outcome, StoreError};
use crate::trust::judge;

/// Deliveries out at once, and so events of one commit: at 256 KiB each they are 64 MiB at the very worst.
const PREFETCH: u16 = 256;
/// The first wait after a failure: a database's restart is noticed at once …
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// … and the longest.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Takes events over one link until it is down or the ledger stops.
pub(crate) async fn session(core: Arc<Core>, link: Arc<dyn Link>, stop: CancellationToken) {
    if let Err(failure) = consume(&core, &link, &stop).await {
        warn!(%failure, "lost the ledger's queue");
    }
}

async fn consume(core: &Core, link: &Arc<dyn Link>, stop: &CancellationToken) -> Result<(), LinkError> {
    link.declare(&topology::ledger(&core.installation)).await?;
    let options = ConsumeOptions { prefetch: PREFETCH, exclusive: false, no_ack: false };
    let mut consumer = link.consume(&core.installation.ledger_queue(), options).await?;
    let _lent = core.lend(Arc::clone(link));
    info!("taking events");
    while let Some(Some(deliveries)) = stop.run_until_cancelled(next_batch(&mut consumer)).await {
        keep(core, link, deliveries, stop).await?;
    }
    Ok(())
}

/// Waits for an event, and takes what is there beside it; `None` at the consumer's end.
async fn next_batch(consumer: &mut Consumer) -> Option<Vec<Delivery>> {
    let Some(Event::Delivery(first)) = consumer.next().await else { return None };
    let mut batch = vec![first];
    while batch.len() < usize::from(PREFETCH) {
        let Some(Event::Delivery(delivery)) = consumer.try_next() else { break };
        batch.push(delivery);
    }
    Some(batch)
}

/// Writes what counts, answers claims, and acknowledges all.
async fn keep(
    core: &Core,
    link: &Arc<dyn Link>,
    mut deliveries: Vec<Delivery>,
    stop: &CancellationToken,
) -> Result<(), LinkError> {
    let entries: Vec<Entry> = deliveries.iter_mut().filter_map(|delivery| read(core, delivery)).collect();
    let Some(outcomes) = stop.run_until_cancelled(write(core, &entries)).await else {
        // Unsettled, they are there again at the next start.
        return Ok(());
    };
    for (entry, outcome) in entries.iter().zip(outcomes) {
        core.metrics.event(fate(outcome));
        if let (Entry::Claim(claim, _), Some(Outcome::Claimed(verdict))) = (entry, outcome) {
            core.metrics.claim(label(verdict));
            let word =
                Claimed { id: claim.id, attempt: claim.attempt, claimant: claim.claimant.clone(), verdict };
            answer(link, &claim.reply_to, word).await?;
        }
    }
    Delivery::ack_all(deliveries).await
}

fn read(core: &Core, delivery: &mut Delivery) -> Option<Entry> {
    let envelope = delivery.take_envelope();
    match judge(&core.installation, &delivery.exchange, &envelope, now_ms()) {
        Ok(entry) => Some(entry),
        Err(reason) => {
            debug!(%reason, "dropping a message");
            core.metrics.event(reason.label());
            None
        }
    }
}

fn fate(outcome: Option<Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::Kept | Outcome::Claimed(_)) => "kept",
        Some(Outcome::Nothing) => "nothing_new",
        Some(Outcome::Foreign) => "foreign",
        None => "not_storable",
    }
}

fn label(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Run => "run",
        Verdict::Duplicate => "duplicate",
        Verdict::Dead => "dead",
    }
}

async fn answer(link: &Arc<dyn Link>, reply_to: &str, word: Claimed) -> Result<(), LinkError> {
    let (Ok(queue), Ok(envelope)) = (QueueName::parse(reply_to), word.into_envelope()) else {
        // Both were read from a claim within the same bounds.
        return Ok(());
    };
    link.publish(Target::queue(&queue), envelope, false).await
}

/// Writes entries, however long the database is away. `None` for one that can never be written.
async fn write(core: &Core, entries: &[Entry]) -> Vec<Option<Outcome>> {
    match write_patiently(core, entries).await {
        Ok(outcomes) => outcomes.into_iter().map(Some).collect(),
        Err(_) if entries.len() > 1 => {
            let mut outcomes = Vec::with_capacity(entries.len());
            for entry in entries {
                outcomes.push(write_alone(core, entry).await);
            }
            outcomes
        }
        Err(failure) => vec![give_up(&failure)],
    }
}

async fn write_alone(core: &Core, entry: &Entry) -> Option<Outcome> {
    match write_patiently(core, std::slice::from_ref(entry)).await {
        Ok(outcomes) => outcomes.into_iter().next(),
        Err(failure) => give_up(&failure),
    }
}

fn give_up(failure: &StoreError) -> Option<Outcome> {
    error!(failure = failure as &dyn std::error::Error, "dropping an event that cannot be written");
    None
}

/// Tries until it is written; an error is one that would come again for ever.
async fn write_patiently(core: &Core, entries: &[Entry]) -> Result<Vec<Outcome>, StoreError> {
    let mut backoff = Backoff::default();
    loop {
        match core.store.apply(entries).await {
            Ok(outcomes) => {
                core.metrics.database_up.set(1);
                if backoff.tries > 0 {
                    info!(tries = backoff.tries, "the database takes events again");
                }
                return Ok(outcomes);
            }
            Err(failure) if failure.is_lasting() => return Err(failure),
            Err(failure) => {
                core.metrics.database_up.set(0);
                core.metrics.database_failures.inc();
                backoff.wait(&failure).await;
            }
        }
    }
}

/// Waits longer each time, and says once that it waits.
#[derive(Debug)]
pub(crate) struct Backoff {
    tries: u32,
    wait: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { tries: 0, wait: BACKOFF_MIN }
    }
}

impl Backoff {
    pub(crate) async fn wait(&mut self, failure: &StoreError) {
        if self.tries == 0 {
            warn!(failure = failure as &dyn std::error::Error, "the database is of no use now, trying on");
        }
        self.tries += 1;
        // Between half and the whole, so that replicas that fell together do not come back together.
        tokio::time::sleep(self.wait.mul_f64(rand::random_range(0.5..=1.0))).await;
        self.wait = (self.wait * 2).min(BACKOFF_MAX);
    }
}
