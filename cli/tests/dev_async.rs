//! Calls that nobody waits for, in `dev`: accepted, run, tried again, kept in the ledger.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, as the tests themselves"
)]

mod kit;

use kit::{APP, Answer, Dev, eventually, request, write};
use serde_json::Value;

/// A Fn whose handler has this line, and a Route `/<name>` whose calls run later.
fn later(name: &str, line: &str) -> String {
    tried(name, "{retry: {maxAttempts: 2, maxAge: 1h}}", line)
}

/// The same, and how its calls are tried.
fn tried(name: &str, detached: &str, line: &str) -> String {
    format!(
        "apiVersion: funcatron.dev/v1alpha1\nkind: Fn\nmetadata: {{name: {name}}}\nspec:\n  app: shop\n  \
         async: {detached}\n  runtime: python\n  source:\n    inline: |\n      \
         def handler(event, context):\n          {line}\n---\n\
         apiVersion: funcatron.dev/v1alpha1\nkind: Route\nmetadata: {{name: {name}}}\nspec:\n  app: shop\n  rules:\n  \
         - matches: [{{path: {{value: /{name}}}}}]\n    backends: [{{fn: {name}}}]\n    async: true\n---\n"
    )
}

fn dev(manifests: &str) -> (tempfile::TempDir, Dev) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "fn.yaml", &format!("{APP}{manifests}"));
    let dev = Dev::start(folder.path());
    (folder, dev)
}

/// Asks at a URL; a path below it may follow.
fn at(url: &str, method: &str, below: &str) -> Answer {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    request(address, method, &format!("/{path}{below}")).unwrap()
}

fn json(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"))
}

/// Calls, and answers where the call is to be found.
fn accepted(dev: &Dev, path: &str) -> String {
    let answer = dev.get(path);
    assert_eq!(answer.status, 202, "{answer:?}");
    json(&answer)["location"].as_str().unwrap().to_owned()
}

/// The call, once it has that status.
fn once(location: &str, status: &str) -> Value {
    eventually(&format!("{location} is {status}"), || {
        let answer = at(location, "GET", "");
        (answer.status == 200).then(|| json(&answer)).filter(|call| call["status"] == status)
    })
}

#[test]
fn a_call_that_runs_later_is_found_in_the_ledger_with_its_answer() {
    let (_folder, dev) = dev(&later("hello", "return {\"statusCode\": 201, \"body\": \"made\"}"));
    let location = accepted(&dev, "/hello");
    let call = once(&location, "success");
    assert_eq!(
        (&call["fn"], &call["attempts"], &call["number"]),
        (&"hello".into(), &1.into(), &1.into()),
        "{call}"
    );
    let result = at(&location, "GET", "/result");
    assert_eq!((result.status, result.body.as_str()), (201, "made"));
    let second = once(&accepted(&dev, "/hello?again"), "success");
    assert_eq!(second["number"], 2, "{second}");
}

#[test]
fn a_call_that_fails_is_tried_again_and_then_dead_and_may_be_retried() {
    let (_folder, dev) = dev(&later("broken", "raise ValueError('not today')"));
    let location = accepted(&dev, "/broken");
    let call = once(&location, "dead");
    assert_eq!(call["attempts"], 2, "{call}");
    assert!(call["reason"].as_str().unwrap().contains("attempt 2 of 2"), "{call}");
    let base = location.split("/calls/").next().unwrap();
    let url = format!("{base}/v1/namespaces/default/apps/shop/calls/{}", call["id"].as_str().unwrap());
    let retried = at(&url, "POST", "/retry");
    assert_eq!(retried.status, 202, "{retried:?}");
    let id = json(&retried)["id"].as_str().unwrap().to_owned();
    let again = once(&format!("{base}/calls/{id}"), "dead");
    assert_eq!((&again["retryOf"], &again["number"]), (&call["id"], &2.into()), "{again}");
}

