//! `funcatron dev`: a folder of manifests, served on a laptop. Gateway, runners and an in-process broker in one
//! process; the operator's part is played by `control`.

mod control;
mod document;
mod fleet;
mod folders;
mod hosts;
mod manifests;
mod plan;
mod runners;
mod schema;
mod screen;
mod watch;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::Connector;
use funcatron_broker::local::LocalBroker;
use funcatron_broker::names::Installation;
use funcatron_broker::supervise;
use funcatron_crds::SigningKey;
use funcatron_gateway::{Gateway, GatewayConfig, HostPolicy, MemoryBundles, TableStore};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::error;

use control::{Control, Word};
use manifests::{Manifests, Schemas};
use plan::Plan;
use runners::{Runners, Shared};
use watch::FolderWatch;

/// The first part of every broker name; a broker of the user's own may hold other installations beside it.
const INSTALLATION: &str = "dev";

/// Serve the manifests of a folder on this machine.
///
/// Reads App, Fn, Route and Trigger, and the ConfigMaps and Secrets they name: the very files that `kubectl apply`
/// takes. A changed file takes effect at once; a broken change is told, and what served before serves on.
#[derive(Args, Debug)]
pub(crate) struct DevArgs {
    /// A folder of manifests, or one manifest file
    path: PathBuf,
    /// Port on 127.0.0.1 for Routes and HTTP triggers
    #[arg(long, default_value_t = 3001, env = "FUNCATRON_DEV_PORT")]
    port: u16,
    /// Port on 127.0.0.1 for /invoke/<namespace>/<fn>; 0 chooses a free one
    #[arg(long, default_value_t = 0)]
    invoke_port: u16,
    /// A RabbitMQ (4.3 or newer) instead of the broker in this process, as amqp://user:password@host:5672/%2f
    #[arg(long, value_name = "URL", env = "FUNCATRON_DEV_AMQP", hide_env_values = true)]
    amqp: Option<String>,
}

/// Runs until `shutdown`, then lets the calls in flight finish.
pub(crate) async fn run(args: DevArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let schemas = Schemas::compile()?;
    let mut told = BTreeMap::new();
    let installation = Installation::parse(INSTALLATION)?;
    let (manifests, mut plan, mut watch) = first_look(&args, &schemas, &installation)?;
    drop(manifests);
    let root = tempfile::Builder::new().prefix("fdev").tempdir().context("cannot make a folder for sockets and code")?;

    let connector: Arc<dyn Connector> = match &args.amqp {
        Some(url) => Arc::new(AmqpConnector::new(url.clone(), "funcatron dev")),
        None => Arc::new(LocalBroker::new()),
    };
    let config = gateway_config(&args)?;
    let bound = Gateway::bind(config.clone()).await.with_context(|| {
        format!("cannot listen on 127.0.0.1:{}; is another program there? choose another with --port", args.port)
    })?;
    let (public, internal) = (bound.public_addr(), bound.internal_addr());
    screen::show_problems(&plan.problems, &mut told);
    screen::show_plan(&plan, public, internal);

    let shared = Shared {
        installation: INSTALLATION.to_owned(),
        connector: Arc::clone(&connector),
        root: root.path().to_owned(),
        output: Arc::new(screen::show_host_line),
    };
    let (plans, plan_receiver) = mpsc::channel(1);
    let (words, mut word_receiver) = mpsc::unbounded_channel();
    let parts = Parts { bound, config, installation: installation.clone(), shared, plans: plan_receiver, words };
    let mut served = tokio::spawn(serve(parts, connector, shutdown.clone()));
    let mut next = Some(std::mem::take(&mut plan));
    loop {
        if let Some(plan) = next.take() {
            if plans.send(plan).await.is_err() {
                break;
            }
        }
        tokio::select! {
            ended = &mut served => return ended.context("dev failed")?,
            Some(word) = word_receiver.recv() => screen::show_word(&word, public),
            () = watch.changed(), if !shutdown.is_cancelled() => {
                next = look_again(&args, &schemas, &installation, &mut watch, &mut told);
            }
        }
    }
    served.await.context("dev failed")?
}

