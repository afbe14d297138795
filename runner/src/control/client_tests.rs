use std::path::Path;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::UnixListener;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A host that says what a test has it say.
struct Host {
    listener: UnixListener,
}

struct Connection {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Host {
    fn bind(path: &Path) -> Self {
        Self { listener: UnixListener::bind(path).unwrap() }
    }

    /// Accepts the runner and answers its hello.
    async fn accept(&self) -> Connection {
        let (stream, _) = timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap();
        let (reader, writer) = stream.into_split();
        let mut connection = Connection { lines: BufReader::new(reader).lines(), writer };
        assert_eq!(connection.read().await, serde_json::json!({"op": "hello", "wire": 1}));
        connection
    }
}

impl Connection {
    async fn read(&mut self) -> serde_json::Value {
        let line = timeout(PATIENCE, self.lines.next_line()).await.unwrap().unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    }

    async fn write(&mut self, lines: &str) {
        self.writer.write_all(lines.as_bytes()).await.unwrap();
    }
}

fn load() -> Load {
    Load {
        revision: "f-12345678".into(),
        code: "/code".into(),
        handler: "handler".into(),
        env: Default::default(),
        concurrency: 1,
        memory_bytes: None,
        start_timeout_ms: 1000,
        socket: "/w/1.sock".into(),
        app: "shop".into(),
        fn_name: "f".into(),
    }
}

fn start(path: &Path) -> (HostControl, tokio_util::sync::DropGuard) {
    let shutdown = CancellationToken::new();
    (HostControl::start(path.to_path_buf(), shutdown.clone()), shutdown.drop_guard())
}

const HELLO: &str = "{\"event\":\"hello\",\"wire\":1}\n";

#[tokio::test]
async fn an_exit_in_the_line_after_loaded_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::bind(&dir.path().join("c"));
    let (control, _guard) = start(&dir.path().join("c"));
    let mut connection = host.accept().await;
    connection.write(HELLO).await;
    control.ready().await.unwrap();
    let loading = tokio::spawn(async move { control.load(load()).await });
    let request = connection.read().await;
    assert_eq!((&request["op"], &request["revision"]), (&"load".into(), &"f-12345678".into()));
    let id = &request["id"];
    let exit =
        r#"{"event":"exited","revision":"f-12345678","code":null,"signal":"SIGSEGV","log":"last words"}"#;
    connection
        .write(&format!(
            "{{\"event\":\"loaded\",\"id\":{id},\"revision\":\"f-12345678\",\"pid\":7}}\n{exit}\n"
        ))
        .await;
    let loaded = loading.await.unwrap().unwrap();
    let exited = timeout(PATIENCE, loaded.exited).await.unwrap().unwrap();
    assert_eq!(
        (exited.code, exited.signal.as_deref(), exited.log.as_str()),
        (None, Some("SIGSEGV"), "last words")
    );
}

#[tokio::test]
async fn a_refusal_carries_the_hosts_words() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::bind(&dir.path().join("c"));
    let (control, _guard) = start(&dir.path().join("c"));
    let mut connection = host.accept().await;
    connection.write(HELLO).await;
    for event in ["failed", "error"] {
        let asking = control.clone();
        let loading = tokio::spawn(async move { asking.load(load()).await });
        let id = connection.read().await["id"].clone();
        connection
            .write(&format!(
                "{{\"event\":\"{event}\",\"id\":{id},\"revision\":\"f\",\"reason\":\"no func\"}}\n"
            ))
            .await;
        let error = loading.await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "no func", "{event}");
    }
}

#[tokio::test]
async fn a_lost_host_loses_what_ran_and_what_was_asked_and_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::bind(&dir.path().join("c"));
    let (control, _guard) = start(&dir.path().join("c"));
    let mut connection = host.accept().await;
    connection.write(HELLO).await;
    let asking = control.clone();
    let loading = tokio::spawn(async move { asking.load(load()).await });
    let id = connection.read().await["id"].clone();
    connection.write(&format!("{{\"event\":\"loaded\",\"id\":{id},\"revision\":\"f-12345678\"}}\n")).await;
    let loaded = loading.await.unwrap().unwrap();
    let asking = control.clone();
    let killing = tokio::spawn(async move { asking.kill("f-12345678").await });
    assert_eq!(connection.read().await["op"], "kill");
    drop(connection);
    assert!(timeout(PATIENCE, loaded.exited).await.unwrap().is_err());
    assert!(matches!(killing.await.unwrap(), Err(ControlError::Lost)));
    let mut connection = host.accept().await;
    connection.write(HELLO).await;
    timeout(PATIENCE, control.ready()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_host_of_another_wire_version_is_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::bind(&dir.path().join("c"));
    let (control, _guard) = start(&dir.path().join("c"));
    let mut connection = host.accept().await;
    connection.write("{\"event\":\"hello\",\"wire\":2}\n").await;
    // It comes again: it did not stay with this one.
    let mut connection = host.accept().await;
    assert!(!*control.ready.borrow());
    connection.write(HELLO).await;
    timeout(PATIENCE, control.ready()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_line_beyond_all_bounds_ends_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::bind(&dir.path().join("c"));
    let (control, _guard) = start(&dir.path().join("c"));
    let mut connection = host.accept().await;
    connection.write(HELLO).await;
    control.ready().await.unwrap();
    // The runner may close before all of it is written.
    let _ = connection.writer.write_all(&vec![b'x'; EVENT_BYTES_MAX * 2]).await;
    let mut connection = host.accept().await;
    connection.write(HELLO).await;
    timeout(PATIENCE, control.ready()).await.unwrap().unwrap();
}
