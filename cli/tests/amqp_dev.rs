//! `funcatron dev --amqp` on a real RabbitMQ, as the user that its URL names.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, as the tests themselves"
)]

mod kit;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::{
    Confirm, Connector as _, ConsumeOptions, Consumer, Envelope, Event, Link, QueueState, Target,
    fresh_suffix,
};
use funcatron_broker::names::{AppNames, Installation, QueueName};
use funcatron_broker::topology::{Item, Overflow, QueueKind, QueueSpec};
use funcatron_crds::Digest;
use tokio::runtime::Runtime;

use kit::{APP, Callers, Dev, EFFECT_MAX, eventually, python, says, write};

const IGNORED: &str = "needs RabbitMQ: cargo xtask test runs it";

fn url() -> String {
    std::env::var("FUNCATRON_TEST_AMQP")
        .unwrap_or_else(|_| panic!("FUNCATRON_TEST_AMQP is not set; {IGNORED}"))
}

/// The broker, seen from beside `dev`.
struct Beside {
    runtime: Runtime,
    link: Arc<dyn Link>,
}

impl Beside {
    fn open() -> Self {
        let runtime = Runtime::new().unwrap();
        let link = runtime.block_on(AmqpConnector::new(url(), "test of dev").connect()).unwrap();
        Self { runtime, link }
    }

    fn stands(&self, queue: &QueueName) -> bool {
        self.runtime.block_on(self.link.inspect(queue)).unwrap().is_some()
    }

    /// Waits until a queue stands so.
    fn until(&self, queue: &QueueName, holds: impl Fn(QueueState) -> bool) {
        eventually(queue.as_str(), || {
            self.runtime.block_on(self.link.inspect(queue)).unwrap().filter(|state| holds(*state))
        });
    }

    fn publish(&self, names: &AppNames, key: &str, body: &'static str) {
        let exchange = names.event_exchange("payments").unwrap();
        let event = Envelope { body: Bytes::from(body), ..Envelope::default() };
        let sent = self.link.publish_confirmed(Target::exchange(&exchange, key), event, true);
        self.runtime.block_on(sent).unwrap();
    }
}

/// A producer's queue for replies, on a link of its own, which takes it along when it goes.
fn producer(beside: &Beside, names: &AppNames, key: &str) -> Consumer {
    let queue = QueueName::parse(&format!("producer-{key}")).unwrap();
    let spec = QueueSpec {
        kind: QueueKind::Exclusive,
        length_max: 10,
        bytes_max: None,
        overflow: Overflow::DropHead,
        attempts: None,
        keeps_trying: false,
    };
    let binding =
        Item::Binding { exchange: names.event_replies(), queue: queue.clone(), key: key.to_owned() };
    beside.runtime.block_on(async {
        beside.link.declare(&[Item::Queue { name: queue.clone(), spec }, binding]).await.unwrap();
        let options = ConsumeOptions { prefetch: 0, exclusive: false, no_ack: true };
        beside.link.consume(&queue, options).await.unwrap()
    })
}

fn names(folder: &Path) -> AppNames {
    let digest = Digest::of(folder.canonicalize().unwrap().as_os_str().as_encoded_bytes()).to_string();
    let id = format!("dev-{}", &digest.strip_prefix("sha256:").unwrap()[..8]);
    AppNames::new(&Installation::parse(&id).unwrap(), "default", "shop").unwrap()
}

#[test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
fn dev_serves_over_rabbitmq_and_leaves_no_queue_behind() {
    let folder = tempfile::tempdir().unwrap();
    let paid = folder.path().join("paid.txt");
    let event = python("on-paid", &format!("open(\"{}\", \"a\").write(\"paid\")", paid.display()));
    let trigger = "apiVersion: funcatron.dev/v1alpha1\nkind: Trigger\nmetadata: {name: on-paid}\nspec: {app: shop, fn: \
                   on-paid, queue: {exchange: payments, bindingKey: 'paid.#'}}\n---\n";
    let text = |word: &str| format!("{APP}{event}{trigger}{}", says("hello", word));
    write(folder.path(), "fn.yaml", &text("one"));
    // The user's name in the URL may be percent-encoded; the broker compares it decoded.
    let encoded = url().replacen("//f", "//%66", 1);
    let mut dev = Dev::start_as(folder.path(), |command| command.args(["--amqp", &encoded]));
    assert_eq!(dev.get("/hello").body, "one");

    let (beside, names) = (Beside::open(), names(folder.path()));
    beside.publish(&names, "paid.card", "{}");
    eventually("event in the function", || std::fs::read_to_string(&paid).ok().filter(|text| text == "paid"));

    let callers = Callers::start(&dev, "/hello");
    let begun = Instant::now();
    write(folder.path(), "fn.yaml", &text("two"));
    eventually("two", || (dev.get("/hello").body == "two").then_some(()));
    let took = begun.elapsed();
    println!("the change took effect after {took:?}, over {} calls", callers.none_lost());
    assert!(took <= EFFECT_MAX, "{took:?}");

    let serving = dev.line(0, &["serving on-paid ("]);
    let revision = serving.split(['(', ')']).nth(1).unwrap();
    let queues = [
        names.revision_queue(revision).unwrap(),
        names.wake_queue("python").unwrap(),
        names.durable_queue("on-paid").unwrap(),
        names.dead_queue("on-paid").unwrap(),
        names.installation().reports_queue(),
    ];
    for queue in &queues {
        assert!(beside.stands(queue), "{queue}");
    }
    dev.interrupt();
    assert_eq!(dev.ended().code(), Some(0));
    for queue in &queues {
        assert!(!beside.stands(queue), "{queue}");
    }
    let bodies = dev.lines().into_iter().filter(|line| line.contains("lapin")).count();
    assert_eq!(bodies, 0, "{:#?}", dev.lines());
}

