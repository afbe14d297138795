use std::collections::BTreeSet;

use funcatron_crds::names::LABEL_PART;
use funcatron_crds::{
    App, AppRunners, AppSpec, BridgedQueue, Contract, Digest, EnvVar, EnvVarSource, FnScale, FnSource,
    FnSpec, Function, KeySelector, LocalObjectReference, ObjectKind, RunDocument, SecretKeyRef,
};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};

use super::{bridge, config_maps, dedicated, network, revisions, secret, shared};
use crate::config::{BrokerAddress, OperatorConfig};

pub(crate) fn config() -> OperatorConfig {
    OperatorConfig {
        installation: funcatron_broker::names::Installation::parse("i").unwrap(),
        system_namespace: "funcatron".into(),
        image: "registry/funcatron:1".into(),
        host_images: [("python".to_owned(), "registry/python:1".to_owned())].into(),
        image_pull_policy: Some("IfNotPresent".into()),
        image_pull_secrets: vec!["ours".into()],
        gateway_internal_url: "http://gateway.funcatron.svc".into(),
        gateway_public_url: "http://gw.example.com".into(),
        ledger_url: None,
        management_url: "http://u:p@rabbit:15672".into(),
        runner_broker: BrokerAddress::parse("rabbit:5672").unwrap(),
        signing_key: funcatron_crds::SigningKey::new(&[7; 32]).unwrap(),
        lease_name: "operator".into(),
        identity: "me".into(),
        ops: ([127, 0, 0, 1], 0).into(),
        workers: 1,
        drain: std::time::Duration::from_secs(30),
    }
}

fn app() -> App {
    let mut app = App::new("shop", AppSpec::default());
    app.metadata.namespace = Some("team-a".into());
    app.metadata.uid = Some("app-uid".into());
    app
}

fn image_fn() -> Function {
    let spec = FnSpec {
        app: "shop".into(),
        image: Some("registry/invoice:1.4".into()),
        image_pull_secrets: vec![LocalObjectReference { name: "regcred".into() }],
        env: vec![
            EnvVar { name: "PRICE".into(), value: Some("5$".into()), value_from: None },
            EnvVar {
                name: "DB".into(),
                value: None,
                value_from: Some(EnvVarSource {
                    secret_key_ref: Some(KeySelector {
                        name: "db".into(),
                        key: "url".into(),
                        optional: None,
                    }),
                    config_map_key_ref: None,
                }),
            },
        ],
        scale: Some(FnScale { replicas: Some(2) }),
        ..FnSpec::default()
    };
    let mut function = Function::new("invoice", spec);
    function.metadata.namespace = Some("team-a".into());
    function.metadata.uid = Some("fn-uid".into());
    function
}

fn document(function: &Function) -> RunDocument {
    let name = function.metadata.name.as_deref().unwrap();
    RunDocument::build("team-a", name, &app().spec, &function.spec, None).unwrap()
}

fn objects() -> BTreeSet<shared::ConfigObject> {
    [(ObjectKind::Secret, "db.with.dots".to_owned()), (ObjectKind::ConfigMap, "shop-config".to_owned())]
        .into()
}

fn built_shared() -> Value {
    value(&shared::build(&config(), &app(), "python", "registry/python:1", &objects()))
}

fn built_dedicated() -> Value {
    let function = image_fn();
    value(&dedicated::build(&config(), &app(), &function, &document(&function), true))
}

fn bridged(trigger: &str, secret: &str) -> bridge::Bridged {
    let queue = BridgedQueue {
        trigger: trigger.into(),
        queue: "orders".into(),
        prefetch: 50,
        configured: "0123456789abcdef".into(),
    };
    (queue, SecretKeyRef { name: secret.into(), key: "url".into() })
}

fn built_bridge() -> Value {
    value(&bridge::build(&config(), &app(), &[bridged("on-order", "rabbit"), bridged("on-paid", "bank")]))
}

