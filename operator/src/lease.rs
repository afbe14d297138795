//! Leader election over one Lease: the rule is pure, the loop around it thin. Never reconciles anything.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::ops::{Phase, Progress};

/// A leader that has not renewed for so long has lost its place.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How often the leader renews and others look: three chances within a lease's life.
const RENEW_INTERVAL: Duration = Duration::from_secs(4);
/// A leader that cannot renew stops before anyone else may start.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// What of a Lease decides.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    holder: String,
    renewed: Option<Timestamp>,
    transitions: i32,
    duration: Duration,
}

impl Record {
    fn of(spec: &LeaseSpec) -> Self {
        Self {
            holder: spec.holder_identity.clone().unwrap_or_default(),
            renewed: spec.renew_time.as_ref().map(|time| time.0),
            transitions: spec.lease_transitions.unwrap_or(0),
            duration: Duration::from_secs(
                u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0).max(1),
            ),
        }
    }
}

/// A record and when this process first saw it so. Clocks of other machines are not asked.
#[derive(Clone, Debug)]
struct Sighting {
    record: Record,
    at: Instant,
}

/// What to do about the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There is none, or it is free, or its holder is silent.
    Take,
    /// It is ours.
    Renew,
    /// It is another's.
    Wait,
}

/// Decides by what was read, when that was first read, who asks and what time it is.
fn evaluate_lease(sighting: Option<&Sighting>, me: &str, now: Instant) -> Step {
    let Some(Sighting { record, at }) = sighting else { return Step::Take };
    if record.holder == me {
        return Step::Renew;
    }
    let silent = now.saturating_duration_since(*at) > record.duration;
    if record.holder.is_empty() || silent { Step::Take } else { Step::Wait }
}

/// The first time this record was seen is kept while it stays the same.
fn observe(previous: Option<Sighting>, record: Record, now: Instant) -> Sighting {
    match previous {
        Some(sighting) if sighting.record == record => sighting,
        _ => Sighting { record, at: now },
    }
}

/// The Lease as it is written next.
fn next_spec(record: Option<&Record>, previous: Option<&LeaseSpec>, me: &str, now: Timestamp) -> LeaseSpec {
    let renewing = record.is_some_and(|record| record.holder == me);
    let transitions = record.map_or(0, |record| record.transitions + i32::from(!renewing));
    let acquire_time = match previous.filter(|_| renewing).and_then(|spec| spec.acquire_time.clone()) {
        Some(time) => time,
        None => MicroTime(now),
    };
    LeaseSpec {
        acquire_time: Some(acquire_time),
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(i32::try_from(LEASE_DURATION.as_secs()).unwrap_or(i32::MAX)),
        lease_transitions: Some(transitions),
        renew_time: Some(MicroTime(now)),
        ..LeaseSpec::default()
    }
}

/// One candidate for the Lease.
pub(crate) struct Election {
    api: Api<Lease>,
    name: String,
    me: String,
    sighting: Option<Sighting>,
}

