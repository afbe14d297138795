//! Which queues, exchanges and bindings an installation, an App, a Fn and a Trigger need.
//!
//! Pure: says what shall stand, and a `Link` declares it.
//! Never performs I/O and never deletes.

use crate::names::{
    AppNames, BindingKey, ExchangeName, Installation, LEDGER_KEY, NameError, QueueName, REPORTS_KEY,
};

/// A revision's waiting calls: at 10,000 the gateway's own bounds have long answered 503.
pub const REVISION_LENGTH_MAX: u32 = 10_000;
/// A Fn's durable backlog; beyond it the publisher is told, and nothing is lost in silence.
pub const DURABLE_LENGTH_MAX: u32 = 100_000;
/// Its bytes: with a few such Fns a broker's disk is not full yet, whose alarm would stop everybody.
pub const DURABLE_BYTES_MAX: u64 = 1 << 30;
/// Dead letters kept for a human to look at; the oldest go first.
pub const DEAD_LENGTH_MAX: u32 = 10_000;
/// Wakes live for one repeat interval, so more than this are repeats of one another.
pub const WAKE_LENGTH_MAX: u32 = 1_000;
/// A runner's cancels and a gateway's replies wait here only while their owner stalls.
pub const OWN_LENGTH_MAX: u32 = 10_000;
/// Reports waiting while no operator leads.
pub const REPORTS_LENGTH_MAX: u32 = 10_000;
/// Events waiting while no ledger takes them or its database is away: an hour of nearly 300 a second.
pub const LEDGER_LENGTH_MAX: u32 = 1_000_000;
/// Their bytes: events of about a KiB each, more where bodies are kept.
pub const LEDGER_BYTES_MAX: u64 = 4 << 30;
/// Redeliveries before a message is dead, whatever its runners say: they count its attempts, of which a Fn may allow a
/// hundred, and give it up before.
pub const DELIVERY_LIMIT: u32 = 101;

/// One thing to declare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A queue.
    Queue {
        /// Its name.
        name: QueueName,
        /// Its properties.
        spec: QueueSpec,
    },
    /// An exchange, durable.
    Exchange {
        /// Its name.
        name: ExchangeName,
        /// How it routes.
        kind: ExchangeKind,
    },
    /// A queue's binding to an exchange.
    Binding {
        /// From where.
        exchange: ExchangeName,
        /// To where.
        queue: QueueName,
        /// For which routing keys; empty for a fanout.
        key: String,
    },
}

/// How an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeKind {
    /// By equal key.
    Direct,
    /// To every bound queue.
    Fanout,
    /// By pattern: `*` one word, `#` any number.
    Topic,
}

/// Who keeps a queue's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueKind {
    /// One node; durable.
    Classic,
    /// Replicated and fsynced; counts deliveries.
    Quorum,
    /// Classic, seen by one connection and gone with it.
    Exclusive,
}

/// What a full queue does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest message goes.
    DropHead,
    /// The new message is refused; a confirmed publish is told.
    RejectPublish,
}

/// A queue's properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSpec {
    /// Who keeps its messages.
    pub kind: QueueKind,
    /// How many messages may be ready in it.
    pub length_max: u32,
    /// How many bytes their bodies may have; none is no bound.
    pub bytes_max: Option<u64>,
    /// What happens beyond that.
    pub overflow: Overflow,
    /// Quorum queues: redeliveries allowed, and where the message goes after them.
    pub attempts: Option<Attempts>,
    /// Quorum queues: redelivered without a limit. Without this or `attempts`, RabbitMQ drops a message after 20.
    pub keeps_trying: bool,
}

/// How often a message is tried, and what becomes of it then. How long it waits between is a [policy](crate::policy)'s
/// to say, since that may change while the queue stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempts {
    /// Redeliveries allowed; attempts are one more.
    pub delivery_limit: u32,
    /// The queue that takes the dead letters, through the default exchange, at least once.
    pub dead_letter: QueueName,
}

impl QueueSpec {
    fn plain(kind: QueueKind, length_max: u32, overflow: Overflow) -> Self {
        Self { kind, length_max, bytes_max: None, overflow, attempts: None, keeps_trying: false }
    }
}

/// What an installation needs: the reply exchange and the operator's reports queue.
pub fn installation(installation: &Installation) -> Vec<Item> {
    let (replies, reports) = (installation.reply_exchange(), installation.reports_queue());
    vec![
        Item::Exchange { name: replies.clone(), kind: ExchangeKind::Direct },
        queue(reports.clone(), QueueKind::Classic, REPORTS_LENGTH_MAX, Overflow::DropHead),
        Item::Binding { exchange: replies, queue: reports, key: REPORTS_KEY.to_owned() },
    ]
}

/// What the ledger needs: its queue, bound to the reply exchange. An event that its database cannot take now is kept
/// and tried again for ever.
pub fn ledger(installation: &Installation) -> Vec<Item> {
    let (replies, ledger) = (installation.reply_exchange(), installation.ledger_queue());
    let spec = QueueSpec {
        keeps_trying: true,
        bytes_max: Some(LEDGER_BYTES_MAX),
        ..QueueSpec::plain(QueueKind::Quorum, LEDGER_LENGTH_MAX, Overflow::RejectPublish)
    };
    vec![
        Item::Exchange { name: replies.clone(), kind: ExchangeKind::Direct },
        Item::Queue { name: ledger.clone(), spec },
        Item::Binding { exchange: replies, queue: ledger, key: LEDGER_KEY.to_owned() },
    ]
}

