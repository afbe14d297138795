//! The product on a broker: what an operator makes there, a gateway, a runner and its function, in this process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::{Connector as _, Link, fresh_suffix};
use funcatron_broker::names::{AppNames, Installation, QueueName};
use funcatron_broker::topology;
use funcatron_crds::address::SigningKey;
use funcatron_crds::{Digest, RevisionName};
use funcatron_gateway::{Gateway, GatewayConfig, HostPolicy, Limits, MemoryBundles, TableStore};
use funcatron_routing::app_table::{AppBounds, AppTable, AsyncPolicy, FnEntry, RevisionEntry};
use funcatron_routing::{Backend, CallPolicy, ExplicitRule, RouteSource, Rules, compile};
use funcatron_runner::{Endpoint, Mode, RunnerConfig};
use futures::future::join_all;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::function::Function;
use crate::load::{Caller, End, Kind, TIMEOUT};
use crate::until;

/// Calls that the runner has at once: more than the load has in flight.
pub const SLOTS: u32 = 8;

const NAMESPACE: &str = "team-a";
const APP: &str = "shop";
const FUNCTION: &str = "orders";
const REVISION: &str = "orders-0123abcd";
/// Far more than a number.
const BODY_BYTES_MAX: u64 = 1 << 20;
/// Nothing is in flight when a test ends.
const DRAIN: Duration = Duration::from_secs(1);
/// The broker tells of a lost connection's queues a moment later.
const SETTLED_DEADLINE: Duration = Duration::from_secs(10);
/// It signs nothing here: a runner beside its function fetches no bundle.
const KEY: [u8; 32] = [1; 32];

/// A product that serves one function, until it is closed.
pub struct Site {
    /// Whom the tests call.
    pub caller: Caller,
    /// What answers.
    pub function: Arc<Function>,
    broker: Broker,
    installation: Installation,
    names: AppNames,
    stop: CancellationToken,
    running: Vec<JoinHandle<()>>,
    folder: TempDir,
}

impl Site {
    /// Makes the topology on the broker, and has gateway and runner reach it by `way`.
    pub async fn open(broker: &Broker, way: &Broker) -> Result<Self> {
        let installation = Installation::parse(&format!("t{}", &fresh_suffix()[..12]))?;
        let names = AppNames::new(&installation, NAMESPACE, APP)?;
        let password = fresh_suffix();
        broker.put_user(names.user(), &password, &names.permissions()).await?;
        let folder = tempfile::tempdir().context("make a folder for the function's socket")?;
        let function = Function::serve(&folder.path().join("function.sock"))?;
        let stop = CancellationToken::new();
        let (to, gateway) = gateway(way.url(), &installation, stop.clone()).await?;
        let mut site = Self {
            caller: Caller::new(to),
            function,
            broker: broker.clone(),
            installation,
            names,
            stop,
            running: vec![gateway],
            folder,
        };
        site.make_topology().await?;
        let runner = site.runner(way.url_of(site.names.user(), &password));
        site.running.push(runner);
        Ok(site)
    }

    /// What an operator makes stand.
    pub async fn make_topology(&self) -> Result<()> {
        let items = [
            topology::installation(&self.installation),
            topology::app(&self.names),
            topology::revision(&self.names, REVISION)?,
        ];
        let link = self.link().await?;
        link.declare(&items.concat()).await.context("declare the topology")?;
        link.close().await;
        Ok(())
    }

    /// The queue of its calls.
    pub fn revision_queue(&self) -> Result<QueueName> {
        Ok(self.names.revision_queue(REVISION)?)
    }

    /// The exchange of its replies.
    pub fn reply_exchange(&self) -> String {
        self.installation.reply_exchange().as_str().to_owned()
    }

    /// What gateway and runner call their connections.
    pub fn connections(&self) -> [String; 2] {
        connections(&self.installation)
    }

    /// The gateway's one reply queue and the runner's one queue for cancels, once no others are left of lost links.
    pub async fn own_queues(&self) -> Result<[String; 2]> {
        let gateway = format!("{}gw.", self.installation.prefix());
        let runner = format!("{}.r.", self.names.user());
        until("gateway and runner have one queue each", SETTLED_DEADLINE, async || {
            let (mut gateways, mut runners) =
                (self.broker.queues(&gateway).await?, self.broker.queues(&runner).await?);
            ensure!(gateways.len() == 1 && runners.len() == 1, "there are {gateways:?} and {runners:?}");
            Ok([gateways.remove(0), runners.remove(0)])
        })
        .await
    }

    /// Whether all stands that calls need, once and no more, and the runner has its slots: as many calls at once, and
    /// the next one waits on the broker.
    pub async fn is_whole(&self) -> Result<()> {
        let [gateway, _] = self.own_queues().await?;
        ensure!(self.broker.has_exchange(&self.reply_exchange()).await?, "the reply exchange is gone");
        let queue = self.revision_queue()?;
        until("the consumers are those that there were", SETTLED_DEADLINE, async || {
            let calls = self.broker.prefetches(queue.as_str()).await?;
            ensure!(calls == [u64::from(SLOTS)], "the revision's consumers have prefetches of {calls:?}");
            let replies = self.broker.prefetches(&gateway).await?;
            ensure!(replies.len() == 1, "the reply queue has {} consumers", replies.len());
            Ok(())
        })
        .await?;
        self.has_its_slots(&queue).await
    }

