//! kubectl, as a user types it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

/// Runs kubectl and answers its output; an exit other than 0 is an error with its words.
pub fn kubectl(args: &[&str]) -> anyhow::Result<String> {
    run("kubectl", args, None)
}

/// Runs kubectl with something on its standard input.
pub fn kubectl_with(args: &[&str], input: &str) -> anyhow::Result<String> {
    run("kubectl", args, Some(input))
}

/// Runs helm.
pub fn helm(args: &[&str]) -> anyhow::Result<String> {
    run("helm", args, None)
}

/// One object, or a list, as JSON.
pub fn get(namespace: &str, what: &[&str]) -> anyhow::Result<Value> {
    let mut args = vec!["--namespace", namespace, "get", "--output", "json"];
    args.extend(what);
    serde_json::from_str(&kubectl(&args)?).context("kubectl's JSON cannot be read")
}

/// Applies manifests, as `kubectl apply --server-side` does with strict validation.
pub fn apply(namespace: &str, manifests: &str) -> anyhow::Result<String> {
    kubectl_with(
        &["--namespace", namespace, "apply", "--server-side", "--force-conflicts", "--filename", "-"],
        manifests,
    )
}

/// What the API server says when it refuses manifests.
pub fn refusal(namespace: &str, manifests: &str) -> anyhow::Result<String> {
    match apply(namespace, manifests) {
        Ok(done) => bail!("was not refused: {done}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// A condition of an object: its status and reason with its message, once the status speaks of the newest generation.
pub fn condition(namespace: &str, object: &str, kind: &str) -> anyhow::Result<Condition> {
    let object = get(namespace, &[object])?;
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
    let observed = object.pointer("/status/observedGeneration").and_then(Value::as_i64);
    ensure!(generation == observed, "generation {generation:?}, observed {observed:?}");
    let conditions =
        object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind).context("no such condition")?;
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Ok(Condition { status: text("status"), reason: text("reason"), message: text("message") })
}

/// A condition as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// For people.
    pub message: String,
}

fn run(program: &str, args: &[&str], input: Option<&str>) -> anyhow::Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}; is it in PATH?"))?;
    let feeder = child.stdin.take().zip(input.map(str::to_owned)).map(|(mut pipe, input)| {
        // Beside the reading, so that neither pipe can fill while the other is waited for.
        std::thread::spawn(move || pipe.write_all(input.as_bytes()))
    });
    let output = child.wait_with_output().with_context(|| format!("cannot wait for {program}"))?;
    if let Some(feeder) = feeder {
        // A program that ends without reading all is judged by its exit code.
        let _ = feeder.join();
    }
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // A script among the arguments would hide what went wrong.
    let line = args.join(" ").lines().next().unwrap_or_default().to_owned();
    ensure!(output.status.success(), "{program} {line}: {}\n{err}{out}", output.status);
    Ok(out.into_owned())
}
