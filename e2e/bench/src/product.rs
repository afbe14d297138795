//! The product's two halves, composed as its programs compose them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::names::Installation;
use funcatron_crds::address::SigningKey;
use funcatron_crds::{Digest, Direct, RevisionName};
use funcatron_gateway::{
    Gateway, GatewayConfig, HostPolicy, Limits, MemoryBundles, TableStore, worker_threads,
};
use funcatron_routing::app_table::{AppBounds, AppTable, AsyncPolicy, FnEntry, RevisionEntry};
use funcatron_routing::{
    Backend, CallPolicy, ExplicitRule, PathMatch, PathMatchType, RouteMatch, RouteSource, Rules, compile,
};
use funcatron_runner::{Endpoint, Mode, RunnerConfig};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use crate::lanes::Way;
use crate::{APP, CONCURRENCY, FUNCTION, NAMESPACE, REVISION, end_with_driver, function, greet, one_thread};

/// Far longer than any call takes here.
const TIMEOUT_MS: u64 = 600_000;
/// More than is ever sent here.
const BODY_BYTES_MAX: u64 = 4 << 30;
/// Nothing is in flight when the driver ends.
const DRAIN: Duration = Duration::from_secs(1);
/// As of a team of some size.
const FNS_TO_AN_APP: usize = 10;
/// It signs nothing here: the runner fetches no bundle.
const KEY: [u8; 32] = [1; 32];

/// Serves one App, beside others that nobody calls, until the driver ends.
pub(crate) fn gateway(url: &str, installation: &str, other_fns: usize) -> Result<()> {
    serve(url, installation, |tables| {
        fill(tables)?;
        fill_others(tables, other_fns)
    })
}

/// Serves what `fill` puts into the tables until the driver ends.
pub(crate) fn serve(
    url: &str,
    installation: &str,
    fill: impl FnOnce(&TableStore) -> Result<()>,
) -> Result<()> {
    end_with_driver();
    let threads = Builder::new_multi_thread().worker_threads(worker_threads()).enable_all().build();
    threads.context("start a runtime")?.block_on(async {
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
        let tables = Arc::new(TableStore::new(&Installation::parse(installation)?, config.own_host()));
        fill(&tables)?;
        tables.mark_synced();
        let gateway = Gateway::bind(config).await.context("bind the gateway")?;
        greet(&gateway.public_addr().to_string())?;
        let connector = Arc::new(AmqpConnector::new(url, "bench gateway"));
        let bundles = Arc::new(MemoryBundles::default());
        gateway.serve(connector, tables, bundles, CancellationToken::new()).await;
        Ok(())
    })
}

/// One Fn, and a Route with a path for each way to it; what no path names goes the way that is chosen by itself.
fn fill(tables: &TableStore) -> Result<()> {
    put_app(tables, APP, &[FUNCTION.to_owned()])?;
    let call = |way| match way {
        Way::Auto => CallPolicy::default(),
        Way::Messages => CallPolicy { direct: Some(Direct::Never), ..CallPolicy::default() },
        Way::Direct => CallPolicy { direct: Some(Direct::Always), ..CallPolicy::default() },
        Way::Async => CallPolicy { is_async: true, ..CallPolicy::default() },
    };
    let to = |matches, way| ExplicitRule { matches, backends: backends(FUNCTION), call: call(way) };
    let mut rules: Vec<_> =
        [Way::Messages, Way::Direct, Way::Async].map(|way| to(vec![below(way.path())], way)).into();
    rules.push(to(Vec::new(), Way::Auto));
    put_route(tables, APP, &[], &rules)
}

/// Fns that nobody calls: ten to an App, each with a path on its App's hostname.
fn fill_others(tables: &TableStore, fns: usize) -> Result<()> {
    for app in 0..fns / FNS_TO_AN_APP {
        let name = format!("other-{app}");
        let fns: Vec<String> = (0..FNS_TO_AN_APP).map(|number| format!("fn-{number}")).collect();
        put_app(tables, &name, &fns)?;
        let rule = |fn_name: &String| ExplicitRule {
            matches: vec![below(&format!("/{fn_name}"))],
            backends: backends(fn_name),
            call: CallPolicy::default(),
        };
        let rules: Vec<_> = fns.iter().map(rule).collect();
        put_route(tables, &name, &[format!("{name}.example.com")], &rules)?;
    }
    Ok(())
}

fn below(path: &str) -> RouteMatch {
    let path = PathMatch { kind: PathMatchType::PathPrefix, value: path.to_owned() };
    RouteMatch { path: Some(path), ..RouteMatch::default() }
}

fn backends(fn_name: &str) -> Vec<Backend> {
    vec![Backend { fn_name: fn_name.to_owned(), weight: 1 }]
}

fn put_app(tables: &TableStore, name: &str, fns: &[String]) -> Result<()> {
    let mut app = AppTable::new(NAMESPACE, name, AppBounds::with_body(BODY_BYTES_MAX));
    for fn_name in fns {
        let revision = RevisionEntry {
            name: RevisionName::parse(REVISION).context("name the revision")?,
            runtime: None,
            run: Digest::of(b""),
            code: None,
            concurrency: CONCURRENCY,
            durable: false,
        };
        let detached = AsyncPolicy::default();
        let entry = FnEntry { revision: Some(revision), timeout_ms: TIMEOUT_MS, detached };
        app.fns.insert(fn_name.clone(), entry);
    }
    tables.put_app(NAMESPACE, name, Some(app)).context("put an App's table")
}

fn put_route(tables: &TableStore, app: &str, hostnames: &[String], rules: &[ExplicitRule]) -> Result<()> {
    let route = compile(&RouteSource {
        namespace: NAMESPACE,
        name: app,
        app,
        hostnames,
        base_path: None,
        created_ms: 0,
        uid: app,
        rules: Rules::Explicit(rules),
    });
    tables.put_route(NAMESPACE, app, Some(route.context("compile a Route")?)).context("put a Route's table")
}

/// Runs the function until the driver ends.
pub(crate) fn runner(url: &str, installation: &str, folder: &Path) -> Result<()> {
    end_with_driver();
    let config = RunnerConfig {
        installation: Installation::parse(installation)?,
        namespace: NAMESPACE.to_owned(),
        app: APP.to_owned(),
        runner_name: "bench".to_owned(),
        mode: Mode::Dedicated {
            fn_name: FUNCTION.to_owned(),
            revision: REVISION.to_owned(),
            endpoint: Endpoint::Fn(function::socket(folder)),
            concurrency: CONCURRENCY,
            timeout_ms: TIMEOUT_MS,
            attempts_max: funcatron_crds::DEFAULT_ATTEMPTS,
            durable: false,
        },
        ready_file: folder.join("ready"),
        drain: DRAIN,
    };
    greet("runner")?;
    let connector = Arc::new(AmqpConnector::new(url, "bench runner"));
    let running = funcatron_runner::run(config, connector, CancellationToken::new());
    one_thread()?.block_on(running).context("run the runner")
}
