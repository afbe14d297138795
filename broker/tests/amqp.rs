//! RabbitMQ keeps the contract, and what only it has: users, their permissions, a network that breaks.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a rule that breaks is to stop its test")]

mod amqp_kit;
mod contract;

use amqp_kit::{Amqp, Management, connector, url, url_of};
use contract::ground::{Ground, envelope, soon, take};
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::{ConnectError, Connector, ConsumeOptions, LinkError, Target};
use funcatron_broker::names::AppNames;
use funcatron_broker::policy::{Kept, Policy};
use funcatron_broker::topology;

macro_rules! rules {
    ($($rule:ident),* $(,)?) => {
        $(
            #[tokio::test]
            #[ignore = "needs RabbitMQ: cargo xtask test runs it"]
            async fn $rule() {
                contract::$rule(Box::new(Amqp::new().await)).await;
            }
        )*
    };
}

each_rule!(rules);

/// An App's user with the permissions that the operator gives it, and its link.
struct AppUser {
    ground: Ground,
    management: Management,
    link: std::sync::Arc<dyn funcatron_broker::link::Link>,
}

impl AppUser {
    async fn new() -> Self {
        let ground = Ground::new(Box::new(Amqp::new().await)).await;
        ground.declare(topology::installation(&ground.installation)).await;
        ground.declare(topology::app(&ground.app)).await;
        let management = Management::from_env();
        management.put_user(ground.app.user(), "secret", &ground.app.permissions()).await;
        let link = AmqpConnector::new(url_of(ground.app.user(), "secret"), "app").connect().await.unwrap();
        Self { ground, management, link }
    }

    async fn clean(self) {
        self.link.close().await;
        self.management.delete_user(self.ground.app.user()).await;
        self.ground.clean().await;
    }
}

