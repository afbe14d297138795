//! What a gateway is told at its start, and the bounds it keeps. Reads no environment and no file.

use std::net::SocketAddr;
use std::time::Duration;

use funcatron_crds::address::SigningKey;
use funcatron_routing::OwnHost;

use crate::body::MESSAGE_BODY_BYTES_MAX;
use crate::calls::Ledger;
use crate::spill::Objects;

/// Everything a gateway is told at its start.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Routes and HTTP triggers. Port 0 lets the kernel choose.
    pub public: SocketAddr,
    /// `/invoke`, `/bundles` and runners' streams, for the cluster's inside only.
    pub internal: SocketAddr,
    /// `/livez`, `/readyz` and `/metrics`.
    pub ops: SocketAddr,
    /// The gateway's own hostname; empty: any that no Route claims.
    pub gateway_hostname: String,
    /// Base URL at which runners reach the internal listener.
    pub internal_base: String,
    /// Host and port at which runners reach this very gateway's internal listener, for direct calls; empty: the address
    /// that it got.
    pub direct_at: String,
    /// The call ledger, as `http://host:port`; none: what becomes of calls is not kept, and not told.
    pub ledger_url: Option<String>,
    /// Signs and verifies the addresses of bundles and of objects.
    pub signing_key: SigningKey,
    /// How the Host header chooses.
    pub serve_by_host: HostPolicy,
    /// The bounds.
    pub limits: Limits,
}

impl GatewayConfig {
    /// The ledger to ask, where its URL makes sense.
    pub(crate) fn ledger(&self) -> Option<Ledger> {
        self.ledger_url.as_deref().and_then(|url| Ledger::new(url, self.serve_by_host))
    }

    /// The object store behind the ledger, where there is a ledger.
    pub(crate) fn objects(&self) -> Option<Objects> {
        let url = self.ledger_url.as_deref()?;
        Some(Objects::new(url, &self.internal_base, self.signing_key.clone()))
    }

    /// Which hosts are the gateway's own, in routing's words.
    pub fn own_host(&self) -> OwnHost {
        match self.serve_by_host {
            HostPolicy::Dev => OwnHost::Dev,
            HostPolicy::Strict if self.gateway_hostname.is_empty() => OwnHost::Unclaimed,
            HostPolicy::Strict => OwnHost::Named(vec![self.gateway_hostname.clone()]),
        }
    }
}

/// Threads that serve requests: half of the processors, since the link to the broker has a thread of its own and the
/// kernel works for each request beside us. On two processors one thread takes a quarter less of them per call than two,
/// which wake each other.
pub fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| processors.get().div_ceil(2))
}

/// How the Host header chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HostPolicy {
    /// A hostname serves its own Routes and nothing else.
    #[default]
    Strict,
    /// A hostname that no Route names serves every Route at its own path.
    Dev,
}

/// The bounds of one gateway.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Calls at once; a pending call costs some KiB beside its body.
    pub in_flight_max: usize,
    /// Calls at once of one App, so that one tenant's slow Fns cannot take every place.
    pub app_in_flight_max: usize,
    /// Calls at once of one Fn, so that one Fn cannot take its App's places.
    pub fn_in_flight_max: usize,
    /// Open connections of one listener; an idle one costs about 12 KiB.
    pub connections_max: usize,
    /// Bodies held in memory, all together: requests until answered, answers until written.
    pub buffered_bytes_max: u64,
    /// The longest body of a call that nobody waits for which goes in its message, 15 MiB at most; a longer one goes into
    /// the object store, which is one more part that may be away, and may lose what the broker keeps.
    pub message_body_bytes_max: u64,
    /// Request line and headers of one request. They travel in one AMQP header frame of at most 128 KiB, in which a
    /// URL can appear up to three times.
    pub head_bytes_max: usize,
    /// A request's head must have arrived within this time; also the longest a connection stays idle, beyond the
    /// 60 s of common load balancers so that they close first.
    pub head_timeout: Duration,
    /// The longest silence within a request's body.
    pub body_idle_timeout: Duration,
    /// A request's body must have arrived within this time.
    pub body_timeout: Duration,
    /// The longest silence on a runner's stream, in both directions together: as long as Envoy's, so that events may be
    /// minutes apart.
    pub stream_idle_timeout: Duration,
    /// Runners' streams at once; each holds up to some 1 MiB in buffers and windows, where its client stands still.
    pub streams_max: usize,
    /// Runners' streams of one App, so that its clients who stay for events leave room for others.
    pub app_streams_max: usize,
    /// Runners' lines at once, one each; an idle one holds some 16 KiB.
    pub lines_max: usize,
    /// Runners' lines of one App.
    pub app_lines_max: usize,
    /// The longest a client may take nothing of an answer.
    pub write_timeout: Duration,
    /// After the word to stop: not ready, but still accepting, until load balancers have noticed.
    pub lame_duck: Duration,
    /// How long calls in flight may then take to finish.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight_max: 10_000,
            app_in_flight_max: 5_000,
            fn_in_flight_max: 2_500,
            connections_max: 20_000,
            buffered_bytes_max: 512 << 20,
            message_body_bytes_max: MESSAGE_BODY_BYTES_MAX,
            head_bytes_max: 32 << 10,
            head_timeout: Duration::from_secs(75),
            body_idle_timeout: Duration::from_secs(20),
            body_timeout: Duration::from_secs(120),
            stream_idle_timeout: Duration::from_secs(300),
            streams_max: 1_000,
            app_streams_max: 500,
            lines_max: 4_000,
            app_lines_max: 1_000,
            write_timeout: Duration::from_secs(60),
            lame_duck: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
        }
    }
}
