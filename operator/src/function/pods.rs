//! A dedicated Fn's pods: how many are ready, and what keeps the others. Pods are read only while something is wrong.

use std::time::Duration;

use funcatron_crds::{RunDocument, names};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::Api;
use kube::api::ListParams;

use super::status::Pods;
use crate::context::{Context, READ_TIMEOUT};
use crate::objects::dedicated;

/// Pods looked at: one tells as much as ten.
const PODS_MAX: u32 = 3;
/// How often unready pods are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Reasons for waiting that are no trouble.
const HARMLESS: [&str; 2] = ["ContainerCreating", "PodInitializing"];
/// A registry's answer may be long.
const TROUBLE_CHARS_MAX: usize = 500;

impl Pods {
    /// When to look again, while something is missing.
    pub(super) fn look_again(&self) -> Option<Duration> {
        (self.ready < self.wanted).then_some(LOOK_INTERVAL)
    }
}

/// Counts the newest revision's ready pods; looks for trouble while none is ready.
pub(super) async fn observe(ctx: &Context, document: &RunDocument, wanted: i32) -> Pods {
    let name = names::dedicated_runner(&document.revision);
    let deployment = ctx.caches.deployments.get(&document.namespace, &name);
    let ready = deployment.and_then(|deployment| deployment.status.as_ref()?.ready_replicas).unwrap_or(0);
    let trouble = match ready == 0 && wanted > 0 {
        true => trouble_of(ctx, document).await,
        false => None,
    };
    Pods { wanted, ready, trouble }
}

async fn trouble_of(ctx: &Context, document: &RunDocument) -> Option<String> {
    let selector = dedicated::selector(document);
    let labels = selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    let api = Api::<Pod>::namespaced(ctx.client.clone(), &document.namespace);
    let parameters = ListParams::default().labels(&labels).limit(PODS_MAX);
    let pods = tokio::time::timeout(READ_TIMEOUT, api.list(&parameters)).await.ok()?.ok()?;
    pods.items.iter().find_map(trouble)
}

/// What a pod's containers wait for, or why it has no node.
fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let unscheduled = || {
        let condition = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
        Some(format!("the pod finds no node: {}", condition.message.clone().unwrap_or_default()))
    };
    let text = containers.into_iter().find_map(waiting).or_else(unscheduled)?;
    Some(text.chars().take(TROUBLE_CHARS_MAX).collect())
}

fn waiting(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().filter(|reason| !HARMLESS.contains(reason))?;
    let message = waiting.message.as_deref().unwrap_or_default();
    Some(format!("container {}: {reason}: {message}", container.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(reason: &str) -> Pod {
        let pod = serde_json::json!({"status": {"initContainerStatuses": [{
            "name": "function", "ready": false, "restartCount": 0, "image": "x", "imageID": "",
            "state": {"waiting": {"reason": reason, "message": "not found"}},
        }]}});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_named_with_its_container() {
        let said = trouble(&pod("ErrImagePull")).unwrap();
        assert_eq!(said, "container function: ErrImagePull: not found");
    }

    #[test]
    fn a_pod_that_is_starting_is_in_no_trouble() {
        assert_eq!(trouble(&pod("ContainerCreating")), None);
    }

    #[test]
    fn unready_pods_are_looked_at_again_and_ready_ones_are_not() {
        let pods = |wanted, ready| Pods { wanted, ready, trouble: None };
        assert!(pods(1, 0).look_again().is_some());
        assert!(pods(1, 1).look_again().is_none());
    }
}