#[test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
fn a_cloud_event_is_answered_to_the_producer_that_asked() {
    let folder = tempfile::tempdir().unwrap();
    let answer = "return {'statusCode': 200, 'body': event['headers']['ce-type'], 'headers': {'ce-specversion': '1.0', \
                  'ce-id': '2', 'ce-source': '/shop', 'ce-type': 'billed'}}";
    let trigger = "apiVersion: funcatron.dev/v1alpha1\nkind: Trigger\nmetadata: {name: on-paid}\nspec: {app: shop, fn: \
                   on-paid, queue: {exchange: payments}}\n---\n";
    write(folder.path(), "fn.yaml", &format!("{APP}{}{trigger}", python("on-paid", answer)));
    let dev = Dev::start_as(folder.path(), |command| command.args(["--amqp", &url()]));
    dev.line(0, &["serving on-paid ("]);
    let (beside, names) = (Beside::open(), names(folder.path()));
    let key = fresh_suffix();
    let mut replies = producer(&beside, &names, &key);

    let mut event = Envelope::default();
    for (name, value) in [("specversion", "1.0"), ("id", "1"), ("source", "/bank"), ("type", "paid in full")]
    {
        event.headers.insert(format!("cloudEvents:{name}"), value);
    }
    (event.properties.reply_to, event.properties.message_id) = (Some(key), Some("order-7".to_owned()));
    let exchange = names.event_exchange("payments").unwrap();
    let sent = beside.link.publish_confirmed(Target::exchange(&exchange, "paid"), event, true);
    assert_eq!(beside.runtime.block_on(sent).unwrap(), Confirm::Acked);

    let reply = eventually("a reply", || match beside.runtime.block_on(async { replies.try_next() }) {
        Some(Event::Delivery(delivery)) => Some(delivery.envelope),
        _ => None,
    });
    assert_eq!(reply.body, "paid%20in%20full");
    assert_eq!(reply.properties.correlation_id.as_deref(), Some("order-7"));
    assert_eq!(reply.headers.text("cloudEvents:type"), Some("billed"));
    assert_eq!(
        (reply.headers.text("fn-outcome"), reply.headers.int("fn-status")),
        (Some("answer"), Some(200))
    );
}

#[test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
fn an_event_is_tried_as_often_as_its_fn_says_at_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let attempts = folder.path().join("attempts.txt");
    let fails = format!("open(\"{}\", \"a\").write(\"x\") and 1 / 0", attempts.display());
    let text = |attempts: u32| {
        let fails = python("on-paid", &fails);
        let fails = fails.replacen(
            "spec:\n",
            &format!("spec:\n  async: {{retry: {{maxAttempts: {attempts}}}}}\n"),
            1,
        );
        let trigger = "apiVersion: funcatron.dev/v1alpha1\nkind: Trigger\nmetadata: {name: on-paid}\nspec: {app: \
                       shop, fn: on-paid, queue: {exchange: payments}}\n---\n";
        format!("{APP}{fails}{trigger}")
    };
    write(folder.path(), "fn.yaml", &text(2));
    let dev = Dev::start_as(folder.path(), |command| command.args(["--amqp", &url()]));
    let (beside, names) = (Beside::open(), names(folder.path()));
    let tried = |dead: u32| {
        let _ = std::fs::remove_file(&attempts);
        beside.publish(&names, "paid", "{}");
        beside.until(&names.dead_queue("on-paid").unwrap(), |state| state.ready == dead);
        std::fs::read_to_string(&attempts).unwrap().len()
    };
    let first = dev.line(0, &["serving on-paid ("]);
    assert_eq!(tried(1), 2);
    let mark = dev.lines().len();
    write(folder.path(), "fn.yaml", &text(5));
    dev.line(mark, &["serving on-paid ("]);
    let first = names.revision_queue(first.split(['(', ')']).nth(1).unwrap()).unwrap();
    eventually("the first revision's end", || (!beside.stands(&first)).then_some(()));
    beside.until(&names.durable_queue("on-paid").unwrap(), |state| state.consumers == 1);
    assert_eq!(tried(2), 5);
}

#[test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
fn two_folders_on_one_broker_do_not_see_each_other() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert_ne!(names(one.path()), names(other.path()));
    for (folder, word) in [(&one, "one"), (&other, "other")] {
        write(folder.path(), "fn.yaml", &format!("{APP}{}", says("hello", word)));
    }
    let with_amqp = |folder: &Path| Dev::start_as(folder, |command| command.args(["--amqp", &url()]));
    let first = with_amqp(one.path());
    assert_eq!(first.get("/hello").body, "one");
    let second = with_amqp(other.path());
    for _ in 0..20 {
        assert_eq!(
            (first.get("/hello").body, second.get("/hello").body),
            ("one".to_owned(), "other".to_owned())
        );
    }
}

#[test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
fn a_wrong_password_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "fn.yaml", APP);
    let address = url();
    let host = address.split_once('@').unwrap().1;
    let wrong = format!("amqp://nobody:hidden@{host}");
    let output =
        kit::funcatron().arg("dev").arg(folder.path()).args(["--port", "0", "--amqp", &wrong]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("--amqp: the broker refused the login") && !told.contains("hidden"), "{told}");
}
