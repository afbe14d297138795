//! The whole operator against a fake API server and the local broker: from an applied App and Fn to a table, over a
//! failing change, a restart, and the App's end.

#![allow(clippy::unwrap_used, reason = "helpers of a test fail it by panicking, as the test itself does")]

#[path = "whole/bridges.rs"]
mod bridges;
#[path = "whole/callbacks.rs"]
mod callbacks;
mod fake;
#[path = "whole/policies.rs"]
mod policies;
#[path = "whole/schedules.rs"]
mod schedules;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use fake::api::Api;
use fake::management::Management;
use funcatron_broker::link::{Connector as _, ConsumeOptions, Event, Link, Target};
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{Report, ReportEvent, Wake};
use funcatron_broker::names::{AppNames, Installation};
use funcatron_broker::topology;
use funcatron_operator::{BrokerAddress, OperatorConfig};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const APPS: &str = "funcatron.dev/v1alpha1/apps";
const FNS: &str = "funcatron.dev/v1alpha1/fns";
const ROUTES: &str = "funcatron.dev/v1alpha1/routes";
const MAPS: &str = "core/v1/configmaps";
const DEPLOYMENTS: &str = "apps/v1/deployments";
/// Far above what any step takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

fn installation() -> Installation {
    Installation::parse("i").unwrap()
}

struct World {
    api: Api,
    management: Management,
    broker: LocalBroker,
    ops: std::net::SocketAddr,
    ledger_url: Option<String>,
}

struct Running {
    shutdown: CancellationToken,
    ended: JoinHandle<Result<(), funcatron_operator::OperatorError>>,
}

impl World {
    async fn new() -> Self {
        let _ = tracing_subscriber::fmt()
            .with_test_writer()
            .with_env_filter("funcatron_operator=debug")
            .try_init();
        let _ = rustls::crypto::ring::default_provider().install_default();
        // An address of its own: no outgoing connection can take the port while the operator restarts.
        static WORLDS: AtomicU8 = AtomicU8::new(2);
        let free = std::net::TcpListener::bind((
            Ipv4Addr::new(127, 0, 77, WORLDS.fetch_add(1, Ordering::Relaxed)),
            0,
        ));
        let free = free.unwrap();
        let ops = free.local_addr().unwrap();
        Self {
            api: Api::start().await,
            management: Management::start().await,
            broker: LocalBroker::new(),
            ops,
            ledger_url: None,
        }
    }

    fn config(&self) -> OperatorConfig {
        OperatorConfig {
            installation: installation(),
            system_namespace: "funcatron".into(),
            image: "registry/funcatron:1".into(),
            host_images: [("python".to_owned(), "registry/python:1".to_owned())].into(),
            image_pull_policy: None,
            image_pull_secrets: vec![],
            gateway_internal_url: "http://gateway.funcatron.svc".into(),
            gateway_public_url: "http://gw.example.com".into(),
            management_url: self.management.url.clone(),
            ledger_url: self.ledger_url.clone(),
            runner_broker: BrokerAddress::parse("rabbit:5672").unwrap(),
            signing_key: funcatron_crds::SigningKey::new(&[7; 32]).unwrap(),
            lease_name: "operator".into(),
            identity: "me".into(),
            ops: self.ops,
            workers: 4,
            drain: Duration::from_secs(1),
        }
    }

    fn start(&self) -> Running {
        let client = kube::Client::try_from(kube::Config::new(self.api.url.parse().unwrap())).unwrap();
        let shutdown = CancellationToken::new();
        let broker = Arc::new(self.broker.clone());
        let ended = tokio::spawn(funcatron_operator::run(self.config(), client, broker, shutdown.clone()));
        Running { shutdown, ended }
    }

    fn condition(&self, kind: &str, name: &str, condition: &str) -> (String, String, String) {
        let object = self.api.get(kind, "team-a", name).unwrap_or_default();
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|found| found["type"] == condition).unwrap_or_default();
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    fn table(&self) -> Value {
        let map = self.api.get(MAPS, "funcatron", "app.team-a.shop").unwrap_or_default();
        serde_json::from_str(map["data"]["table.json"].as_str().unwrap_or("null")).unwrap()
    }

