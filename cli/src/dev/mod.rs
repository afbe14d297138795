//! `funcatron dev`: a folder of manifests, served on a laptop. Gateway, runners and an in-process broker in one
//! process; the operator's part is played by `control`.

mod broker;
mod callbacks;
mod control;
mod declared;
mod document;
mod fleet;
mod folders;
mod hosts;
mod last_good;
mod manifests;
mod plan;
mod runners;
mod schedules;
mod schema;
mod screen;
mod watch;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use funcatron_broker::names::Installation;
use funcatron_broker::supervise;
use funcatron_crds::SigningKey;
use funcatron_gateway::{Gateway, GatewayConfig, GatewayError, HostPolicy, MemoryBundles, TableStore};
use funcatron_ledger::{AllowList, CallbackConfig, Ledger, LedgerConfig, ObjectsAddress, ObjectsConfig};
use notify::RecursiveMode;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::error;

use broker::Broker;
use control::{Control, Word};
use declared::Declared;
use manifests::{Manifests, Schemas};
use plan::Plan;
use runners::{Runners, Shared};
use screen::{Addresses, Screen};
use watch::FolderWatch;

pub(crate) use screen::show_end;

/// Words on their way to the screen; they come one per change of a Fn.
const WORDS_MAX: usize = 1_000;

/// Large bodies of calls that wait; a laptop's temporary folder has other guests.
const OBJECTS_BYTES_MAX: u64 = 4 << 30;

/// What is told of a user's own broker, whose policies are nobody's here to keep.
const WITHOUT_POLICIES: &str = "on a broker of your own a failed call is tried again at once: spec.async.retry.backoff \
                                and spec.async.deadLetter are kept by the operator on a cluster";

/// Serve the manifests of a folder on this machine
///
/// Reads App, Fn, Route and Trigger, and the ConfigMaps and Secrets they name: the very files that `kubectl apply`
/// takes. Shows the URL of everything that answers, and the lines that functions print. A changed file takes effect
/// at once and drops no call; a broken change is told with its place, and what served before serves on.
///
/// Needs python3 and node in PATH for Fns of those runtimes. Fns with an image need a cluster.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLE)]
pub(crate) struct DevArgs {
    /// A folder of manifests (*.yaml, *.yml, *.json), or one such file
    path: PathBuf,
    /// Port on 127.0.0.1 for Routes and HTTP triggers; 0 chooses a free one
    #[arg(long, default_value_t = 3001, env = "FUNCATRON_DEV_PORT")]
    port: u16,
    /// Port on 127.0.0.1 for /invoke/<namespace>/<fn>; 0 chooses a free one
    #[arg(long, default_value_t = 0)]
    invoke_port: u16,
    /// A RabbitMQ (4.3 or newer) instead of the broker in this process, as amqp://user:password@host:5672/%2f
    #[arg(long, value_name = "URL", env = "FUNCATRON_DEV_AMQP", hide_env_values = true)]
    amqp: Option<String>,
}

/// This machine, to itself.
const OWN_HOST: [&str; 3] = ["localhost", "127.0.0.0/8", "::1"];

