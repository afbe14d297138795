//! Schedules: what fires, what does not, and what a crash or a second leader changes.

#![allow(clippy::panic, reason = "helpers of a test fail it by panicking, as the test itself does")]

use std::sync::atomic::{AtomicBool, AtomicUsize};

use funcatron_broker::link::Consumer;
use funcatron_broker::message::Call;

use super::*;

const TRIGGERS: &str = "funcatron.dev/v1alpha1/triggers";
const EVENTS: &str = "events.k8s.io/v1/events";
/// The Trigger is as old as the fake's objects, 1 January 2026: a tick of it has been missed at any time since.
const MISSED: &str = "0 0 2 1 *";
const TICK: &str = "-01-02T00:00:00Z";

/// What is in the Fn's durable queue; the link's end would be the consumer's.
struct Calls {
    consumer: Consumer,
    _link: Arc<dyn Link>,
}

impl Calls {
    async fn next(&mut self) -> Option<Event> {
        self.consumer.next().await
    }

    fn try_next(&mut self) -> Option<Event> {
        self.consumer.try_next()
    }
}

/// An App, a Fn and a consumer of its durable queue.
async fn world() -> (World, Calls) {
    let world = World::new().await;
    world.api.put(APPS, "team-a", "shop", json!({}));
    world.api.put(FNS, "team-a", "report", python("def handler(c, d): return 1"));
    let names = AppNames::new(&installation(), "team-a", "shop").unwrap();
    let link = world.broker.connect().await.unwrap();
    link.declare(&topology::durable(&names, "report").unwrap()).await.unwrap();
    let options = ConsumeOptions { prefetch: 0, exclusive: false, no_ack: true };
    let consumer = link.consume(&names.durable_queue("report").unwrap(), options).await.unwrap();
    (world, Calls { consumer, _link: link })
}

impl World {
    fn schedule(&self, mut spec: Value) {
        spec["app"] = json!("shop");
        spec["fn"] = json!("report");
        self.api.put(TRIGGERS, "team-a", "nightly", spec);
    }

    fn status(&self) -> Value {
        self.api.get(TRIGGERS, "team-a", "nightly").unwrap_or_default()["status"].clone()
    }

    fn ready(&self) -> (String, String, String) {
        self.condition(TRIGGERS, "nightly", "Ready")
    }

    fn has_fired(&self) -> bool {
        self.status()["lastFired"].is_string() && self.status()["firing"].is_null()
    }
}

async fn next_call(calls: &mut Calls) -> Call {
    match tokio::time::timeout(PATIENCE, calls.next()).await.unwrap() {
        Some(Event::Delivery(delivery)) => Call::from_envelope(delivery.envelope).unwrap(),
        other => panic!("no call: {other:?}"),
    }
}

/// The local broker hands over at once what is published.
fn no_call(calls: &mut Calls) {
    let more = calls.try_next();
    assert!(more.is_none(), "{more:?}");
}

