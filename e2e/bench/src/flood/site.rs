//! Two Apps on a broker: what an operator makes there for them, the gateway that serves both, and a runner for each.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::ValueEnum;
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::{Connector as _, fresh_suffix};
use funcatron_broker::names::{AppNames, Installation};
use funcatron_broker::topology;
use funcatron_crds::{Digest, RevisionName};
use funcatron_gateway::TableStore;
use funcatron_routing::app_table::{AppBounds, AppTable, AsyncPolicy, FnEntry, RevisionEntry};
use funcatron_routing::{
    Backend, CallPolicy, ExplicitRule, PathMatch, PathMatchType, RouteMatch, RouteSource, Rules, compile,
};
use funcatron_runner::{Endpoint, Mode, RunnerConfig};
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use trouble::broker::Broker;

use super::LIMIT;
use crate::product;
use crate::{end_with_driver, greet, one_thread};

const NAMESPACE: &str = "flood";
/// Every App's one revision; queues are told apart by their App.
const REVISION: &str = "work-0123abcd";
/// More than either App has at once: what bounds the flood is its limit.
const SLOTS: u32 = 2 * LIMIT;
/// So long a call of the flood has its place.
const FLOOD_WORK: Duration = Duration::from_millis(20);
/// Far longer than any call takes here.
const TIMEOUT_MS: u64 = 60_000;
/// Bodies are empty.
const BODY_BYTES_MAX: u64 = 1 << 20;
/// Nothing is in flight when the driver ends.
const DRAIN: Duration = Duration::from_secs(1);

/// The two Apps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Tenant {
    /// It has a limit, and a client that does not care.
    Flooding,
    /// It is to notice nothing.
    Beside,
}

impl Tenant {
    const BOTH: [Self; 2] = [Self::Flooding, Self::Beside];

    /// Its App, its Fn, its path, and what it answers.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Flooding => "flooding",
            Self::Beside => "beside",
        }
    }

    const fn limit(self) -> Option<u32> {
        match self {
            Self::Flooding => Some(LIMIT),
            Self::Beside => None,
        }
    }
}

/// What stands on the broker, until it is taken down.
pub(super) struct Site {
    pub(super) url: String,
    pub(super) installation: Installation,
    pub(super) folder: TempDir,
    broker: Broker,
    password: String,
}

impl Site {
    /// Makes users and topology.
    pub(super) async fn make(amqp: &str, management: &str) -> Result<Self> {
        let installation = Installation::parse(&format!("flood-{}", std::process::id()))?;
        let folder = tempfile::tempdir().context("make a folder for sockets")?;
        let broker = Broker::at(amqp, management)?;
        let site = Self { url: amqp.to_owned(), installation, folder, broker, password: fresh_suffix() };
        let link = AmqpConnector::new(amqp, "flood").connect().await.context("connect to the broker")?;
        link.declare(&topology::installation(&site.installation)).await.context("declare the topology")?;
        for tenant in Tenant::BOTH {
            let names = site.names(tenant)?;
            site.broker.put_user(names.user(), &site.password, &names.permissions()).await?;
            let items = [topology::app(&names), topology::revision(&names, REVISION)?];
            link.declare(&items.concat()).await.context("declare an App's topology")?;
        }
        link.close().await;
        Ok(site)
    }

    /// Leaves nothing behind.
    pub(super) async fn take_down(self) -> Result<()> {
        let link = AmqpConnector::new(&self.url, "flood").connect().await.context("connect to the broker")?;
        for tenant in Tenant::BOTH {
            let names = self.names(tenant)?;
            link.delete_queue(&names.revision_queue(REVISION)?, false).await.context("delete a queue")?;
            link.delete_exchange(&names.cancel_exchange()).await.context("delete an exchange")?;
            self.broker.delete_user(names.user()).await?;
        }
        link.delete_queue(&self.installation.reports_queue(), false).await.context("delete a queue")?;
        link.delete_exchange(&self.installation.reply_exchange()).await.context("delete an exchange")?;
        link.close().await;
        Ok(())
    }

    /// Where an App's runner logs in.
    pub(super) fn runner_url(&self, tenant: Tenant) -> String {
        let user = format!("{}.{NAMESPACE}.{}", self.installation, tenant.name());
        self.broker.url_of(&user, &self.password)
    }

