//! What befalls a broker, under a small steady load: no call hangs, each is answered as it may be, calls flow again
//! within two seconds of the trouble's end, and then everything stands as it stood before, slots included.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::sync::{Mutex, MutexGuard};
use tracing::info;
use trouble::broker::Broker;
use trouble::load::{End, Load, TIMEOUT};
use trouble::node::{Alarm, Node};
use trouble::proxy::Proxy;
use trouble::site::Site;
use trouble::until;
use trouble::verdict::{Explained, Span, judge};

/// Between the trouble's end and the first success.
const RECOVERY_MAX: Duration = Duration::from_secs(2);
/// The broker lists a connection some time after it was made, and finds one gone within heartbeats.
const TOLD_DEADLINE: Duration = Duration::from_secs(20);
/// Refusals of each kind of call that show that it is refused and does not hang.
const REFUSALS: usize = 5;
/// Two heartbeats of 5 s, after which a connection is given up, and what its detection may lag.
const FREEZE: Duration = Duration::from_secs(12);

const AWAY: (u16, &str) = (503, "broker-away");
const UNKNOWN: (u16, &str) = (502, "outcome-unknown");
const RUNNER_LOST: (u16, &str) = (502, "runner-lost");
const LATE: (u16, &str) = (504, "deadline-passed");
const UNROUTABLE: (u16, &str) = (503, "unroutable");

/// The gateway's link is lost, or the runner's: what was not sent is refused, what was sent is sent again or has an
/// unknown end.
const LINK_LOST: Explained = Explained { get: &[AWAY], post: &[AWAY, UNKNOWN, RUNNER_LOST] };
/// The same, for longer than a GET can wait for a new link.
const LINK_LOST_FOR_LONG: Explained = Explained { get: &[AWAY, LATE], post: &[AWAY, UNKNOWN] };
/// The broker is silent before the link is lost.
const SILENCE: Explained = Explained { get: &[AWAY, LATE], post: &[AWAY, UNKNOWN, LATE] };
/// What was sent before its publisher was stopped waits.
const BLOCKED: Explained = Explained { get: &[AWAY, LATE], post: &[AWAY, LATE] };
/// Nothing takes a call.
const NO_QUEUE: Explained = Explained { get: &[UNROUTABLE], post: &[UNROUTABLE, LATE] };

/// One trouble at a time: they share two seconds' worth of a small machine.
async fn turn() -> MutexGuard<'static, ()> {
    static TURN: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);
    TURN.lock().await
}

/// A site under load.
struct Trial {
    site: Site,
    load: Load,
    began: Instant,
}

impl Trial {
    async fn begin(broker: &Broker, way: &Broker) -> Result<Self> {
        // One test after another: the first has set it.
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        let site = Site::open(broker, way).await?;
        let load = Load::begin(&site.caller).await?;
        Ok(Self { site, load, began: Instant::now() })
    }

