//! The broker's policies follow the Fns, and an older broker is told of.

use serde_json::{Value, json};

use crate::{APPS, FNS, World, run_runners};

const OF_ALL: &str = "i.retries";
const RETRIES: &str = "i.team-a.shop.fn.mail";
const DEAD: &str = "i.team-a.shop.dead.mail";

fn mail(detached: &Value) -> Value {
    json!({"app": "shop", "runtime": "python", "source": {"inline": "x"}, "async": detached})
}

async fn world(version: &str) -> World {
    let world = World::new().await;
    world.management.set_version(version);
    world.api.put(APPS, "team-a", "shop", json!({}));
    let detached = json!({"retry": {"backoff": "5s"}, "deadLetter": {"maxLength": 7, "maxAge": "1h"}});
    world.api.put(FNS, "team-a", "mail", mail(&detached));
    world
}

fn waits(min_ms: u64) -> Value {
    json!({"delayed-retry-type": "failed", "delayed-retry-min": min_ms, "delayed-retry-max": 60_000})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_follow_a_fn_are_repaired_and_go_with_it() {
    let world = world("4.3.6").await;
    let operator = world.start();
    let kept = json!({"max-length": 7, "message-ttl": 3_600_000});
    let all_stand = |w: &World| {
        let policies = [OF_ALL, RETRIES, DEAD].map(|name| w.management.policy(name));
        policies == [waits(1_000), waits(5_000), kept.clone()]
    };
    world.until("its policies stand", all_stand).await;
    world.until("that is told", |w| w.condition(FNS, "mail", "AsyncReady").0 == "True").await;
    assert_eq!(world.management.policy_writes(), 3);

    for name in [OF_ALL, DEAD] {
        world.management.delete_policy(name);
    }
    world.broker.drop_links("cut by the test");
    world.until("what was deleted by hand stands again", all_stand).await;
    // The third stood, and was left alone.
    assert_eq!(world.management.policy_writes(), 5);

    world.api.put(FNS, "team-a", "mail", mail(&json!({"retry": {"backoff": "6s"}})));
    let changed = |w: &World| w.management.policy(RETRIES) == waits(6_000);
    world.until("a change is followed", changed).await;
    world.until("what it does not say goes", |w| w.management.policy(DEAD).is_null()).await;
    world.api.delete(FNS, "team-a", "mail");
    world.until("its policy goes with it", |w| w.management.policy(RETRIES).is_null()).await;
    assert_eq!(world.management.policy(OF_ALL), waits(1_000));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_before_4_3_is_told_of_and_leaves_the_fn_ready() {
    let world = world("4.2.1").await;
    let _runners = run_runners(world.broker.clone(), |_| false).await;
    let operator = world.start();
    let told = |w: &World| w.condition(FNS, "mail", "AsyncReady").1 == "BrokerTooOld";
    world.until("the broker is told of", told).await;
    assert!(world.condition(FNS, "mail", "AsyncReady").2.contains("RabbitMQ 4.2.1"));
    world.until("the Fn is Ready", |w| w.condition(FNS, "mail", "Ready").0 == "True").await;
    // It knows how many dead letters to keep, and would refuse the rest.
    world.until("its dead letters are bounded", |w| !w.management.policy(DEAD).is_null()).await;
    for name in [OF_ALL, RETRIES] {
        assert!(world.management.policy(name).is_null(), "{name}");
    }
    operator.stop().await;
}
