//! PostgreSQL keeps the rules. It needs no broker; its name says when it is run: with those that need a server.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a rule that breaks is to stop its test")]

mod postgres;
mod suite;

use funcatron_broker::message::{CallEvent, CallId};
use funcatron_ledger::store::{DatabaseAddress, Entry, Store};

macro_rules! rules {
    ($($rule:ident),* $(,)?) => {
        $(
            #[tokio::test]
            #[ignore = "needs PostgreSQL: cargo xtask test runs it"]
            async fn $rule() {
                let server = postgres::shared();
                let address = postgres::database(server.as_deref()).await;
                suite::$rule(open(&address).await).await;
            }
        )*
    };
}

each_rule!(rules);

async fn open(address: &DatabaseAddress) -> Store {
    let store = Store::open(address);
    store.migrate().await.unwrap();
    store
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn what_can_never_be_written_is_told_from_what_cannot_be_now() {
    let server = postgres::Server::start();
    let store = open(&server.database().await).await;
    let id = CallId::fresh();
    let odd = CallEvent { namespace: "team\0".into(), ..suite::queued(id, suite::T0) };
    let never = store.apply(&[Entry::Call(odd)]).await.unwrap_err();
    assert!(never.is_lasting(), "{never:?}");
    server.stop();
    let now = store.apply(&[Entry::Call(suite::queued(id, suite::T0))]).await.unwrap_err();
    assert!(!now.is_lasting(), "{now:?}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn replicas_that_start_at_once_make_one_schema() {
    let server = postgres::shared();
    let address = postgres::database(server.as_deref()).await;
    let starts = (0..4).map(|_| {
        let address = address.clone();
        tokio::spawn(async move { open(&address).await })
    });
    for start in starts.collect::<Vec<_>>() {
        start.await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn a_reader_hears_soon_that_the_database_is_away() {
    let server = postgres::Server::start();
    let store = open(&server.database().await).await;
    let id = CallId::fresh();
    suite::write(&store, [suite::queued(id, suite::T0)]).await;
    assert!(store.call_by_id(id).await.unwrap().is_some());
    server.stop();
    let asked = std::time::Instant::now();
    store.call_by_id(id).await.unwrap_err();
    // Two seconds, and what a busy machine adds.
    assert!(asked.elapsed() < std::time::Duration::from_secs(4), "{:?}", asked.elapsed());
}