const EXAMPLE: &str = "\
Example:
  Write this into hello/fn.yaml:

    apiVersion: funcatron.dev/v1alpha1
    kind: App
    metadata: {name: hello}
    spec: {}
    ---
    apiVersion: funcatron.dev/v1alpha1
    kind: Fn
    metadata: {name: greet}
    spec:
      app: hello
      runtime: python
      source:
        inline: |
          def handler(event, context):
              return {\"hello\": \"world\"}

  $ funcatron dev hello --invoke-port 3002
  $ curl http://127.0.0.1:3002/invoke/default/greet

  Then change the text and save: the next call answers with the new one.
  `kubectl apply -f hello` takes the same file to a cluster.";

/// Runs until `shutdown`, then lets the calls in flight finish.
pub(crate) async fn run(args: DevArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let schemas = Schemas::compile()?;
    // A folder without manifests is told before anything starts.
    manifests::read(&args.path, &schemas)?;
    let broker = Broker::open(args.amqp.as_deref(), &args.path).await?;
    let root = tempfile::Builder::new()
        .prefix("fdev")
        .tempdir()
        .context("cannot make a folder for sockets, code and large bodies")?;
    let key = SigningKey::new(&rand::random::<[u8; 32]>())?;
    let mut ledger =
        Ledger::bind(ledger_config(broker.installation.clone(), root.path(), key.clone())?).await?;
    let config = gateway_config(&args, &ledger, key);
    let bound = Gateway::bind(config.clone()).await.map_err(|error| name_flag(error, &args))?;
    ledger.set_gateway_base(bound.internal_base());

    let mut look = Look::new(&args, schemas, broker.installation.clone())?;
    let mut next = Some(look.look()?);
    let mut screen = Screen::new(Addresses { public: bound.public_addr(), internal: bound.internal_addr() });
    let (plans, plan_receiver) = mpsc::channel(1);
    let (words, mut word_receiver) = mpsc::channel(WORDS_MAX);
    let parts =
        Parts { bound, config, broker, ledger, root: root.path().to_owned(), plans: plan_receiver, words };
    let mut served = tokio::spawn(serve(parts, shutdown.clone()));
    loop {
        if let Some(plan) = next.take() {
            screen.show(&plan);
            if plans.send(plan).await.is_err() {
                break;
            }
        }
        tokio::select! {
            ended = &mut served => return ended.context("dev failed")?,
            Some(word) = word_receiver.recv() => screen.show_word(&word),
            () = look.watch.changed(), if !shutdown.is_cancelled() => {
                // What cannot be read at all changes nothing.
                next = look.look().map_err(|error| screen.show_word(&Word::Problem(format!("{error:#}")))).ok();
            }
        }
    }
    served.await.context("dev failed")?
}

/// Reads the folder, again and again.
struct Look {
    path: PathBuf,
    schemas: Schemas,
    installation: Installation,
    /// What of the manifests does not come true on this broker.
    note: Option<&'static str>,
    watch: FolderWatch,
    earlier: Manifests,
}

impl Look {
    fn new(args: &DevArgs, schemas: Schemas, installation: Installation) -> anyhow::Result<Self> {
        let watch = FolderWatch::new().context("cannot watch files")?;
        let (path, note) = (args.path.clone(), args.amqp.is_some().then_some(WITHOUT_POLICIES));
        Ok(Self { path, schemas, installation, note, watch, earlier: Manifests::default() })
    }

    /// What shall run now.
    fn look(&mut self) -> anyhow::Result<Plan> {
        let mut manifests = manifests::read(&self.path, &self.schemas)?;
        let (folders, mut watched) = folders::read(&manifests);
        watched.entry(watch::folder_of(&self.path)).or_insert(RecursiveMode::NonRecursive);
        self.watch.watch(watched).context("cannot watch the folder")?;
        let mut plan = last_good::plan(&self.installation, &mut manifests, &self.earlier, &folders);
        plan.notes.extend(self.note.map(str::to_owned));
        self.earlier = manifests;
        Ok(plan)
    }
}

/// What `serve` takes with it.
struct Parts {
    bound: Gateway,
    config: GatewayConfig,
    broker: Broker,
    ledger: Ledger,
    root: PathBuf,
    plans: mpsc::Receiver<Plan>,
    words: mpsc::Sender<Word>,
}

/// Gateway and control until `shutdown`; then first the gateway drains, after it the runners.
async fn serve(parts: Parts, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Parts { bound, config, broker, ledger, root, plans, words } = parts;
    let Broker { connector, installation, local } = &broker;
    let tables = Arc::new(TableStore::new(installation, config.own_host()));
    let bundles = Arc::new(MemoryBundles::default());
    let gateway = control::Gateway {
        tables: Arc::clone(&tables),
        bundles: Arc::clone(&bundles),
        signing_key: config.signing_key,
        internal_base: bound.internal_base().to_owned(),
    };
    let (connector, installation, local) = (Arc::clone(connector), installation.clone(), local.clone());
    let output = Arc::new(screen::show_host_line);
    let shared =
        Shared { installation: installation.clone(), connector: Arc::clone(&connector), root, output };
    let control_stop = CancellationToken::new();
    let control = Control::new(installation, local, gateway, Runners::new(shared), plans, words);
    let controlled = tokio::spawn(keep_control(control, broker, control_stop.clone()));
    // It hears of the last call's end, after the runners have finished.
    let ledger_stop = CancellationToken::new();
    let kept = tokio::spawn(ledger.serve(Arc::clone(&connector), ledger_stop.clone()));
    bound.serve(connector, tables, bundles, shutdown).await;
    control_stop.cancel();
    let left = controlled.await.inspect_err(|error| error!(%error, "control failed"));
    ledger_stop.cancel();
    if let Err(error) = kept.await {
        error!(%error, "the ledger failed");
    }
    if let Ok(Some((broker, declared))) = left {
        broker.leave(declared).await;
    }
    Ok(())
}

/// What then stands on the broker is nobody's.
async fn keep_control(
    control: Control,
    broker: Broker,
    stop: CancellationToken,
) -> Option<(Broker, Declared)> {
    let control = Arc::new(tokio::sync::Mutex::new(control));
    supervise(broker.connector.as_ref(), stop.clone(), |link| {
        let (control, stop) = (Arc::clone(&control), stop.clone());
        async move { control.lock().await.session(link, &stop).await }
    })
    .await;
    let control = Arc::into_inner(control)?;
    Some((broker, control.into_inner().drain().await))
}

/// A laptop's callbacks may go to the laptop, and its calls' large bodies into a folder that goes with `dev`.
fn ledger_config(installation: Installation, root: &Path, key: SigningKey) -> anyhow::Result<LedgerConfig> {
    let config = LedgerConfig::in_memory(installation);
    let callbacks = CallbackConfig { allow: AllowList::parse(OWN_HOST)?, ..config.callbacks.clone() };
    let store = ObjectsAddress::Folder(root.join("objects"));
    let objects = ObjectsConfig { store, bytes_max: OBJECTS_BYTES_MAX, gateway_base: String::new(), key };
    Ok(LedgerConfig { callbacks, objects: Some(objects), ..config })
}

fn gateway_config(args: &DevArgs, ledger: &Ledger, signing_key: SigningKey) -> GatewayConfig {
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    GatewayConfig {
        public: local(args.port),
        internal: local(args.invoke_port),
        ops: local(0),
        gateway_hostname: String::new(),
        internal_base: String::new(),
        direct_at: String::new(),
        ledger_url: Some(format!("http://{}", ledger.api_addr())),
        signing_key,
        serve_by_host: HostPolicy::Dev,
        limits: funcatron_gateway::Limits::default(),
    }
}

/// Says which flag chooses another port.
fn name_flag(error: GatewayError, args: &DevArgs) -> anyhow::Error {
    let GatewayError::Listen { address, source, .. } = error else { return error.into() };
    let flag = if address.port() == args.port { "--port" } else { "--invoke-port" };
    anyhow::anyhow!("cannot listen on {address}: {source}; choose another port with {flag}")
}