    /// After the trouble, which ended at `over`.
    async fn end(self, over: Instant, explained: Explained) -> Result<()> {
        let Self { site, load, began } = self;
        let first = load.first_good(over, RECOVERY_MAX).await?;
        info!(first_success_ms = (first.ended - over).as_millis(), "recovered");
        load.steady(first.ended).await?;
        let calls = load.end().await;
        judge(&calls, &site.function.runs(), Span { began, recovered: first.ended }, explained)?;
        site.is_whole().await?;
        site.close().await
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn a_restart_of_the_broker_is_survived() -> Result<()> {
    let _turn = turn().await;
    let mut node = Node::start().await?;
    let trial = Trial::begin(node.broker(), node.broker()).await?;
    node.kill().await?;
    let gone = Instant::now();
    trial.load.problems(gone, AWAY.1, REFUSALS).await?;
    let over = node.revive().await?;
    trial.end(over, LINK_LOST_FOR_LONG).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn a_broker_that_freezes_for_two_heartbeats_is_survived() -> Result<()> {
    let _turn = turn().await;
    let node = Node::start().await?;
    let trial = Trial::begin(node.broker(), node.broker()).await?;
    node.freeze()?;
    let frozen = Instant::now();
    // What is sent after the heartbeats were missed is refused at once.
    trial.load.problems(frozen, AWAY.1, REFUSALS).await?;
    until("two heartbeats", 2 * FREEZE, async || {
        ensure!(frozen.elapsed() >= FREEZE, "only {:?}", frozen.elapsed());
        Ok(())
    })
    .await?;
    let over = node.thaw().await?;
    trial.end(over, SILENCE).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn a_memory_alarm_refuses_calls_until_it_is_lifted() -> Result<()> {
    alarm(Alarm::Memory).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn a_disk_alarm_refuses_calls_until_it_is_lifted() -> Result<()> {
    alarm(Alarm::Disk).await
}

async fn alarm(alarm: Alarm) -> Result<()> {
    let _turn = turn().await;
    let node = Node::start().await?;
    let trial = Trial::begin(node.broker(), node.broker()).await?;
    node.alarm(alarm).await?;
    let alarmed = Instant::now();
    trial.load.problems(alarmed, AWAY.1, REFUSALS).await?;
    let detached = trial.site.caller.call_detached().await?;
    let refused = End::Problem { status: AWAY.0, name: AWAY.1.to_owned(), retry_after: true };
    ensure!(detached == refused, "a detached call ended with {detached:?}");
    until("what was caught half-way meets its deadline", 2 * TIMEOUT, async || {
        ensure!(alarmed.elapsed() > TIMEOUT, "only {:?}", alarmed.elapsed());
        Ok(())
    })
    .await?;
    let over = node.calm(alarm).await?;
    trial.end(over, BLOCKED).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn connections_that_the_broker_closes_are_made_again() -> Result<()> {
    let _turn = turn().await;
    let broker = Broker::of_all_tests()?;
    let trial = Trial::begin(&broker, &broker).await?;
    let before = trial.site.own_queues().await?;
    for name in trial.site.connections() {
        until("the broker lists the connection", TOLD_DEADLINE, async || {
            ensure!(broker.close_connections(&name).await? > 0, "{name} is not listed");
            Ok(())
        })
        .await?;
    }
    let over = Instant::now();
    trial.load.steady(over).await?;
    let after = trial.site.own_queues().await?;
    ensure!(before.iter().all(|queue| !after.contains(queue)), "a connection was not closed: {after:?}");
    trial.end(over, LINK_LOST).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn connections_that_the_network_resets_are_made_again() -> Result<()> {
    let _turn = turn().await;
    let broker = Broker::of_all_tests()?;
    let proxy = Proxy::to(broker.amqp_address()).await?;
    let trial = Trial::begin(&broker, &broker.by_way_of(proxy.address())).await?;
    for _ in 0..3 {
        let over = Instant::now();
        ensure!(proxy.reset() == 2, "gateway and runner have a connection each");
        trial.load.first_good(over, RECOVERY_MAX).await?;
        trial.load.steady(over).await?;
    }
    let over = Instant::now();
    proxy.reset();
    trial.end(over, LINK_LOST).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn a_reply_exchange_that_is_deleted_by_hand_is_made_again() -> Result<()> {
    let _turn = turn().await;
    let broker = Broker::of_all_tests()?;
    let trial = Trial::begin(&broker, &broker).await?;
    // Replies come over lines meanwhile; whatever else comes through it is lost until the gateway has noticed, which then
    // begins again, so that no call waits for what does not come.
    let exchange = trial.site.reply_exchange();
    broker.delete_exchange(&exchange).await?;
    until("the gateway makes it again", RECOVERY_MAX, async || {
        ensure!(broker.has_exchange(&exchange).await?, "it is gone");
        Ok(())
    })
    .await?;
    trial.end(Instant::now(), LINK_LOST).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn queues_of_gateway_and_runner_that_are_deleted_by_hand_are_made_again() -> Result<()> {
    let _turn = turn().await;
    let node = Node::start().await?;
    let trial = Trial::begin(node.broker(), node.broker()).await?;
    let own = trial.site.own_queues().await?;
    for queue in &own {
        node.delete_queue(queue).await?;
        let over = Instant::now();
        trial.load.first_good(over, RECOVERY_MAX).await?;
        trial.load.steady(over).await?;
    }
    let after = trial.site.own_queues().await?;
    ensure!(own.iter().all(|queue| !after.contains(queue)), "a queue was not deleted: {after:?}");
    trial.end(Instant::now(), LINK_LOST).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn a_revision_queue_that_is_deleted_by_hand_is_consumed_again_once_it_is_there() -> Result<()> {
    let _turn = turn().await;
    let broker = Broker::of_all_tests()?;
    let trial = Trial::begin(&broker, &broker).await?;
    let queue = trial.site.revision_queue()?;
    broker.delete_queue(queue.as_str()).await?;
    let gone = Instant::now();
    trial.load.problems(gone, UNROUTABLE.1, REFUSALS).await?;
    // As an operator does, which looks again now and then: late enough that the runner no longer asks all the time.
    until("what was in the queue meets its deadline", 2 * TIMEOUT, async || {
        ensure!(gone.elapsed() > TIMEOUT, "only {:?}", gone.elapsed());
        Ok(())
    })
    .await?;
    trial.site.make_topology().await?;
    trial.end(Instant::now(), NO_QUEUE).await
}
