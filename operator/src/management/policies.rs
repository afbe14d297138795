//! Policies, and what the broker says of itself.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Management, ManagementError};
use crate::config::percent_encoded;

#[derive(Deserialize)]
struct Standing {
    name: String,
    #[serde(rename = "vhost")]
    _vhost: Option<String>,
    /// Pattern, priority, definition and what it applies to.
    #[serde(flatten)]
    body: Map<String, Value>,
}

#[derive(Deserialize)]
struct Overview {
    rabbitmq_version: Option<String>,
}

impl Management {
    /// The version of the node that answers, in its own words.
    pub(crate) async fn version(&self) -> Result<Option<String>, ManagementError> {
        let overview: Option<Overview> = self.get("overview").await?;
        Ok(overview.and_then(|overview| overview.rabbitmq_version))
    }

    /// Policies whose names begin so, as they were put. The API knows no filter for these.
    pub(crate) async fn policies(&self, prefix: &str) -> Result<BTreeMap<String, Value>, ManagementError> {
        let all: Option<Vec<Standing>> = self.get(&format!("policies/{}", self.vhost)).await?;
        let ours = all.unwrap_or_default().into_iter().filter(|policy| policy.name.starts_with(prefix));
        Ok(ours.map(|policy| (policy.name, Value::Object(policy.body))).collect())
    }

    /// Makes or changes a policy.
    pub(crate) async fn put_policy(&self, name: &str, body: &Value) -> Result<(), ManagementError> {
        self.change(Method::PUT, &self.policy(name), Some(body.clone())).await
    }

    /// Deletes a policy.
    pub(crate) async fn delete_policy(&self, name: &str) -> Result<(), ManagementError> {
        self.change(Method::DELETE, &self.policy(name), None).await
    }

    fn policy(&self, name: &str) -> String {
        format!("policies/{}/{}", self.vhost, percent_encoded(name))
    }
}
