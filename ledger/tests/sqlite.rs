//! SQLite keeps the rules, in a file and in memory.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a rule that breaks is to stop its test")]

mod suite;

use funcatron_ledger::store::{DatabaseAddress, Keep, Store};
use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Connection as _, Executor as _};

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

#[tokio::test]
async fn what_an_older_version_wrote_is_weighed_and_not_given_up_too_soon() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("sqlite://{}/ledger.db", folder.path().display());
    sqlx::any::install_default_drivers();
    let mut old = sqlx::AnyConnection::connect(&format!("{address}?mode=rwc")).await.unwrap();
    let first = include_str!("../migrations/sqlite/0001_calls.sql").into_sql_str();
    let first = Migration::new(1, "calls".into(), MigrationType::Simple, first, false);
    Migrator::with_migrations(vec![first]).run(&mut old).await.unwrap();
    let id = funcatron_broker::message::CallId::fresh();
    let call = format!(
        "INSERT INTO app_counters VALUES ('team-a', 'shop', 1); \
         INSERT INTO calls VALUES ('{id}', 'team-a', 'shop', 'mail', 1, 'running', NULL, NULL, 5, {}, NULL, \
         1, 1, 0, 0, NULL, NULL, NULL, NULL, NULL); \
         INSERT INTO call_logs VALUES ('{id}', 1, 'log of one'), ('{id}', 102, 'none of ours')",
        suite::T0
    );
    old.execute(sqlx::AssertSqlSafe(call)).await.unwrap();
    old.close().await.unwrap();
    let store = open(&address).await;
    let state = store.call_by_id(id).await.unwrap().unwrap().state;
    assert_eq!((state.submitted_ms, state.heard_ms), (5, suite::T0));
    assert_eq!(store.logs(id).await.unwrap().attempts, [(1, "log of one".to_owned())]);
    let keep = Keep { bytes_per_app_max: 9, ..Keep::for_ms(0) };
    assert_eq!(store.sweep(suite::T0, &keep).await.unwrap().trimmed, 1);
}
