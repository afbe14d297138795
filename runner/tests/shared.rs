//! A shared runner with the real Python host, on a broker within the process.

// A helper that panics fails its test, as it should; the lint knows only functions marked as tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::needless_pass_by_value)]

mod kit;

use std::sync::Arc;

use funcatron_broker::link::{ConsumeOptions, Envelope, Event};
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{Call, CallEvent, Happened, Outcome, Reply, ReportEvent, Wake, WakeKind};
use funcatron_broker::topology;
use funcatron_crds::Digest;
use funcatron_runner::host_process::HostProcess;
use kit::eventually;
use kit::gateway::{Gateway, answered, names};
use kit::host::{Bundles, Pod, Revision, host_source};
use kit::hosting::Runner;
use parking_lot::Mutex;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// Does what a call's body says, and answers with its process's id otherwise.
const FUNCTION: &str = r#"
import os, time
def handler(ctx, data=None):
    word = data.getvalue().decode()
    if word == "exit":
        os._exit(3)
    if word == "hang":
        time.sleep(600)
    if word == "raise":
        raise ValueError("secret trace")
    if word == "env":
        return os.environ.get("GREETING", "") + " " + os.environ.get("TOKEN", "none")
    return str(os.getpid())
"#;

/// A broker, its gateway, bundles, a pod with host and runner, and a revision that nobody hosts yet.
struct Stage {
    pod: Pod,
    broker: LocalBroker,
    gateway: Gateway,
    bundles: Bundles,
    revision: Revision,
    host: Child,
    runner: Runner,
}

async fn stage(source: &str, more: serde_json::Value) -> Stage {
    let bundles = Bundles::start().await;
    let revision = Revision::new(&bundles, source, more);
    let broker = LocalBroker::new();
    let gateway = Gateway::for_revision(&broker, revision.name()).await;
    let pod = Pod::new();
    let host = pod.start_host();
    let runner = Runner::start(&broker, pod.config());
    Stage { pod, broker, gateway, bundles, revision, host, runner }
}

impl Stage {
    async fn wake(&self, kind: WakeKind) {
        self.gateway.wake(self.revision.wake(kind, &names())).await;
    }

    async fn load(&mut self) {
        self.wake(WakeKind::Load).await;
        let report = self.gateway.next_report().await;
        assert_eq!(report.event, ReportEvent::Loaded, "{report:?}");
    }

    async fn pid(&mut self) -> u32 {
        let reply = self.gateway.ask("pid").await;
        answered(&reply).1.parse().unwrap()
    }
}

