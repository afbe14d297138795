//! The broker of one `dev`: in this process, or a RabbitMQ of the user's.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::Connector;
use funcatron_broker::local::LocalBroker;
use funcatron_broker::names::Installation;
use funcatron_crds::Digest;
use tracing::warn;

use super::declared::Declared;

/// The first part of every name on the broker in this process.
const INSTALLATION: &str = "dev";
/// Digits of the folder's hash: two folders of one person never share them.
const ID_LENGTH: usize = 8;
/// Taking a few queues away is a matter of milliseconds; nobody waits long after Ctrl-C.
const TAKE_AWAY_TIMEOUT: Duration = Duration::from_secs(5);

/// A broker, and what we are called on it.
pub(crate) struct Broker {
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) installation: Installation,
    /// The one in this process; a user's own outlives it, and others use it too.
    pub(crate) local: Option<LocalBroker>,
}

impl Broker {
    /// The user's own at `url`, or one in this process.
    pub(crate) async fn open(url: Option<&str>, path: &Path) -> anyhow::Result<Self> {
        let Some(url) = url else {
            let installation = Installation::parse(INSTALLATION)?;
            let local = LocalBroker::new();
            return Ok(Self { connector: Arc::new(local.clone()), installation, local: Some(local) });
        };
        let connector = AmqpConnector::new(url, "funcatron dev");
        let user = connector.user().context("--amqp")?.to_owned();
        connector.connect().await.context("--amqp")?.close().await;
        let installation = Installation::parse(&id_of(path)?)?.shared_by(user);
        Ok(Self { connector: Arc::new(connector), installation, local: None })
    }

    /// Leaves the broker as it was.
    pub(crate) async fn leave(self, declared: Declared) {
        if self.local.is_some() {
            return;
        }
        let take_away = async {
            match self.connector.connect().await {
                Ok(link) => {
                    declared.take_away(link.as_ref()).await;
                    link.close().await;
                }
                Err(error) => warn!(%error, "our queues stay on the broker"),
            }
        };
        if tokio::time::timeout(TAKE_AWAY_TIMEOUT, take_away).await.is_err() {
            warn!("our queues stay on the broker: it took too long");
        }
    }
}

/// The same folder has the same id each time, so that events which waited over night are found again; two folders on
/// one broker do not see each other.
fn id_of(path: &Path) -> anyhow::Result<String> {
    let folder = path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?;
    let digest = Digest::of(folder.as_os_str().as_encoded_bytes()).to_string();
    let hex = digest.rsplit(':').next().unwrap_or_default();
    Ok(format!("{INSTALLATION}-{}", hex.chars().take(ID_LENGTH).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_id_and_shares_it_with_no_other() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let id = id_of(one.path()).unwrap();
        assert!(Installation::parse(&id).is_ok(), "{id}");
        assert_eq!(id, id_of(&one.path().join(".")).unwrap());
        assert_ne!(id, id_of(other.path()).unwrap());
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_told_without_its_password() {
        let error = Broker::open(Some("amqq://user:secret@host"), Path::new(".")).await.err().unwrap();
        let text = format!("{error:#}");
        assert!(text.contains("--amqp") && !text.contains("secret"), "{text}");
    }
}