    fn names(&self, tenant: Tenant) -> Result<AppNames> {
        Ok(AppNames::new(&self.installation, NAMESPACE, tenant.name())?)
    }
}

/// Serves both Apps until the driver ends.
pub(super) fn gateway(url: &str, installation: &str) -> Result<()> {
    product::serve(url, installation, |tables| {
        Tenant::BOTH.into_iter().try_for_each(|tenant| fill(tables, tenant))
    })
}

fn fill(tables: &TableStore, tenant: Tenant) -> Result<()> {
    let name = tenant.name();
    let bounds = AppBounds { in_flight_max: tenant.limit(), ..AppBounds::with_body(BODY_BYTES_MAX) };
    let mut app = AppTable::new(NAMESPACE, name, bounds);
    let revision = RevisionEntry {
        name: RevisionName::parse(REVISION).context("name the revision")?,
        runtime: None,
        run: Digest::of(b""),
        code: None,
        concurrency: SLOTS,
        durable: false,
    };
    let detached = AsyncPolicy::default();
    app.fns.insert(name.into(), FnEntry { revision: Some(revision), timeout_ms: TIMEOUT_MS, detached });
    tables.put_app(NAMESPACE, name, Some(app)).context("put an App's table")?;
    let path = PathMatch { kind: PathMatchType::PathPrefix, value: format!("/{name}") };
    let matches = vec![RouteMatch { path: Some(path), ..RouteMatch::default() }];
    let backends = vec![Backend { fn_name: name.into(), weight: 1 }];
    let route = compile(&RouteSource {
        namespace: NAMESPACE,
        name,
        app: name,
        hostnames: &[],
        base_path: None,
        created_ms: 0,
        uid: name,
        rules: Rules::Explicit(&[ExplicitRule { matches, backends, call: CallPolicy::default() }]),
    });
    tables.put_route(NAMESPACE, name, Some(route.context("compile a Route")?)).context("put a Route's table")
}

/// Runs one App's runner and its function until the driver ends.
pub(super) fn runner(url: &str, installation: &str, tenant: Tenant, folder: &Path) -> Result<()> {
    end_with_driver();
    let socket = folder.join(tenant.name());
    let config = RunnerConfig {
        installation: Installation::parse(installation)?,
        namespace: NAMESPACE.to_owned(),
        app: tenant.name().to_owned(),
        runner_name: tenant.name().to_owned(),
        mode: Mode::Dedicated {
            fn_name: tenant.name().to_owned(),
            revision: REVISION.to_owned(),
            endpoint: Endpoint::Fn(socket.clone()),
            concurrency: SLOTS,
            timeout_ms: TIMEOUT_MS,
            attempts_max: funcatron_crds::DEFAULT_ATTEMPTS,
            durable: false,
        },
        ready_file: folder.join(format!("{}.ready", tenant.name())),
        drain: DRAIN,
    };
    one_thread()?.block_on(async {
        let listener = UnixListener::bind(&socket).context("listen on the function's socket")?;
        tokio::spawn(serve(listener, tenant));
        greet("runner")?;
        let connector = Arc::new(AmqpConnector::new(url, "flood runner"));
        funcatron_runner::run(config, connector, CancellationToken::new()).await.context("run the runner")
    })
}

async fn serve(listener: UnixListener, tenant: Tenant) {
    let running = Arc::new(AtomicU32::new(0));
    while let Ok((stream, _)) = listener.accept().await {
        let running = Arc::clone(&running);
        let service = service_fn(move |_: Request<Incoming>| {
            let running = Arc::clone(&running);
            async move { Ok::<_, Infallible>(work(&running, tenant).await) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// Answers with its App's name; with another word, at which the client fails, where more run at once than may.
async fn work(running: &AtomicU32, tenant: Tenant) -> Response<Full<Bytes>> {
    let at_once = running.fetch_add(1, Ordering::SeqCst) + 1;
    if tenant == Tenant::Flooding {
        tokio::time::sleep(FLOOD_WORK).await;
    }
    running.fetch_sub(1, Ordering::SeqCst);
    let within = tenant.limit().is_none_or(|limit| at_once <= limit);
    let mut answer = Response::new(Full::from(if within { tenant.name() } else { "too many at once" }));
    answer.headers_mut().insert("content-type", HeaderValue::from_static("text/plain"));
    answer.headers_mut().insert("fn-http-status", HeaderValue::from_static("200"));
    answer
}
