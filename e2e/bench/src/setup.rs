//! What an operator would have made on the broker: the App's user with its permissions, and the topology.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::{Connector as _, fresh_suffix};
use funcatron_broker::names::{AppNames, Installation, Permissions, QueueName};
use funcatron_broker::topology;
use http::{Method, Request, Uri};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::{APP, FUNCTION, NAMESPACE, REVISION};

/// An App on the broker, until it is taken down.
pub(crate) struct Setup<'a> {
    amqp: &'a str,
    management: &'a str,
    /// A bench's own id: two may run on one broker.
    pub(crate) installation: Installation,
    names: AppNames,
    /// Where the App's runner logs in.
    pub(crate) runner_url: String,
}

impl<'a> Setup<'a> {
    /// Makes the user and declares the topology.
    pub(crate) async fn make(amqp: &'a str, management: &'a str) -> Result<Self> {
        let installation = Installation::parse(&format!("bench-{}", std::process::id()))?;
        let names = AppNames::new(&installation, NAMESPACE, APP)?;
        let password = fresh_suffix();
        let (scheme, place) = split(amqp)?;
        let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
        let runner_url = format!("{scheme}://{}:{password}@{host}", names.user());
        let setup = Self { amqp, management, installation, names, runner_url };
        setup.put_user(&password).await?;
        let link = AmqpConnector::new(amqp, "bench").connect().await.context("connect to the broker")?;
        let items = [
            topology::installation(&setup.installation),
            topology::app(&setup.names),
            topology::revision(&setup.names, REVISION)?,
            topology::durable(&setup.names, FUNCTION)?,
            // Nobody takes what is told to it here.
            topology::ledger(&setup.installation),
        ];
        link.declare(&items.concat()).await.context("declare the topology")?;
        link.close().await;
        Ok(setup)
    }

    /// Leaves nothing behind.
    pub(crate) async fn take_down(self) -> Result<()> {
        let link = AmqpConnector::new(self.amqp, "bench").connect().await.context("connect to the broker")?;
        let calls = [self.names.revision_queue(REVISION)?, self.installation.reports_queue()];
        for queue in calls.into_iter().chain(self.durable_queues()?) {
            link.delete_queue(&queue, false).await.context("delete a queue")?;
        }
        for exchange in [self.names.cancel_exchange(), self.installation.reply_exchange()] {
            link.delete_exchange(&exchange).await.context("delete an exchange")?;
        }
        link.close().await;
        self.manage(Method::DELETE, &format!("users/{}", self.names.user()), None).await
    }

    /// Takes out what waits for nobody.
    pub(crate) async fn empty(&self) -> Result<()> {
        let vhost = vhost(self.amqp)?;
        for queue in self.durable_queues()? {
            self.manage(Method::DELETE, &format!("queues/{vhost}/{queue}/contents"), None).await?;
        }
        Ok(())
    }

    fn durable_queues(&self) -> Result<[QueueName; 3]> {
        let Self { names, installation, .. } = self;
        Ok([names.durable_queue(FUNCTION)?, names.dead_queue(FUNCTION)?, installation.ledger_queue()])
    }

    async fn put_user(&self, password: &str) -> Result<()> {
        let user = self.names.user();
        let account = serde_json::json!({"password": password, "tags": ""});
        self.manage(Method::PUT, &format!("users/{user}"), Some(account)).await?;
        let Permissions { configure, write, read } = self.names.permissions();
        let grant = serde_json::json!({"configure": configure, "write": write, "read": read});
        let vhost = vhost(self.amqp)?;
        self.manage(Method::PUT, &format!("permissions/{vhost}/{user}"), Some(grant)).await
    }

    async fn manage(&self, method: Method, path: &str, body: Option<serde_json::Value>) -> Result<()> {
        let (scheme, place) = split(self.management)?;
        let (login, host) = place.rsplit_once('@').context("the management URL names no user")?;
        let uri: Uri = format!("{scheme}://{}/api/{path}", host.trim_end_matches('/')).parse()?;
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = Request::builder()
            .method(&method)
            .uri(uri)
            .header("authorization", format!("Basic {}", STANDARD.encode(login)))
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let status = client.request(request).await.context("ask RabbitMQ's management")?.status();
        ensure!(status.is_success(), "RabbitMQ's management answered {status} to {method} {path}");
        Ok(())
    }
}

/// The port of an AMQP URL.
pub(crate) fn port(amqp: &str) -> Result<u16> {
    let (_, place) = split(amqp)?;
    let authority = place.split('/').next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.rsplit_once(':').map_or(Ok(5672), |(_, port)| port.parse()).context("read the broker's port")
}

/// The virtual host of an AMQP URL, percent-encoded as it stands there.
fn vhost(amqp: &str) -> Result<&str> {
    let (_, place) = split(amqp)?;
    Ok(place.split_once('/').map_or("%2f", |(_, vhost)| vhost))
}

fn split(url: &str) -> Result<(&str, &str)> {
    // Not shown: it may hold a password.
    url.split_once("://").context("the broker's address is no URL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_tells_port_and_virtual_host() {
        assert_eq!(port("amqp://u:p@127.0.0.1:5673/%2f").unwrap(), 5673);
        assert_eq!(port("amqp://u:p@host/a").unwrap(), 5672);
        assert_eq!(vhost("amqp://u:p@host:1/a").unwrap(), "a");
        assert_eq!(vhost("amqp://u:p@host:1").unwrap(), "%2f");
        assert!(port("127.0.0.1:5672").is_err());
    }
}
