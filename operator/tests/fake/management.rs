//! RabbitMQ's management API: users and their permissions; nothing else stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Json, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// The fake, shared by its handlers and the test.
#[derive(Clone)]
pub(crate) struct Management {
    kept: Arc<Mutex<BTreeMap<String, Value>>>,
    pub(crate) url: String,
}

impl Management {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://guest:guest@{}", listener.local_addr().unwrap());
        let management = Self { kept: Arc::default(), url };
        let router = Router::new().fallback(handle).with_state(management.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        management
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
            kept.insert(path, serde_json::from_slice(&body).unwrap());
            StatusCode::CREATED.into_response()
        }
        Method::DELETE => {
            kept.remove(&path);
            StatusCode::NO_CONTENT.into_response()
        }
        _ if path.ends_with("/bindings") => Json(json!([])).into_response(),
        _ if parts.uri.query().is_some() => Json(json!({"items": [], "page_count": 1})).into_response(),
        _ => match kept.get(&path) {
            Some(value) => Json(value.clone()).into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        },
    }
}
