//! What the operator is told at its start. Never read again, never changed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use funcatron_broker::names::Installation;
use funcatron_crds::address::SigningKey;

/// All that the operator is told.
#[derive(Clone, Debug)]
pub struct OperatorConfig {
    /// First part of every broker name.
    pub installation: Installation,
    /// Where tables, bundles and the Lease live.
    pub system_namespace: String,
    /// Image of the `runner` container.
    pub image: String,
    /// Image of the `host` container, by runtime; the runtimes that Fns may name.
    pub host_images: BTreeMap<String, String>,
    /// `imagePullPolicy` of our own images (`Always`, `IfNotPresent` or `Never`); absent: Kubernetes' default.
    pub image_pull_policy: Option<String>,
    /// Secrets in the App's namespace with which our own images are pulled.
    pub image_pull_secrets: Vec<String>,
    /// Base URL of the gateway's internal Service: `http://<service>.<system namespace>.svc`.
    pub gateway_internal_url: String,
    /// Base URL under which Routes without hostnames and HTTP Triggers answer: `http://gateway.example.com`.
    pub gateway_public_url: String,
    /// RabbitMQ's management URL with the right to make users: `http://user:password@host:15672`.
    pub management_url: String,
    /// Base URL of the call ledger, `http://<service>.<system namespace>.svc`; absent: there is none.
    pub ledger_url: Option<String>,
    /// Where runners find the broker.
    pub runner_broker: BrokerAddress,
    /// Shared with the gateways: signs bundle addresses and derives the Apps' broker passwords.
    pub signing_key: SigningKey,
    /// Name of the Lease in the system namespace.
    pub lease_name: String,
    /// This process among its peers: the pod's name.
    pub identity: String,
    /// Where `/livez`, `/readyz` and `/metrics` answer.
    pub ops: SocketAddr,
    /// Reconciles at once.
    pub workers: usize,
    /// How long a runner may take to finish its calls when it is stopped.
    pub drain: Duration,
}

impl OperatorConfig {
    /// The gateway's own hostname, as its public URL says.
    pub(crate) fn gateway_host(&self) -> &str {
        let rest = self
            .gateway_public_url
            .split_once("://")
            .map_or(self.gateway_public_url.as_str(), |(_, rest)| rest);
        rest.split(['/', ':']).next().unwrap_or_default()
    }
}

/// A broker as runners reach it, without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    /// `amqp` or `amqps`.
    scheme: &'static str,
    /// `host:port`.
    authority: String,
    /// The virtual host.
    vhost: String,
}

/// Why an address is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the runners' broker address must be [amqp[s]://]host[:port][/vhost], without credentials")]
pub struct BrokerAddressError;

impl BrokerAddress {
    /// Reads `[amqp[s]://]host[:port][/vhost]`; the virtual host is `/` unless said otherwise.
    pub fn parse(text: &str) -> Result<Self, BrokerAddressError> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("amqp", rest)) => ("amqp", rest),
            Some(("amqps", rest)) => ("amqps", rest),
            Some(_) => return Err(BrokerAddressError),
            None => ("amqp", text),
        };
        let (authority, vhost) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        if authority.is_empty() || !authority.chars().all(plain) || vhost.contains(['?', '#', '/']) {
            return Err(BrokerAddressError);
        }
        let vhost = percent_decoded(vhost).ok_or(BrokerAddressError)?;
        let vhost = if vhost.is_empty() { "/".to_owned() } else { vhost };
        Ok(Self { scheme, authority: authority.to_owned(), vhost })
    }

    /// The virtual host's name.
    pub fn vhost(&self) -> &str {
        &self.vhost
    }

    /// The URL of one user.
    pub(crate) fn url(&self, user: &str, password: &str) -> String {
        let Self { scheme, authority, vhost } = self;
        format!(
            "{scheme}://{}:{}@{authority}/{}",
            percent_encoded(user),
            percent_encoded(password),
            percent_encoded(vhost)
        )
    }
}

/// Everything but RFC 3986's unreserved characters is escaped.
pub(crate) fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

pub(crate) fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_url_carries_credentials_and_an_escaped_vhost() {
        let address = BrokerAddress::parse("rabbit.mq.svc:5672/%2Ffn").unwrap();
        assert_eq!(address.vhost(), "/fn");
        assert_eq!(address.url("i.team-a.shop", "s3"), "amqp://i.team-a.shop:s3@rabbit.mq.svc:5672/%2Ffn");
    }

    #[test]
    fn the_vhost_is_slash_unless_said_otherwise() {
        for text in ["rabbit", "rabbit/", "amqps://rabbit:5671"] {
            assert_eq!(BrokerAddress::parse(text).unwrap().vhost(), "/");
        }
    }

    #[test]
    fn credentials_and_other_schemes_are_refused() {
        for text in ["", "http://rabbit", "amqp://u:p@rabbit", "rabbit/a/b", "rabbit/%zz"] {
            assert_eq!(BrokerAddress::parse(text), Err(BrokerAddressError), "{text}");
        }
    }
}