/// What `serve` takes with it.
struct Parts {
    bound: Gateway,
    config: GatewayConfig,
    installation: Installation,
    shared: Shared,
    plans: mpsc::Receiver<Plan>,
    words: mpsc::UnboundedSender<Word>,
}

/// Gateway and control until `shutdown`; then first the gateway drains, after it the runners.
async fn serve(parts: Parts, connector: Arc<dyn Connector>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Parts { bound, config, installation, shared, plans, words } = parts;
    let tables = Arc::new(TableStore::new(&installation, config.own_host()));
    let bundles = Arc::new(MemoryBundles::default());
    let gateway = control::Gateway {
        tables: Arc::clone(&tables),
        bundles: Arc::clone(&bundles),
        signing_key: config.signing_key,
        internal_base: bound.internal_base().to_owned(),
    };
    let control_stop = CancellationToken::new();
    let control = Control::new(installation, gateway, Runners::new(shared), plans, words);
    let controlled = tokio::spawn(keep_control(control, Arc::clone(&connector), control_stop.clone()));
    bound.serve(connector, tables, bundles, shutdown).await;
    control_stop.cancel();
    if let Err(error) = controlled.await {
        error!(%error, "control failed");
    }
    Ok(())
}

async fn keep_control(control: Control, connector: Arc<dyn Connector>, stop: CancellationToken) {
    let control = Arc::new(tokio::sync::Mutex::new(control));
    supervise(connector.as_ref(), stop.clone(), |link| {
        let (control, stop) = (Arc::clone(&control), stop.clone());
        async move { control.lock().await.session(link, &stop).await }
    })
    .await;
    if let Some(control) = Arc::into_inner(control) {
        control.into_inner().drain().await;
    }
}

fn gateway_config(args: &DevArgs) -> anyhow::Result<GatewayConfig> {
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Ok(GatewayConfig {
        installation: INSTALLATION.to_owned(),
        public: local(args.port),
        internal: local(args.invoke_port),
        ops: local(0),
        gateway_hostname: String::new(),
        internal_base: String::new(),
        signing_key: SigningKey::new(&rand::random::<[u8; 32]>())?,
        serve_by_host: HostPolicy::Dev,
        limits: funcatron_gateway::Limits::default(),
    })
}

fn first_look(
    args: &DevArgs,
    schemas: &Schemas,
    installation: &Installation,
) -> anyhow::Result<(Manifests, Plan, FolderWatch)> {
    let mut watch = FolderWatch::new().context("cannot watch files")?;
    let manifests = manifests::read(&args.path, schemas)?;
    let plan = plan_of(args, &manifests, installation, &mut watch)?;
    Ok((manifests, plan, watch))
}

/// Reads everything again; what cannot be read is told, and nothing changes.
fn look_again(
    args: &DevArgs,
    schemas: &Schemas,
    installation: &Installation,
    watch: &mut FolderWatch,
    told: &mut BTreeMap<String, ()>,
) -> Option<Plan> {
    let plan = manifests::read(&args.path, schemas)
        .map_err(anyhow::Error::from)
        .and_then(|manifests| plan_of(args, &manifests, installation, watch));
    match plan {
        Ok(plan) => {
            screen::show_problems(&plan.problems, told);
            Some(plan)
        }
        Err(error) => {
            screen::show_word(&Word::Problem(format!("{error:#}")), SocketAddr::from((Ipv4Addr::LOCALHOST, args.port)));
            None
        }
    }
}

fn plan_of(
    args: &DevArgs,
    manifests: &Manifests,
    installation: &Installation,
    watch: &mut FolderWatch,
) -> anyhow::Result<Plan> {
    let (folders, mut watched) = folders::read(manifests);
    watched.insert(watch::folder_of(&args.path));
    watch.watch(watched).context("cannot watch the folder")?;
    Ok(plan::compile(installation, manifests, &folders))
}
