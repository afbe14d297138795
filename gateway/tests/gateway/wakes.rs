//! Calls that nobody takes ask for a runner.

use funcatron_broker::link::{ConsumeOptions, Event};
use funcatron_broker::message::{Outcome, Wake, WakeKind};
use funcatron_broker::topology;
use funcatron_crds::Digest;
use http::StatusCode;

use crate::support::*;

const OK: Outcome = Outcome::Answer(StatusCode::OK);

#[tokio::test]
async fn waiting_calls_wake_a_runner_which_can_fetch_what_it_needs() {
    let fixture = Fixture::start().await;
    let (run, code) = (Digest::of(b"run"), Digest::of(b"code"));
    fixture.bundles.put("team-a", "shop", "run".into());
    fixture.bundles.put("team-a", "shop", "code".into());
    let mut runner = fixture.runner("00000001").await;
    runner.calls.cancel().await;
    runner.link.declare(&topology::wake(&names(), "python").unwrap()).await.unwrap();
    let wake_queue = names().wake_queue("python").unwrap();
    let options = ConsumeOptions { prefetch: 10, exclusive: false, no_ack: true };
    let mut wakes = runner.link.consume(&wake_queue, options).await.unwrap();

    let waking = async {
        let Some(Event::Delivery(delivery)) = soon(wakes.next()).await else { panic!("no wake") };
        let wake = Wake::from_envelope(&delivery.envelope).unwrap();
        assert!(delivery.envelope.properties.expiration_ms.is_some_and(|life| life > 0));
        let mut woken = fixture.runner("00000001").await;
        for _ in 0..10 {
            woken.serve(OK, "").await;
        }
        wake
    };
    let calls = futures::future::join_all((0..10).map(|_| fixture.get("/page")));
    let (answers, wake) = tokio::join!(calls, waking);
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!((wake.kind, wake.namespace.as_str(), wake.app.as_str()), (WakeKind::Call, "team-a", "shop"));
    assert_eq!((wake.fn_name.as_str(), wake.revision.as_str()), ("page", revision("00000001").as_str()));
    assert_eq!(wake.queue, names().revision_queue(&revision("00000001")).unwrap().as_str());
    assert_eq!((wake.run, wake.code), (run.to_string(), Some(code.to_string())));
    for (url, content) in [(wake.run_url, "run"), (wake.code_url.unwrap(), "code")] {
        let path = url.strip_prefix(&format!("http://{}", fixture.internal)).unwrap();
        assert_eq!(get(fixture.internal, "g", path).await.text(), content);
    }
    // Ten calls waited, and one waker looked for them all: at 0, 100, 300, 700 ms, ….
    let sent = fixture.metric("funcatron_gateway_wakes_total").await;
    assert!((1.0..=5.0).contains(&sent), "{sent} wakes");
}

#[tokio::test]
async fn a_call_that_a_runner_holds_wakes_nobody() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    runner.link.declare(&topology::wake(&names(), "python").unwrap()).await.unwrap();
    let (answer, (_call, _held)) = tokio::join!(fixture.get("/brief"), runner.take());
    assert_eq!(answer.status, 504);
    assert_eq!(fixture.metric("funcatron_gateway_wakes_total").await, 0.0);
}

#[tokio::test]
async fn a_dedicated_revision_is_never_woken() {
    let fixture = Fixture::start().await;
    let mut table = app("00000001");
    let entry = table.fns.get_mut("page").and_then(|entry| entry.revision.as_mut()).unwrap();
    (entry.runtime, entry.code) = (None, None);
    fixture.tables.put_app("team-a", "shop", Some(table)).unwrap();
    let mut runner = fixture.runner("00000001").await;
    runner.calls.cancel().await;
    assert_eq!(fixture.get("/brief").await.status, 504);
    assert_eq!(fixture.metric("funcatron_gateway_wakes_total").await, 0.0);
}
