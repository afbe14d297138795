//! The real Python host as a process, a server of bundles, and revisions to run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use funcatron_broker::message::{Wake, WakeKind};
use funcatron_broker::names::AppNames;
use funcatron_crds::{AppSpec, Digest, FnSpec, RunDocument, bundle};
use funcatron_runner::{Mode, RunnerConfig};
use parking_lot::Mutex;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::{APP, FN, NAMESPACE};

/// Where hosts, code and configuration of one pod are.
pub struct Pod {
    pub dir: tempfile::TempDir,
}

impl Pod {
    pub fn new() -> Self {
        // Socket paths are short: the default directory for temporary files may not be.
        Self { dir: tempfile::Builder::new().prefix("fr").tempdir_in("/tmp").unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config(&self) -> RunnerConfig {
        let mode = Mode::Shared {
            runtime: "python".into(),
            control_socket: self.path("control.sock"),
            code_dir: self.path("code"),
            worker_dir: self.path("w"),
            config_dir: self.path("config"),
        };
        super::hosting::config(self.dir.path(), mode)
    }

    pub fn host_args(&self) -> Vec<String> {
        let control = self.path("control.sock").display().to_string();
        ["-m", "funcatron_host", "--control", &control, "--exit-with-stdin"].map(str::to_owned).to_vec()
    }

    /// Starts a host; dropping it kills it.
    pub fn start_host(&self) -> Child {
        let mut command = Command::new("python3");
        command.args(self.host_args()).env("PYTHONPATH", host_source());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
        command.spawn().expect("python3 is a required tool")
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Code is not writable, and what is in such a directory cannot be removed by those who are not root.
        let _ = std::process::Command::new("chmod").args(["-R", "u+w"]).arg(self.dir.path()).status();
    }
}

pub fn host_source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("hosts/python/src")
}

/// Hands out bundles over plain HTTP, as a gateway's internal port does.
#[derive(Clone, Default)]
pub struct Bundles {
    address: String,
    contents: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    fetched: Arc<Mutex<Vec<String>>>,
}

impl Bundles {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let bundles = Self { address, ..Self::default() };
        let serving = bundles.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut reader = BufReader::new(&mut stream);
                let mut path = String::new();
                let mut line = String::new();
                while reader.read_line(&mut line).await.is_ok_and(|bytes| bytes > 2) {
                    if let Some(target) = line.strip_prefix("GET ") {
                        path = target.split(' ').next().unwrap().to_owned();
                    }
                    line.clear();
                }
                serving.fetched.lock().push(path.clone());
                let content = serving.contents.lock().get(&path).cloned();
                let (status, body) = content.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&body).await;
            }
        });
        bundles
    }

    pub fn put(&self, digest: &Digest, content: Vec<u8>) -> String {
        let path = format!("/bundles/{}", digest.hex());
        self.contents.lock().insert(path.clone(), content);
        format!("{}{path}", self.address)
    }

    pub fn times_fetched(&self, digest: &Digest) -> usize {
        let path = format!("/bundles/{}", digest.hex());
        self.fetched.lock().iter().filter(|fetched| **fetched == path).count()
    }
}

/// A revision of a Python function, stored and ready to be woken.
pub struct Revision {
    pub document: RunDocument,
    pub code: Digest,
    run_url: String,
    code_url: String,
}

impl Revision {
    pub fn new(bundles: &Bundles, source: &str, more: serde_json::Value) -> Self {
        let packed =
            bundle::pack(&BTreeMap::from([("func.py".to_owned(), source.as_bytes().to_vec())])).unwrap();
        let code = Digest::of(&packed);
        let mut spec = json!({"app": APP, "runtime": "python", "source": {"inline": source}});
        spec.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let spec: FnSpec = serde_json::from_value(spec).unwrap();
        let app: AppSpec =
            serde_json::from_value(json!({"env": [{"name": "GREETING", "value": "hello"}]})).unwrap();
        let document = RunDocument::build(NAMESPACE, FN, &app, &spec, Some(code.clone())).unwrap();
        let code_url = bundles.put(&code, packed);
        let run_url = bundles.put(&document.digest(), document.to_bytes());
        Self { document, code, run_url, code_url }
    }

    pub fn name(&self) -> &str {
        self.document.revision.as_str()
    }

    pub fn wake(&self, kind: WakeKind, names: &AppNames) -> Wake {
        Wake {
            kind,
            namespace: NAMESPACE.into(),
            app: APP.into(),
            fn_name: FN.into(),
            revision: self.name().into(),
            run: self.document.digest().to_string(),
            run_url: self.run_url.clone(),
            code: Some(self.code.to_string()),
            code_url: Some(self.code_url.clone()),
            queue: names.revision_queue(self.name()).unwrap().to_string(),
            durable_queue: None,
        }
    }
}