fn lives(pid: u32) -> bool {
    // A zombie has ended, whoever has yet to hear of it.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn parent_of(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name stands in brackets, then the state, then the parent.
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn two_pids(reply: &Reply) -> (u32, u32) {
    let (first, second) = answered(reply).1.split_once(' ').unwrap();
    (first.parse().unwrap(), second.parse().unwrap())
}

#[tokio::test]
async fn a_load_is_reported_and_calls_are_answered() {
    let mut stage = stage(FUNCTION, json!({})).await;
    eventually("the ready file", async || stage.pod.path("ready").exists()).await;
    stage.load().await;
    assert_eq!(answered(&stage.gateway.ask("env").await), (200, "hello none"));
    let failed = stage.gateway.ask("raise").await;
    assert_eq!(failed.outcome, Outcome::Failed);
    let first = stage.pid().await;
    assert_eq!(stage.pid().await, first, "a warm process is called again");
    stage.wake(WakeKind::Load).await;
    assert_eq!(stage.gateway.next_report().await.event, ReportEvent::Loaded, "said again");
    assert_eq!(stage.bundles.times_fetched(&stage.revision.code), 1);
    stage.runner.stop().await;
    assert_eq!(stage.gateway.next_report().await.event, ReportEvent::Unloaded);
    assert!(!lives(first), "a drain unloads");
    assert!(!stage.pod.path("ready").exists());
}

#[tokio::test]
async fn a_function_that_does_not_import_is_reported_with_its_last_words() {
    let mut stage = stage("print('before the fall')\nimport nothing_of_that_name\n", json!({})).await;
    stage.wake(WakeKind::Load).await;
    let report = stage.gateway.next_report().await;
    assert_eq!(report.event, ReportEvent::Failed);
    let said = format!("{} {}", report.reason.unwrap(), report.log.clone().unwrap());
    assert!(said.contains("nothing_of_that_name"), "{said}");
    assert!(report.log.unwrap().len() <= 1024);
    stage.wake(WakeKind::Load).await;
    assert_eq!(stage.gateway.next_report().await.event, ReportEvent::Failed, "said again, not tried again");
    assert_eq!(stage.bundles.times_fetched(&stage.revision.document.digest()), 1);
    let queue = stage.gateway.queue();
    assert_eq!(stage.gateway.state(&queue).await.consumers, 0, "it takes no traffic");
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_wake_for_a_call_that_is_not_there_loads_nothing() {
    let mut stage = stage(FUNCTION, json!({})).await;
    stage.wake(WakeKind::Call).await;
    // While it is looked into, further wakes for the revision come to nothing; then this one is refused by name.
    let mut refused = stage.revision.wake(WakeKind::Load, &names());
    refused.code = Some(Digest::of(b"other").to_string());
    let queue = names().wake_queue("python").unwrap();
    while !stage.gateway.has_report() {
        if stage.gateway.state(&queue).await.ready == 0 {
            stage.gateway.wake(refused.clone()).await;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(stage.gateway.next_report().await.event, ReportEvent::Failed);
    assert_eq!(stage.bundles.times_fetched(&stage.revision.code), 0);
    stage.runner.stop().await;
}

#[tokio::test]
async fn many_waiting_calls_are_one_load() {
    let mut stage = stage(FUNCTION, json!({})).await;
    let ids = [
        stage.gateway.send(stage.gateway.call("env")).await,
        stage.gateway.send(stage.gateway.call("env")).await,
        stage.gateway.send(stage.gateway.call("env")).await,
    ];
    for _ in &ids {
        stage.wake(WakeKind::Call).await;
    }
    for id in ids {
        assert_eq!(answered(&stage.gateway.reply(id).await), (200, "hello none"));
    }
    assert_eq!(stage.bundles.times_fetched(&stage.revision.document.digest()), 1, "three calls, one load");
    assert_eq!(stage.gateway.next_report().await.event, ReportEvent::Loaded);
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_wake_for_calls_that_are_not_to_run_loads_nothing() {
    let mut stage = stage(FUNCTION, json!({})).await;
    let mut late = stage.gateway.call("late");
    late.deadline_ms = kit::gateway::now_ms() - 1;
    let id = stage.gateway.send(late).await;
    stage.wake(WakeKind::Call).await;
    assert_eq!(stage.gateway.reply(id).await.outcome, Outcome::Expired);
    let queue = stage.gateway.queue();
    eventually("its queue is left", async || stage.gateway.state(&queue).await.consumers == 0).await;
    assert_eq!(stage.bundles.times_fetched(&stage.revision.document.digest()), 0);
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_waiting_call_is_answered_where_the_load_fails() {
    let mut stage = stage("raise SystemExit(1)", json!({})).await;
    let id = stage.gateway.send(stage.gateway.call("x")).await;
    stage.wake(WakeKind::Call).await;
    assert_eq!(stage.gateway.reply(id).await.outcome, Outcome::Failed);
    assert_eq!(stage.gateway.next_report().await.event, ReportEvent::Failed);
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_function_that_exits_fails_its_call_and_runs_again() {
    let mut stage = stage(FUNCTION, json!({})).await;
    stage.load().await;
    let first = stage.pid().await;
    assert_eq!(stage.gateway.ask("exit").await.outcome, Outcome::Failed);
    let second = stage.pid().await;
    assert_ne!(first, second);
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_function_that_hangs_is_killed_with_its_neighbours_and_runs_again() {
    let mut stage = stage(FUNCTION, json!({"concurrency": 2})).await;
    stage.load().await;
    let first = stage.pid().await;
    let hung = stage.gateway.send(stage.gateway.short_call("hang", 500)).await;
    let neighbour = stage.gateway.send(stage.gateway.call("hang")).await;
    assert_eq!(stage.gateway.reply(hung).await.outcome, Outcome::TimedOut);
    assert_eq!(stage.gateway.reply(neighbour).await.outcome, Outcome::Failed);
    let second = stage.pid().await;
    assert_ne!(first, second);
    eventually("the hung process is gone", async || !lives(first)).await;
    stage.runner.stop().await;
    assert!(stage.gateway.has_no_more_replies());
}

#[tokio::test]
async fn a_host_that_ends_loses_its_call_and_is_loaded_again() {
    let mut stage = stage(FUNCTION, json!({})).await;
    stage.load().await;
    let first = stage.pid().await;
    let hung = stage.gateway.send(stage.gateway.call("hang")).await;
    let queue = stage.gateway.queue();
    eventually("it runs", async || stage.gateway.state(&queue).await.ready == 0).await;
    stage.host.kill().await.unwrap();
    // Not the function's failure: the gateway may give the call to another.
    assert_eq!(stage.gateway.reply(hung).await.outcome, Outcome::RunnerLost);
    stage.host = stage.pod.start_host();
    let second = stage.pid().await;
    assert_ne!(first, second);
    eventually("the first process is gone", async || !lives(first)).await;
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_fork_server_that_ends_loses_its_call_as_its_host_would() {
    let mut stage = stage(FUNCTION, json!({})).await;
    stage.load().await;
    let first = stage.pid().await;
    let hung = stage.gateway.send(stage.gateway.call("hang")).await;
    let queue = stage.gateway.queue();
    eventually("it runs", async || stage.gateway.state(&queue).await.ready == 0).await;
    let fork_server = parent_of(first).to_string();
    assert!(Command::new("kill").args(["-KILL", &fork_server]).status().await.unwrap().success());
    assert_eq!(stage.gateway.reply(hung).await.outcome, Outcome::RunnerLost);
    assert_ne!(stage.pid().await, first, "and is loaded again");
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_runner_that_starts_again_has_its_host_kill_what_ran() {
    let mut stage = stage(FUNCTION, json!({})).await;
    stage.load().await;
    let first = stage.pid().await;
    let hung = stage.gateway.send(stage.gateway.call("hang")).await;
    let queue = stage.gateway.queue();
    eventually("it runs", async || stage.gateway.state(&queue).await.ready == 0).await;
    stage.runner.kill().await;
    stage.runner = Runner::start(&stage.broker, stage.pod.config());
    stage.load().await;
    assert!(!lives(first), "it was killed before anything was taken");
    assert_eq!(stage.gateway.reply(hung).await.outcome, Outcome::RunnerLost);
    assert_eq!(stage.bundles.times_fetched(&stage.revision.code), 1, "code is kept over runners");
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_lost_link_unloads_nothing() {
    let mut stage = stage(FUNCTION, json!({})).await;
    stage.load().await;
    let first = stage.pid().await;
    stage.runner.cable.cut().await;
    assert_eq!(stage.pid().await, first);
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_missing_key_is_named_and_its_call_goes_elsewhere() {
    let reference = json!({"secretKeyRef": {"name": "api", "key": "token"}});
    let more = json!({"env": [{"name": "TOKEN", "valueFrom": reference}]});
    let mut stage = stage(FUNCTION, more).await;
    let id = stage.gateway.send(stage.gateway.call("env")).await;
    stage.wake(WakeKind::Call).await;
    assert_eq!(stage.gateway.reply(id).await.outcome, Outcome::NotHere);
    let report = stage.gateway.next_report().await;
    assert_eq!(report.event, ReportEvent::KeyMissing);
    assert_eq!(report.reason.as_deref(), Some("key `token` of Secret `api` is missing"));
    let secret = stage.pod.path("config/secrets/api");
    std::fs::create_dir_all(&secret).unwrap();
    std::fs::write(secret.join("token"), "s3cret").unwrap();
    // What failed waits out its backoff; until then each wake is answered with what was reported.
    let mut report = report;
    while report.event == ReportEvent::KeyMissing {
        stage.wake(WakeKind::Load).await;
        report = stage.gateway.next_report().await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(report.event, ReportEvent::Loaded);
    assert_eq!(answered(&stage.gateway.ask("env").await), (200, "hello s3cret"));
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_deleted_queue_is_the_word_to_finish_and_unload() {
    let mut stage = stage(FUNCTION, json!({})).await;
    stage.load().await;
    let first = stage.pid().await;
    stage.gateway.link.delete_queue(&stage.gateway.queue(), true).await.unwrap();
    let report = stage.gateway.next_report().await;
    assert_eq!((report.event, report.revision.as_str()), (ReportEvent::Unloaded, stage.revision.name()));
    assert!(!lives(first));
    stage.runner.stop().await;
}

#[tokio::test]
async fn code_that_is_not_what_its_digest_says_is_not_run() {
    let mut stage = stage(FUNCTION, json!({})).await;
    stage.bundles.put(&stage.revision.code, b"other bytes".to_vec());
    stage.wake(WakeKind::Load).await;
    let report = stage.gateway.next_report().await;
    assert_eq!(report.event, ReportEvent::Failed);
    assert!(report.reason.unwrap().contains("digest"));
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_wake_that_cannot_be_believed_is_dropped() {
    let mut stage = stage(FUNCTION, json!({})).await;
    let good = stage.revision.wake(WakeKind::Load, &names());
    let mut other_app = good.clone();
    other_app.app = "other".into();
    let mut other_queue = good.clone();
    other_queue.queue = "test.team.other.rev.hello-0123abcd".into();
    let mut other_code = good.clone();
    other_code.code = Some(Digest::of(b"other").to_string());
    for wake in [other_app, other_queue] {
        stage.gateway.wake(wake).await;
    }
    stage.gateway.wake(other_code).await;
    let report = stage.gateway.next_report().await;
    assert_eq!(report.event, ReportEvent::Failed, "only the last names a revision of ours");
    assert!(report.reason.unwrap().contains("other code"));
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_durable_queue_is_taken_from_once_a_wake_names_it() {
    let mut stage = stage(FUNCTION, json!({})).await;
    stage.load().await;
    let durable = stage.gateway.declare_durable().await;
    let event = Envelope { body: "pid".into(), ..Envelope::default() };
    stage.gateway.send_envelope(&durable, event).await;
    assert_eq!(stage.gateway.state(&durable).await.consumers, 0);
    let mut wake = stage.revision.wake(WakeKind::Load, &names());
    wake.durable_queue = Some(durable.to_string());
    stage.gateway.wake(wake).await;
    eventually("it is taken from", async || stage.gateway.state(&durable).await.consumers == 1).await;
    eventually("the event is done", async || stage.gateway.state(&durable).await.ready == 0).await;
    stage.runner.stop().await;
    assert_eq!(stage.gateway.state(&durable).await.ready, 0);
}

/// Leaves a letter where the body says, and fails.
const FAILING: &str = r#"
def handler(ctx, data=None):
    with open(data.getvalue().decode(), "a") as attempts:
        attempts.write("x")
    raise ValueError("not today")
"#;

#[tokio::test]
async fn an_event_is_tried_as_often_as_its_revision_says() {
    let mut stage = stage(FAILING, json!({"async": {"retry": {"maxAttempts": 2}}})).await;
    let durable = stage.gateway.declare_durable().await;
    let wake = stage.revision.wake(WakeKind::Load, &names());
    stage.gateway.wake(Wake { durable_queue: Some(durable.to_string()), ..wake }).await;
    assert_eq!(stage.gateway.next_report().await.event, ReportEvent::Loaded);
    let attempts = stage.pod.path("attempts");
    let body = attempts.display().to_string().into();
    stage.gateway.send_envelope(&durable, Envelope { body, ..Envelope::default() }).await;
    let dead = stage.gateway.names.dead_queue(kit::FN).unwrap();
    eventually("it is dead", async || stage.gateway.state(&dead).await.ready == 1).await;
    assert_eq!(std::fs::read_to_string(attempts).unwrap(), "xx");
    stage.runner.stop().await;
}

/// Says what it was called for, and what became of it.
const WRITER: &str = r#"
import os, sys, time
def handler(ctx, data=None):
    word = data.getvalue().decode()
    print("begins", word)
    if word == "exit":
        os._exit(3)
    if word == "hang":
        time.sleep(600)
    if word == "raise":
        raise ValueError("wrong")
    print("ends", word, file=sys.stderr)
    ctx.SetResponseHeaders({"Fn-Log": "Zm9yZ2Vk"}, 200)
"#;

#[tokio::test]
async fn what_a_function_writes_comes_with_the_end_of_each_attempt_that_nobody_waits_for() {
    let mut stage = stage(WRITER, json!({})).await;
    let installation = stage.gateway.names.installation().clone();
    stage.gateway.link.declare(&topology::ledger(&installation)).await.unwrap();
    let all = ConsumeOptions { prefetch: 0, exclusive: false, no_ack: true };
    let mut events = stage.gateway.link.consume(&installation.ledger_queue(), all).await.unwrap();
    let durable = stage.gateway.declare_durable().await;
    let wake = stage.revision.wake(WakeKind::Load, &names());
    stage.gateway.wake(Wake { durable_queue: Some(durable.to_string()), ..wake }).await;
    assert_eq!(stage.gateway.next_report().await.event, ReportEvent::Loaded);
    for (word, log) in [
        ("well", "begins well\nends well\n"),
        ("raise", "ValueError: wrong\n"),
        ("exit", "begins exit\n"),
        ("hang", "begins hang\n"),
        ("well", "begins well\nends well\n"),
    ] {
        let mut call = Call { timeout_ms: 1_000, attempts_max: Some(1), ..stage.gateway.call(word) };
        (call.reply_to, call.expiration_ms) = (None, None);
        stage.gateway.send_envelope(&durable, call.to_envelope().unwrap()).await;
        let told = loop {
            let event = kit::soon("an event", events.next()).await;
            let Some(Event::Delivery(delivery)) = event else { panic!("{event:?}") };
            let event = CallEvent::from_envelope(&delivery.envelope).unwrap();
            if let (Happened::Ended { log, .. }, true) = (event.happened, event.id == call.id) {
                break log.unwrap_or_default();
            }
        };
        assert!(told.starts_with(&format!("begins {word}\n")) && told.ends_with(log), "{word}: {told:?}");
    }
    let reply = stage.gateway.ask("well").await;
    // What it answers under that name is its own, and was never taken for a log.
    assert_eq!((answered(&reply).0, reply.headers["fn-log"].as_bytes()), (200, &b"Zm9yZ2Vk"[..]));
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_host_as_a_child_is_started_again_and_ends_with_its_parent() {
    let pod = Pod::new();
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&lines);
    let shutdown = CancellationToken::new();
    let host = HostProcess {
        program: "python3".into(),
        args: pod.host_args(),
        env: vec![("PYTHONPATH".into(), host_source().display().to_string())],
        output: Arc::new(move |line: &str| kept.lock().push(line.to_owned())),
    };
    let running = tokio::spawn(host.run(shutdown.clone()));
    let bundles = Bundles::start().await;
    let source = "import os\nprint('a line of its own')\ndef handler(ctx, data=None):\n    return f'{os.getppid()} {os.getpid()}'\n";
    let revision = Revision::new(&bundles, source, json!({}));
    let broker = LocalBroker::new();
    let mut gateway = Gateway::for_revision(&broker, revision.name()).await;
    let runner = Runner::start(&broker, pod.config());
    gateway.wake(revision.wake(WakeKind::Load, &names())).await;
    assert_eq!(gateway.next_report().await.event, ReportEvent::Loaded);
    eventually("its output", async || lines.lock().iter().any(|line| line.contains("a line of its own")))
        .await;
    let (fork_server, worker) = two_pids(&gateway.ask("").await);
    let stat = std::fs::read_to_string(format!("/proc/{fork_server}/stat")).unwrap();
    let host_pid: u32 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap();
    let killed = std::process::Command::new("kill").args(["-9", &host_pid.to_string()]).status().unwrap();
    assert!(killed.success());
    eventually("all of it is gone", async || !lives(fork_server) && !lives(worker)).await;
    let (after, _) = two_pids(&gateway.ask("").await);
    assert_ne!(after, fork_server);
    runner.stop().await;
    shutdown.cancel();
    kit::soon("the host's end", running).await.unwrap().unwrap();
    eventually("its fork server is gone", async || !lives(after)).await;
    assert!(!pod.path("control.sock").exists(), "it ended by itself");
}

#[tokio::test]
async fn a_host_that_cannot_be_started_is_an_error_that_names_it() {
    let host = HostProcess {
        program: "/nonexistent/python3".into(),
        args: vec![],
        env: vec![],
        output: Arc::new(|_: &str| {}),
    };
    let error = host.run(CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent/python3"), "{error}");
}
