//! What a bridge is told by its pod's environment. Never reads it itself.

use std::path::PathBuf;
use std::time::Duration;

use funcatron_broker::names::AppNames;
use funcatron_crds::BridgedQueue;

/// All that a bridge is told.
#[derive(Debug, Clone)]
pub struct BridgeConfig {
    /// The App's names on the platform's broker.
    pub names: AppNames,
    /// The App's namespace.
    pub namespace: String,
    /// The App.
    pub app: String,
    /// This pod's name.
    pub pod: String,
    /// What is bridged.
    pub queues: Vec<BridgedQueue>,
    /// Where each queue's broker is written, in a file named like its Trigger.
    pub broker_dir: PathBuf,
    /// There while messages can be put into the platform's broker.
    pub ready_file: PathBuf,
    /// How long what is under way may take to end.
    pub drain: Duration,
}

/// The list of queues cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the list of queues cannot be read")]
pub struct ReadQueuesError(#[from] serde_json::Error);

/// Reads the list as the operator writes it.
pub fn read_queues(json: &str) -> Result<Vec<BridgedQueue>, ReadQueuesError> {
    Ok(serde_json::from_str(json)?)
}
