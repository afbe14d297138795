//! The API server's part.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Json, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

/// An object's place: `apps/v1/deployments`, namespace, name.
pub(crate) type Place = (String, String, String);

#[derive(Default)]
struct Store {
    objects: BTreeMap<Place, Value>,
    /// What watches tell, in order: resource version, event.
    log: Vec<(u64, String, Place, Value)>,
    writes: Vec<String>,
    version: u64,
}

/// What a test does before a status is written: nothing, or something meanwhile, or an answer instead.
type BeforeStatus = Box<dyn FnMut(&Api, &Value) -> Option<StatusCode> + Send>;

/// The fake, shared by its handlers and the test.
#[derive(Clone)]
pub(crate) struct Api {
    store: Arc<Mutex<Store>>,
    version: watch::Sender<u64>,
    before_status: Arc<Mutex<Option<BeforeStatus>>>,
    pub(crate) url: String,
}

struct Asked {
    kind: String,
    namespace: String,
    name: Option<String>,
    status: bool,
    query: BTreeMap<String, String>,
}

impl Api {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let api = Self {
            store: Arc::default(),
            version: watch::Sender::new(0),
            before_status: Arc::default(),
            url,
        };
        let router = Router::new().fallback(handle).with_state(api.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        api
    }

    /// What a user applies.
    pub(crate) fn put(&self, kind: &str, namespace: &str, name: &str, spec: Value) {
        let mut store = self.store.lock();
        let place = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        let old = store.objects.get(&place).cloned();
        let mut object = old.unwrap_or_else(|| fresh(&place));
        object["metadata"]["generation"] = json!(object["metadata"]["generation"].as_u64().unwrap_or(0) + 1);
        object["spec"] = spec;
        store.set(place, object);
        drop(store);
        self.tell();
    }

    /// What a controller other than ours writes.
    pub(crate) fn set_status(&self, place: &Place, status: Value) {
        let mut store = self.store.lock();
        let mut object = store.objects[place].clone();
        object["status"] = status;
        store.set(place.clone(), object);
        drop(store);
        self.tell();
    }

    /// Is asked before each status that replaces another.
    pub(crate) fn before_status(
        &self,
        act: impl FnMut(&Self, &Value) -> Option<StatusCode> + Send + 'static,
    ) {
        *self.before_status.lock() = Some(Box::new(act));
    }

    pub(crate) fn delete(&self, kind: &str, namespace: &str, name: &str) {
        self.store.lock().remove(&(kind.to_owned(), namespace.to_owned(), name.to_owned()));
        self.tell();
    }

    pub(crate) fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let place = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        self.store.lock().objects.get(&place).cloned()
    }

    pub(crate) fn all(&self, kind: &str) -> Vec<(Place, Value)> {
        let store = self.store.lock();
        store
            .objects
            .iter()
            .filter(|(place, _)| place.0 == kind)
            .map(|(p, o)| (p.clone(), o.clone()))
            .collect()
    }

    /// Writes that came over HTTP since the last call.
    pub(crate) fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.store.lock().writes)
    }

    fn intercepted(&self, body: &[u8]) -> Option<StatusCode> {
        let body = serde_json::from_slice(body).unwrap();
        self.before_status.lock().as_mut().and_then(|act| act(self, &body))
    }

    fn tell(&self) {
        self.version.send_replace(self.store.lock().version);
    }
}

fn fresh((kind, namespace, name): &Place) -> Value {
    let api_version = kind.rsplit_once('/').unwrap().0.trim_start_matches("core/");
    let created = "2026-01-01T00:00:00Z";
    let kind = match kind.rsplit('/').next().unwrap() {
        "apps" => "App",
        "fns" => "Fn",
        "routes" => "Route",
        "triggers" => "Trigger",
        "configmaps" => "ConfigMap",
        "secrets" => "Secret",
        "deployments" => "Deployment",
        "controllerrevisions" => "ControllerRevision",
        "networkpolicies" => "NetworkPolicy",
        "leases" => "Lease",
        other => other,
    };
    json!({"apiVersion": api_version, "kind": kind, "metadata": {
        "name": name, "namespace": namespace, "uid": format!("uid-{kind}-{namespace}-{name}"),
        "creationTimestamp": created, "generation": 1,
    }})
}

impl Store {
    fn set(&mut self, place: Place, mut object: Value) {
        self.version += 1;
        let event = if self.objects.contains_key(&place) { "MODIFIED" } else { "ADDED" };
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.log.push((self.version, event.to_owned(), place.clone(), object.clone()));
        self.objects.insert(place, object);
    }

    fn remove(&mut self, place: &Place) {
        let Some(object) = self.objects.get(place).cloned() else { return };
        let held = object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        if held {
            let mut going = object;
            going["metadata"]["deletionTimestamp"] = json!(jiff::Timestamp::now().to_string());
            going["metadata"]["generation"] = json!(going["metadata"]["generation"].as_u64().unwrap() + 1);
            self.set(place.clone(), going);
            return;
        }
        self.version += 1;
        self.log.push((self.version, "DELETED".to_owned(), place.clone(), object.clone()));
        self.objects.remove(place);
        let uid = object["metadata"]["uid"].clone();
        let owned = |other: &Value| {
            other["metadata"]["ownerReferences"]
                .as_array()
                .is_some_and(|owners| owners.iter().any(|o| o["uid"] == uid))
        };
        let dependents: Vec<Place> =
            self.objects.iter().filter(|(_, other)| owned(other)).map(|(place, _)| place.clone()).collect();
        for dependent in dependents {
            self.remove(&dependent);
        }
    }
}

