//! The small messages beside calls: wake, report, cancel.
//!
//! Wake and report are JSON, read leniently: a newer sender may add members.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::envelope::{Envelope, HeaderValue, Headers, Properties};
use crate::message::{CallId, DecodeError, EncodeError, JSON_BYTES_MAX, WIRE_HEADER, WIRE_VERSION, fields};

const WAKE: &str = "wake";
const REPORT: &str = "report";
const CANCEL: &str = "cancel";
const DURABLE_QUEUE: &str = "durable-queue";
const MISSING_QUEUE: &str = "missing-queue";
const JSON: &str = "application/json";
/// A report's reason and log are a hint, not an archive.
const REPORT_TEXT_BYTES_MAX: usize = 1024;

/// What a wake asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WakeKind {
    /// Calls wait: consume, and load at the first that is to run.
    Call,
    /// Load, without waiting for a call.
    Load,
}

/// Asks for someone who can host a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wake {
    /// What is asked for.
    pub kind: WakeKind,
    /// The App's namespace.
    pub namespace: String,
    /// The App.
    pub app: String,
    /// The Fn.
    #[serde(rename = "fn")]
    pub fn_name: String,
    /// The revision.
    pub revision: String,
    /// The digest of its run document.
    pub run: String,
    /// Where that is fetched.
    pub run_url: String,
    /// The digest of its code, where it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Where that is fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code_url: Option<String>,
    /// The revision's queue.
    pub queue: String,
    /// The Fn's durable queue, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable_queue: Option<String>,
}

impl Wake {
    /// Makes it ready to be sent; it lives as long as its sender waits before the next.
    pub fn into_envelope(self, expiration_ms: u64) -> Result<Envelope, EncodeError> {
        let mut envelope = json(WAKE, &self, JSON_BYTES_MAX)?;
        envelope.properties.expiration_ms = Some(expiration_ms);
        Ok(envelope)
    }

    /// Reads a wake.
    pub fn from_envelope(envelope: &Envelope) -> Result<Self, DecodeError> {
        read_json(WAKE, envelope, JSON_BYTES_MAX)
    }
}

/// What a runner has to tell about a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReportEvent {
    /// It is loaded and takes calls.
    Loaded,
    /// It could not be loaded.
    Failed,
    /// A Secret's or ConfigMap's key that it needs is not there.
    KeyMissing,
    /// It is unloaded and takes no calls.
    Unloaded,
    /// A dedicated function hangs: its pod wants replacing.
    Stuck,
}

/// A runner's word to the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The broker user that sent it, which the broker has checked; absent, nothing was checked.
    #[serde(skip)]
    pub user_id: Option<String>,
    /// What happened.
    pub event: ReportEvent,
    /// The App's namespace.
    pub namespace: String,
    /// The App.
    pub app: String,
    /// The Fn.
    #[serde(rename = "fn")]
    pub fn_name: String,
    /// The revision.
    pub revision: String,
    /// The runner's pod.
    pub runner: String,
    /// Why, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The last lines of the log, at most 1 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

impl Report {
    /// Makes it ready to be sent to the reply exchange with `REPORTS_KEY`; long texts lose their start.
    pub fn into_envelope(mut self) -> Result<Envelope, EncodeError> {
        self.reason = self.reason.map(|text| fields::tail(text, REPORT_TEXT_BYTES_MAX));
        self.log = self.log.map(|text| fields::tail(text, REPORT_TEXT_BYTES_MAX));
        let mut envelope = json(REPORT, &self, JSON_BYTES_MAX)?;
        envelope.properties.user_id = self.user_id;
        Ok(envelope)
    }

    /// Reads a report; long texts lose their start.
    pub fn from_envelope(envelope: &Envelope) -> Result<Self, DecodeError> {
        let mut report: Self = read_json(REPORT, envelope, JSON_BYTES_MAX)?;
        report.user_id.clone_from(&envelope.properties.user_id);
        report.reason = report.reason.map(|text| fields::tail(text, REPORT_TEXT_BYTES_MAX));
        report.log = report.log.map(|text| fields::tail(text, REPORT_TEXT_BYTES_MAX));
        Ok(report)
    }
}

