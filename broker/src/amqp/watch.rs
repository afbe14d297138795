//! What a link watches beside its users' acts: whether its connection is up, and what was returned.
//!
//! Both tasks hold nothing that would keep a dropped link's connection open.

use std::sync::Weak;
use std::time::Duration;

use futures::StreamExt as _;
use lapin::{Connection, ConnectionStatus, Event};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::amqp::link::AmqpLink;
use crate::amqp::{convert, errors};
use crate::link::Returned;

/// lapin tells of a connection's end by an event; this only catches one that was missed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How soon a returned message is noticed while mandatory ones are being published …
const RETURNS_SOON: Duration = Duration::from_millis(5);
/// … for so long after the last of them …
pub(super) const RETURNS_DUE: Duration = Duration::from_secs(2);
/// … and how soon later on, when a stalled broker catches up.
const RETURNS_LATE: Duration = Duration::from_millis(100);

/// Tells `down` why the connection ended, once it has.
pub(super) fn connection(connection: &Connection, down: watch::Sender<Option<String>>) {
    let status = connection.status().clone();
    let mut events = Box::pin(connection.events_listener());
    tokio::spawn(async move {
        let mut reason = "the connection is down".to_owned();
        while is_up(&status) && !down.is_closed() {
            let event = tokio::time::timeout(LOOK_AGAIN, events.next()).await;
            match event {
                Ok(Some(Event::ConnectionBlocked(why))) => {
                    warn!(reason = %why, "broker takes no messages for now");
                }
                Ok(Some(Event::ConnectionUnblocked)) => info!("broker takes messages again"),
                Ok(Some(Event::Error(error))) => reason = errors::text(&error),
                Ok(Some(_)) | Err(_) => {}
                Ok(None) => break,
            }
        }
        down.send_replace(Some(reason));
    });
}

fn is_up(status: &ConnectionStatus) -> bool {
    status.connected() || status.connecting()
}

/// Hands on what the broker returns. lapin keeps returned messages and tells nobody, so they are
/// fetched; an idle link is looked at ten times a second.
pub(super) async fn returns(link: Weak<AmqpLink>, into: mpsc::Sender<Returned>) {
    loop {
        let Some(alive) = link.upgrade() else { return };
        for message in alive.returned().await {
            let message = message.delivery;
            let exchange = message.exchange.to_string();
            let key = message.routing_key.to_string();
            let envelope = convert::incoming(&message.properties, message.data);
            if into.send(Returned { envelope, exchange, key }).await.is_err() {
                return;
            }
        }
        let wait = if alive.expects_returns() { RETURNS_SOON } else { RETURNS_LATE };
        drop(alive);
        tokio::time::sleep(wait).await;
    }
}
