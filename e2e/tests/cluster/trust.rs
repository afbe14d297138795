//! What an App's own credentials cannot do: answer for another App, or touch another's queues.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::client::{Load, LoadPlan};
use e2e::cluster::{self, INTERNAL, SYSTEM};
use e2e::kubectl::{apply, get, kubectl};
use e2e::wait::until;
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::{Connector as _, ConsumeOptions, Link, LinkError, Target};
use funcatron_broker::message::{CallId, Outcome, Reply};
use funcatron_broker::names::{AppNames, Installation, QueueName};

use serde_json::{Value, json};

use crate::{broker, node};

const NAMESPACE: &str = "e2e-trust";

/// The victim tells its call's id in its log, and leaves time to answer for it.
const MANIFESTS: &str = r#"
apiVersion: funcatron.dev/v1alpha1
kind: App
metadata: {name: victim}
spec: {}
---
apiVersion: funcatron.dev/v1alpha1
kind: App
metadata: {name: thief}
spec: {}
---
apiVersion: funcatron.dev/v1alpha1
kind: Fn
metadata: {name: slow}
spec:
  app: victim
  runtime: python
  source:
    inline: |
      import time

      def handler(ctx, data):
          print("call-id=" + ctx.CallID(), flush=True)
          time.sleep(8)
          return "the truth"
---
apiVersion: funcatron.dev/v1alpha1
kind: Fn
metadata: {name: own}
spec:
  app: thief
  runtime: python
  source: {inline: "def handler(ctx, data): return 'own'"}
"#;

/// A way to the broker's port from this process; ends with it.
struct Forward(Child);

impl Forward {
    const PORT: u16 = 45_672;