#[test]
fn a_bridge_has_the_apps_credentials_and_finds_its_brokers_in_files() {
    let deployment = built_bridge();
    assert_eq!(deployment["metadata"]["name"], "shop-funcatron-bridge");
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["initContainers"], Value::Null);
    let container = container(&deployment, "containers", "bridge");
    assert_eq!(container["args"], json!(["bridge"]));
    assert_eq!(container["readinessProbe"]["exec"]["command"], json!(["funcatron", "ready"]));
    let url = &variable(container, "FUNCATRON_AMQP_URL")["valueFrom"]["secretKeyRef"];
    assert_eq!(url["name"], "shop-funcatron-broker");
    let told = variable(container, "FUNCATRON_BRIDGE_QUEUES")["value"].as_str().unwrap();
    let told: Vec<BridgedQueue> = serde_json::from_str(told).unwrap();
    assert_eq!(told, [bridged("on-order", "rabbit").0, bridged("on-paid", "bank").0]);
    assert!(mounts(container).contains(&("brokers", "/run/funcatron/brokers")));
    let volume =
        pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "brokers").unwrap();
    let secret = &volume["projected"]["sources"][1]["secret"];
    assert_eq!(secret["items"], json!([{"key": "url", "path": "on-paid"}]));
    assert_eq!((&secret["name"], &secret["optional"]), (&json!("bank"), &json!(true)));
}

fn value(deployment: &Deployment) -> Value {
    serde_json::to_value(deployment).unwrap()
}

fn container<'a>(deployment: &'a Value, list: &str, name: &str) -> &'a Value {
    let containers = deployment["spec"]["template"]["spec"][list].as_array().unwrap();
    containers.iter().find(|container| container["name"] == name).unwrap()
}

fn mounts(container: &Value) -> Vec<(&str, &str)> {
    let mounts = container["volumeMounts"].as_array().unwrap();
    mounts
        .iter()
        .map(|mount| (mount["name"].as_str().unwrap(), mount["mountPath"].as_str().unwrap()))
        .collect()
}

fn variable<'a>(container: &'a Value, name: &str) -> &'a Value {
    let variables = container["env"].as_array().unwrap();
    variables.iter().find(|variable| variable["name"] == name).unwrap_or(&Value::Null)
}

#[test]
fn every_runner_pod_keeps_to_pod_security_restricted_and_holds_no_token() {
    for deployment in [built_shared(), built_dedicated(), built_bridge()] {
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["enableServiceLinks"], false);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        let sidecars = pod["initContainers"].as_array().into_iter().flatten();
        for container in sidecars.chain(pod["containers"].as_array().unwrap()) {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
            assert_eq!(context["runAsNonRoot"], true);
        }
    }
}

