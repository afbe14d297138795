//! A function on a Unix socket that does what the body of a call says. Written by hand, so that it can break HTTP.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// One call as the function saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub request_line: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

#[derive(Default)]
struct Watched {
    seen: Vec<Seen>,
    running: usize,
    most_running: usize,
    connections: usize,
}

/// A function process. Dropping it ends the process.
pub struct Function {
    socket: PathBuf,
    watched: Arc<Mutex<Watched>>,
    released: watch::Sender<bool>,
    _server: JoinSet<()>,
}

impl Function {
    /// Listens at `socket`, as a container's process does after it starts.
    pub fn start(socket: &Path) -> Self {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let watched: Arc<Mutex<Watched>> = Arc::default();
        let released = watch::Sender::new(false);
        let mut server = JoinSet::new();
        let (seen, release) = (Arc::clone(&watched), released.clone());
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                seen.lock().connections += 1;
                connections.spawn(serve(stream, Arc::clone(&seen), release.subscribe()));
            }
        });
        Self { socket: socket.to_path_buf(), watched, released, _server: server }
    }

    /// Ends the process, and waits until nothing of it is left.
    pub async fn end(self) {
        let Self { socket: _, watched, released: _, _server: mut server } = self;
        server.shutdown().await;
        // Each connection holds it.
        while Arc::strong_count(&watched) > 1 {
            tokio::task::yield_now().await;
        }
    }

    /// Lets every call that says `hold` or `hang` go on.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    /// Holds the calls to come.
    pub fn hold(&self) {
        self.released.send_replace(false);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.watched.lock().seen.clone()
    }

    pub fn times_seen(&self, body: &str) -> usize {
        self.watched.lock().seen.iter().filter(|seen| seen.body == body).count()
    }

    pub fn running(&self) -> usize {
        self.watched.lock().running
    }

    pub fn most_running(&self) -> usize {
        self.watched.lock().most_running
    }

    pub fn connections(&self) -> usize {
        self.watched.lock().connections
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

async fn serve(stream: UnixStream, watched: Arc<Mutex<Watched>>, mut released: watch::Receiver<bool>) {
    let mut stream = BufReader::new(stream);
    while let Some(seen) = read_request(&mut stream).await {
        {
            let mut watched = watched.lock();
            watched.seen.push(seen.clone());
            watched.running += 1;
            watched.most_running = watched.most_running.max(watched.running);
        }
        let answer = act(&seen, &mut released).await;
        watched.lock().running -= 1;
        let goes_on = answer.is_some() && seen.body != "half";
        if stream.write_all(&answer.unwrap_or_default()).await.is_err() || !goes_on {
            return;
        }
    }
}

/// The bytes of the answer; `None` ends the connection.
async fn act(seen: &Seen, released: &mut watch::Receiver<bool>) -> Option<Vec<u8>> {
    let word = seen.body.split(' ').next().unwrap_or_default();
    match word {
        "fail" => Some(answer("502 Bad Gateway", &[], "secret trace")),
        "timeout" => Some(answer("504 Gateway Timeout", &[], "")),
        "created" => {
            let headers = ["Fn-Http-Status: 201", "Fn-Http-H-Location: /orders/7", "Content-Type: text/x"];
            Some(answer("200 OK", &headers, "made"))
        }
        "cloudevent" => {
            let headers = [
                "Fn-Http-H-Ce-Specversion: 1.0",
                "Fn-Http-H-Ce-Id: 7",
                "Fn-Http-H-Ce-Source: /mail",
                "Fn-Http-H-Ce-Type: mail%20sent",
                "Content-Type: application/json",
            ];
            Some(answer("200 OK", &headers, "{}"))
        }
        "refuse" => Some(answer("200 OK", &["Fn-Http-Status: 422"], "no such order")),
        "teapot" => Some(answer("418 I'm a teapot", &[], "")),
        "garbage" => Some(b"\x00\x01 this is no http\r\n\r\n".to_vec()),
        "break" => None,
        "half" => Some(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec()),
        "large" => Some(answer("200 OK", &[], &"x".repeat(15 * 1024 * 1024 + 1))),
        "headers" => {
            let headers: Vec<String> = (0..90).map(|n| format!("X-{n}: {}", "v".repeat(1200))).collect();
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            Some(answer("200 OK", &headers, ""))
        }
        "hold" | "hang" => {
            released.wait_for(|released| *released).await.ok()?;
            Some(answer("200 OK", &[], "late"))
        }
        _ => Some(answer("200 OK", &[], &seen.body)),
    }
}

fn answer(status: &str, headers: &[&str], body: &str) -> Vec<u8> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

async fn read_request(stream: &mut BufReader<UnixStream>) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let request_line = lines.next()?.to_owned();
    let headers: HashMap<String, String> = lines
        .map(|line| line.split_once(": ").expect("a header"))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Seen { request_line, headers, body: String::from_utf8(body).unwrap() })
}
