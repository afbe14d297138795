//! Queues on brokers of users' own: the bridge that is made for them, and what it says.

use funcatron_broker::link::{Confirm, Envelope};
use funcatron_broker::message::{BridgeReport, BridgeState};
use funcatron_crds::BridgedQueue;

use super::*;

const TRIGGERS: &str = "funcatron.dev/v1alpha1/triggers";
const BRIDGE: &str = "shop-funcatron-bridge";

fn names() -> AppNames {
    AppNames::new(&installation(), "team-a", "shop").unwrap()
}

impl World {
    fn bridged(&self, suspend: bool) {
        let broker = json!({"secretKeyRef": {"name": "rabbit", "key": "url"}});
        let spec = json!({"app": "shop", "fn": "mail", "suspend": suspend,
                          "queue": {"broker": broker, "name": "orders", "prefetch": 7}});
        self.api.put(TRIGGERS, "team-a", "on-order", spec);
    }

    fn trigger_ready(&self) -> (String, String, String) {
        self.condition(TRIGGERS, "on-order", "Ready")
    }

    /// What the bridge is told, once there is one.
    fn told(&self) -> Option<BridgedQueue> {
        let deployment = self.api.get(DEPLOYMENTS, "team-a", BRIDGE)?;
        let variables = deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array()?.clone();
        let queues = variables.into_iter().find(|variable| variable["name"] == "FUNCATRON_BRIDGE_QUEUES")?;
        let mut queues: Vec<BridgedQueue> = serde_json::from_str(queues["value"].as_str()?).unwrap();
        assert_eq!(queues.len(), 1);
        queues.pop()
    }
}

/// A bridge's word, as its App's user or as another's.
async fn say(link: &dyn Link, user: &str, configured: &str, state: BridgeState, reason: Option<&str>) {
    let report = BridgeReport {
        user_id: Some(user.to_owned()),
        namespace: "team-a".into(),
        app: "shop".into(),
        trigger: "on-order".into(),
        configured: configured.to_owned(),
        bridge: "pod".into(),
        state,
        reason: reason.map(str::to_owned),
    };
    let exchange = installation().reply_exchange();
    let to = Target::exchange(&exchange, "reports");
    link.publish(to, report.into_envelope().unwrap(), false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_elsewhere_has_a_bridge_whose_word_the_trigger_repeats() {
    let world = World::new().await;
    world.api.put(APPS, "team-a", "shop", json!({}));
    world.api.put(FNS, "team-a", "mail", python("def handler(c, d): return 1"));
    world.bridged(false);
    let link = world.broker.connect().await.unwrap();
    let operator = world.start();
    world.until("the bridge is awaited", |w| w.trigger_ready().1 == "BridgeStarting").await;
    world.until("there is a bridge", |w| w.told().is_some()).await;
    let told = world.told().unwrap();
    assert_eq!((told.trigger.as_str(), told.queue.as_str(), told.prefetch), ("on-order", "orders", 7));

    // What a bridge publishes reaches the Fn's durable queue, whatever its key.
    let exchange = names().bridge_exchange("on-order").unwrap();
    let to = Target::exchange(&exchange, "any.key");
    let sent = link.publish_confirmed(to, Envelope::default(), true).await.unwrap();
    assert_eq!(sent, Confirm::Acked);

    let (user, configured) = (names().user().to_owned(), told.configured);
    say(link.as_ref(), "i.team-a.other", &configured, BridgeState::Running, None).await;
    say(link.as_ref(), &user, "an older one", BridgeState::Running, None).await;
    say(link.as_ref(), &user, &configured, BridgeState::Trouble, Some("the queue is not there")).await;
    world.until("the trouble is told", |w| w.trigger_ready().1 == "QueueUnavailable").await;
    assert_eq!(world.trigger_ready().2, "the queue is not there");
    say(link.as_ref(), &user, &configured, BridgeState::Running, None).await;
    world.until("it is Ready", |w| w.trigger_ready().0 == "True").await;
    operator.stop().await;

    // One that has just begun knows no bridge, and believes what stands.
    let operator = world.start();
    let before = world.reconciles("Trigger").await;
    world.until("it is led again", |w| w.trigger_ready().0 == "True").await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while world.reconciles("Trigger").await <= before {
        assert!(tokio::time::Instant::now() < deadline, "the Trigger is never reconciled");
        tokio::time::sleep(POLL).await;
    }
    assert_eq!(world.trigger_ready().0, "True");

    world.bridged(true);
    world.until("it is suspended", |w| w.trigger_ready().1 == "Suspended").await;
    world.until("its bridge is gone", |w| w.api.get(DEPLOYMENTS, "team-a", BRIDGE).is_none()).await;
    operator.stop().await;
}
