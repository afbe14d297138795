//! Wakes, read once into a type that can be believed. Pure.

use funcatron_broker::link::Envelope;
use funcatron_broker::message::{DecodeError, Wake, WakeKind};
use funcatron_broker::names::{NameError, QueueName};
use funcatron_crds::{Digest, RevisionName};

use crate::session::{Identity, Subject};

/// Why a wake is not followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WakeError {
    #[error(transparent)]
    Read(#[from] DecodeError),
    #[error("it is for another App")]
    OtherApp,
    #[error("{0} is not valid")]
    Invalid(&'static str),
    #[error(transparent)]
    Name(#[from] NameError),
}

/// Something to fetch.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub digest: Digest,
    pub url: String,
}

/// A wake for this runner's App.
#[derive(Debug)]
pub(crate) struct ValidWake {
    pub kind: WakeKind,
    pub subject: Subject,
    pub run: Source,
    pub code: Option<Source>,
    pub queue: QueueName,
    pub durable: Option<QueueName>,
}

impl ValidWake {
    /// Reads a wake. Queue names follow from App, Fn and revision: others are not believed.
    pub(crate) fn from_envelope(envelope: &Envelope, identity: &Identity) -> Result<Self, WakeError> {
        let Wake {
            kind,
            namespace,
            app,
            fn_name,
            revision,
            run,
            run_url,
            code,
            code_url,
            queue,
            durable_queue,
        } = Wake::from_envelope(envelope)?;
        if namespace != identity.namespace || app != identity.app {
            return Err(WakeError::OtherApp);
        }
        let revision = RevisionName::parse(&revision).map_err(|_| WakeError::Invalid("revision"))?;
        if revision.fn_name() != fn_name {
            return Err(WakeError::Invalid("fn"));
        }
        let own_queue = identity.names.revision_queue(revision.as_str())?;
        if queue != own_queue.as_str() {
            return Err(WakeError::Invalid("queue"));
        }
        let own_durable = identity.names.durable_queue(&fn_name)?;
        if durable_queue.as_ref().is_some_and(|queue| queue != own_durable.as_str()) {
            return Err(WakeError::Invalid("durableQueue"));
        }
        Ok(Self {
            kind,
            subject: Subject { fn_name, revision },
            run: source(&run, run_url, "run")?,
            code: optional_source(code, code_url)?,
            queue: own_queue,
            durable: durable_queue.map(|_| own_durable),
        })
    }
}

fn optional_source(digest: Option<String>, url: Option<String>) -> Result<Option<Source>, WakeError> {
    match (digest, url) {
        (Some(digest), Some(url)) => source(&digest, url, "code").map(Some),
        (None, None) => Ok(None),
        _ => Err(WakeError::Invalid("codeUrl")),
    }
}

fn source(digest: &str, url: String, field: &'static str) -> Result<Source, WakeError> {
    let digest = Digest::parse(digest).map_err(|_| WakeError::Invalid(field))?;
    Ok(Source { digest, url })
}
