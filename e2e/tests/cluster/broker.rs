//! The installation's RabbitMQ, seen through its management API from the client pod.

use std::sync::OnceLock;

use anyhow::Context as _;
use e2e::client::{self, Answer};
use e2e::cluster::SYSTEM;
use e2e::kubectl::{get, kubectl};
use serde_json::{Value, json};

const MANAGEMENT: &str = "http://funcatron-broker.funcatron-system.svc:15672";

/// The first part of every name: the first digits of kube-system's uid.
pub(crate) fn installation() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        let uid =
            kubectl(&["get", "namespace", "kube-system", "--output", "jsonpath={.metadata.uid}"]).unwrap();
        uid.chars().take(8).collect()
    })
}

/// Names of all queues with that prefix, and their ready messages.
pub(crate) fn queues(prefix: &str) -> anyhow::Result<Vec<(String, u64)>> {
    let list = management("GET", "/api/queues?disable_stats=true&enable_queue_totals=true", None)?.json()?;
    Ok(named(&list, prefix).map(|q| (name_of(q), q["messages_ready"].as_u64().unwrap_or(0))).collect())
}

/// Names of all users with that prefix.
pub(crate) fn users(prefix: &str) -> anyhow::Result<Vec<String>> {
    Ok(named(&management("GET", "/api/users", None)?.json()?, prefix).map(name_of).collect())
}

/// Names of all exchanges with that prefix.
pub(crate) fn exchanges(prefix: &str) -> anyhow::Result<Vec<String>> {
    Ok(named(&management("GET", "/api/exchanges", None)?.json()?, prefix).map(name_of).collect())
}

/// Publishes a message, as another system would; whether a queue took it.
pub(crate) fn publish(exchange: &str, key: &str, payload: &str) -> anyhow::Result<bool> {
    let body = json!({"properties": {"delivery_mode": 2}, "routing_key": key, "payload": payload,
        "payload_encoding": "string"});
    let answer = management("POST", &format!("/api/exchanges/%2F/{exchange}/publish"), Some(&body))?;
    answer.json()?["routed"].as_bool().with_context(|| format!("not published: {answer:?}"))
}

fn management(method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
    let secret = get(SYSTEM, &["secret", "funcatron-broker"])?;
    let field = |name: &str| secret["data"][name].as_str().unwrap_or_default().to_owned();
    let credentials = format!("{}:{}", decoded(&field("user"))?, decoded(&field("password"))?);
    let authorization = format!("Basic {}", encoded(&credentials));
    let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    client::request(
        method,
        &format!("{MANAGEMENT}{path}"),
        &headers,
        &body.map(Value::to_string).unwrap_or_default(),
    )
}

fn named<'a>(list: &'a Value, prefix: &str) -> impl Iterator<Item = &'a Value> {
    list.as_array().into_iter().flatten().filter(move |item| name_of(item).starts_with(prefix))
}

fn name_of(item: &Value) -> String {
    item["name"].as_str().unwrap_or_default().to_owned()
}

pub(crate) fn decoded(text: &str) -> anyhow::Result<String> {
    use base64::Engine as _;
    Ok(String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text)?)?)
}

fn encoded(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
