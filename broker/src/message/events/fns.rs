//! What the ledger is told of a Fn: whom it calls back when a call of its has ended, and how it is called itself where
//! another calls it back.
//!
//! Sent by the platform alone. Never holds a secret of the platform's; a URL may hold one of its owner's.

use serde::{Deserialize, Serialize};

use crate::envelope::Envelope;
use crate::message::notes::{json, read_json};
use crate::message::{DecodeError, EncodeError, JSON_BYTES_MAX};

/// AMQP's `type` of a Fn's word.
pub(super) const FN_EVENT: &str = "fn-event";

/// Whom a call's end is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallbackTarget {
    /// A Fn of the same App.
    Fn(String),
    /// Whoever answers there.
    Url(String),
}

/// How a Fn is called, and whom it calls back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FnEvent {
    /// The broker user that sent it; the operator sends to the queue itself and sets none.
    #[serde(skip)]
    pub user_id: Option<String>,
    /// The App's namespace.
    pub namespace: String,
    /// The App.
    pub app: String,
    /// The Fn.
    #[serde(rename = "fn")]
    pub fn_name: String,
    /// When, in Unix milliseconds: an older word does not replace a newer one.
    #[serde(rename = "at")]
    pub at_ms: u64,
    /// Where it is invoked from inside the cluster.
    pub url: String,
    /// How long one attempt may take, in milliseconds.
    #[serde(rename = "timeout")]
    pub timeout_ms: u64,
    /// Attempts at a call that nobody waits for; as the wire has it where absent.
    #[serde(rename = "maxAttempts", default, skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    /// How long such a call may wait, in milliseconds; as the wire has it where absent.
    #[serde(rename = "maxAge", default, skip_serializing_if = "Option::is_none")]
    pub age_max_ms: Option<u64>,
    /// Whom a success is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_success: Option<CallbackTarget>,
    /// Whom a failure is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<CallbackTarget>,
    /// The Fn is gone.
    #[serde(default)]
    pub deleted: bool,
}

impl FnEvent {
    /// Makes it ready to be sent into the ledger's queue.
    pub fn into_envelope(self) -> Result<Envelope, EncodeError> {
        let mut envelope = json(FN_EVENT, &self, JSON_BYTES_MAX)?;
        envelope.properties.user_id = self.user_id;
        envelope.properties.persistent = true;
        Ok(envelope)
    }

    /// Reads a Fn's word.
    pub fn from_envelope(envelope: &Envelope) -> Result<Self, DecodeError> {
        let mut event: Self = read_json(FN_EVENT, envelope, JSON_BYTES_MAX)?;
        event.user_id.clone_from(&envelope.properties.user_id);
        Ok(event)
    }
}
