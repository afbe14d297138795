//! RabbitMQ for tests: its addresses, a network that can be cut, and the little of its management API
//! that the tests need.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::Connector;
use funcatron_broker::names::Permissions;
use funcatron_broker::policy::Policy;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The broker's address, from FUNCATRON_TEST_AMQP.
pub(crate) fn url() -> String {
    env("FUNCATRON_TEST_AMQP")
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: cargo xtask test sets it"))
}

pub(crate) fn connector(name: &str) -> AmqpConnector {
    AmqpConnector::new(url(), name)
}

/// The broker's address with another login.
pub(crate) fn url_of(user: &str, password: &str) -> String {
    let (head, tail) = split(&url());
    format!("{head}{user}:{password}@{tail}")
}

/// `amqp://` and `host:port/vhost`.
fn split(url: &str) -> (String, String) {
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let (_, tail) = rest.rsplit_once('@').expect("a URL with a login");
    (format!("{scheme}://"), tail.to_owned())
}

/// RabbitMQ behind a network that can be cut.
pub(crate) struct Amqp {
    connector: AmqpConnector,
    cuts: Arc<watch::Sender<u32>>,
}

impl Amqp {
    pub(crate) async fn new() -> Self {
        let (_, tail) = split(&url());
        let (host, vhost) = tail.split_once('/').expect("a URL with a vhost");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cuts = Arc::new(watch::Sender::new(0));
        tokio::spawn(relay(listener, host.to_owned(), Arc::clone(&cuts)));
        let direct = url();
        let login = direct.split_once("://").unwrap().1.rsplit_once('@').unwrap().0.to_owned();
        let address = format!("amqp://{login}@127.0.0.1:{port}/{vhost}");
        Self { connector: AmqpConnector::new(address, "test"), cuts }
    }
}

async fn relay(listener: TcpListener, host: String, cuts: Arc<watch::Sender<u32>>) {
    while let Ok((mut ours, _)) = listener.accept().await {
        let (host, mut cut) = (host.clone(), cuts.subscribe());
        tokio::spawn(async move {
            let mut theirs = TcpStream::connect(host).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut ours, &mut theirs) => {}
                _ = cut.changed() => {}
            }
        });
    }
}

#[async_trait]
impl crate::contract::Kit for Amqp {
    fn connector(&self) -> &dyn Connector {
        &self.connector
    }

    async fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    async fn put_policy(&self, policy: &Policy) {
        Management::from_env().call("PUT", &policy_path(policy), &policy.body()).await;
    }

    async fn delete_policy(&self, policy: &Policy) {
        Management::from_env().call("DELETE", &policy_path(policy), &serde_json::Value::Null).await;
    }
}

fn policy_path(policy: &Policy) -> String {
    format!("/api/policies/%2F/{}", policy.name())
}

/// The management API, as far as the tests need it.
pub(crate) struct Management {
    host: String,
    login: String,
}

impl Management {
    /// From FUNCATRON_TEST_MANAGEMENT.
    pub(crate) fn from_env() -> Self {
        let url = env("FUNCATRON_TEST_MANAGEMENT");
        let rest = url.strip_prefix("http://").expect("an http URL");
        let (login, host) = rest.rsplit_once('@').expect("a URL with a login");
        Self { host: host.trim_end_matches('/').to_owned(), login: login.to_owned() }
    }

    pub(crate) async fn put_user(&self, user: &str, password: &str, permissions: &Permissions) {
        let body = serde_json::json!({"password": password, "tags": ""});
        self.call("PUT", &format!("/api/users/{user}"), &body).await;
        let Permissions { configure, write, read } = permissions;
        let body = serde_json::json!({"configure": configure, "write": write, "read": read});
        self.call("PUT", &format!("/api/permissions/%2F/{user}"), &body).await;
    }

    pub(crate) async fn delete_user(&self, user: &str) {
        self.call("DELETE", &format!("/api/users/{user}"), &serde_json::Value::Null).await;
    }

    /// A policy as the broker gives it back.
    pub(crate) async fn policy(&self, policy: &Policy) -> serde_json::Value {
        let (_, found) = self.call("GET", &policy_path(policy), &serde_json::Value::Null).await;
        serde_json::from_str(&found).unwrap()
    }

    /// Closes the connection that its client calls so; false while the broker does not list it.
    pub(crate) async fn close_connection(&self, name: &str) -> bool {
        let (_, listed) = self.call("GET", "/api/connections", &serde_json::Value::Null).await;
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let Some(found) =
            listed.as_array().unwrap().iter().find(|one| one["client_properties"]["connection_name"] == name)
        else {
            return false;
        };
        let path = found["name"].as_str().unwrap().replace(' ', "%20").replace('>', "%3E");
        let (status, _) =
            self.call("DELETE", &format!("/api/connections/{path}"), &serde_json::Value::Null).await;
        status == 204
    }

    async fn call(&self, method: &str, path: &str, body: &serde_json::Value) -> (u16, String) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let login = base64::engine::general_purpose::STANDARD.encode(&self.login);
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nAuthorization: Basic {login}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        let mut stream = TcpStream::connect(&self.host).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status: u16 = answer.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(status < 300 || status == 404, "{method} {path}: {answer}");
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
}