fn asked(path: &str, query: Option<&str>) -> Asked {
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let group = if parts[0] == "api" {
        let version = parts[1];
        parts.drain(..2);
        format!("core/{version}")
    } else {
        let group = format!("{}/{}", parts[1], parts[2]);
        parts.drain(..3);
        group
    };
    let mut namespace = String::new();
    if parts[0] == "namespaces" && parts.len() > 2 {
        namespace = parts[1].to_owned();
        parts.drain(..2);
    }
    let query = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let decoded = |text: &str| text.replace("%3D", "=").replace("%2F", "/").replace("%2C", ",");
    Asked {
        kind: format!("{group}/{}", parts[0]),
        namespace,
        name: parts.get(1).map(|name| (*name).to_owned()),
        status: parts.get(2) == Some(&"status"),
        query: query.map(|(key, value)| (key.to_owned(), decoded(value))).collect(),
    }
}

impl Asked {
    fn matches(&self, place: &Place, object: &Value) -> bool {
        let labels = self.query.get("labelSelector").map(String::as_str).unwrap_or_default();
        let selected = labels
            .split(',')
            .filter_map(|pair| pair.split_once('='))
            .all(|(key, value)| object["metadata"]["labels"][key] == value);
        place.0 == self.kind && (self.namespace.is_empty() || place.1 == self.namespace) && selected
    }
}

async fn handle(State(api): State<Api>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let asked = asked(parts.uri.path(), parts.uri.query());
    let response = match (&parts.method, &asked.name) {
        (&Method::GET, None) if asked.query.contains_key("watch") => return watching(api, asked),
        (&Method::GET, None) => list(&api, &asked),
        (&Method::GET, Some(name)) => match api.get(&asked.kind, &asked.namespace, name) {
            Some(object) => Json(object).into_response(),
            None => missing(),
        },
        (&Method::PUT, _)
            if asked.status
                && let Some(answer) = api.intercepted(&body) =>
        {
            refused(answer)
        }
        (method, _) => write(
            &api,
            method,
            &asked,
            &body,
            parts.headers.get("content-type").is_some_and(|t| t == "application/merge-patch+json"),
        ),
    };
    api.tell();
    response
}

fn missing() -> Response {
    refused(StatusCode::NOT_FOUND)
}

fn refused(code: StatusCode) -> Response {
    // Clients go by the reason, which is the code's name without its spaces.
    let reason = code.canonical_reason().unwrap_or_default().replace(' ', "");
    let status = json!({
        "kind": "Status", "status": "Failure", "code": code.as_u16(), "reason": reason, "message": "no",
    });
    (code, Json(status)).into_response()
}

fn list(api: &Api, asked: &Asked) -> Response {
    let store = api.store.lock();
    let items: Vec<&Value> =
        store.objects.iter().filter(|(place, object)| asked.matches(place, object)).map(|(_, o)| o).collect();
    let metadata = json!({"resourceVersion": store.version.to_string()});
    Json(json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items})).into_response()
}

fn watching(api: Api, asked: Asked) -> Response {
    let since = asked.query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    let news = futures::stream::unfold((api, asked, since), async |(api, asked, since)| {
        let mut versions = api.version.subscribe();
        loop {
            let (lines, last) = {
                let store = api.store.lock();
                let new = store
                    .log
                    .iter()
                    .filter(|(version, _, place, object)| *version > since && asked.matches(place, object));
                let lines: String = new
                    .map(|(_, event, _, object)| json!({"type": event, "object": object}).to_string() + "\n")
                    .collect();
                (lines, store.version)
            };
            if !lines.is_empty() {
                return Some((Ok::<_, std::io::Error>(Bytes::from(lines)), (api, asked, last)));
            }
            versions.changed().await.ok()?;
        }
    });
    Body::from_stream(news).into_response()
}

fn version_of(object: &Value) -> &Value {
    &object["metadata"]["resourceVersion"]
}

fn write(api: &Api, method: &Method, asked: &Asked, body: &[u8], merge: bool) -> Response {
    let mut store = api.store.lock();
    let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let named = || body["metadata"]["name"].as_str().or(body["metadata"]["generateName"].as_str());
    let name = asked.name.clone().or_else(|| named().map(str::to_owned)).unwrap_or_default();
    store.writes.push(format!("{method} {} {}/{name}", asked.kind, asked.namespace));
    let place = (asked.kind.clone(), asked.namespace.clone(), name);
    if method == Method::DELETE {
        let Some(object) = store.objects.get(&place).cloned() else { return missing() };
        store.remove(&place);
        return Json(object).into_response();
    }
    let old = store.objects.get(&place).cloned();
    if (asked.status || merge) && old.is_none() {
        return missing();
    }
    let mut object = old.unwrap_or_else(|| fresh(&place));
    if asked.status && method == Method::PUT && version_of(&body) != version_of(&object) {
        return refused(StatusCode::CONFLICT);
    }
    if asked.status {
        object["status"] = body["status"].clone();
    } else if merge {
        object["metadata"]["finalizers"] = body["metadata"]["finalizers"].clone();
    } else {
        for (key, value) in body.as_object().unwrap().iter().filter(|(key, _)| *key != "metadata") {
            object[key] = value.clone();
        }
        for key in ["labels", "annotations", "ownerReferences"] {
            object["metadata"][key] = body["metadata"][key].clone();
        }
    }
    let done = merge
        && object["metadata"]["deletionTimestamp"].is_string()
        && object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
    store.set(place.clone(), object);
    let written = store.objects[&place].clone();
    if done {
        store.remove(&place);
    }
    Json(written).into_response()
}
