//! A PostgreSQL of this machine for the ledger, at the node's address, which no other machine reaches.

use std::fs::{self, File};
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::wait::within;
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::processes::{Signal, send, with_descendants};

/// Where Debian keeps its versions of it.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Beside one that the machine may run already.
const PORT: u16 = 15_432;
/// It holds what this run puts there, and goes with it.
const PASSWORD: &str = "faults";
/// Debian's user: PostgreSQL refuses to run as root.
const USER: &str = "postgres";
const UP_WITHIN: Duration = Duration::from_secs(60);

/// A running PostgreSQL; goes when dropped, with all that it held.
pub(crate) struct Database {
    programs: PathBuf,
    folder: TempDir,
    address: IpAddr,
    server: Mutex<Child>,
}

impl Database {
    /// The newest PostgreSQL of this machine, if it has one.
    pub(crate) fn programs() -> Option<PathBuf> {
        let versions = fs::read_dir(VERSIONS).ok()?.flatten().map(|entry| entry.path().join("bin"));
        versions.filter(|programs| programs.join("postgres").exists()).max()
    }

    /// Makes one and starts it.
    pub(crate) fn start(programs: &Path, address: IpAddr) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder for a database")?;
        own(folder.path())?;
        let password = folder.path().join("password");
        fs::write(&password, PASSWORD).context("write the database's password")?;
        own(&password)?;
        let data = folder.path().join("data");
        let mut init = as_user(&programs.join("initdb"));
        init.arg("--pgdata").arg(&data).arg("--pwfile").arg(&password);
        init.args(["--username", USER, "--auth=scram-sha-256", "--encoding=UTF8"]).stdout(Stdio::null());
        ensure!(init.status().context("start initdb")?.success(), "initdb failed");
        let access = "\nhost all all 0.0.0.0/0 scram-sha-256\n";
        let rules = data.join("pg_hba.conf");
        let rules_now = fs::read_to_string(&rules).context("read who may connect")?;
        fs::write(&rules, rules_now + access).context("write who may connect")?;
        let server = Mutex::new(serve(programs, folder.path(), address)?);
        let database = Self { programs: programs.to_owned(), folder, address, server };
        within("PostgreSQL is up", UP_WITHIN, || database.is_up())?;
        Ok(database)
    }

    /// As the ledger is told.
    pub(crate) fn url(&self) -> String {
        format!("postgres://{USER}:{PASSWORD}@{}:{PORT}/{USER}", self.address)
    }

    /// The server and all that it has started.
    pub(crate) fn processes(&self) -> Result<Vec<u32>> {
        with_descendants(self.server.lock().id())
    }

    /// After its death, as what watches over it would.
    pub(crate) fn restart(&self) -> Result<()> {
        let mut server = self.server.lock();
        server.wait().context("wait for the killed database")?;
        *server = serve(&self.programs, self.folder.path(), self.address)?;
        Ok(())
    }

    /// Whether it takes connections.
    pub(crate) fn is_up(&self) -> Result<()> {
        TcpStream::connect((self.address, PORT)).context("connect to PostgreSQL")?;
        let mut ready = Command::new(self.programs.join("pg_isready"));
        ready.args(["--quiet", "--host", &self.address.to_string(), "--port", &PORT.to_string()]);
        ensure!(ready.status().context("start pg_isready")?.success(), "PostgreSQL is not ready");
        Ok(())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let mut server = self.server.lock();
        // Its folder goes too, so nothing is lost that anybody wants; what is gone already needs no killing.
        let _ = with_descendants(server.id()).and_then(|pids| send(Signal::Kill, &pids));
        let _ = server.wait();
    }
}

fn serve(programs: &Path, folder: &Path, address: IpAddr) -> Result<Child> {
    let log = File::options().create(true).append(true).open(folder.join("log")).context("open the log")?;
    let mut server = as_user(&programs.join("postgres"));
    server.arg("-D").arg(folder.join("data")).arg("-k").arg(folder);
    server.args(["-h", &address.to_string(), "-p", &PORT.to_string()]);
    let errors = log.try_clone().context("share the log")?;
    server.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().context("start PostgreSQL")
}

/// setpriv becomes the program, so that its process is the child.
fn as_user(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--"]).arg(program);
    command.current_dir("/");
    command
}

fn own(path: &Path) -> Result<()> {
    let owned = Command::new("chown").arg(format!("{USER}:")).arg(path).status().context("start chown")?;
    ensure!(owned.success(), "{} cannot be given to {USER}", path.display());
    Ok(())
}
