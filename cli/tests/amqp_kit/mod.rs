//! A RabbitMQ, an App's own user there, and `funcatron ledger` on it.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use funcatron_broker::link::{Link, fresh_suffix};
use funcatron_broker::names::{AppNames, Installation};
use funcatron_broker::topology::Item;

/// Whatever is waited for comes within this, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn url() -> String {
    std::env::var("FUNCATRON_TEST_AMQP")
        .expect("FUNCATRON_TEST_AMQP is not set: cargo xtask test runs this with a RabbitMQ")
}

/// A process, killed when dropped.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const PASSWORD: &str = "of-a-test";

/// Makes an App's user with its rights, as the operator does.
pub(crate) fn add_user(names: &AppNames) {
    let user = serde_json::json!({"password": PASSWORD, "tags": ""});
    manage("PUT", &format!("users/{}", names.user()), &user.to_string());
    let permissions = names.permissions();
    let rights = serde_json::json!({
        "configure": permissions.configure, "write": permissions.write, "read": permissions.read,
    });
    manage("PUT", &format!("permissions/%2F/{}", names.user()), &rights.to_string());
}

pub(crate) fn delete_user(names: &AppNames) {
    manage("DELETE", &format!("users/{}", names.user()), "");
}

/// The broker's URL for an App's user.
pub(crate) fn url_of(user: &str) -> String {
    let url = url();
    let (_, address) = url.rsplit_once('@').unwrap();
    format!("amqp://{user}:{PASSWORD}@{address}")
}

/// Asks RabbitMQ's management API for a change.
fn manage(method: &str, path: &str, body: &str) {
    let url = std::env::var("FUNCATRON_TEST_MANAGEMENT").expect("FUNCATRON_TEST_MANAGEMENT is not set");
    let (login, host) = url.trim_start_matches("http://").trim_end_matches('/').rsplit_once('@').unwrap();
    let login = base64::engine::general_purpose::STANDARD.encode(login);
    let mut stream = TcpStream::connect(host).unwrap();
    write!(
        stream,
        "{method} /api/{path} HTTP/1.0\r\nhost: {host}\r\nauthorization: Basic {login}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.split(' ').nth(1).unwrap().starts_with('2'), "{method} {path}: {answer}");
}

/// The process, killed when dropped.
pub(crate) struct Ledger {
    child: Child,
    pub(crate) api: String,
    pub(crate) ops: String,
}

impl Ledger {
    pub(crate) fn start(installation: &Installation, folder: &Path) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (api, ops) = (free(), free());
        let child = Command::new(env!("CARGO_BIN_EXE_funcatron"))
            .args(["ledger", "--installation", installation.as_str(), "--pod", "test"])
            .args(["--database", &format!("sqlite://{}/ledger.db", folder.display())])
            .args(["--api", &api, "--ops", &ops])
            .env("FUNCATRON_AMQP_URL", url())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let ledger = Self { child, api, ops };
        eventually("it is ready", || get(&ledger.ops, "/readyz").is_some_and(|(status, _)| status == 200));
        ledger
    }

    /// The number of the newest call; 0 while there is none.
    pub(crate) fn newest(&self) -> u64 {
        let list = get(&self.api, "/v1/namespaces/team-a/apps/shop/calls?limit=1");
        let Some((200, body)) = list else { return 0 };
        let list: serde_json::Value = serde_json::from_str(&body).unwrap();
        list["calls"][0]["number"].as_u64().unwrap_or(0)
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body; `None` while nobody answers.
pub(crate) fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: ledger\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An installation that no other test has.
pub(crate) fn fresh_installation() -> Installation {
    let suffix = fresh_suffix();
    Installation::parse(&format!("t{}", &suffix[suffix.len() - 12..])).unwrap()
}

/// Deletes what stands of these.
pub(crate) async fn clean(link: &dyn Link, items: impl IntoIterator<Item = Item>) {
    for item in items {
        match item {
            Item::Queue { name, .. } => drop(link.delete_queue(&name, false).await.unwrap()),
            Item::Exchange { name, .. } => drop(link.delete_exchange(&name).await.unwrap()),
            Item::Binding { .. } => {}
        }
    }
    link.close().await;
}
