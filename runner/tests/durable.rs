//! Calls that nobody waits for: asked for where one may be published twice, tried as often as they allow, told to the
//! ledger before the broker's last word, dead when nothing is left to try.
#![allow(clippy::unwrap_used, clippy::panic, clippy::needless_pass_by_value)]

mod kit;

use std::path::Path;

use funcatron_broker::link::{ConsumeOptions, Consumer, Envelope, Event, Target};
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{
    Call, CallEvent, CallId, Claim, Claimed, Ended, Happened, Outcome, Verdict, fresh_claimant,
};
use funcatron_broker::names::QueueName;
use funcatron_broker::topology;

use kit::function::Function;
use kit::gateway::{Gateway, now_ms};
use kit::hosting::{Runner, dedicated_durable};
use kit::streams::{Listener, PlayedFunction};
use kit::{APP, FN, REVISION, eventually, soon};

/// A Fn with a durable queue, and a ledger that writes nothing down.
struct Stage {
    dir: tempfile::TempDir,
    broker: LocalBroker,
    gateway: Gateway,
    durable: QueueName,
    dead: QueueName,
    events: Consumer,
}

impl Stage {
    async fn new() -> Self {
        let broker = LocalBroker::new();
        let gateway = Gateway::new(&broker).await;
        gateway.link.declare(&topology::ledger(gateway.names.installation())).await.unwrap();
        let options = ConsumeOptions { prefetch: 0, exclusive: false, no_ack: true };
        let queue = gateway.names.installation().ledger_queue();
        let events = gateway.link.consume(&queue, options).await.unwrap();
        let durable = gateway.declare_durable().await;
        let dead = gateway.names.dead_queue(FN).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), broker, gateway, durable, dead, events }
    }

    fn function(&self) -> Function {
        Function::start(&self.dir.path().join("f.sock"))
    }

    fn runner(&self) -> Runner {
        let dir: &Path = self.dir.path();
        Runner::start(&self.broker, dedicated_durable(dir, 1, true))
    }

    /// A call as a gateway puts it into a durable queue.
    fn call(&self, body: &str, attempts_max: u32) -> Call {
        let mut call = self.gateway.call(body);
        (call.reply_to, call.expiration_ms, call.persistent) = (None, None, true);
        call.attempts_max = Some(attempts_max);
        call
    }

    async fn send(&self, call: Call) -> CallId {
        self.gateway.send_envelope(&self.durable, call.to_envelope().unwrap()).await;
        call.id
    }

    async fn event(&mut self) -> CallEvent {
        let event = soon("an event", self.events.next()).await;
        let Some(Event::Delivery(delivery)) = event else { panic!("{event:?}") };
        let event = CallEvent::from_envelope(&delivery.envelope).unwrap();
        assert_eq!(event.user_id.as_deref(), Some(self.gateway.names.user()));
        assert_eq!(event.fn_name, FN);
        event
    }

    async fn begun(&mut self, id: CallId, number: u32) {
        let event = self.event().await;
        let Happened::Started { attempt, revision, runner } = event.happened else { panic!("{event:?}") };
        assert_eq!((event.id, attempt, revision.as_str()), (id, number, REVISION));
        assert_eq!(runner, "runner-1");
    }

    /// How the attempt went, whether it was the last, and the answer's status.
    async fn over(&mut self, id: CallId, number: u32) -> (Ended, bool, Option<u16>) {
        let event = self.event().await;
        let Happened::Ended { attempt, outcome, is_final, answer, .. } = event.happened else {
            panic!("{event:?}")
        };
        assert_eq!((event.id, attempt), (id, number));
        (outcome, is_final, answer.map(|answer| answer.status))
    }

    /// A publication that its runner asks for.
    fn claimed(&self, body: &str) -> Call {
        Call { claimant: Some(fresh_claimant()), ..self.call(body, 3) }
    }

    /// A runner's question.
    async fn claim(&mut self) -> Claim {
        let event = soon("a claim", self.events.next()).await;
        let Some(Event::Delivery(delivery)) = event else { panic!("{event:?}") };
        let claim = Claim::from_envelope(&delivery.envelope).unwrap();
        assert_eq!(claim.user_id.as_deref(), Some(self.gateway.names.user()));
        assert_eq!((claim.app.as_str(), claim.fn_name.as_str()), (APP, FN));
        claim
    }

    /// The ledger's word on it.
    async fn say(&self, claim: &Claim, verdict: Verdict) {
        let queue = QueueName::parse(&claim.reply_to).unwrap();
        self.gateway.link.publish(Target::queue(&queue), word(claim, verdict), false).await.unwrap();
    }

    async fn ready(&self, queue: &QueueName) -> u32 {
        self.gateway.state(queue).await.ready
    }
}