#[test]
fn a_failed_call_waits_as_its_fn_says() {
    let folder = tempfile::tempdir().unwrap();
    let times = folder.path().join("times.txt");
    let note = format!(
        "import time; open('{}', 'a').write(f'{{time.monotonic()}}\\n'); raise ValueError('no')",
        times.display()
    );
    let manifests = tried("slow", "{retry: {maxAttempts: 3, backoff: 1500ms}}", &note);
    write(folder.path(), "fn.yaml", &format!("{APP}{manifests}"));
    let dev = Dev::start(folder.path());
    once(&accepted(&dev, "/slow"), "dead");
    let text = std::fs::read_to_string(&times).unwrap();
    let times: Vec<f64> = text.lines().map(|line| line.parse().unwrap()).collect();
    let [first, second, third] = times[..] else { panic!("{times:?}") };
    // Without a word of the Fn it would be a second, and two.
    assert!(second - first > 1.45 && third - second > 2.95, "{times:?}");
}

#[test]
fn dead_letters_of_a_fn_are_kept_as_it_says() {
    let broken = tried(
        "broken",
        "{retry: {maxAttempts: 1}, deadLetter: {maxLength: 1}}",
        "raise ValueError('not today')",
    );
    let (_folder, dev) = dev(&broken);
    let calls = [0, 1].map(|_| accepted(&dev, "/broken"));
    for call in &calls {
        once(call, "dead");
    }
    let base = calls[0].split("/calls/").next().unwrap();
    let url = format!("{base}/v1/namespaces/default/apps/shop/fns/broken/dead-letters/redrive");
    // The ledger hears that a call is dead before the broker does.
    let moved = eventually("a dead letter goes back", || {
        let answer = at(&url, "POST", "");
        (answer.status == 200).then(|| json(&answer)["moved"].clone()).filter(|moved| *moved != 0)
    });
    assert_eq!(moved, 1);
}

#[test]
fn what_a_call_wrote_is_its_log_attempt_by_attempt() {
    let line = "print('attempt', event['requestContext']['attempt'])";
    let (_folder, dev) = dev(&later("broken", &format!("{line}; raise ValueError('not today')")));
    let location = accepted(&dev, "/broken");
    once(&location, "dead");
    let log = at(&location, "GET", "/log").body;
    let (first, second) = (log.find("attempt 1").unwrap(), log.find("attempt 2").unwrap());
    assert!(first < second && log.matches("ValueError: not today").count() == 2, "{log}");
}

#[test]
fn the_end_of_a_call_calls_the_fn_that_its_fn_names() {
    let mail = later("mail", "return {\"body\": \"sent\"}");
    let mail = mail.replace("async: {retry", "async: {onSuccess: {fn: thank}, retry");
    let thank = later("thank", "return str(event)");
    let (_folder, dev) = dev(&format!("{mail}{thank}"));
    let location = accepted(&dev, "/mail");
    let told = eventually("it is told", || {
        let call = json(&at(&location, "GET", ""));
        (call["callbacks"][0]["status"] == "delivered").then_some(call)
    });
    assert_eq!((&told["status"], &told["callbacks"][0]["target"]), (&"success".into(), &"thank".into()));
    let base = location.split("/calls/").next().unwrap();
    let list = at(&format!("{base}/v1/namespaces/default/apps/shop/calls?fn=thank"), "GET", "");
    let calls = json(&list)["calls"].clone();
    assert_eq!((calls.as_array().unwrap().len(), &calls[0]["source"]), (1, &"callback".into()));
    let callback = format!("{base}/calls/{}", calls[0]["id"].as_str().unwrap());
    once(&callback, "success");
    let result = at(&callback, "GET", "/result");
    assert!(result.body.contains(told["id"].as_str().unwrap()), "{result:?}");
    let key = json(&at(&format!("{base}/v1/callback-key"), "GET", ""));
    assert!(key["key"].as_str().unwrap().starts_with("whpk_"), "{key}");
}

#[test]
fn a_body_that_no_message_carries_comes_whole() {
    kit::spill::a_body_that_no_message_carries_comes_whole(|command| command);
}