fn place() -> (String, String, String) {
    (TRIGGERS.into(), "team-a".into(), "nightly".into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missed_tick_is_made_up_once_and_a_restart_writes_nothing() {
    let (world, mut calls) = world().await;
    world.schedule(json!({"schedule": {"cron": MISSED}}));
    let operator = world.start();
    world.until("it has fired", World::has_fired).await;
    world.until("it is Ready", |w| w.ready().0 == "True").await;
    let (call, status) = (next_call(&mut calls).await, world.status());
    assert!(status["lastFired"].as_str().unwrap().ends_with(TICK), "{status}");
    assert!(status["nextFiring"].as_str().unwrap() > status["lastFired"].as_str().unwrap(), "{status}");
    assert_eq!(status["lastCall"]["id"], call.id.to_string());
    assert_eq!((call.fn_name.as_str(), call.reply_to), ("report", None));
    assert_eq!(call.url, "http://gateway.funcatron.svc/invoke/team-a/report");
    assert_eq!(call.headers["ce-source"], "/namespaces/team-a/triggers/nightly");
    assert_eq!(call.headers["ce-time"].to_str().unwrap(), status["lastFired"].as_str().unwrap());
    operator.stop().await;

    world.api.take_writes();
    let operator = world.start();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while world.reconciles("Trigger").await < 2 {
        assert!(tokio::time::Instant::now() < deadline, "it is never looked at again");
        tokio::time::sleep(POLL).await;
    }
    operator.stop().await;
    let writes = world.api.take_writes();
    assert!(!writes.iter().any(|write| write.contains("/triggers ")), "{writes:?}");
    no_call(&mut calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tick_missed_by_more_than_its_starting_deadline_is_skipped_and_told() {
    let (world, mut calls) = world().await;
    world.schedule(json!({"schedule": {"cron": MISSED, "startingDeadline": "10m"}}));
    let operator = world.start();
    world.until("the next one is told", |w| w.status()["nextFiring"].is_string()).await;
    world
        .until("people are told", |w| {
            let events = w.api.all(EVENTS);
            events.iter().any(|(_, event)| event["reason"] == "FiringSkipped")
        })
        .await;
    world.until("it is Ready", |w| w.ready().0 == "True").await;
    operator.stop().await;
    assert!(world.status()["lastFired"].is_null(), "{}", world.status());
    no_call(&mut calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_schedule_fires_nothing_and_makes_up_afterwards_as_a_cron_job_does() {
    let (world, mut calls) = world().await;
    world.schedule(json!({"schedule": {"cron": MISSED}, "suspend": true}));
    let operator = world.start();
    world.until("it is looked at", |w| w.ready().1 == "Suspended").await;
    assert!(world.status()["nextFiring"].is_null(), "{}", world.status());
    no_call(&mut calls);
    world.schedule(json!({"schedule": {"cron": MISSED}, "suspend": false}));
    next_call(&mut calls).await;
    world.until("it has fired", World::has_fired).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_leader_that_was_faster_leaves_nothing_to_fire() {
    let (world, mut calls) = world().await;
    world.schedule(json!({"schedule": {"cron": MISSED}}));
    let conflicts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&conflicts);
    world.api.before_status(move |api, body| {
        let claims = body["status"]["firing"].is_object();
        if claims && counted.fetch_add(1, Ordering::Relaxed) == 0 {
            // Claimed, published and written down by the other, after we have read.
            let tick = body["status"]["firing"]["tick"].clone();
            api.set_status(&place(), json!({"lastFired": tick, "nextFiring": body["status"]["nextFiring"]}));
        }
        None
    });
    let operator = world.start();
    world.until("it goes on with what the other wrote", |w| w.ready().0 == "True").await;
    operator.stop().await;
    assert!(conflicts.load(Ordering::Relaxed) > 0, "it never tried to claim");
    assert!(world.status()["lastFired"].as_str().unwrap().ends_with(TICK));
    no_call(&mut calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_between_publish_and_last_fired_the_same_id_is_published_again() {
    let (world, mut calls) = world().await;
    world.schedule(json!({"schedule": {"cron": MISSED}}));
    let dying = Arc::new(AtomicBool::new(true));
    let dies = Arc::clone(&dying);
    world.api.before_status(move |_, body| {
        let settles = body["status"]["lastFired"].is_string();
        (settles && dies.load(Ordering::Relaxed)).then_some(http::StatusCode::INTERNAL_SERVER_ERROR)
    });
    let operator = world.start();
    let first = next_call(&mut calls).await;
    operator.stop().await;
    let status = world.status();
    assert_eq!(status["firing"]["id"], first.id.to_string(), "{status}");
    assert!(status["lastFired"].is_null(), "{status}");
    // Whatever the first life repeated had this id too.
    while let Some(Event::Delivery(delivery)) = calls.try_next() {
        assert_eq!(Call::from_envelope(delivery.envelope).unwrap().id, first.id);
    }

    dying.store(false, Ordering::Relaxed);
    let operator = world.start();
    let second = next_call(&mut calls).await;
    assert_eq!((second.id, second.deadline_ms), (first.id, first.deadline_ms));
    world.until("it is written down", World::has_fired).await;
    assert_eq!(world.status()["lastCall"]["id"], first.id.to_string());
    operator.stop().await;
    no_call(&mut calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_firing_is_written_down_over_somebody_elses_edit() {
    let (world, mut calls) = world().await;
    world.schedule(json!({"schedule": {"cron": MISSED}}));
    let edits = AtomicUsize::new(0);
    world.api.before_status(move |api, body| {
        let settles = body["status"]["lastFired"].is_string();
        if settles && edits.fetch_add(1, Ordering::Relaxed) == 0 {
            let standing = api.get(TRIGGERS, "team-a", "nightly").unwrap();
            api.set_status(&place(), standing["status"].clone());
        }
        None
    });
    let operator = world.start();
    next_call(&mut calls).await;
    world.until("it is written down", World::has_fired).await;
    operator.stop().await;
    no_call(&mut calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_schedule_names_the_field_and_once_mended_owes_nothing_of_before() {
    let (world, mut calls) = world().await;
    let operator = world.start();
    for (schedule, words) in [
        (json!({"cron": "0 3 * * moon"}), ["spec.schedule.cron: `0 3 * * moon`", "@daily"]),
        (json!({"cron": MISSED, "timeZone": "Mars"}), ["spec.schedule.timeZone: `Mars`", "Europe/Berlin"]),
    ] {
        world.schedule(json!({"schedule": schedule}));
        world
            .until("it is refused", |w| {
                let (status, reason, message) = w.condition(TRIGGERS, "nightly", "Accepted");
                (status.as_str(), reason.as_str()) == ("False", "Invalid")
                    && words.iter().all(|word| message.contains(word))
            })
            .await;
    }
    world.schedule(json!({"schedule": {"cron": MISSED}}));
    world.until("it waits for its next", |w| w.status()["nextFiring"].is_string()).await;
    operator.stop().await;
    assert!(world.status()["lastFired"].is_null(), "{}", world.status());
    no_call(&mut calls);
}

/// A ledger that says of every call what it is told to say.
async fn ledger() -> (String, Arc<AtomicBool>) {
    let over = Arc::new(AtomicBool::new(false));
    let says = Arc::clone(&over);
    let answer = move || async move {
        let status = if says.load(Ordering::Relaxed) { "success" } else { "running" };
        axum::Json(json!({"status": status}))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().route("/calls/{id}", axum::routing::get(answer));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, over)
}

/// It has fired a year before.
fn forbid_after_a_firing(world: &World) {
    world.schedule(json!({"schedule": {"cron": MISSED, "concurrencyPolicy": "Forbid"}}));
    let earlier = json!({"lastFired": "2025-01-02T00:00:00Z"});
    world.api.set_status(&place(), earlier);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forbid_waits_for_the_end_that_the_ledger_tells() {
    let (mut world, mut calls) = world().await;
    let (url, over) = ledger().await;
    world.ledger_url = Some(url);
    forbid_after_a_firing(&world);
    let operator = world.start();
    world.until("it waits", |w| w.ready().2.contains("waits for the end of the firing of 2025-01-02")).await;
    assert_eq!(world.ready().0, "True");
    no_call(&mut calls);
    over.store(true, Ordering::Relaxed);
    next_call(&mut calls).await;
    world.until("it has fired", |w| w.status()["lastFired"] != "2025-01-02T00:00:00Z" && w.has_fired()).await;
    world.until("it waits no more", |w| w.ready().2.is_empty()).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forbid_that_cannot_be_kept_fires_nothing_and_says_so() {
    let (world, mut calls) = world().await;
    forbid_after_a_firing(&world);
    let operator = world.start();
    let says = "spec.schedule.concurrencyPolicy: Forbid: nothing fires";
    world.until("it says so", |w| w.ready().1 == "EarlierUnknown" && w.ready().2.contains(says)).await;
    operator.stop().await;
    no_call(&mut calls);
}