#[tokio::test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn an_apps_user_does_its_work() {
    let app = AppUser::new().await;
    let AppUser { ground, link, .. } = &app;
    let queue = ground.calls().await;
    ground.declare(topology::wake(&ground.app, "python").unwrap()).await;
    ground.declare(topology::durable(&ground.app, "mail").unwrap()).await;
    let options = ConsumeOptions { prefetch: 1, exclusive: false, no_ack: false };
    for queue in
        [&queue, &ground.app.wake_queue("python").unwrap(), &ground.app.durable_queue("mail").unwrap()]
    {
        link.consume(queue, options).await.unwrap();
    }
    let (own, items) = topology::runner(&ground.app, "one").unwrap();
    link.declare(&items).await.unwrap();
    link.consume(&own, options).await.unwrap();
    let (reply_queue, items) = topology::gateway(&ground.installation, "gw").unwrap();
    ground.link.declare(&items).await.unwrap();
    let mut replies = ground.consume(&reply_queue, 1).await;
    let mut reply = envelope("answer");
    reply.properties.user_id = Some(ground.app.user().to_owned());
    let exchange = ground.installation.reply_exchange();
    link.publish(Target::exchange(&exchange, reply_queue.as_str()), reply, false).await.unwrap();
    let got = take(&mut replies).await;
    assert_eq!(got.envelope.properties.user_id.as_deref(), Some(ground.app.user()));
    app.clean().await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn another_apps_things_are_refused() {
    let app = AppUser::new().await;
    let AppUser { ground, link, .. } = &app;
    // A sibling whose name begins alike.
    let sibling = AppNames::new(&ground.installation, "team-a", "shop-b").unwrap();
    let theirs = sibling.revision_queue("orders-1").unwrap();
    ground.declare(topology::revision(&sibling, "orders-1").unwrap()).await;
    ground.declare(topology::app(&sibling)).await;
    let options = ConsumeOptions { prefetch: 1, exclusive: false, no_ack: false };
    let refused = |result: Result<(), LinkError>| {
        assert!(matches!(result, Err(LinkError::Refused { .. })), "{result:?}");
    };
    refused(link.consume(&theirs, options).await.map(drop));
    refused(link.inspect(&theirs).await.map(drop));
    refused(link.delete_queue(&theirs, false).await.map(drop));
    refused(link.consume(&ground.installation.reports_queue(), options).await.map(drop));
    // No queue can be written to directly, not even its own.
    refused(link.publish_confirmed(Target::queue(&theirs), envelope("m"), false).await.map(drop));
    let own = ground.calls().await;
    refused(link.publish_confirmed(Target::queue(&own), envelope("m"), false).await.map(drop));
    // Nor may it declare, nor listen to the sibling's cancels or to anybody's replies.
    refused(link.declare(&topology::revision(&ground.app, "mine-1").unwrap()).await);
    let (_, items) = topology::runner(&sibling, "spy").unwrap();
    refused(link.declare(&items).await);
    let (_, items) = topology::runner(&ground.app, "spy").unwrap();
    link.declare(&items[..1]).await.unwrap();
    let spy = ground.app.runner_queue("spy").unwrap();
    for exchange in [sibling.cancel_exchange(), ground.installation.reply_exchange()] {
        let binding = topology::Item::Binding { exchange, queue: spy.clone(), key: String::new() };
        refused(link.declare(&[binding]).await);
    }
    app.clean().await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn a_forged_user_id_is_refused() {
    let app = AppUser::new().await;
    let AppUser { ground, link, .. } = &app;
    let exchange = ground.installation.reply_exchange();
    let mut forged = envelope("forged");
    forged.properties.user_id = Some(format!("{}.team-b.other", ground.installation));
    let to = Target::exchange(&exchange, "reports");
    let refused = link.publish_confirmed(to, forged.clone(), false).await.unwrap_err();
    assert!(matches!(refused, LinkError::Mismatch { .. }), "{refused:?}");
    // Unconfirmed, it is dropped and closes its channel, perhaps with what came behind it; a later one goes through.
    link.publish(to, forged, false).await.unwrap();
    let mut honest = envelope("honest");
    honest.properties.user_id = Some(ground.app.user().to_owned());
    let reports = ground.installation.reports_queue();
    soon("an honest one arrives", async || {
        link.publish(to, honest.clone(), false).await.unwrap();
        ground.link.inspect(&reports).await.unwrap().unwrap().ready > 0
    })
    .await;
    assert_eq!(take(&mut ground.consume(&reports, 1).await).await.envelope.body, "honest");
    app.clean().await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn a_delivery_says_whether_its_consumer_is_sent_more_meanwhile() {
    let app = AppUser::new().await;
    let queue = app.ground.calls().await;
    for body in ["1", "2", "3", "4"] {
        app.ground.publish(&queue, body).await;
    }
    let mut consumer = app.ground.consume(&queue, 4).await;
    let (first, second) = (take(&mut consumer).await, take(&mut consumer).await);
    assert!(second.leaves_room(), "two of four are out");
    let third = take(&mut consumer).await;
    assert!(!first.leaves_room() && !third.leaves_room(), "three of four are out");
    second.ack().await.unwrap();
    assert!(first.leaves_room());
    app.clean().await;
}

/// Or the operator would write it again and again.
#[tokio::test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn a_policy_is_given_back_as_it_was_put() {
    let ground = Ground::new(Box::new(Amqp::new().await)).await;
    let kept = Kept { length_max: 5, age_max: Some(std::time::Duration::from_secs(8760 * 3600)) };
    let dead_letters = Policy::dead_letters(&ground.app, "mail", kept).unwrap().unwrap();
    for policy in [Policy::of_all(&ground.installation), dead_letters] {
        ground.put_policy(policy.clone()).await;
        let mut given = Management::from_env().policy(&policy).await;
        let given = given.as_object_mut().unwrap();
        assert_eq!(given.remove("name").unwrap(), policy.name());
        given.remove("vhost").unwrap();
        assert_eq!(*given, *policy.body().as_object().unwrap());
    }
    ground.clean().await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn a_deleted_user_loses_its_link() {
    let app = AppUser::new().await;
    app.management.delete_user(app.ground.app.user()).await;
    let closed = tokio::time::timeout(std::time::Duration::from_secs(10), app.link.closed());
    assert!(closed.await.is_ok());
    app.clean().await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn a_failed_connect_says_why_and_shows_no_password() {
    let refused = AmqpConnector::new(url_of("nobody", "topsecret"), "test").connect().await.err().unwrap();
    assert!(matches!(refused, ConnectError::Login(_)), "{refused:?}");
    let unreachable = AmqpConnector::new("amqp://u:topsecret@127.0.0.1:1/%2f", "test").connect().await;
    let unreachable = unreachable.err().unwrap();
    assert!(matches!(unreachable, ConnectError::Unreachable(_)), "{unreachable:?}");
    let senseless = AmqpConnector::new("http://u:topsecret@host", "test").connect().await.err().unwrap();
    assert!(matches!(senseless, ConnectError::Address(_)), "{senseless:?}");
    for text in [refused.to_string(), unreachable.to_string(), senseless.to_string()] {
        assert!(!text.contains("topsecret"), "{text}");
    }
    assert!(!format!("{:?}", AmqpConnector::new(url(), "test")).contains("funcatron:"));
}

#[tokio::test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn a_broker_that_says_nothing_is_given_up_on() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("amqp://u:p@{}/%2f", listener.local_addr().unwrap());
    let silent = AmqpConnector::new(address, "test").connect().await.err().unwrap();
    assert!(matches!(silent, ConnectError::TimedOut(_)), "{silent:?}");
}

#[tokio::test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn a_link_closed_by_the_broker_says_why() {
    let name = format!("test-{}", funcatron_broker::link::fresh_suffix());
    let link = connector(&name).connect().await.unwrap();
    let management = Management::from_env();
    soon("the broker lists the connection", async || management.close_connection(&name).await).await;
    let reason = tokio::time::timeout(std::time::Duration::from_secs(10), link.closed()).await.unwrap();
    assert!(reason.contains("CONNECTION_FORCED") || reason.contains("test is done"), "{reason}");
}
