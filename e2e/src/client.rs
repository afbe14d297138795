//! A client inside the cluster: a pod with Python, which sends requests as its users' pods do.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::kubectl::{kubectl, kubectl_with};
use crate::wait::until;

const SCRIPT: &str = include_str!("client.py");
const NAMESPACE: &str = "funcatron-e2e-client";
const POD: &str = "client";
const EXEC: [&str; 6] = ["--namespace", NAMESPACE, "exec", "--stdin", POD, "--"];

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body as text.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {self:?}"))
    }
}

/// Makes the client pod, once.
pub fn start(image: &str) -> anyhow::Result<()> {
    let manifest = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD, "namespace": NAMESPACE}, "spec": {
            "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "client", "image": image, "imagePullPolicy": "IfNotPresent",
                "command": ["python3", "-c", "import signal; signal.pause()"]}]}}]});
    kubectl_with(&["apply", "--server-side", "--force-conflicts", "--filename", "-"], &manifest.to_string())?;
    until("the client pod is ready", Duration::from_secs(60), || {
        kubectl(&["--namespace", NAMESPACE, "wait", "--for=condition=Ready", "pod/client", "--timeout=1s"])
    });
    Ok(())
}

/// Runs the client script with one command, and reads its answer.
pub fn ask(command: &Value) -> anyhow::Result<Value> {
    let args = [&EXEC[..], &["python3", "-c", SCRIPT]].concat();
    let answer = kubectl_with(&args, &command.to_string())?;
    serde_json::from_str(&answer).with_context(|| format!("the client's answer cannot be read: {answer}"))
}

/// One request.
pub fn request(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> anyhow::Result<Answer> {
    let answer =
        ask(&json!({"do": "request", "method": method, "url": url, "headers": headers, "body": body}))?;
    ensure!(answer.get("error").is_none(), "{method} {url}: {}", answer["error"]);
    let headers = answer["headers"].as_object().into_iter().flatten();
    Ok(Answer {
        status: answer["status"].as_u64().and_then(|status| status.try_into().ok()).context("no status")?,
        headers: headers
            .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
        body: answer["body"].as_str().unwrap_or_default().to_owned(),
    })
}

/// A GET with a Host header.
pub fn get(url: &str, host: &str) -> anyhow::Result<Answer> {
    request("GET", url, &[("Host", host)], "")
}

/// Bytes on a bare connection, for what no HTTP client would send; what came back as text.
pub fn raw(host: &str, port: u16, bytes: &str) -> anyhow::Result<String> {
    let answer = ask(&json!({"do": "raw", "host": host, "port": port, "bytes": bytes}))?;
    Ok(answer["text"].as_str().unwrap_or_default().to_owned())
}

/// A steady load in the background.
pub struct Load {
    thread: std::thread::JoinHandle<anyhow::Result<Value>>,
}

/// How a load is sent.
pub struct LoadPlan<'a> {
    /// The method.
    pub method: &'a str,
    /// Where to.
    pub url: &'a str,
    /// The Host header.
    pub host: &'a str,
    /// Requests a second.
    pub rate: u32,
    /// For how long.
    pub seconds: u32,
    /// Sent with each request; `{n}` becomes its number.
    pub body: &'a str,
}

impl Load {
    /// Starts it; when this returns, requests are being sent.
    pub fn start(plan: &LoadPlan<'_>) -> anyhow::Result<Self> {
        let LoadPlan { method, url, host, rate, seconds, body } = plan;
        let command = json!({"do": "load", "method": method, "url": url, "host": host, "rate": rate,
            "seconds": seconds, "body": body});
        let mut child = Command::new("kubectl")
            .args(EXEC)
            .args(["python3", "-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start kubectl; is it in PATH?")?;
        let (mut input, output) =
            child.stdin.take().zip(child.stdout.take()).context("kubectl has no pipes")?;
        input.write_all(command.to_string().as_bytes())?;
        drop(input);
        let mut output = BufReader::new(output);
        let mut first = String::new();
        output.read_line(&mut first)?;
        ensure!(first.trim() == "started", "the load did not start: {first:?}");
        let thread = std::thread::spawn(move || {
            let mut rest = String::new();
            output.read_to_string(&mut rest)?;
            child.wait()?;
            serde_json::from_str(&rest).with_context(|| format!("the load's answer cannot be read: {rest}"))
        });
        Ok(Self { thread })
    }

    /// Waits for its end: answers by status (`error` for none), and the answers that were not 200.
    pub fn finish(self) -> anyhow::Result<LoadResult> {
        let answer = self.thread.join().map_err(|_| anyhow::anyhow!("the load's thread failed"))??;
        let by_status = answer["statuses"].as_object().context("no statuses")?;
        Ok(LoadResult {
            statuses: by_status.iter().map(|(status, n)| (status.clone(), n.as_u64().unwrap_or(0))).collect(),
            bodies: answer["bodies"].as_object().cloned().unwrap_or_default().into_iter().collect(),
            samples: answer["samples"].as_array().cloned().unwrap_or_default(),
            longest_ms: answer["longest_ms"].as_f64().unwrap_or(0.0),
        })
    }
}

/// What a load saw.
#[derive(Debug, Clone)]
pub struct LoadResult {
    /// Answers by status.
    pub statuses: BTreeMap<String, u64>,
    /// Distinct bodies of 200 answers, at most 20, with their count.
    pub bodies: BTreeMap<String, Value>,
    /// The first answers that were not 200.
    pub samples: Vec<Value>,
    /// The slowest.
    pub longest_ms: f64,
}

impl LoadResult {
    /// All answers.
    pub fn total(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Answers with that status.
    pub fn count(&self, status: &str) -> u64 {
        self.statuses.get(status).copied().unwrap_or(0)
    }
}