fn word(claim: &Claim, verdict: Verdict) -> Envelope {
    let Claim { id, attempt, claimant, .. } = claim.clone();
    Claimed { id, attempt, claimant, verdict }.into_envelope().unwrap()
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_told_to_the_ledger_and_gets_no_reply() {
    let mut stage = Stage::new().await;
    let (_function, runner) = (stage.function(), stage.runner());
    let id = stage.send(stage.call("created", 3)).await;
    stage.begun(id, 1).await;
    assert_eq!(stage.over(id, 1).await, (Ended::Success, true, Some(201)));
    runner.stop().await;
    assert_eq!((stage.ready(&stage.durable).await, stage.ready(&stage.dead).await), (0, 0));
    assert!(stage.gateway.has_no_more_replies());
}

#[tokio::test]
async fn a_stream_on_offer_where_nobody_waits_is_left_alone() {
    let mut stage = Stage::new().await;
    let mut function = PlayedFunction::start(&stage.dir.path().join("f.sock"));
    let (listener, runner) = (Listener::start().await, stage.runner());
    let mut call = stage.call("x", 3);
    listener.offer(&mut call, false);
    let id = stage.send(call).await;
    stage.begun(id, 1).await;
    let (mut answer, _body) = function.called().await.answer(200, &[]);
    answer.write(vec![7; 100_000]).await;
    drop(answer);
    assert_eq!(stage.over(id, 1).await, (Ended::Success, true, Some(200)));
    assert_eq!(listener.connections(), 0);
    runner.stop().await;
}

#[tokio::test]
async fn a_failing_call_is_tried_as_often_as_it_allows_and_then_dead() {
    let mut stage = Stage::new().await;
    let (function, runner) = (stage.function(), stage.runner());
    let id = stage.send(stage.call("fail", 2)).await;
    stage.begun(id, 1).await;
    assert_eq!(stage.over(id, 1).await, (Ended::Error, false, None));
    stage.begun(id, 2).await;
    assert_eq!(stage.over(id, 2).await, (Ended::Error, false, None));
    let event = stage.event().await;
    let Happened::Dead { reason } = &event.happened else { panic!("{event:?}") };
    assert_eq!((event.id, reason.as_str()), (id, "attempt 2 of 2 failed"));
    eventually("it is dead", async || stage.ready(&stage.dead).await == 1).await;
    assert_eq!(function.times_seen("fail"), 2);
    runner.stop().await;
}

#[tokio::test]
async fn a_call_whose_last_attempt_ended_with_its_runner_is_dead() {
    let mut stage = Stage::new().await;
    let function = stage.function();
    let id = stage.send(stage.call("hold", 2)).await;
    for number in 1..=2 {
        let runner = stage.runner();
        stage.begun(id, number).await;
        eventually("it runs", async || function.running() == 1).await;
        runner.kill().await;
        function.release();
        eventually("it has gone", async || function.running() == 0).await;
        function.hold();
    }
    let runner = stage.runner();
    let event = stage.event().await;
    assert!(matches!(event.happened, Happened::Dead { .. }) && event.id == id, "{event:?}");
    eventually("it is dead", async || stage.ready(&stage.dead).await == 1).await;
    assert_eq!(function.times_seen("hold"), 2);
    runner.stop().await;
}

#[tokio::test]
async fn a_call_that_is_too_old_is_dead_unrun() {
    let mut stage = Stage::new().await;
    let (function, runner) = (stage.function(), stage.runner());
    let call = Call { deadline_ms: now_ms() - 1, ..stage.call("old", 3) };
    let id = stage.send(call).await;
    let event = stage.event().await;
    let Happened::Dead { reason } = &event.happened else { panic!("{event:?}") };
    assert!(reason.contains("maxAge"), "{reason}");
    assert_eq!(event.id, id);
    eventually("it is dead", async || stage.ready(&stage.dead).await == 1).await;
    assert_eq!(function.seen().len(), 0);
    runner.stop().await;
}

#[tokio::test]
async fn a_call_that_was_taken_back_is_not_begun() {
    let mut stage = Stage::new().await;
    let (function, runner) = (stage.function(), stage.runner());
    let held = stage.send(stage.call("hold", 3)).await;
    stage.begun(held, 1).await;
    let call = stage.call("unwanted", 3);
    stage.gateway.cancel(call.id).await;
    let id = stage.send(call).await;
    function.release();
    assert_eq!(stage.over(held, 1).await.0, Ended::Success);
    let event = stage.event().await;
    let taken_back =
        matches!(event.happened, Happened::Ended { outcome: Ended::Cancelled, is_final: true, .. });
    assert!(taken_back && event.id == id, "{event:?}");
    assert_eq!(function.times_seen("unwanted"), 0);
    runner.stop().await;
    assert_eq!((stage.ready(&stage.durable).await, stage.ready(&stage.dead).await), (0, 0));
}

#[tokio::test]
async fn a_call_that_is_asked_for_runs_on_the_ledgers_word_and_holds_no_slot_until_then() {
    let mut stage = Stage::new().await;
    let (function, runner) = (stage.function(), stage.runner());
    let call = stage.claimed("created");
    let claimant = call.claimant.clone().unwrap();
    let id = stage.send(call).await;
    let claim = stage.claim().await;
    assert_eq!((claim.id, claim.attempt, &claim.claimant), (id, 1, &claimant));
    // The one slot is free for whoever waits.
    assert!(matches!(stage.gateway.ask("sync").await.outcome, Outcome::Answer(_)));
    assert_eq!(function.times_seen("created"), 0);
    stage.say(&claim, Verdict::Run).await;
    stage.begun(id, 1).await;
    assert_eq!(stage.over(id, 1).await, (Ended::Success, true, Some(201)));
    runner.stop().await;
    assert_eq!(stage.ready(&stage.durable).await, 0);
}

#[tokio::test]
async fn a_duplicate_is_not_run_and_nothing_is_told_of_it() {
    let mut stage = Stage::new().await;
    let (function, runner) = (stage.function(), stage.runner());
    stage.send(stage.claimed("twice")).await;
    let claim = stage.claim().await;
    stage.say(&claim, Verdict::Duplicate).await;
    let next = stage.send(stage.call("created", 3)).await;
    stage.begun(next, 1).await;
    assert_eq!(stage.over(next, 1).await.0, Ended::Success);
    assert_eq!(function.times_seen("twice"), 0);
    runner.stop().await;
    assert_eq!((stage.ready(&stage.durable).await, stage.ready(&stage.dead).await), (0, 0));
}

#[tokio::test]
async fn a_publication_that_was_given_up_on_becomes_the_dead_letter_that_it_was_to_be() {
    let mut stage = Stage::new().await;
    let (function, runner) = (stage.function(), stage.runner());
    stage.send(stage.claimed("dead")).await;
    let claim = stage.claim().await;
    stage.say(&claim, Verdict::Dead).await;
    eventually("it is dead", async || stage.ready(&stage.dead).await == 1).await;
    assert_eq!(function.seen().len(), 0);
    runner.stop().await;
}

#[tokio::test]
async fn without_a_ledger_nobody_is_waited_for() {
    let stage = Stage::new().await;
    let queue = stage.gateway.names.installation().ledger_queue();
    stage.gateway.link.delete_queue(&queue, false).await.unwrap();
    let (function, runner) = (stage.function(), stage.runner());
    stage.send(stage.claimed("created")).await;
    eventually("it has run", async || function.times_seen("created") == 1).await;
    runner.stop().await;
    assert_eq!(stage.ready(&stage.durable).await, 0);
}

#[tokio::test]
async fn a_word_that_did_not_come_from_the_platform_is_not_believed() {
    let mut stage = Stage::new().await;
    let (function, runner) = (stage.function(), stage.runner());
    stage.send(stage.claimed("forged")).await;
    let claim = stage.claim().await;
    let exchange = stage.gateway.names.cancel_exchange();
    let to = Target::exchange(&exchange, "");
    stage.gateway.link.publish(to, word(&claim, Verdict::Run), false).await.unwrap();
    // What comes behind it in the same queue shows that it was read.
    stage.say(&claim, Verdict::Duplicate).await;
    eventually("it is settled", async || stage.gateway.state(&stage.durable).await.ready == 0).await;
    let next = stage.send(stage.call("created", 3)).await;
    stage.begun(next, 1).await;
    assert_eq!(function.times_seen("forged"), 0);
    runner.stop().await;
}

#[tokio::test]
async fn a_word_that_was_lost_is_asked_for_again() {
    let mut stage = Stage::new().await;
    let (_function, runner) = (stage.function(), stage.runner());
    let id = stage.send(stage.claimed("created")).await;
    let lost = stage.claim().await;
    let again = stage.claim().await;
    assert_eq!(lost, again);
    stage.say(&again, Verdict::Run).await;
    stage.begun(id, 1).await;
    runner.stop().await;
}

#[tokio::test]
async fn what_a_lost_runner_had_claimed_is_claimed_again_by_the_same_publication() {
    let mut stage = Stage::new().await;
    let (function, runner) = (stage.function(), stage.runner());
    let id = stage.send(stage.claimed("hold")).await;
    let first = stage.claim().await;
    stage.say(&first, Verdict::Run).await;
    stage.begun(id, 1).await;
    eventually("it runs", async || function.running() == 1).await;
    runner.kill().await;
    let runner = stage.runner();
    let second = stage.claim().await;
    assert_eq!((second.id, second.attempt, &second.claimant), (id, 2, &first.claimant));
    stage.say(&second, Verdict::Run).await;
    stage.begun(id, 2).await;
    function.release();
    assert_eq!(stage.over(id, 2).await, (Ended::Success, true, Some(200)));
    runner.stop().await;
}

#[tokio::test]
async fn a_runner_that_drains_gives_back_what_the_ledger_has_no_word_on_and_no_attempt_is_lost() {
    let mut stage = Stage::new().await;
    let (_function, runner) = (stage.function(), stage.runner());
    let id = stage.send(stage.claimed("created")).await;
    assert_eq!(stage.claim().await.attempt, 1);
    runner.stop().await;
    assert_eq!(stage.ready(&stage.durable).await, 1);
    let runner = stage.runner();
    let claim = stage.claim().await;
    assert_eq!((claim.id, claim.attempt), (id, 1));
    stage.say(&claim, Verdict::Run).await;
    stage.begun(id, 1).await;
    runner.stop().await;
}
