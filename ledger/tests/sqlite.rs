//! SQLite keeps the rules, in a file and in memory.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a rule that breaks is to stop its test")]

mod suite;

use funcatron_ledger::store::{DatabaseAddress, Store};

macro_rules! rules {
    ($($rule:ident),* $(,)?) => {
        mod in_a_file {
            $(
                #[tokio::test]
                async fn $rule() {
                    let folder = tempfile::tempdir().unwrap();
                    let address = format!("sqlite://{}/ledger.db", folder.path().display());
                    crate::suite::$rule(crate::open(&address).await).await;
                }
            )*
        }
        mod in_memory {
            $(
                #[tokio::test]
                async fn $rule() {
                    crate::suite::$rule(crate::open("sqlite::memory:").await).await;
                }
            )*
        }
    };
}

each_rule!(rules);

async fn open(address: &str) -> Store {
    let store = Store::open(&DatabaseAddress::parse(address).unwrap());
    store.migrate().await.unwrap();
    store
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("sqlite://{}/ledger.db", folder.path().display());
    let id = funcatron_broker::message::CallId::fresh();
    let store = open(&address).await;
    suite::write(&store, [suite::queued(id, suite::T0)]).await;
    store.close().await;
    assert!(open(&address).await.call_by_id(id).await.unwrap().is_some());
}
