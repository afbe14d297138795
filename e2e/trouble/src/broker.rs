//! Where a RabbitMQ is, and the little of its management API that the tests need.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use funcatron_broker::names::Permissions;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// The virtual host of all tests, as it stands in paths.
const VHOST: &str = "%2F";

/// A broker's addresses, with the login of who may do everything.
#[derive(Debug, Clone)]
pub struct Broker {
    /// Who logs in.
    login: String,
    /// `host:port` of AMQP.
    amqp: String,
    /// `host:port` of management.
    management: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Broker {
    /// The broker of these URLs: `amqp://user:password@host:port/%2f` and `http://user:password@host:port`.
    pub fn at(amqp: &str, management: &str) -> Result<Self> {
        let parts = |url: &str| {
            let (login, place) = url.split_once("://")?.1.rsplit_once('@')?;
            Some((login.to_owned(), place.split('/').next()?.to_owned()))
        };
        let (login, amqp) = parts(amqp).context("the AMQP URL names no login and host")?;
        let (_, management) = parts(management).context("the management URL names no login and host")?;
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        Ok(Self { login, amqp, management, client })
    }

    /// The broker that is there for all tests.
    pub fn of_all_tests() -> Result<Self> {
        let url = |name| {
            std::env::var(name).with_context(|| format!("{name} is not set: cargo xtask test sets it"))
        };
        Self::at(&url("FUNCATRON_TEST_AMQP")?, &url("FUNCATRON_TEST_MANAGEMENT")?)
    }

    /// The same broker, reached for AMQP by another address.
    pub fn by_way_of(&self, amqp: SocketAddr) -> Self {
        Self { amqp: amqp.to_string(), ..self.clone() }
    }

    /// `host:port` of AMQP.
    pub fn amqp_address(&self) -> &str {
        &self.amqp
    }

    /// The AMQP URL of who may do everything.
    pub fn url(&self) -> String {
        format!("amqp://{}@{}/{}", self.login, self.amqp, "%2f")
    }

    /// The AMQP URL of another user.
    pub fn url_of(&self, user: &str, password: &str) -> String {
        format!("amqp://{user}:{password}@{}/{}", self.amqp, "%2f")
    }

    /// Makes a user with these permissions.
    pub async fn put_user(&self, user: &str, password: &str, permissions: &Permissions) -> Result<()> {
        let account = json!({"password": password, "tags": ""});
        self.done(Method::PUT, &format!("users/{user}"), Some(account)).await?;
        let Permissions { configure, write, read } = permissions;
        let grant = json!({"configure": configure, "write": write, "read": read});
        self.done(Method::PUT, &format!("permissions/{VHOST}/{user}"), Some(grant)).await
    }

    /// Deletes a user.
    pub async fn delete_user(&self, user: &str) -> Result<()> {
        self.done(Method::DELETE, &format!("users/{user}"), None).await
    }

    /// Deletes a queue, whatever is in it.
    pub async fn delete_queue(&self, queue: &str) -> Result<()> {
        self.done(Method::DELETE, &format!("queues/{VHOST}/{queue}"), None).await
    }

    /// Deletes an exchange with its bindings.
    pub async fn delete_exchange(&self, exchange: &str) -> Result<()> {
        self.done(Method::DELETE, &format!("exchanges/{VHOST}/{exchange}"), None).await
    }

    /// Whether an exchange is there.
    pub async fn has_exchange(&self, exchange: &str) -> Result<bool> {
        let (status, _) = self.ask(Method::GET, &format!("exchanges/{VHOST}/{exchange}"), None).await?;
        Ok(status == StatusCode::OK)
    }

    /// Names of all queues that begin so. Read from the queues themselves: nothing of it is a second old.
    pub async fn queues(&self, prefix: &str) -> Result<Vec<String>> {
        let list = self.list("queues/%2F?disable_stats=true&enable_queue_totals=true").await?;
        let names = list.iter().filter_map(|queue| queue["name"].as_str().map(str::to_owned));
        Ok(names.filter(|name| name.starts_with(prefix)).collect())
    }

    /// Prefetches of a queue's consumers.
    pub async fn prefetches(&self, queue: &str) -> Result<Vec<u64>> {
        let list = self.list(&format!("consumers/{VHOST}")).await?;
        let of_queue = list.iter().filter(|consumer| consumer["queue"]["name"] == queue);
        Ok(of_queue.filter_map(|consumer| consumer["prefetch_count"].as_u64()).collect())
    }

    /// Closes every connection that its client named so; says how many there were.
    pub async fn close_connections(&self, name: &str) -> Result<usize> {
        let list = self.list("connections").await?;
        let ours = list.iter().filter(|one| one["client_properties"]["connection_name"] == name);
        let paths = ours.filter_map(|one| one["name"].as_str());
        let paths: Vec<_> = paths.map(|path| path.replace(' ', "%20").replace('>', "%3E")).collect();
        for path in &paths {
            self.done(Method::DELETE, &format!("connections/{path}"), None).await?;
        }
        Ok(paths.len())
    }

    /// Whether no alarm of memory or disk is in effect.
    pub async fn is_calm(&self) -> Result<bool> {
        let (status, _) = self.ask(Method::GET, "health/checks/alarms", None).await?;
        Ok(status == StatusCode::OK)
    }

    /// Whether all of RabbitMQ is there: management starts last.
    pub async fn answers(&self) -> Result<()> {
        let (status, _) = self.ask(Method::GET, "health/checks/local-alarms", None).await?;
        ensure!(status == StatusCode::OK, "RabbitMQ's management answered {status}");
        Ok(())
    }

    async fn list(&self, path: &str) -> Result<Vec<Value>> {
        let (status, body) = self.ask(Method::GET, path, None).await?;
        ensure!(status == StatusCode::OK, "RabbitMQ's management answered {status} to GET {path}");
        serde_json::from_slice(&body).with_context(|| format!("read the list {path}"))
    }

    async fn done(&self, method: Method, path: &str, body: Option<Value>) -> Result<()> {
        let (status, _) = self.ask(method.clone(), path, body).await?;
        ensure!(status.is_success(), "RabbitMQ's management answered {status} to {method} {path}");
        Ok(())
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, Bytes)> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}/api/{path}", self.management))
            .header("authorization", format!("Basic {}", STANDARD.encode(&self.login)))
            .header("content-type", "application/json")
            .body(Full::new(body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()))))?;
        let answer = self.client.request(request).await.context("ask RabbitMQ's management")?;
        let status = answer.status();
        let body = answer.into_body().collect().await.context("read management's answer")?.to_bytes();
        Ok((status, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_amqp_address_is_another_by_another_way() {
        let broker = Broker::at("amqp://u:p@127.0.0.1:1/%2f", "http://u:p@127.0.0.1:2").unwrap();
        assert_eq!(broker.url(), "amqp://u:p@127.0.0.1:1/%2f");
        let other = broker.by_way_of(SocketAddr::from(([127, 0, 0, 1], 3)));
        assert_eq!(other.url_of("a", "b"), "amqp://a:b@127.0.0.1:3/%2f");
        assert_eq!(other.management, broker.management);
        assert!(Broker::at("127.0.0.1:1", "http://u:p@host").is_err());
    }
}