    async fn has_its_slots(&self, queue: &QueueName) -> Result<()> {
        let link = self.link().await?;
        let slots = SLOTS as usize;
        self.function.hold();
        let calls = join_all((0..3 * slots).map(|_| self.caller.call(Kind::Get)));
        let full = async {
            let full = until("all slots are taken and the rest waits", TIMEOUT / 2, async || {
                let running = self.function.running();
                let ready = link.inspect(queue).await?.context("the revision's queue is gone")?.ready;
                ensure!(running == slots && ready as usize == 2 * slots, "{running} run and {ready} wait");
                Ok(())
            });
            let full = full.await;
            self.function.release();
            full
        };
        let (calls, full) = tokio::join!(calls, full);
        link.close().await;
        full?;
        let bad: Vec<_> = calls.into_iter().filter(|call| call.end != End::Good).collect();
        ensure!(bad.is_empty(), "calls that waited for a slot: {bad:?}");
        Ok(())
    }

    /// Ends it, and leaves nothing behind on the broker.
    pub async fn close(self) -> Result<()> {
        self.stop.cancel();
        let link = self.link().await?;
        for running in self.running {
            running.await.context("gateway or runner panicked")?;
        }
        for queue in [self.names.revision_queue(REVISION)?, self.installation.reports_queue()] {
            link.delete_queue(&queue, false).await.context("delete a queue")?;
        }
        for exchange in [self.names.cancel_exchange(), self.installation.reply_exchange()] {
            link.delete_exchange(&exchange).await.context("delete an exchange")?;
        }
        link.close().await;
        self.broker.delete_user(self.names.user()).await
    }

    /// A link of the test's own, not by the product's way.
    async fn link(&self) -> Result<Arc<dyn Link>> {
        AmqpConnector::new(self.broker.url(), "trouble test").connect().await.context("connect to the broker")
    }

    fn runner(&self, url: String) -> JoinHandle<()> {
        let folder = self.folder.path();
        let config = RunnerConfig {
            installation: self.installation.clone(),
            namespace: NAMESPACE.to_owned(),
            app: APP.to_owned(),
            runner_name: "trouble".to_owned(),
            mode: Mode::Dedicated {
                fn_name: FUNCTION.to_owned(),
                revision: REVISION.to_owned(),
                endpoint: Endpoint::Fn(folder.join("function.sock")),
                concurrency: SLOTS,
                timeout_ms: millis(TIMEOUT),
                attempts_max: funcatron_crds::DEFAULT_ATTEMPTS,
                durable: false,
            },
            ready_file: folder.join("ready"),
            drain: DRAIN,
        };
        let [_, name] = self.connections();
        let (connector, stop) = (Arc::new(AmqpConnector::new(url, name)), self.stop.clone());
        tokio::spawn(async move {
            funcatron_runner::run(config, connector, stop).await.expect("this configuration makes sense");
        })
    }
}

async fn gateway(
    url: String,
    installation: &Installation,
    stop: CancellationToken,
) -> Result<(SocketAddr, JoinHandle<()>)> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = GatewayConfig {
        public: any,
        internal: any,
        ops: any,
        gateway_hostname: String::new(),
        internal_base: String::new(),
        direct_at: String::new(),
        ledger_url: None,
        signing_key: SigningKey::new(&KEY).context("make a key")?,
        serve_by_host: HostPolicy::Dev,
        limits: Limits::default(),
    };
    let tables = Arc::new(TableStore::new(installation, config.own_host()));
    fill(&tables)?;
    let gateway = Gateway::bind(config).await.context("bind the gateway")?;
    let address = gateway.public_addr();
    let [name, _] = connections(installation);
    let (connector, bundles) = (Arc::new(AmqpConnector::new(url, name)), Arc::new(MemoryBundles::default()));
    Ok((address, tokio::spawn(gateway.serve(connector, tables, bundles, stop))))
}

/// An installation's own, since others may be tested on the same broker.
fn connections(installation: &Installation) -> [String; 2] {
    ["gateway", "runner"].map(|part| format!("{installation} {part}"))
}

/// One Route for all paths to one Fn.
fn fill(tables: &TableStore) -> Result<()> {
    let mut app = AppTable::new(NAMESPACE, APP, AppBounds::with_body(BODY_BYTES_MAX));
    let revision = RevisionEntry {
        name: RevisionName::parse(REVISION).context("name the revision")?,
        runtime: None,
        run: Digest::of(b""),
        code: None,
        concurrency: SLOTS,
        durable: false,
    };
    let entry =
        FnEntry { revision: Some(revision), timeout_ms: millis(TIMEOUT), detached: AsyncPolicy::default() };
    app.fns.insert(FUNCTION.into(), entry);
    tables.put_app(NAMESPACE, APP, Some(app)).context("put the App's table")?;
    let backends = vec![Backend { fn_name: FUNCTION.into(), weight: 1 }];
    let rules = [ExplicitRule { matches: Vec::new(), backends, call: CallPolicy::default() }];
    let route = compile(&RouteSource {
        namespace: NAMESPACE,
        name: FUNCTION,
        app: APP,
        hostnames: &[],
        base_path: None,
        created_ms: 0,
        uid: "trouble",
        rules: Rules::Explicit(&rules),
    });
    let route = route.context("compile the Route")?;
    tables.put_route(NAMESPACE, FUNCTION, Some(route)).context("put the Route's table")?;
    tables.mark_synced();
    Ok(())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