impl Election {
    /// For the Lease of that name in the system namespace.
    pub(crate) fn new(client: Client, namespace: &str, name: &str, me: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            me: me.to_owned(),
            sighting: None,
        }
    }

    /// Returns true once this process leads, false on shutdown.
    pub(crate) async fn win(&mut self, shutdown: &CancellationToken, progress: &Progress) -> bool {
        while !shutdown.is_cancelled() {
            match self.step().await {
                Ok(true) => {
                    info!(identity = self.me, "became leader");
                    return true;
                }
                Ok(false) => progress.enter(Phase::Standby),
                Err(error) => warn!(%error, "cannot read or write the lease"),
            }
            shutdown.run_until_cancelled(tokio::time::sleep(RENEW_INTERVAL)).await;
        }
        false
    }

    /// Renews until that fails for too long, or until shutdown; the Lease is then given back.
    pub(crate) async fn hold(&mut self, shutdown: &CancellationToken) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < RENEW_DEADLINE {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(RENEW_INTERVAL) => {}
            }
            match tokio::time::timeout(RENEW_INTERVAL, self.step()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => {
                    warn!("another operator took the lease");
                    return;
                }
                Ok(Err(error)) => warn!(%error, "cannot renew the lease"),
                Err(_) => warn!("renewing the lease took too long"),
            }
        }
    }

    /// Gives the Lease back, so that the next leader need not wait for its end.
    pub(crate) async fn release(&mut self) {
        let released = async {
            let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
            let held = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(&self.me);
            if held && let Some(spec) = lease.spec.as_mut() {
                spec.holder_identity = Some(String::new());
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        if let Ok(Err(error)) = tokio::time::timeout(RENEW_INTERVAL, released).await {
            warn!(%error, "cannot give the lease back");
        }
    }

    /// Reads the Lease, takes or renews it where the rule says so; whether it is ours now.
    async fn step(&mut self) -> Result<bool, kube::Error> {
        let lease = self.api.get_opt(&self.name).await?;
        let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
        let record = spec.map(Record::of);
        self.sighting = record.clone().map(|record| observe(self.sighting.take(), record, Instant::now()));
        if evaluate_lease(self.sighting.as_ref(), &self.me, Instant::now()) == Step::Wait {
            return Ok(false);
        }
        let next = next_spec(record.as_ref(), spec, &self.me, Timestamp::now());
        let written = match lease {
            Some(mut lease) => {
                lease.spec = Some(next);
                self.api.replace(&self.name, &PostParams::default(), &lease).await
            }
            None => self.api.create(&PostParams::default(), &self.lease(next)).await,
        };
        match written {
            Ok(_) => Ok(true),
            // Someone else was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn lease(&self, spec: LeaseSpec) -> Lease {
        Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: Some(spec),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str) -> Record {
        Record {
            holder: holder.to_owned(),
            renewed: Some(Timestamp::UNIX_EPOCH),
            transitions: 3,
            duration: LEASE_DURATION,
        }
    }

    #[test]
    fn no_lease_is_taken() {
        assert_eq!(evaluate_lease(None, "a", Instant::now()), Step::Take);
    }

    #[test]
    fn my_lease_is_renewed_however_old() {
        let at = Instant::now();
        let sighting = Sighting { record: held_by("a"), at };
        assert_eq!(evaluate_lease(Some(&sighting), "a", at + LEASE_DURATION * 9), Step::Renew);
    }

    #[test]
    fn anothers_lease_is_left_alone_until_it_was_silent_for_its_duration() {
        let at = Instant::now();
        let sighting = Sighting { record: held_by("b"), at };
        assert_eq!(evaluate_lease(Some(&sighting), "a", at + LEASE_DURATION), Step::Wait);
        let late = at + LEASE_DURATION + Duration::from_millis(1);
        assert_eq!(evaluate_lease(Some(&sighting), "a", late), Step::Take);
    }

    #[test]
    fn a_lease_given_back_is_taken_at_once() {
        let sighting = Sighting { record: held_by(""), at: Instant::now() };
        assert_eq!(evaluate_lease(Some(&sighting), "a", sighting.at), Step::Take);
    }

    #[test]
    fn a_renewal_by_its_holder_counts_as_seen_anew() {
        let at = Instant::now();
        let first = observe(None, held_by("b"), at);
        let same = observe(Some(first.clone()), held_by("b"), at + LEASE_DURATION);
        assert_eq!(same.at, at);
        let renewed = Record { renewed: Some(Timestamp::MAX), ..held_by("b") };
        assert_eq!(observe(Some(first), renewed, at + LEASE_DURATION).at, at + LEASE_DURATION);
    }

    #[test]
    fn taking_counts_a_transition_and_renewing_does_not() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(next_spec(Some(&held_by("b")), None, "a", now).lease_transitions, Some(4));
        assert_eq!(next_spec(Some(&held_by("a")), None, "a", now).lease_transitions, Some(3));
        assert_eq!(next_spec(None, None, "a", now).lease_transitions, Some(0));
    }
}
