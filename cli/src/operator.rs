//! `funcatron operator`: from the pod's environment to a running operator.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use funcatron_broker::amqp::AmqpConnector;
use funcatron_operator::{BrokerAddress, OperatorConfig};
use tokio_util::sync::CancellationToken;

use crate::gateway::CommonArgs;

/// Make cluster and broker match App, Fn, Route and Trigger (on a cluster)
#[derive(Args, Debug)]
pub(crate) struct OperatorArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// RabbitMQ's management API, with the right to make users, as http://user:password@host:15672
    #[arg(long, env = "FUNCATRON_MANAGEMENT_URL", hide_env_values = true)]
    management_url: String,
    /// Where runners find the broker, as amqp://host:5672/vhost; default: where the operator finds it
    #[arg(long, env = "FUNCATRON_RUNNER_BROKER")]
    runner_broker: Option<String>,
    /// Base URL under which HTTP triggers and Routes without hostnames answer; default: the gateway's hostname
    #[arg(long, env = "FUNCATRON_GATEWAY_PUBLIC_URL")]
    gateway_public_url: Option<String>,
    /// The Lease that decides who leads
    #[arg(long, default_value = "funcatron-operator", env = "FUNCATRON_LEASE")]
    lease: String,
    /// Image of the runner container
    #[arg(long, env = "FUNCATRON_RUNNER_IMAGE")]
    runner_image: String,
    /// Images of the hosts by runtime, as python=IMAGE,node=IMAGE
    #[arg(long, env = "FUNCATRON_HOST_IMAGES", value_delimiter = ',')]
    host_images: Vec<String>,
    /// imagePullPolicy of these images
    #[arg(long, env = "FUNCATRON_IMAGE_PULL_POLICY")]
    image_pull_policy: Option<String>,
    /// Objects reconciled at once
    #[arg(long, default_value_t = 8, env = "FUNCATRON_WORKERS")]
    workers: usize,
    /// Seconds that a runner may take to finish its calls
    #[arg(long, default_value_t = 30, env = "FUNCATRON_DRAIN_S")]
    drain_s: u64,
}

pub(crate) async fn run(args: OperatorArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let common = &args.common;
    let (client, installation) = common.client_and_installation().await?;
    let runner_broker = match &args.runner_broker {
        Some(address) => BrokerAddress::parse(address)?,
        None => BrokerAddress::parse(&without_credentials(&common.amqp_url))
            .context("FUNCATRON_AMQP_URL is no broker's address")?,
    };
    let config = OperatorConfig {
        installation,
        system_namespace: common.system_namespace.clone(),
        image: args.runner_image.clone(),
        host_images: host_images(&args.host_images)?,
        image_pull_policy: args.image_pull_policy.clone(),
        image_pull_secrets: Vec::new(),
        gateway_internal_url: common.gateway_internal_url.clone(),
        gateway_public_url: args
            .gateway_public_url
            .clone()
            .unwrap_or_else(|| format!("http://{}", common.gateway_hostname)),
        management_url: args.management_url.clone(),
        ledger_url: common.ledger_url(),
        runner_broker,
        signing_key: common.signing_key()?,
        lease_name: args.lease.clone(),
        identity: common.pod.clone(),
        ops: common.ops,
        workers: args.workers,
        drain: Duration::from_secs(args.drain_s),
    };
    let connector = Arc::new(AmqpConnector::new(common.amqp_url.clone(), format!("operator {}", common.pod)));
    funcatron_operator::run(config, client, connector, shutdown).await?;
    Ok(())
}

fn host_images(given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let pairs = given.iter().filter(|pair| !pair.is_empty()).map(|pair| {
        let (runtime, image) =
            pair.split_once('=').with_context(|| format!("{pair:?} is not RUNTIME=IMAGE"))?;
        Ok((runtime.to_owned(), image.to_owned()))
    });
    pairs.collect()
}

/// `amqp://user:password@host/vhost` as `amqp://host/vhost`.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_once('/').map_or((rest, String::new()), |(a, p)| (a, format!("/{p}")));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runners_are_told_no_credentials_of_ours() {
        assert_eq!(without_credentials("amqp://u:p%40@mq.ns.svc:5672/%2f"), "amqp://mq.ns.svc:5672/%2f");
        assert_eq!(without_credentials("amqps://mq"), "amqps://mq");
    }

    #[test]
    fn host_images_are_read_by_runtime() {
        let images = host_images(&["python=a/b:1".into(), "node=c:2".into()]).unwrap();
        assert_eq!(images["python"], "a/b:1");
        assert!(host_images(&["python".into()]).is_err());
    }
}
