//! RabbitMQ's management API: users and their permissions, policies, a version; nothing else stands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Json, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Those of the virtual host `/`.
const POLICIES: &str = "/api/policies/%2F";

/// The fake, shared by its handlers and the test.
#[derive(Clone)]
pub(crate) struct Management {
    kept: Arc<Mutex<BTreeMap<String, Value>>>,
    policy_writes: Arc<AtomicUsize>,
    pub(crate) url: String,
}

impl Management {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://guest:guest@{}", listener.local_addr().unwrap());
        let management = Self { kept: Arc::default(), policy_writes: Arc::default(), url };
        let router = Router::new().fallback(handle).with_state(management.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        management
    }

    /// What the broker says of itself; before that, nothing.
    pub(crate) fn set_version(&self, version: &str) {
        self.kept.lock().insert("/api/overview".to_owned(), json!({"rabbitmq_version": version}));
    }

    /// The definition of a policy.
    pub(crate) fn policy(&self, name: &str) -> Value {
        let kept = self.kept.lock();
        kept.get(&format!("{POLICIES}/{name}")).map(|policy| policy["definition"].clone()).unwrap_or_default()
    }

    /// As an administrator might.
    pub(crate) fn delete_policy(&self, name: &str) {
        self.kept.lock().remove(&format!("{POLICIES}/{name}"));
    }

    /// How many policies were written so far.
    pub(crate) fn policy_writes(&self) -> usize {
        self.policy_writes.load(Ordering::SeqCst)
    }

    pub(crate) fn has_user(&self, user: &str) -> bool {
        self.kept.lock().contains_key(&format!("/api/users/{user}"))
    }
}

async fn handle(State(management): State<Management>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let path = parts.uri.path().to_owned();
    let mut kept = management.kept.lock();
    match parts.method {
        Method::PUT => {
            if path.starts_with(POLICIES) {
                management.policy_writes.fetch_add(1, Ordering::SeqCst);
            }
            kept.insert(path, serde_json::from_slice(&body).unwrap());
            StatusCode::CREATED.into_response()
        }
        Method::DELETE => {
            kept.remove(&path);
            StatusCode::NO_CONTENT.into_response()
        }
        _ if path == POLICIES => Json(policies(&kept)).into_response(),
        _ if path.ends_with("/bindings") => Json(json!([])).into_response(),
        _ if parts.uri.query().is_some() => Json(json!({"items": [], "page_count": 1})).into_response(),
        _ => match kept.get(&path) {
            Some(value) => Json(value.clone()).into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        },
    }
}

/// All of them, each with its name and virtual host.
fn policies(kept: &BTreeMap<String, Value>) -> Vec<Value> {
    let named = kept.iter().filter_map(|(path, policy)| {
        let name = path.strip_prefix(POLICIES)?.strip_prefix('/')?;
        let mut policy = policy.clone();
        (policy["name"], policy["vhost"]) = (name.into(), "/".into());
        Some(policy)
    });
    named.collect()
}
