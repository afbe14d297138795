//! One call published twice, on a real RabbitMQ with `funcatron ledger` and `funcatron runner`s that log in as their
//! App's own user: the function's own file says how often it ran.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, as the tests themselves")]

mod amqp_kit;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::{Confirm, Connector as _, ConsumeOptions, Event, Link, Target};
use funcatron_broker::message::{Call, CallId, Intent, fresh_claimant};
use funcatron_broker::names::AppNames;
use funcatron_broker::topology::{self, Item};
use http::{HeaderMap, Method};
use tokio::runtime::Runtime;

use amqp_kit::{
    Ledger, Process, add_user, clean, delete_user, eventually, fresh_installation, get, url, url_of,
};

const FN: &str = "mail";
const REVISION: &str = "mail-0123abcd";

/// Writes down that it runs, and does so for as long as a file stands.
const FUNCTION: &str = r#"
import http.server, os, socketserver, sys, time

path, effects, gate = sys.argv[1:]

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with open(effects, "a") as file:
            file.write(self.headers["Fn-Call-Id"] + " " + self.headers["Fn-Attempt"] + "\n")
        while os.path.exists(gate):
            time.sleep(0.005)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def address_string(self):
        return "runner"

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

Server(path, Handler).serve_forever()
"#;

/// A runner and its function; dropping it is kill -9 for both.
struct Runner {
    _runner: Process,
    _function: Process,
}

/// An App with one Fn, its user, a ledger, and what the function writes down.
struct Stage {
    runtime: Runtime,
    link: Arc<dyn Link>,
    names: AppNames,
    ledger: Ledger,
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let link = runtime.block_on(AmqpConnector::new(url(), "test of claims").connect()).unwrap();
        let names = AppNames::new(&fresh_installation(), "team-a", "shop").unwrap();
        runtime.block_on(link.declare(&items(&names))).unwrap();
        add_user(&names);
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::start(names.installation(), folder.path());
        let stage = Self { runtime, link, names, ledger, folder };
        std::fs::write(stage.gate(), "").unwrap();
        stage
    }

    fn gate(&self) -> PathBuf {
        self.folder.path().join("gate")
    }

    fn effects(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("effects")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn runner(&self, name: &str) -> Runner {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let (socket, ready) = (folder.join("f.sock"), folder.join("ready"));
        let function = Process::start(
            Command::new("python3")
                .args(["-c", FUNCTION])
                .arg(&socket)
                .args([self.folder.path().join("effects"), self.gate()]),
        );
        let runner = Process::start(&mut self.runner_command(name, &socket, &ready));
        eventually("the runner serves", || ready.exists());
        Runner { _runner: runner, _function: function }
    }

    fn runner_command(&self, name: &str, socket: &Path, ready: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_funcatron"));
        command
            .args(["runner", "--installation", self.names.installation().as_str(), "--namespace", "team-a"])
            .args(["--app", "shop", "--runner", name, "--fn", FN, "--revision", REVISION])
            .args(["--durable", "true", "--socket"])
            .arg(socket)
            .arg("--ready-file")
            .arg(ready)
            .env("FUNCATRON_AMQP_URL", url_of(self.names.user()));
        command
    }

    /// Publishes the call once more, as somebody who does not know of the others.
    fn publish(&self, id: CallId) {
        let queue = self.names.durable_queue(FN).unwrap();
        let message = call(id).to_envelope().unwrap();
        let confirm =
            self.runtime.block_on(self.link.publish_confirmed(Target::queue(&queue), message, true));
        assert_eq!(confirm.unwrap(), Confirm::Acked);
    }

    /// Takes what is in the queue, and fails: its next delivery is a second attempt.
    fn fail_once(&self) {
        self.runtime.block_on(async {
            let options = ConsumeOptions { prefetch: 1, exclusive: false, no_ack: false };
            let queue = self.names.durable_queue(FN).unwrap();
            let mut consumer = self.link.consume(&queue, options).await.unwrap();
            let Some(Event::Delivery(delivery)) = consumer.next().await else { panic!("no delivery") };
            delivery.reject(true).await.unwrap();
            self.link.flush().await.unwrap();
            consumer.cancel().await;
        });
    }

    /// How many claims had this word; on a busy machine one delivery may ask twice.
    fn claims(&self, verdict: &str) -> u32 {
        let name = format!("funcatron_ledger_claims_total{{verdict=\"{verdict}\"}} ");
        let metrics = get(&self.ledger.ops, "/metrics").map(|(_, text)| text).unwrap_or_default();
        let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
        value.map_or(0, |value| value.parse().unwrap())
    }

    fn call(&self, id: CallId) -> serde_json::Value {
        let answer = get(&self.ledger.api, &format!("/calls/{id}"));
        answer.map(|(_, body)| serde_json::from_str(&body).unwrap()).unwrap_or_default()
    }

    fn end(self) {
        delete_user(&self.names);
        self.runtime.block_on(clean(&*self.link, items(&self.names)));
    }
}