/// What one gateway connection needs: a queue of its own, bound to the reply exchange by its own name.
pub fn gateway(installation: &Installation, suffix: &str) -> Result<(QueueName, Vec<Item>), NameError> {
    let name = installation.gateway_queue(suffix)?;
    let replies = installation.reply_exchange();
    let items = vec![
        Item::Exchange { name: replies.clone(), kind: ExchangeKind::Direct },
        queue(name.clone(), QueueKind::Exclusive, OWN_LENGTH_MAX, Overflow::DropHead),
        Item::Binding { exchange: replies, queue: name.clone(), key: name.as_str().to_owned() },
    ];
    Ok((name, items))
}

/// What an App needs whatever its Fns are: its cancel exchange.
pub fn app(names: &AppNames) -> Vec<Item> {
    vec![Item::Exchange { name: names.cancel_exchange(), kind: ExchangeKind::Fanout }]
}

/// What one runner needs: a queue of its own on the App's cancel exchange, which the operator declared.
pub fn runner(names: &AppNames, suffix: &str) -> Result<(QueueName, Vec<Item>), NameError> {
    let name = names.runner_queue(suffix)?;
    let items = vec![
        queue(name.clone(), QueueKind::Exclusive, OWN_LENGTH_MAX, Overflow::DropHead),
        Item::Binding { exchange: names.cancel_exchange(), queue: name.clone(), key: String::new() },
    ];
    Ok((name, items))
}

/// What a runtime's shared runners need: their wake queue.
pub fn wake(names: &AppNames, runtime: &str) -> Result<Vec<Item>, NameError> {
    let name = names.wake_queue(runtime)?;
    Ok(vec![queue(name, QueueKind::Classic, WAKE_LENGTH_MAX, Overflow::DropHead)])
}

/// What a revision needs: the queue of its calls.
pub fn revision(names: &AppNames, revision: &str) -> Result<Vec<Item>, NameError> {
    let name = names.revision_queue(revision)?;
    Ok(vec![queue(name, QueueKind::Classic, REVISION_LENGTH_MAX, Overflow::RejectPublish)])
}

/// What a Fn with events or calls that nobody waits for needs: its durable queue and its dead letters.
pub fn durable(names: &AppNames, fn_name: &str) -> Result<Vec<Item>, NameError> {
    let dead = names.dead_queue(fn_name)?;
    let attempts = Attempts { delivery_limit: DELIVERY_LIMIT, dead_letter: dead.clone() };
    let spec = QueueSpec {
        kind: QueueKind::Quorum,
        length_max: DURABLE_LENGTH_MAX,
        bytes_max: Some(DURABLE_BYTES_MAX),
        overflow: Overflow::RejectPublish,
        attempts: Some(attempts),
        keeps_trying: false,
    };
    // A redrive that finds no room puts a dead letter back, however often: none is lost by it.
    let dead_spec = QueueSpec {
        bytes_max: Some(DURABLE_BYTES_MAX),
        keeps_trying: true,
        ..QueueSpec::plain(QueueKind::Quorum, DEAD_LENGTH_MAX, Overflow::DropHead)
    };
    Ok(vec![
        Item::Queue { name: dead, spec: dead_spec },
        Item::Queue { name: names.durable_queue(fn_name)?, spec },
    ])
}

/// What a queue Trigger needs: the App's exchange, the Fn's durable queue, and the binding between; and the exchange
/// for replies to what comes so.
pub fn trigger(
    names: &AppNames,
    fn_name: &str,
    exchange: &str,
    key: &BindingKey,
) -> Result<Vec<Item>, NameError> {
    let exchange = names.event_exchange(exchange)?;
    let mut items = durable(names, fn_name)?;
    items.push(Item::Exchange { name: names.event_replies(), kind: ExchangeKind::Direct });
    items.push(Item::Exchange { name: exchange.clone(), kind: ExchangeKind::Topic });
    items.push(Item::Binding {
        exchange,
        queue: names.durable_queue(fn_name)?,
        key: key.as_str().to_owned(),
    });
    Ok(items)
}

/// What a Trigger of a queue on another broker needs: the exchange that its bridge publishes to, with whatever keys the
/// messages had there, the Fn's durable queue, and the binding between.
pub fn bridge(names: &AppNames, fn_name: &str, trigger: &str) -> Result<Vec<Item>, NameError> {
    let exchange = names.bridge_exchange(trigger)?;
    let mut items = durable(names, fn_name)?;
    items.push(Item::Exchange { name: names.event_replies(), kind: ExchangeKind::Direct });
    items.push(Item::Exchange { name: exchange.clone(), kind: ExchangeKind::Fanout });
    items.push(Item::Binding { exchange, queue: names.durable_queue(fn_name)?, key: String::new() });
    Ok(items)
}

fn queue(name: QueueName, kind: QueueKind, length_max: u32, overflow: Overflow) -> Item {
    Item::Queue { name, spec: QueueSpec::plain(kind, length_max, overflow) }
}

#[cfg(test)]
mod tests;
