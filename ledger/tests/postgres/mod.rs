//! A PostgreSQL for tests: one that FUNCATRON_TEST_POSTGRES names, or one of this process's own, which can be stopped.

#![allow(dead_code, reason = "each test file takes what it needs")]

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use funcatron_ledger::store::DatabaseAddress;
use sqlx::{Connection as _, Executor as _};
use tempfile::TempDir;

/// A busy machine starts PostgreSQL well within this.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const GIVEN: &str = "FUNCATRON_TEST_POSTGRES";

/// A server of this process's own.
pub(crate) struct Server {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
}

impl Server {
    pub(crate) fn start() -> Self {
        let programs = programs();
        let folder = tempfile::Builder::new().prefix("funcatron-postgres-").tempdir().unwrap();
        if is_root() {
            // PostgreSQL refuses to be run by root.
            let (user, group) = (id_of("-u"), id_of("-g"));
            chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { folder, programs, port };
        server.run("initdb", &["--auth=trust", "--username=ledger", "--no-sync", "--encoding=UTF8"]);
        server.resume();
        server
    }

    /// Starts it on what it had.
    pub(crate) fn resume(&self) {
        let folder = self.folder.path().display();
        let options = format!("-p {} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off", self.port);
        let log = self.folder.path().join("log");
        let wait = START_TIMEOUT.as_secs().to_string();
        let log = log.to_str().unwrap();
        self.run("pg_ctl", &["start", "--wait", "-t", &wait, "--log", log, "--options", &options]);
    }

    /// Stops it at once, as a crash would.
    pub(crate) fn stop(&self) {
        self.run("pg_ctl", &["stop", "--wait", "--mode=immediate"]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let path = self.programs.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", USER, "--"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        let data = self.folder.path().join("data");
        command.args(arguments).env("PGDATA", data).env("LC_ALL", "C.UTF-8").current_dir("/");
        // Not captured: a server that was started keeps what it inherits.
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
        assert!(status.unwrap().success(), "{program} failed");
    }

    fn address(&self, database: &str) -> String {
        format!("postgres://ledger@127.0.0.1:{}/{database}", self.port)
    }

    /// A fresh database.
    pub(crate) async fn database(&self) -> DatabaseAddress {
        fresh(&self.address("postgres")).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.folder.path().join("data/postmaster.pid").exists() {
            self.stop();
        }
    }
}

/// A server that tests share: the last that lets go of it stops it.
pub(crate) fn shared() -> Option<Arc<Server>> {
    static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    if std::env::var_os(GIVEN).is_some() {
        return None;
    }
    let mut shared = SHARED.lock().unwrap();
    let server = shared.upgrade().unwrap_or_else(|| Arc::new(Server::start()));
    *shared = Arc::downgrade(&server);
    Some(server)
}

/// A fresh database of the shared server, or of the one that is given.
pub(crate) async fn database(server: Option<&Server>) -> DatabaseAddress {
    match server {
        Some(server) => server.database().await,
        None => fresh(&std::env::var(GIVEN).unwrap()).await,
    }
}

async fn fresh(server: &str) -> DatabaseAddress {
    sqlx::any::install_default_drivers();
    let name = format!("ledger_{}", funcatron_broker::link::fresh_suffix());
    let mut connection = sqlx::AnyConnection::connect(server).await.unwrap();
    connection.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
    connection.close().await.unwrap();
    let (head, _) = server.rsplit_once('/').expect("a URL that names a database");
    DatabaseAddress::parse(&format!("{head}/{name}")).unwrap()
}

/// Whom root lends the server to: there is one on every Linux.
const USER: &str = "nobody";

fn is_root() -> bool {
    id("-u", None) == 0
}

fn id_of(which: &str) -> u32 {
    id(which, Some(USER))
}

fn id(which: &str, user: Option<&str>) -> u32 {
    let output = Command::new("id").arg(which).args(user).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// Debian keeps each version's programs in a folder of its own; elsewhere they are on the PATH.
fn programs() -> PathBuf {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = debian.map(|version| version.path().join("bin")).collect();
    folders.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    let found = folders.into_iter().rev().find(|folder| is_there(folder));
    found.unwrap_or_else(|| {
        panic!("no initdb and pg_ctl here: install postgresql, or let {GIVEN} name a server as postgres://…")
    })
}

fn is_there(folder: &Path) -> bool {
    folder.join("initdb").is_file() && folder.join("pg_ctl").is_file()
}
