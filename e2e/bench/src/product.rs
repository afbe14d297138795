//! The product's two halves, composed as its programs compose them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::names::Installation;
use funcatron_crds::address::SigningKey;
use funcatron_crds::{Digest, RevisionName};
use funcatron_gateway::{Gateway, GatewayConfig, HostPolicy, Limits, MemoryBundles, TableStore};
use funcatron_routing::app_table::{AppBounds, AppTable, AsyncPolicy, FnEntry, RevisionEntry};
use funcatron_routing::{Backend, CallPolicy, ExplicitRule, RouteSource, Rules, compile};
use funcatron_runner::{Mode, RunnerConfig};
use tokio_util::sync::CancellationToken;

use crate::{
    APP, CONCURRENCY, FUNCTION, NAMESPACE, REVISION, end_with_driver, function, greet, one_thread, threads,
};

/// Far longer than any call takes here.
const TIMEOUT_MS: u64 = 600_000;
/// More than is ever sent here.
const BODY_BYTES_MAX: u64 = 4 << 30;
/// Nothing is in flight when the driver ends.
const DRAIN: Duration = Duration::from_secs(1);
/// It signs nothing here: the runner fetches no bundle.
const KEY: [u8; 32] = [1; 32];

/// Serves until the driver ends.
pub(crate) fn gateway(url: &str, installation: &str) -> Result<()> {
    end_with_driver();
    threads()?.block_on(async {
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
        let gateway = Gateway::bind(config).await.context("bind the gateway")?;
        greet(&gateway.public_addr().to_string())?;
        let connector = Arc::new(AmqpConnector::new(url, "bench gateway"));
        let bundles = Arc::new(MemoryBundles::default());
        gateway.serve(connector, tables, bundles, CancellationToken::new()).await;
        Ok(())
    })
}

/// One Route for all paths to one Fn.
fn fill(tables: &TableStore) -> Result<()> {
    let mut app = AppTable::new(NAMESPACE, APP, AppBounds::with_body(BODY_BYTES_MAX));
    let revision = RevisionEntry {
        name: RevisionName::parse(REVISION).context("name the revision")?,
        runtime: None,
        run: Digest::of(b""),
        code: None,
        concurrency: CONCURRENCY,
        durable: false,
    };
    app.fns.insert(
        FUNCTION.into(),
        FnEntry { revision: Some(revision), timeout_ms: TIMEOUT_MS, detached: AsyncPolicy::default() },
    );
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
        uid: "bench",
        rules: Rules::Explicit(&rules),
    });
    let route = route.context("compile the Route")?;
    tables.put_route(NAMESPACE, FUNCTION, Some(route)).context("put the Route's table")?;
    tables.mark_synced();
    Ok(())
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
            socket: function::socket(folder),
            concurrency: CONCURRENCY,
            timeout_ms: TIMEOUT_MS,
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
