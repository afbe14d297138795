//! What is known of the policies that stand: read whole once, then held against what shall stand, so that nothing is
//! written that stands already. Doubted from time to time, so that what was changed by hand is found.

use std::collections::BTreeMap;

use funcatron_broker::names::Installation;
use funcatron_broker::policy::Policy;
use parking_lot::Mutex;
use serde_json::Value;
use tracing::info;

use crate::management::{Management, ManagementError};

/// Policies of this installation, by name.
type Standing = BTreeMap<String, Value>;

#[derive(Default)]
struct Known {
    /// Absent: to be read.
    standing: Option<Standing>,
    /// Counts what changed while nothing was known: what was read before that does not count.
    changes: u64,
}

impl Known {
    fn note(&mut self, change: impl FnOnce(&mut Standing)) {
        match &mut self.standing {
            Some(standing) => change(standing),
            None => self.changes += 1,
        }
    }
}

/// Keeps policies; several reconciles at once may.
#[derive(Default)]
pub(crate) struct Keeper {
    known: Mutex<Known>,
}

impl Keeper {
    /// Reads them again at the next use.
    pub(crate) fn doubt(&self) {
        let mut known = self.known.lock();
        known.standing = None;
        known.changes += 1;
    }

    /// Whether one of that name is known to stand.
    pub(crate) fn stands(&self, name: &str) -> bool {
        self.known.lock().standing.as_ref().is_some_and(|standing| standing.contains_key(name))
    }

    /// Has a policy stand as it shall.
    pub(crate) async fn ensure(
        &self,
        management: &Management,
        installation: &Installation,
        policy: &Policy,
    ) -> Result<(), ManagementError> {
        let (name, body) = (policy.name(), policy.body());
        if self.standing(management, installation, &name).await?.as_ref() == Some(&body) {
            return Ok(());
        }
        info!(policy = name, "writing a policy");
        management.put_policy(&name, &body).await?;
        self.known.lock().note(|standing| drop(standing.insert(name, body)));
        Ok(())
    }

    /// Takes a policy away.
    pub(crate) async fn remove(&self, management: &Management, name: &str) -> Result<(), ManagementError> {
        info!(policy = name, "deleting a policy");
        management.delete_policy(name).await?;
        self.known.lock().note(|standing| drop(standing.remove(name)));
        Ok(())
    }

    /// The policy of that name as it stands.
    async fn standing(
        &self,
        management: &Management,
        installation: &Installation,
        name: &str,
    ) -> Result<Option<Value>, ManagementError> {
        let changes = {
            let known = self.known.lock();
            if let Some(standing) = &known.standing {
                return Ok(standing.get(name).cloned());
            }
            known.changes
        };
        let read = management.policies(&installation.prefix()).await?;
        let found = read.get(name).cloned();
        let mut known = self.known.lock();
        if known.changes == changes {
            known.standing.get_or_insert(read);
        }
        Ok(found)
    }
}