/// A gateway's word to the operator that it has made a Fn's durable queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DurableQueue {
    /// The App's namespace.
    pub namespace: String,
    /// The App.
    pub app: String,
    /// The Fn.
    #[serde(rename = "fn")]
    pub fn_name: String,
}

impl DurableQueue {
    /// Makes it ready to be put into the reports queue itself, which no App's user may write to.
    pub fn into_envelope(self) -> Result<Envelope, EncodeError> {
        json(DURABLE_QUEUE, &self, JSON_BYTES_MAX)
    }

    /// Whether a message of the reports queue is this rather than a report.
    pub fn is(envelope: &Envelope) -> bool {
        envelope.properties.kind.as_deref() == Some(DURABLE_QUEUE)
    }

    /// Reads it.
    pub fn from_envelope(envelope: &Envelope) -> Result<Self, DecodeError> {
        read_json(DURABLE_QUEUE, envelope, JSON_BYTES_MAX)
    }
}

/// A gateway's word to the operator that the queue of a Fn's revision, which its table names, is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingQueue {
    /// The App's namespace.
    pub namespace: String,
    /// The App.
    pub app: String,
    /// The Fn.
    #[serde(rename = "fn")]
    pub fn_name: String,
}

impl MissingQueue {
    /// Makes it ready to be put into the reports queue itself, which no App's user may write to.
    pub fn into_envelope(self) -> Result<Envelope, EncodeError> {
        json(MISSING_QUEUE, &self, JSON_BYTES_MAX)
    }

    /// Whether a message of the reports queue is this rather than a report.
    pub fn is(envelope: &Envelope) -> bool {
        envelope.properties.kind.as_deref() == Some(MISSING_QUEUE)
    }

    /// Reads it.
    pub fn from_envelope(envelope: &Envelope) -> Result<Self, DecodeError> {
        read_json(MISSING_QUEUE, envelope, JSON_BYTES_MAX)
    }
}

/// Nobody waits for this call any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancel {
    /// The call.
    pub id: CallId,
}

impl Cancel {
    /// Makes it ready to be sent to the App's cancel exchange.
    pub fn into_envelope(self) -> Envelope {
        let mut envelope = ours(CANCEL);
        envelope.properties.message_id = Some(self.id.to_string());
        envelope
    }

    /// Reads a cancel.
    pub fn from_envelope(envelope: &Envelope) -> Result<Self, DecodeError> {
        fields::check(envelope, CANCEL)?;
        let id = fields::call_id("message-id", envelope.properties.message_id.as_deref())?;
        Ok(Self { id })
    }
}

pub(super) fn ours(kind: &str) -> Envelope {
    let mut headers = Headers::with_capacity(1);
    headers.push(WIRE_HEADER.to_owned(), HeaderValue::Int(WIRE_VERSION));
    let properties = Properties { kind: Some(kind.to_owned()), ..Properties::default() };
    Envelope { properties, headers, body: Bytes::new() }
}

pub(super) fn json<T: Serialize>(kind: &str, value: &T, bytes_max: usize) -> Result<Envelope, EncodeError> {
    let body = serde_json::to_vec(value).expect("names and texts serialise to JSON");
    if body.len() > bytes_max {
        return Err(EncodeError::Body { bytes: body.len(), max: bytes_max });
    }
    let mut envelope = ours(kind);
    envelope.properties.content_type = Some(JSON.to_owned());
    envelope.body = Bytes::from(body);
    Ok(envelope)
}

pub(super) fn read_json<T: DeserializeOwned>(
    kind: &'static str,
    envelope: &Envelope,
    bytes_max: usize,
) -> Result<T, DecodeError> {
    fields::check(envelope, kind)?;
    if envelope.body.len() > bytes_max {
        return Err(DecodeError::Body(format!("{} bytes, and {bytes_max} are allowed", envelope.body.len())));
    }
    serde_json::from_slice(&envelope.body).map_err(|error| DecodeError::Body(error.to_string()))
}
