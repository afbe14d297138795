//! A plain HTTP server in a process of its own, which `server.py` is.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::soon;

/// A server process. Dropped, it is killed.
pub struct Server {
    pub port: u16,
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Server {
    /// Starts one on a port of the kernel's choice.
    pub async fn start() -> Self {
        Self::start_at(0).await
    }

    /// Starts one on that port.
    pub async fn start_at(port: u16) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runner/tests/kit/server.py");
        let mut process = Command::new("python3")
            .arg(script)
            .env("PORT", port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = soon("the server listens", lines.next_line()).await.unwrap().unwrap().parse().unwrap();
        Self { port, process, lines }
    }

    /// Waits until it says that; passes over what else it says.
    pub async fn says(&mut self, wanted: &str) {
        while soon(wanted, self.lines.next_line()).await.unwrap().expect("the server lives") != wanted {}
    }

    /// Ends it as kill -9 does.
    pub async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) {
        soon("the server's end", self.process.wait()).await.unwrap();
    }
}
