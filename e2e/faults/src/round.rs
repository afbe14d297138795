//! One round: load, what happens under it, the wait until all is whole again, and the count.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use e2e::wait::within;
use tokio::runtime::Runtime;

use crate::call::{End, Record};
use crate::counter::Counter;
use crate::database::Database;
use crate::ledger;
use crate::load::Load;
use crate::product::{APP, NAMESPACE, Product};
use crate::schedule::{Act, Due, Round};
use crate::strike::{Machine, Struck, strike};
use crate::tally::{Figures, Listed, Seen, count};

/// Ten thousand calls at the rate of the full form, with a minute without a broker, and as long again.
const REACHED_WITHIN: Duration = Duration::from_secs(300);
/// The first good answer after a fault: longer than any deadline of the platform's.
const ANSWERED_WITHIN: Duration = Duration::from_secs(120);
/// The last attempt of a call that was with a lost runner, behind all that waits in its queue.
const ENDED_WITHIN: Duration = Duration::from_secs(240);
/// After all is whole, load goes on this long: what a fault broke lastingly shows then.
const TAIL: Duration = Duration::from_secs(3);

/// What all rounds share.
pub(crate) struct Stage {
    pub(crate) runtime: Runtime,
    pub(crate) counter: Counter,
    pub(crate) product: Product,
    pub(crate) numbers: Arc<AtomicU64>,
    pub(crate) api_server: PathBuf,
    pub(crate) database: Option<Database>,
}

impl Stage {
    /// Plays a round. An error says that it could not be played, which is no better than a broken rule.
    pub(crate) fn play(&mut self, round: &Round) -> Result<Figures> {
        self.counter.forget();
        let since_ms = now_ms()?;
        let handle = self.runtime.handle().clone();
        let load = Load::start(&handle, self.product.gateway, &self.numbers, round.rates, round.detached);
        let over = self.happen(&round.dues, &load)?;
        within("a call is answered", ANSWERED_WITHIN, || load.answered_since(over))?;
        within("as many calls are accepted as asked for", REACHED_WITHIN, || load.reached())?;
        // Load that finds nothing broken is the point of it.
        sleep(TAIL);
        let records = load.finish();
        let first = self.ended(&records, since_ms);
        let again = self.listed(since_ms)?;
        // Calls that have no end are counted as lost, which tells more than that time is over.
        let first = first.unwrap_or_else(|_| again.clone());
        let (runs, allowed) = (self.counter.runs(), round.allowed());
        let seen =
            Seen { records: &records, runs: &runs, first: &first, again: &again, allowed: &allowed, over };
        Ok(count(&seen))
    }

    /// Does what is due, waits until all of it is back, and says when the last fault was over.
    fn happen(&mut self, dues: &[Due], load: &Load) -> Result<Duration> {
        let Self { product, api_server, database, .. } = self;
        let machine = Machine { api_server: api_server.clone(), database: database.as_ref() };
        let (mut struck, mut over): (Vec<Struck<'_>>, _) = (Vec::new(), Duration::ZERO);
        for Due { after, act, pick } in dues {
            sleep(*after);
            let began = load.time_of(Instant::now());
            match act {
                Act::Strike(fault) => {
                    let (one, at) = strike(*fault, *pick, &machine).with_context(|| fault.to_string())?;
                    struck.push(one);
                    over = load.time_of(at);
                }
                Act::Restart(part) => {
                    product.restart(*part)?;
                    over = began;
                }
                Act::Upgrade => {
                    product.upgrade()?;
                    over = began;
                }
            }
        }
        struck.iter().try_for_each(Struck::is_back)?;
        product.settled()?;
        Ok(over)
    }

    /// The ledger's list, once every accepted call has an end in it.
    fn ended(&self, records: &[Record], since_ms: u64) -> Result<Vec<Listed>> {
        let accepted = records.iter().filter_map(|record| match &record.end {
            End::Accepted(id) => Some(id.as_str()),
            _ => None,
        });
        let accepted: std::collections::HashSet<&str> = accepted.collect();
        within("every accepted call has an end", ENDED_WITHIN, || {
            let listed = self.listed(since_ms)?;
            let terminal = listed.iter().filter(|call| call.is_terminal());
            let ended = terminal.filter(|call| accepted.contains(call.id.as_str())).count();
            ensure!(ended >= accepted.len(), "{ended} of {} have an end", accepted.len());
            Ok(listed)
        })
    }

    fn listed(&self, since_ms: u64) -> Result<Vec<Listed>> {
        let listing = ledger::calls(self.product.ledger, NAMESPACE, APP, since_ms);
        self.runtime.block_on(listing)
    }
}

fn now_ms() -> Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    u64::try_from(since.as_millis()).context("the clock is beyond all dates")
}
