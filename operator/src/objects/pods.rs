//! What runner pods, and bridges, have in common: the runner container, its credentials, the pod's limits
//! under Pod Security `restricted`.

use std::collections::BTreeMap;
use std::time::Duration;

use funcatron_crds::{ResourceAmounts, ResourceLimits, names};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, ExecAction, LocalObjectReference,
    ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
    SeccompProfile, SecretKeySelector, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::config::OperatorConfig;

/// Runner and host: one plain user, so that each may use the other's sockets.
pub(crate) const PLATFORM_UID: i64 = 65_532;
/// Scratch space of each container; a pod beyond it is evicted rather than its node filled.
const SCRATCH_BYTES_MAX: &str = "1Gi";
/// What a pod may need beyond its drain: the host's own end.
const GRACE_HEADROOM: Duration = Duration::from_secs(15);
/// A rollout that stands still for so long is reported.
const PROGRESS_DEADLINE_S: i32 = 120;
/// Old ReplicaSets: one to compare with. Rolling back is a matter of the resources, not of Deployments.
const HISTORY_MAX: i32 = 1;
/// How often a runner's readiness is looked at.
const READY_PERIOD_S: i32 = 2;

/// Environment of the runner container that differs between kinds of runners.
pub(crate) type Env = Vec<EnvVar>;

/// A plain variable.
pub(crate) fn env(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.into()), value_from: None }
}

/// A mount of a volume.
pub(crate) fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { name: volume.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

/// A volume that lives with its pod.
pub(crate) fn scratch(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity(SCRATCH_BYTES_MAX.to_owned())),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// What every runner is told, whatever it hosts.
fn common_env(config: &OperatorConfig, namespace: &str, app: &str) -> Env {
    let pod_name = EnvVarSource {
        field_ref: Some(ObjectFieldSelector { field_path: "metadata.name".to_owned(), ..Default::default() }),
        ..EnvVarSource::default()
    };
    let broker_url = EnvVarSource {
        secret_key_ref: Some(SecretKeySelector {
            name: names::broker_secret(app),
            key: names::BROKER_URL_KEY.to_owned(),
            optional: None,
        }),
        ..EnvVarSource::default()
    };
    vec![
        env("FUNCATRON_INSTALLATION", config.installation.as_str()),
        env("FUNCATRON_NAMESPACE", namespace),
        env("FUNCATRON_APP", app),
        EnvVar { name: "FUNCATRON_RUNNER".to_owned(), value: None, value_from: Some(pod_name) },
        EnvVar { name: "FUNCATRON_AMQP_URL".to_owned(), value: None, value_from: Some(broker_url) },
        env("FUNCATRON_DRAIN_S", config.drain.as_secs().to_string()),
    ]
}

/// The container that holds the App's broker credentials and the function's calls. It accepts no connection, so its
/// readiness is asked inside.
pub(crate) fn runner(
    config: &OperatorConfig,
    namespace: &str,
    app: &str,
    own_env: Env,
    mut mounts: Vec<VolumeMount>,
) -> Container {
    mounts.push(mount("runner-tmp", "/tmp"));
    Container {
        name: "runner".to_owned(),
        image: Some(config.image.clone()),
        image_pull_policy: config.image_pull_policy.clone(),
        args: Some(vec!["runner".to_owned()]),
        env: Some(common_env(config, namespace, app).into_iter().chain(own_env).collect()),
        readiness_probe: Some(Probe {
            exec: Some(ExecAction { command: Some(vec!["funcatron".to_owned(), "ready".to_owned()]) }),
            period_seconds: Some(READY_PERIOD_S),
            timeout_seconds: Some(READY_PERIOD_S),
            ..Probe::default()
        }),
        resources: Some(ResourceRequirements {
            requests: Some(amounts(&[("cpu", "20m"), ("memory", "32Mi")])),
            limits: Some(amounts(&[("memory", "512Mi")])),
            ..ResourceRequirements::default()
        }),
        security_context: Some(restricted(PLATFORM_UID, true)),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn amounts(pairs: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    pairs.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect()
}

/// The user's resources in Kubernetes' own type.
pub(crate) fn resources(limits: Option<&ResourceLimits>) -> Option<ResourceRequirements> {
    let ResourceLimits { limits, requests } = limits?.clone();
    let amounts = |given: Option<ResourceAmounts>| {
        given.map(|ResourceAmounts { memory, cpu }| {
            let named = [("memory", memory), ("cpu", cpu)];
            named.into_iter().filter_map(|(name, amount)| Some((name.to_owned(), amount?))).collect()
        })
    };
    Some(ResourceRequirements { limits: amounts(limits), requests: amounts(requests), claims: None })
}

/// A container under Pod Security `restricted`.
pub(crate) fn restricted(uid: i64, read_only_root: bool) -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
        read_only_root_filesystem: read_only_root.then_some(true),
        run_as_non_root: Some(true),
        run_as_user: Some(uid),
        run_as_group: Some(uid),
        ..SecurityContext::default()
    }
}

/// The parts of a runner pod that vary.
pub(crate) struct Pod {
    /// The native sidecar that runs the user's code, where any runs.
    pub(crate) sidecar: Option<Container>,
    /// The runner container.
    pub(crate) runner: Container,
    /// Volumes of both.
    pub(crate) volumes: Vec<Volume>,
    /// Secrets to pull the images with.
    pub(crate) pull_secrets: Vec<String>,
}

/// The pod: no service-account token, no service links, time to drain.
fn pod_spec(config: &OperatorConfig, pod: Pod) -> PodSpec {
    let Pod { sidecar, runner, mut volumes, mut pull_secrets } = pod;
    // A native sidecar starts first and is stopped last, so a drain still has its function.
    let always = || Some("Always".to_owned());
    let sidecar = sidecar.map(|sidecar| vec![Container { restart_policy: always(), ..sidecar }]);
    volumes.push(scratch("runner-tmp"));
    pull_secrets.extend(config.image_pull_secrets.iter().cloned());
    pull_secrets.sort();
    pull_secrets.dedup();
    let grace = config.drain + GRACE_HEADROOM;
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(i64::try_from(grace.as_secs()).unwrap_or(i64::MAX)),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        image_pull_secrets: Some(
            pull_secrets.into_iter().map(|name| LocalObjectReference { name }).collect(),
        ),
        init_containers: sidecar,
        containers: vec![runner],
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

/// The Deployment of such pods: a new pod is ready before an old one goes.
pub(crate) fn deployment(
    config: &OperatorConfig,
    metadata: ObjectMeta,
    replicas: i32,
    selector: BTreeMap<String, String>,
    pod: Pod,
) -> Deployment {
    let labels = metadata.labels.clone();
    Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            revision_history_limit: Some(HISTORY_MAX),
            progress_deadline_seconds: Some(PROGRESS_DEADLINE_S),
            selector: LabelSelector { match_labels: Some(selector), match_expressions: None },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels, ..ObjectMeta::default() }),
                spec: Some(pod_spec(config, pod)),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}