    /// The Deployment controller: what shall be, is.
    fn make_pods_ready(&self) {
        for (place, deployment) in self.api.all(DEPLOYMENTS) {
            let replicas = deployment["spec"]["replicas"].clone();
            if deployment["status"]["readyReplicas"] != replicas {
                self.api.set_status(&place, json!({"readyReplicas": replicas, "replicas": replicas}));
            }
        }
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !holds(self) {
                self.make_pods_ready();
                tokio::time::sleep(POLL).await;
            }
        });
        assert!(waited.await.is_ok(), "never: {what}\n{:#?}", self.api.all(FNS));
    }

    /// How often objects of a kind were reconciled, by the operator's own numbers.
    async fn reconciles(&self, kind: &str) -> u64 {
        let url = format!("http://{}/metrics", self.ops);
        let Ok(answer) = reqwest::get(url).await else { return 0 };
        let text = answer.text().await.unwrap_or_default();
        let of_kind =
            text.lines().filter(|line| line.contains(&format!("reconciles_total{{kind=\"{kind}\"")));
        of_kind.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

impl Running {
    async fn stop(self) {
        self.shutdown.cancel();
        self.ended.await.unwrap().unwrap();
    }
}

/// Shared runners of the App: they answer each `load` by the code's word: `bad` code fails.
async fn run_runners(broker: LocalBroker, bad: fn(&Wake) -> bool) -> Arc<dyn Link> {
    let link = broker.connect().await.unwrap();
    let names = AppNames::new(&installation(), "team-a", "shop").unwrap();
    link.declare(&topology::installation(&installation())).await.unwrap();
    link.declare(&topology::wake(&names, "python").unwrap()).await.unwrap();
    let queue = names.wake_queue("python").unwrap();
    let mut wakes =
        link.consume(&queue, ConsumeOptions { prefetch: 1, exclusive: false, no_ack: true }).await.unwrap();
    let answering = Arc::clone(&link);
    tokio::spawn(async move {
        while let Some(Event::Delivery(delivery)) = wakes.next().await {
            let wake = Wake::from_envelope(&delivery.envelope).unwrap();
            let failed = bad(&wake);
            let report = Report {
                user_id: Some(names.user().to_owned()),
                event: if failed { ReportEvent::Failed } else { ReportEvent::Loaded },
                namespace: wake.namespace,
                app: wake.app,
                fn_name: wake.fn_name,
                revision: wake.revision,
                runner: "runner-0".into(),
                reason: failed.then(|| "cannot import func".to_owned()),
                log: failed.then(|| "Traceback\nModuleNotFoundError: nope\n".to_owned()),
            };
            let exchange = installation().reply_exchange();
            let to = Target::exchange(&exchange, "reports");
            answering.publish(to, report.into_envelope().unwrap(), false).await.unwrap();
        }
    });
    link
}

fn python(source: &str) -> Value {
    json!({"app": "shop", "runtime": "python", "source": {"inline": source}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_and_its_fn_come_up_survive_a_restart_without_a_write_and_go() {
    let world = World::new().await;
    world.api.put(APPS, "team-a", "shop", json!({}));
    world.api.put(FNS, "team-a", "hello", python("def handler(c, d): return 1"));
    let rules = json!([{"backends": [{"fn": "hello"}]}]);
    world.api.put(
        ROUTES,
        "team-a",
        "site",
        json!({"app": "shop", "hostnames": ["a.example.com"], "rules": rules}),
    );
    let _runners = run_runners(world.broker.clone(), |_| false).await;
    let operator = world.start();

    world.until("the Fn is Ready", |w| w.condition(FNS, "hello", "Ready").0 == "True").await;
    world.until("the App is Ready", |w| w.condition(APPS, "shop", "Ready").0 == "True").await;
    world.until("the Route is Ready", |w| w.condition(ROUTES, "site", "Ready").0 == "True").await;
    let revision = world.table()["fns"]["hello"]["revision"]["name"].as_str().unwrap().to_owned();
    assert!(revision.starts_with("hello-"));
    assert!(world.management.has_user("i.team-a.shop"));
    assert!(world.api.get("core/v1/secrets", "team-a", "shop-funcatron-broker").is_some());
    assert!(world.api.get(DEPLOYMENTS, "team-a", "shop-python-runners").is_some());
    assert!(world.api.get("apps/v1/controllerrevisions", "team-a", &revision).is_some());
    assert!(world.api.get(MAPS, "funcatron", "route.team-a.site").is_some());
    operator.stop().await;

    world.api.take_writes();
    let operator = world.start();
    // Each object is reconciled at least once by its listing and once by the new link.
    for kind in ["App", "Fn", "Route"] {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while world.reconciles(kind).await < 1 {
            assert!(tokio::time::Instant::now() < deadline, "{kind} is never reconciled");
            tokio::time::sleep(POLL).await;
        }
    }
    operator.stop().await;
    let others: Vec<String> =
        world.api.take_writes().into_iter().filter(|write| !write.contains("/leases ")).collect();
    assert_eq!(others, Vec::<String>::new());

    let operator = world.start();
    world.api.delete(APPS, "team-a", "shop");
    world.until("the App is gone", |w| w.api.get(APPS, "team-a", "shop").is_none()).await;
    world.until("its Fn says so", |w| w.condition(FNS, "hello", "Ready").1 == "AppNotFound").await;
    world.until("its Route says so", |w| w.condition(ROUTES, "site", "Ready").1 == "AppNotFound").await;
    assert!(!world.management.has_user("i.team-a.shop"));
    world.until("its ConfigMaps are gone", |w| w.api.all(MAPS).is_empty()).await;
    assert!(world.api.all(DEPLOYMENTS).is_empty());
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_does_not_load_leaves_the_last_good_revision_serving() {
    let world = World::new().await;
    world.api.put(APPS, "team-a", "shop", json!({}));
    world.api.put(FNS, "team-a", "hello", python("good"));
    // The second revision is bad: any but the first that was asked for.
    let _runners = run_runners(world.broker.clone(), |wake| {
        static FIRST: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        FIRST.get_or_init(|| wake.revision.clone()) != &wake.revision
    })
    .await;
    let operator = world.start();
    world.until("the Fn is Ready", |w| w.condition(FNS, "hello", "Ready").0 == "True").await;
    let good = world.table()["fns"]["hello"]["revision"].clone();

    world.api.put(FNS, "team-a", "hello", python("import nope"));
    world.until("the failure is told", |w| w.condition(FNS, "hello", "Ready").1 == "LoadFailed").await;
    let (_, _, message) = world.condition(FNS, "hello", "Ready");
    assert!(message.contains("ModuleNotFoundError: nope"), "{message}");
    assert_eq!(world.table()["fns"]["hello"]["revision"], good);
    assert_eq!(world.condition(FNS, "hello", "Available").0, "True");

    world.api.put(
        FNS,
        "team-a",
        "hello",
        json!({"app": "shop", "runtime": "cobol", "source": {"inline": "x"}}),
    );
    world
        .until("the runtime is refused", |w| w.condition(FNS, "hello", "Ready").1 == "RuntimeNotFound")
        .await;
    assert_eq!(world.table()["fns"]["hello"]["revision"], good);
    operator.stop().await;
}