fn items(names: &AppNames) -> Vec<Item> {
    let mut items = topology::installation(names.installation());
    items.extend(topology::ledger(names.installation()));
    items.extend(topology::app(names));
    items.extend(topology::revision(names, REVISION).unwrap());
    items.extend(topology::durable(names, FN).unwrap());
    items
}

fn call(id: CallId) -> Call {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Call {
        id,
        reply_to: None,
        deadline_ms: u64::try_from(now.as_millis()).unwrap() + 3_600_000,
        timeout_ms: 60_000,
        expiration_ms: None,
        timestamp_s: Some(now.as_secs()),
        persistent: true,
        attempt: 1,
        attempts_max: Some(5),
        claimant: Some(fresh_claimant()),
        direct: None,
        spilled: None,
        intent: Intent::Invoke,
        method: Method::POST,
        url: "http://shop.example.com/mail".into(),
        app: "shop".into(),
        fn_name: FN.into(),
        revision: REVISION.into(),
        operation: None,
        template: None,
        params: Vec::new(),
        headers: HeaderMap::new(),
        body: "hello".into(),
    }
}

#[test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
fn a_call_that_is_published_again_while_and_after_it_runs_runs_once() {
    let stage = Stage::new();
    let id = CallId::fresh();
    stage.publish(id);
    // The publications are at different attempts, which says nothing.
    stage.fail_once();
    let _runners = [stage.runner("one"), stage.runner("two")];
    eventually("it runs", || stage.effects().len() == 1);
    stage.publish(id);
    eventually("the second is a duplicate", || stage.claims("duplicate") > 0);
    std::fs::remove_file(stage.gate()).unwrap();
    eventually("it has ended", || stage.call(id)["status"] == "success");
    let before = stage.claims("duplicate");
    stage.publish(id);
    eventually("the third is a duplicate", || stage.claims("duplicate") > before);
    assert_eq!(stage.effects(), [format!("{id} 2")]);
    assert_eq!(stage.call(id)["attempts"], 2);
    stage.end();
}

#[test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
fn what_a_killed_runner_had_begun_is_run_again_and_its_other_publication_is_not() {
    let stage = Stage::new();
    let id = CallId::fresh();
    let killed = stage.runner("one");
    stage.publish(id);
    eventually("it runs", || stage.effects().len() == 1);
    stage.publish(id);
    drop(killed);
    let _runner = stage.runner("two");
    eventually("it runs again", || stage.effects().len() == 2);
    std::fs::remove_file(stage.gate()).unwrap();
    // The runner takes one delivery at a time, in whichever order the broker hands them out.
    eventually("it has ended, and the other is a duplicate", || {
        stage.call(id)["status"] == "success" && stage.claims("duplicate") > 0
    });
    assert_eq!(stage.effects(), [format!("{id} 1"), format!("{id} 2")]);
    assert_eq!(stage.call(id)["attempts"], 2);
    stage.end();
}
