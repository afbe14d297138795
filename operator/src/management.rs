//! RabbitMQ's management HTTP API: users, permissions, policies, and what stands under a name. Never touches a message.
//! (<https://www.rabbitmq.com/docs/http-api-reference>)

mod policies;

use std::time::Duration;

use funcatron_broker::names::Permissions;
use reqwest::{Certificate, Client, Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config::percent_encoded;

/// A broker that has not answered by then is down for this reconcile.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Names in one answer.
const PAGE_SIZE: usize = 500;
/// Pages read at most: half a million names, far beyond one broker.
const PAGES_MAX: usize = 1000;

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManagementError {
    /// The URL is none. It holds a password, and is therefore not shown.
    #[error("the management URL cannot be read")]
    Address,
    /// No HTTP client can be made.
    #[error("cannot make an HTTP client")]
    Client(#[source] reqwest::Error),
    /// No answer.
    #[error("the broker's management API does not answer")]
    Unreachable(#[source] reqwest::Error),
    /// An answer that cannot be read.
    #[error("the broker's management API answered nonsense")]
    Answer(#[source] reqwest::Error),
    /// An answer that says no.
    #[error("the broker's management API refused {act}: {status}")]
    Refused {
        /// What was asked.
        act: String,
        /// Its status.
        status: StatusCode,
    },
}

impl ManagementError {
    /// Whether the broker answered at all.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Answer(_))
    }
}

/// A binding as it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) struct Binding {
    /// The exchange; empty for the default one.
    pub(crate) source: String,
    /// Its key.
    pub(crate) routing_key: String,
}

/// Absent until the broker has counted once.
#[derive(Deserialize)]
struct Counts {
    messages: Option<u64>,
    messages_unacknowledged: Option<u64>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Named>,
    page_count: usize,
}

#[derive(Deserialize, PartialEq, Eq)]
struct Granted {
    configure: String,
    write: String,
    read: String,
}

/// The management API of one broker and virtual host.
pub(crate) struct Management {
    http: Client,
    base: Url,
    user: String,
    password: Option<String>,
    vhost: String,
}

impl Management {
    /// At `http[s]://user:password@host:port[/path]`.
    pub(crate) fn new(url: &str, vhost: &str) -> Result<Self, ManagementError> {
        let mut base = Url::parse(url).map_err(|_| ManagementError::Address)?;
        let user = percent_decoded(base.username());
        let password = base.password().map(percent_decoded);
        let bare = base.set_username("").and_then(|()| base.set_password(None));
        bare.map_err(|()| ManagementError::Address)?;
        let roots = if base.scheme() == "https" { system_roots() } else { vec![] };
        let builder = Client::builder().timeout(REQUEST_TIMEOUT).tls_certs_only(roots);
        let http = builder.build().map_err(ManagementError::Client)?;
        Ok(Self { http, base, user, password, vhost: percent_encoded(vhost) })
    }

    /// Whether that user stands with exactly these permissions.
    pub(crate) async fn has_user(
        &self,
        user: &str,
        permissions: &Permissions,
    ) -> Result<bool, ManagementError> {
        let path = format!("permissions/{}/{}", self.vhost, percent_encoded(user));
        let granted: Option<Granted> = self.get(&path).await?;
        let Permissions { configure, write, read } = permissions;
        Ok(granted.is_some_and(|granted| {
            granted.configure == *configure && granted.write == *write && granted.read == *read
        }))
    }

    /// Makes the user stand with that password and these permissions.
    pub(crate) async fn put_user(
        &self,
        user: &str,
        password: &str,
        permissions: &Permissions,
    ) -> Result<(), ManagementError> {
        let name = percent_encoded(user);
        let account = serde_json::json!({"password": password, "tags": ""});
        self.change(Method::PUT, &format!("users/{name}"), Some(account)).await?;
        let Permissions { configure, write, read } = permissions;
        let grant = serde_json::json!({"configure": configure, "write": write, "read": read});
        self.change(Method::PUT, &format!("permissions/{}/{name}", self.vhost), Some(grant)).await
    }

    /// Deletes the user; the broker closes its connections.
    pub(crate) async fn delete_user(&self, user: &str) -> Result<(), ManagementError> {
        self.change(Method::DELETE, &format!("users/{}", percent_encoded(user)), None).await
    }

    /// Deletes a queue with what is in it.
    pub(crate) async fn delete_queue(&self, queue: &str) -> Result<(), ManagementError> {
        let path = format!("queues/{}/{}", self.vhost, percent_encoded(queue));
        self.change(Method::DELETE, &path, None).await
    }

    /// Deletes an exchange.
    pub(crate) async fn delete_exchange(&self, exchange: &str) -> Result<(), ManagementError> {
        let path = format!("exchanges/{}/{}", self.vhost, percent_encoded(exchange));
        self.change(Method::DELETE, &path, None).await
    }

    /// Names of users that begin so.
    pub(crate) async fn users(&self, prefix: &str) -> Result<Vec<String>, ManagementError> {
        self.names("users", prefix).await
    }

    /// Names of queues that begin so.
    pub(crate) async fn queues(&self, prefix: &str) -> Result<Vec<String>, ManagementError> {
        self.names(&format!("queues/{}", self.vhost), prefix).await
    }

    /// Names of exchanges that begin so.
    pub(crate) async fn exchanges(&self, prefix: &str) -> Result<Vec<String>, ManagementError> {
        self.names(&format!("exchanges/{}", self.vhost), prefix).await
    }

    /// Whether nothing at all is in a queue, out with its consumers included. As of some seconds ago: the broker counts
    /// now and then.
    pub(crate) async fn is_idle(&self, queue: &str) -> Result<bool, ManagementError> {
        let path = format!("queues/{}/{}", self.vhost, percent_encoded(queue));
        let counts: Option<Counts> = self.get(&path).await?;
        Ok(counts
            .is_some_and(|counts| counts.messages == Some(0) && counts.messages_unacknowledged == Some(0)))
    }

    /// A queue's bindings, the default exchange's left out.
    pub(crate) async fn bindings(&self, queue: &str) -> Result<Vec<Binding>, ManagementError> {
        let path = format!("queues/{}/{}/bindings", self.vhost, percent_encoded(queue));
        let bindings: Option<Vec<Binding>> = self.get(&path).await?;
        Ok(bindings.unwrap_or_default().into_iter().filter(|binding| !binding.source.is_empty()).collect())
    }

    /// Reads page after page; the filter is checked again here, since what it names is deleted.
    async fn names(&self, path: &str, prefix: &str) -> Result<Vec<String>, ManagementError> {
        let pattern = percent_encoded(&format!("^{}", prefix.replace('.', r"\.")));
        let mut names = vec![];
        for page in 1..=PAGES_MAX {
            let query = format!(
                "{path}?page={page}&page_size={PAGE_SIZE}&name={pattern}&use_regex=true&columns=name&pagination=true"
            );
            let Some(Page { items, page_count }) = self.get(&query).await? else { break };
            names.extend(items.into_iter().map(|item| item.name).filter(|name| name.starts_with(prefix)));
            if page >= page_count {
                break;
            }
        }
        Ok(names)
    }

    /// `None` where there is nothing of that name.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ManagementError> {
        let response = self.send(Method::GET, path, None).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => response.json().await.map(Some).map_err(ManagementError::Answer),
            status => Err(refused(&Method::GET, path, status)),
        }
    }

    /// What is gone already need not be deleted.
    async fn change(
        &self,
        method: Method,
        path: &str,
        body: Option<serde_json::Value>,
    ) -> Result<(), ManagementError> {
        let status = self.send(method.clone(), path, body).await?.status();
        let gone = method == Method::DELETE && status == StatusCode::NOT_FOUND;
        if status.is_success() || gone { Ok(()) } else { Err(refused(&method, path, status)) }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<serde_json::Value>,
    ) -> Result<Response, ManagementError> {
        let base = self.base.as_str().trim_end_matches('/');
        let mut request = self
            .http
            .request(method, format!("{base}/api/{path}"))
            .basic_auth(&self.user, self.password.as_deref());
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.map_err(|error| ManagementError::Unreachable(error.without_url()))
    }
}

/// The system's own certificate authorities. An image without any still reaches a broker over plain HTTP.
fn system_roots() -> Vec<Certificate> {
    let found = rustls_native_certs::load_native_certs().certs;
    found.iter().filter_map(|root| Certificate::from_der(root).ok()).collect()
}

fn refused(method: &Method, path: &str, status: StatusCode) -> ManagementError {
    let path = path.split('?').next().unwrap_or_default();
    ManagementError::Refused { act: format!("{method} {path}"), status }
}

/// `Url` hands out credentials as they stood in the text.
fn percent_decoded(text: &str) -> String {
    crate::config::percent_decoded(text).unwrap_or_else(|| text.to_owned())
}
