//! PostgreSQL keeps the rules. It needs no broker; its name says when it is run: with those that need a server.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a rule that breaks is to stop its test")]

mod postgres;
mod suite;

use funcatron_ledger::store::{DatabaseAddress, Store};

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
