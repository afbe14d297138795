//! A bridge's word to the operator: how it stands with a queue on a broker of the user's own.
//!
//! Written in a tenant's namespace, so read as hostile: never trusted before `user_id` was compared with the user of the
//! App that it names.

use serde::{Deserialize, Serialize};

use crate::envelope::Envelope;
use crate::message::notes::{json, read_json};
use crate::message::{DecodeError, EncodeError, JSON_BYTES_MAX, fields};

const KIND: &str = "bridge-report";
/// A reason is a sentence.
const REASON_BYTES_MAX: usize = 1024;

/// How a bridge stands with a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BridgeState {
    /// Its broker has not answered yet.
    Starting,
    /// Its messages get through.
    Running,
    /// They do not.
    Trouble,
}

/// A bridge's word on one Trigger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BridgeReport {
    /// The broker user that sent it, which the broker has checked; absent, nothing was checked.
    #[serde(skip)]
    pub user_id: Option<String>,
    /// The App's namespace.
    pub namespace: String,
    /// The App.
    pub app: String,
    /// The Trigger.
    pub trigger: String,
    /// What the bridge was configured from, as the operator told it.
    pub configured: String,
    /// The bridge's pod.
    pub bridge: String,
    /// How it stands.
    pub state: BridgeState,
    /// What the trouble is, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl BridgeReport {
    /// Makes it ready to be sent to the reply exchange with `REPORTS_KEY`.
    pub fn into_envelope(mut self) -> Result<Envelope, EncodeError> {
        self.reason = self.reason.map(|text| fields::tail(text, REASON_BYTES_MAX));
        let mut envelope = json(KIND, &self, JSON_BYTES_MAX)?;
        envelope.properties.user_id = self.user_id;
        Ok(envelope)
    }

    /// Whether a message of the reports queue is this rather than a runner's report.
    pub fn is(envelope: &Envelope) -> bool {
        envelope.properties.kind.as_deref() == Some(KIND)
    }

    /// Reads it; a long reason loses its start.
    pub fn from_envelope(envelope: &Envelope) -> Result<Self, DecodeError> {
        let mut report: Self = read_json(KIND, envelope, JSON_BYTES_MAX)?;
        report.user_id.clone_from(&envelope.properties.user_id);
        report.reason = report.reason.map(|text| fields::tail(text, REASON_BYTES_MAX));
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> BridgeReport {
        BridgeReport {
            user_id: Some("i.team-a.shop".into()),
            namespace: "team-a".into(),
            app: "shop".into(),
            trigger: "on-order".into(),
            configured: "0123456789abcdef".into(),
            bridge: "shop-funcatron-bridge-x7".into(),
            state: BridgeState::Trouble,
            reason: Some("the queue is not there".into()),
        }
    }

    #[test]
    fn a_report_comes_back_as_it_went() {
        let sent = report().into_envelope().unwrap();
        assert!(BridgeReport::is(&sent));
        assert_eq!(BridgeReport::from_envelope(&sent), Ok(report()));
        let body: serde_json::Value = serde_json::from_slice(&sent.body).unwrap();
        assert_eq!((&body["state"], &body["trigger"]), (&"trouble".into(), &"on-order".into()));
        assert_eq!(body.get("userId"), None);
    }

    #[test]
    fn an_endless_reason_is_cut() {
        let sent = BridgeReport { reason: Some("x".repeat(100_000)), ..report() }.into_envelope().unwrap();
        let reason = BridgeReport::from_envelope(&sent).unwrap().reason.unwrap();
        assert_eq!(reason.len(), REASON_BYTES_MAX);
    }
}