    fn start() -> anyhow::Result<Self> {
        let port = format!("{}:5672", Self::PORT);
        let args = ["--namespace", SYSTEM, "port-forward", "service/funcatron-broker", &port];
        let child =
            Command::new("kubectl").args(args).stdout(Stdio::null()).spawn().context("port-forward")?;
        until("the broker's port is forwarded", Duration::from_secs(20), || {
            std::net::TcpStream::connect(("127.0.0.1", Self::PORT)).map(drop)
        });
        Ok(Self(child))
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A link with the credentials that stand in the thief's own Secret.
async fn link_as_thief() -> anyhow::Result<Arc<dyn Link>> {
    let secret = get(NAMESPACE, &["secret", "thief-funcatron-broker"])?;
    let url = broker::decoded(secret["data"]["url"].as_str().context("the Secret has no url")?)?;
    let (credentials, rest) = url.split_once('@').context("the URL has no credentials")?;
    let vhost = rest.split_once('/').map_or("", |(_, vhost)| vhost);
    let url = format!("{credentials}@127.0.0.1:{}/{vhost}", Forward::PORT);
    Ok(AmqpConnector::new(url, "thief").connect().await?)
}

fn forged(call: CallId, user: Option<&str>) -> anyhow::Result<funcatron_broker::envelope::Envelope> {
    let mut reply = Reply::without_answer(call, "", 1, Outcome::Answer(http::StatusCode::OK), "a lie");
    reply.user_id = user.map(str::to_owned);
    Ok(reply.into_envelope()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apps_credentials_reach_nothing_of_another_app() {
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    apply(NAMESPACE, MANIFESTS).unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(45));
    let _forward = Forward::start().unwrap();
    let installation = Installation::parse(broker::installation()).unwrap();
    let victim = AppNames::new(&installation, NAMESPACE, "victim").unwrap();
    runner_pods_accept_no_connection();
    queues_are_refused(&victim).await;
    forged_replies_are_dropped(&installation, &victim).await;
}

/// Nothing listens in a runner's pod, and the policy that would refuse connections selects it.
fn runner_pods_accept_no_connection() {
    let pods = get(NAMESPACE, &["pods"]).unwrap();
    let policies = get(NAMESPACE, &["networkpolicies"]).unwrap();
    for pod in pods["items"].as_array().unwrap() {
        let (name, labels) = (pod["metadata"]["name"].as_str().unwrap(), &pod["metadata"]["labels"]);
        let selects = |policy: &Value| {
            let wanted = policy["spec"]["podSelector"]["matchLabels"].as_object();
            let all = wanted.is_some_and(|wanted| wanted.iter().all(|(key, value)| labels[key] == *value));
            all && policy["spec"]["policyTypes"] == json!(["Ingress"])
                && policy["spec"].get("ingress").is_none()
        };
        assert!(
            policies["items"].as_array().unwrap().iter().any(selects),
            "no policy selects {name}: {policies}"
        );
        if !cluster::is_built() {
            continue;
        }
        let process = node::runner_of(NAMESPACE, name).unwrap();
        for table in ["net/tcp", "net/tcp6"] {
            let sockets = std::fs::read_to_string(process.join(table)).unwrap();
            // The fourth column is the state, and 0A is LISTEN.
            let listening: Vec<&str> =
                sockets.lines().filter(|line| line.split_whitespace().nth(3) == Some("0A")).collect();
            assert!(listening.is_empty(), "{name} listens: {listening:?}");
        }
    }
}

async fn queues_are_refused(victim: &AppNames) {
    let prefix = format!("{}.", victim.user());
    let queues: Vec<QueueName> =
        broker::queues(&prefix).unwrap().iter().map(|(name, _)| QueueName::parse(name).unwrap()).collect();
    assert!(queues.iter().any(|queue| queue.as_str().contains(".rev.slow-")), "{queues:?}");
    for queue in queues {
        let link = link_as_thief().await.unwrap();
        let options = ConsumeOptions { prefetch: 1, exclusive: false, no_ack: false };
        let consumed = link.consume(&queue, options).await;
        assert!(
            matches!(consumed, Err(LinkError::Refused { .. } | LinkError::Locked { .. })),
            "{queue}: {consumed:?}"
        );
        let deleted = link.delete_queue(&queue, false).await;
        assert!(
            matches!(deleted, Err(LinkError::Refused { .. } | LinkError::Locked { .. })),
            "{queue}: {deleted:?}"
        );
        let put = funcatron_broker::envelope::Envelope::default();
        let published = link.publish_confirmed(Target::queue(&queue), put, true).await;
        assert!(published.is_err(), "{queue}: {published:?}");
        link.close().await;
    }
}

async fn forged_replies_are_dropped(installation: &Installation, victim: &AppNames) {
    let url = format!("{INTERNAL}/invoke/{NAMESPACE}/slow");
    let host = "funcatron-internal.funcatron-system.svc";
    let call =
        Load::start(&LoadPlan { method: "POST", url: &url, host, rate: 1, seconds: 1, body: "" }).unwrap();
    let id = call_under_way();
    let gateways = broker::queues(&format!("{installation}.gw.")).unwrap();
    assert!(!gateways.is_empty());
    let thief = format!("{installation}.{NAMESPACE}.thief");
    let replies = installation.reply_exchange();
    for user in [None, Some(thief.as_str())] {
        let link = link_as_thief().await.unwrap();
        for (queue, _) in &gateways {
            let reply = forged(id, user).unwrap();
            link.publish(Target::exchange(&replies, queue), reply, false).await.unwrap();
        }
        link.close().await;
    }
    let link = link_as_thief().await.unwrap();
    let reply = forged(id, Some(victim.user())).unwrap();
    let posed = link.publish_confirmed(Target::exchange(&replies, &gateways[0].0), reply, false).await;
    assert!(posed.is_err(), "the broker checks who sets the victim's user-id: {posed:?}");
    let answer = call.finish().unwrap();
    assert_eq!(answer.bodies.keys().collect::<Vec<_>>(), ["the truth"], "{answer:?}");
    until("the forged replies are counted", Duration::from_secs(10), || {
        let forged = forged_counted()?;
        ensure!(forged >= 2.0, "{forged} counted");
        Ok(())
    });
}

/// The id of the victim's call, which its function tells in its log.
fn call_under_way() -> CallId {
    until("the victim runs", Duration::from_secs(10), || {
        let logs =
            ["--namespace", NAMESPACE, "logs", "deployment/victim-python-runners", "--container", "host"];
        let logs = kubectl(&logs)?;
        let (_, rest) = logs.rsplit_once("call-id=").context("no call yet")?;
        rest.get(..36).context("no whole id")?.parse().context("no id")
    })
}

/// Forged replies that the gateways have counted.
fn forged_counted() -> anyhow::Result<f64> {
    let pods = get(SYSTEM, &["pods", "--selector=app.kubernetes.io/component=gateway"])?;
    let mut forged = 0.0;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let metrics = format!("/api/v1/namespaces/{SYSTEM}/pods/{name}:9090/proxy/metrics");
        forged += kubectl(&["get", "--raw", &metrics])?
            .lines()
            .filter(|line| line.contains("forged") && !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum::<f64>();
    }
    Ok(forged)
}