#[test]
fn a_rollout_brings_a_new_pod_before_an_old_one_goes_and_outlasts_a_drain() {
    for deployment in [built_shared(), built_dedicated()] {
        assert_eq!(
            deployment["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})
        );
        let grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(grace > 30);
    }
}

#[test]
fn the_host_holds_neither_credentials_nor_configuration() {
    let deployment = built_shared();
    let host = container(&deployment, "initContainers", "host");
    assert_eq!(host["restartPolicy"], "Always");
    assert_eq!(host["image"], "registry/python:1");
    assert_eq!(mounts(host), [("run", "/run/funcatron"), ("host-tmp", "/tmp")]);
    assert!(!host.to_string().contains("secret"));
    assert_eq!(*variable(host, "FUNCATRON_AMQP_URL"), Value::Null);
}

#[test]
fn the_shared_runner_holds_credentials_and_configuration() {
    let deployment = built_shared();
    let runner = container(&deployment, "containers", "runner");
    assert_eq!(runner["args"], json!(["runner"]));
    assert_eq!(
        variable(runner, "FUNCATRON_AMQP_URL")["valueFrom"]["secretKeyRef"],
        json!({"name": "shop-funcatron-broker", "key": "url"})
    );
    assert_eq!(variable(runner, "FUNCATRON_RUNNER")["valueFrom"]["fieldRef"]["fieldPath"], "metadata.name");
    for (name, wanted) in [
        ("FUNCATRON_INSTALLATION", "i"),
        ("FUNCATRON_NAMESPACE", "team-a"),
        ("FUNCATRON_APP", "shop"),
        ("FUNCATRON_RUNTIME", "python"),
        ("FUNCATRON_CONTROL_SOCKET", "/run/funcatron/control.sock"),
        ("FUNCATRON_CODE_DIR", "/run/funcatron/code"),
        ("FUNCATRON_WORKER_DIR", "/run/funcatron/w"),
        ("FUNCATRON_CONFIG_DIR", "/run/funcatron/config"),
    ] {
        assert_eq!(variable(runner, name)["value"], wanted, "{name}");
    }
    let paths: Vec<&str> = mounts(runner).into_iter().map(|(_, path)| path).collect();
    assert!(paths.contains(&"/run/funcatron/config/secrets/db.with.dots"));
    assert!(paths.contains(&"/run/funcatron/config/configmaps/shop-config"));
    assert_eq!(runner["readinessProbe"]["exec"]["command"], json!(["funcatron", "ready"]));
    assert_eq!(runner["securityContext"]["readOnlyRootFilesystem"], true);
}

#[test]
fn configuration_volumes_are_optional_and_named_as_kubernetes_asks() {
    let deployment = built_shared();
    let volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let of = |kind: &str| volumes.iter().find(|volume| volume.get(kind).is_some()).unwrap();
    assert_eq!(of("secret")["secret"], json!({"secretName": "db.with.dots", "optional": true}));
    assert_eq!(of("configMap")["configMap"], json!({"name": "shop-config", "optional": true}));
    for volume in volumes {
        let name = volume["name"].as_str().unwrap();
        assert!(name.len() <= 63 && !name.contains('.'), "{name}");
    }
    for volume in volumes.iter().filter_map(|volume| volume.get("emptyDir")) {
        assert!(volume["sizeLimit"].is_string());
    }
}

#[test]
fn a_dedicated_function_runs_under_fns_contract() {
    let deployment = built_dedicated();
    let function = container(&deployment, "initContainers", "function");
    assert_eq!(function["restartPolicy"], "Always");
    assert_eq!(function["image"], "registry/invoice:1.4");
    assert_eq!(function["securityContext"]["runAsUser"], 1000);
    for (name, wanted) in [
        ("FN_LISTENER", "unix:/tmp/iofs/lsnr.sock"),
        ("FN_FORMAT", "http-stream"),
        ("FN_FN_NAME", "invoice"),
        ("FN_APP_NAME", "shop"),
        ("FN_FN_ID", "fn-uid"),
        ("FN_APP_ID", "app-uid"),
        ("FN_MEMORY", "128"),
        ("FN_TYPE", "sync"),
        ("PRICE", "5$$"),
    ] {
        assert_eq!(variable(function, name)["value"], wanted, "{name}");
    }
    assert_eq!(variable(function, "DB")["valueFrom"]["secretKeyRef"], json!({"name": "db", "key": "url"}));
    assert_eq!(mounts(function), [("function-tmp", "/tmp"), ("iofs", "/tmp/iofs")]);
    assert!(!function.to_string().contains("shop-funcatron-broker"));
}

/// The Deployment of a plain HTTP server, in an App that sets PORT for others.
fn built_http() -> Value {
    let (mut app, mut function) = (app(), image_fn());
    app.spec.env = vec![EnvVar { name: "PORT".into(), value: Some("3000".into()), value_from: None }];
    function.spec.contract = Some(Contract::Http);
    let document = RunDocument::build("team-a", "invoice", &app.spec, &function.spec, None).unwrap();
    value(&dedicated::build(&config(), &app, &function, &document, false))
}

#[test]
fn a_plain_server_is_told_its_port_and_nothing_of_fns_contract() {
    let deployment = built_http();
    let function = container(&deployment, "initContainers", "function");
    let all: Vec<_> =
        function["env"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(all.iter().filter(|name| **name == "PORT").count(), 1, "{all:?}");
    for (name, wanted) in
        [("PORT", "8080"), ("FN_FN_NAME", "invoice"), ("FN_APP_NAME", "shop"), ("PRICE", "5$$")]
    {
        assert_eq!(variable(function, name)["value"], wanted, "{name}");
    }
    assert!(!all.contains(&"FN_LISTENER") && !all.contains(&"FN_FORMAT"), "{all:?}");
    let runner = container(&deployment, "containers", "runner");
    for (name, wanted) in [("FUNCATRON_CONTRACT", "http"), ("FUNCATRON_PORT", "8080")] {
        assert_eq!(variable(runner, name)["value"], wanted, "{name}");
    }
    assert_eq!(*variable(runner, "FUNCATRON_SOCKET"), Value::Null);
}

#[test]
fn a_plain_server_shares_no_directory_with_its_runner() {
    let deployment = built_http();
    let function = container(&deployment, "initContainers", "function");
    assert_eq!(mounts(function), [("function-tmp", "/tmp")]);
    assert_eq!(mounts(container(&deployment, "containers", "runner")), [("runner-tmp", "/tmp")]);
    assert!(!deployment.to_string().contains("iofs"));
}

/// An upgrade of the platform must not roll the pods of those who said nothing of a contract.
#[test]
fn a_function_of_fns_contract_is_run_as_ever() {
    let runner = built_dedicated();
    let runner = container(&runner, "containers", "runner");
    assert_eq!(*variable(runner, "FUNCATRON_CONTRACT"), Value::Null);
    let names: Vec<_> =
        runner["env"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    let own = ["FUNCATRON_FN", "FUNCATRON_REVISION", "FUNCATRON_SOCKET", "FUNCATRON_CONCURRENCY"];
    assert_eq!(names[6..10], own);
}

#[test]
fn a_dedicated_runner_knows_its_one_revision() {
    let deployment = built_dedicated();
    let revision = document(&image_fn()).revision;
    assert_eq!(deployment["metadata"]["name"], revision.as_str());
    assert_eq!(deployment["spec"]["replicas"], 2);
    assert_eq!(deployment["spec"]["selector"]["matchLabels"]["funcatron.dev/revision"], revision.as_str());
    let runner = container(&deployment, "containers", "runner");
    for (name, wanted) in [
        ("FUNCATRON_FN", "invoice"),
        ("FUNCATRON_REVISION", revision.as_str()),
        ("FUNCATRON_SOCKET", "/tmp/iofs/lsnr.sock"),
        ("FUNCATRON_CONCURRENCY", "1"),
        ("FUNCATRON_TIMEOUT_MS", "30000"),
        ("FUNCATRON_MAX_ATTEMPTS", "4"),
        ("FUNCATRON_DURABLE", "true"),
    ] {
        assert_eq!(variable(runner, name)["value"], wanted, "{name}");
    }
    let secrets = &deployment["spec"]["template"]["spec"]["imagePullSecrets"];
    assert_eq!(*secrets, json!([{"name": "ours"}, {"name": "regcred"}]));
}

#[test]
fn a_dedicated_runner_knows_the_attempts_that_its_fn_allows() {
    let mut function = image_fn();
    function.spec.detached = serde_json::from_value(json!({"retry": {"maxAttempts": 7}})).unwrap();
    let deployment = value(&dedicated::build(&config(), &app(), &function, &document(&function), true));
    let runner = container(&deployment, "containers", "runner");
    assert_eq!(variable(runner, "FUNCATRON_MAX_ATTEMPTS")["value"], "7");
}

#[test]
fn what_an_app_asks_of_its_runners_is_honoured() {
    let mut app = app();
    let resources = serde_json::from_value(json!({"limits": {"memory": "512Mi", "cpu": "1"}})).unwrap();
    app.spec.runners = Some(AppRunners { min: Some(3), resources: Some(resources) });
    let deployment = value(&shared::build(&config(), &app, "python", "registry/python:1", &BTreeSet::new()));
    assert_eq!(deployment["spec"]["replicas"], 3);
    let host = container(&deployment, "initContainers", "host");
    assert_eq!(host["resources"], json!({"limits": {"memory": "512Mi", "cpu": "1"}}));
}

#[test]
fn a_deployment_selects_its_own_pods_and_goes_with_its_owner() {
    for (deployment, uid) in [(built_shared(), "app-uid"), (built_dedicated(), "fn-uid")] {
        let labels = deployment["spec"]["template"]["metadata"]["labels"].as_object().unwrap();
        for (key, wanted) in deployment["spec"]["selector"]["matchLabels"].as_object().unwrap() {
            assert_eq!(labels.get(key), Some(wanted));
        }
        assert_eq!(deployment["metadata"]["ownerReferences"][0]["uid"], uid);
        assert_eq!(labels["app.kubernetes.io/managed-by"], "funcatron-operator");
    }
}

#[test]
fn the_policy_lets_nothing_into_any_runner_of_the_app() {
    let policy = serde_json::to_value(network::build(&app())).unwrap();
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
    assert_eq!(policy["spec"]["ingress"], Value::Null);
    for deployment in [built_shared(), built_dedicated(), built_bridge()] {
        let labels = deployment["spec"]["template"]["metadata"]["labels"].as_object().unwrap();
        for (key, wanted) in policy["spec"]["podSelector"]["matchLabels"].as_object().unwrap() {
            assert_eq!(labels.get(key), Some(wanted));
        }
        let parts = &policy["spec"]["podSelector"]["matchExpressions"][0];
        assert_eq!((&parts["key"], &parts["operator"]), (&json!(LABEL_PART), &json!("In")));
        assert!(parts["values"].as_array().unwrap().contains(&labels[LABEL_PART]));
    }
}

#[test]
fn the_secret_holds_the_url_alone() {
    let secret = serde_json::to_value(secret::build(&app(), "amqp://u:p@rabbit".into())).unwrap();
    assert_eq!(secret["stringData"], json!({"url": "amqp://u:p@rabbit"}));
    assert_eq!(secret["metadata"]["name"], "shop-funcatron-broker");
}

#[test]
fn a_revision_is_read_back_as_it_was_stored_and_holds_no_code() {
    let spec = FnSpec {
        app: "shop".into(),
        runtime: Some("python".into()),
        source: Some(FnSource { inline: Some("TOP SECRET SOURCE".into()), ..FnSource::default() }),
        env: image_fn().spec.env,
        ..FnSpec::default()
    };
    let mut function = Function::new("hello", spec);
    function.metadata.namespace = Some("team-a".into());
    function.metadata.uid = Some("fn-uid".into());
    let code = Some(Digest::of(b"TOP SECRET SOURCE"));
    let document = RunDocument::build("team-a", "hello", &app().spec, &function.spec, code).unwrap();
    let record = revisions::Record::of(&document);
    let object = revisions::build(&function, &document.revision, 7, &record);
    assert!(!serde_json::to_string(&object).unwrap().contains("TOP SECRET"));
    let stored = revisions::read(&object).unwrap();
    assert_eq!((stored.number, &stored.record), (7, &record));
    assert_eq!(stored.record.objects().collect::<Vec<_>>(), [(ObjectKind::Secret, "db".to_owned())]);
}

#[test]
fn a_large_table_is_compressed_the_same_way_each_time() {
    use funcatron_crds::names::{TABLE_GZIP_KEY, TABLE_KEY};
    let map = |text: &str| {
        config_maps::app_table("funcatron", "team-a", "shop", config_maps::Content::of(text.to_owned()))
    };
    let small = map("{}");
    assert_eq!(small.data.unwrap()[TABLE_KEY], "{}");
    let text = "x".repeat(200_000);
    let (one, other) = (map(&text), map(&text));
    assert_eq!(one, other);
    assert!(one.binary_data.unwrap()[TABLE_GZIP_KEY].0.len() < 10_000);
}
