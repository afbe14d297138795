//! The NetworkPolicy of an App's runner pods and its bridge: nobody may connect to them.

use std::collections::BTreeMap;

use funcatron_crds::App;
use funcatron_crds::names::{LABEL_APP, LABEL_NAMESPACE, LABEL_PART, PART_BRIDGE, PART_RUNNER};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::ResourceExt;

use super::{labels, metadata, owner};

/// Its name, in the App's namespace.
pub(crate) fn name(app: &str) -> String {
    format!("{app}-funcatron-runners")
}

/// Builds it; an Ingress policy without a rule lets nothing in.
pub(crate) fn build(app: &App) -> NetworkPolicy {
    let (namespace, app_name) = (app.namespace().unwrap_or_default(), app.name_any());
    let selected: BTreeMap<String, String> =
        [(LABEL_NAMESPACE, namespace.as_str()), (LABEL_APP, app_name.as_str())]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    let parts = LabelSelectorRequirement {
        key: LABEL_PART.to_owned(),
        operator: "In".to_owned(),
        values: Some([PART_RUNNER, PART_BRIDGE].map(str::to_owned).into()),
    };
    NetworkPolicy {
        metadata: metadata(
            name(&app_name),
            &namespace,
            labels(PART_RUNNER, &namespace, &app_name),
            owner(app),
        ),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(selected),
                match_expressions: Some(vec![parts]),
            }),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ..NetworkPolicySpec::default()
        }),
    }
}
