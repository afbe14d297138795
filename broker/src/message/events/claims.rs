//! A runner's question whether an attempt of a call is to be run, and the ledger's word.
//!
//! An id may be published twice, by whoever did not live to see that it had been. Each publication has a nonce, and the
//! first whose nonce is claimed is the call; a redelivery carries the same one, and is run again.
//!
//! Never decides: that is the ledger's.

use serde::{Deserialize, Serialize};

use super::check_attempt;
use crate::envelope::Envelope;
use crate::message::notes::{json, read_json};
use crate::message::{CallId, DecodeError, EncodeError, JSON_BYTES_MAX, fields};

/// AMQP's `type` of the question …
pub(super) const CLAIM: &str = "claim";
/// … and of the word.
const CLAIMED: &str = "claimed";
/// A claimant is a nonce; a UUID fits.
const CLAIMANT_BYTES_MAX: usize = 64;

/// A nonce for one publication of a call.
pub fn fresh_claimant() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

pub(in crate::message) fn check_claimant(claimant: &str) -> Result<(), DecodeError> {
    if claimant.is_empty() || claimant.len() > CLAIMANT_BYTES_MAX {
        return Err(fields::invalid("claimant", "not 1 to 64 bytes"));
    }
    Ok(())
}

/// May this attempt of this publication run?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The broker user that asks, which the broker has checked; absent, nothing was checked.
    pub user_id: Option<String>,
    /// The call.
    pub id: CallId,
    /// The asking runner's own queue.
    pub reply_to: String,
    /// The App's namespace.
    pub namespace: String,
    /// The App.
    pub app: String,
    /// The Fn.
    pub fn_name: String,
    /// The attempt, from 1.
    pub attempt: u32,
    /// The publication's nonce, as its message has it.
    pub claimant: String,
}

/// Whether it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It is this publication's to run.
    Run,
    /// Another publication is the call, or the call is over: acknowledge it and do nothing.
    Duplicate,
    /// This publication was given up on: it belongs among the dead letters.
    Dead,
}

/// The ledger's word on a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The call.
    pub id: CallId,
    /// The attempt that was claimed.
    pub attempt: u32,
    /// The publication that claimed it.
    pub claimant: String,
    /// The word.
    pub verdict: Verdict,
}

#[derive(Serialize, Deserialize)]
struct ClaimBody {
    namespace: String,
    app: String,
    #[serde(rename = "fn")]
    fn_name: String,
    attempt: u32,
    claimant: String,
}

#[derive(Serialize, Deserialize)]
struct ClaimedBody {
    attempt: u32,
    claimant: String,
    verdict: Verdict,
}

impl Claim {
    /// Makes it ready to be sent to the reply exchange with `LEDGER_KEY`.
    pub fn into_envelope(self) -> Result<Envelope, EncodeError> {
        let Self { user_id, id, reply_to, namespace, app, fn_name, attempt, claimant } = self;
        let body = ClaimBody { namespace, app, fn_name, attempt, claimant };
        let mut envelope = json(CLAIM, &body, JSON_BYTES_MAX)?;
        envelope.properties.message_id = Some(id.to_string());
        envelope.properties.reply_to = Some(reply_to);
        envelope.properties.user_id = user_id;
        fields::sendable(envelope)
    }

    /// Reads a claim.
    pub fn from_envelope(envelope: &Envelope) -> Result<Self, DecodeError> {
        let body = read_json(CLAIM, envelope, JSON_BYTES_MAX)?;
        let ClaimBody { namespace, app, fn_name, attempt, claimant } = body;
        check_attempt(attempt)?;
        check_claimant(&claimant)?;
        let properties = &envelope.properties;
        Ok(Self {
            user_id: properties.user_id.clone(),
            id: fields::call_id("message-id", properties.message_id.as_deref())?,
            reply_to: properties.reply_to.clone().ok_or(DecodeError::Missing("reply-to"))?,
            namespace,
            app,
            fn_name,
            attempt,
            claimant,
        })
    }
}

impl Claimed {
    /// Makes it ready to be sent to the claim's `reply_to`.
    pub fn into_envelope(self) -> Result<Envelope, EncodeError> {
        let Self { id, attempt, claimant, verdict } = self;
        let mut envelope = json(CLAIMED, &ClaimedBody { attempt, claimant, verdict }, JSON_BYTES_MAX)?;
        envelope.properties.message_id = Some(id.to_string());
        Ok(envelope)
    }

    /// Reads the ledger's word.
    pub fn from_envelope(envelope: &Envelope) -> Result<Self, DecodeError> {
        let ClaimedBody { attempt, claimant, verdict } = read_json(CLAIMED, envelope, JSON_BYTES_MAX)?;
        let id = fields::call_id("message-id", envelope.properties.message_id.as_deref())?;
        Ok(Self { id, attempt, claimant, verdict })
    }
}
