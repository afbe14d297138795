//! `funcatron dev` as its users meet it: the real binary, real interpreters, real files.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, as the tests themselves"
)]

mod kit;

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use kit::{APP, Callers, Dev, EFFECT_MAX, copy_of_the_shop, eventually, funcatron, python, says, write};

fn folder_with(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "fn.yaml", text);
    folder
}

/// Changes the folder while callers call; answers once `path` says `text`, which must be soon.
fn change_takes_effect(dev: &Dev, path: &'static str, text: &str, change: impl FnOnce()) {
    let callers = Callers::start(dev, path);
    let begun = Instant::now();
    change();
    eventually(text, || (dev.get(path).body == text).then_some(()));
    let took = begun.elapsed();
    println!("the change took effect after {took:?}, over {} calls", callers.none_lost());
    assert!(took <= EFFECT_MAX, "{took:?}");
}

#[test]
fn the_shop_serves_every_way_into_a_fn() {
    let folder = copy_of_the_shop();
    let dev = Dev::start(folder.path());
    dev.line(0, &["note:", "invoice.yaml:", "Fn invoice", "needs a cluster"]);

    let orders = dev.get("/v1/orders?limit=2&customer=ada");
    assert_eq!(orders.status, 200, "{orders:?}");
    for word in ["welcome", "EUR", "ada"] {
        assert!(orders.body.contains(word), "{word} in {orders:?}");
    }
    assert!(!orders.body.contains("grace"), "{orders:?}");
    let order = dev.get("/v1/orders/7");
    assert_eq!(order.status, 200, "{order:?}");
    assert!(order.body.contains("70") && order.body.contains("berlin"), "{order:?}");
    assert_eq!(dev.get("/v1/orders/seven").status, 404);

    let mut pages = std::collections::BTreeSet::new();
    eventually("both versions of the page", || {
        let page = dev.get("/shop/any");
        assert_eq!(page.status, 200, "{page:?}");
        pages.insert(page.body.contains("The new shop"));
        (pages.len() == 2).then_some(())
    });
    let hook = dev.get("/t/default/shop/hook");
    assert!(hook.status == 200 && hook.body.contains("orders"), "{hook:?}");
    let invoked = dev.invoke("list-orders");
    assert!(invoked.status == 200 && invoked.body.contains("orders"), "{invoked:?}");
    assert_eq!(dev.get("/v1/invoices").status, 405, "the image's operation is a POST");
    assert_eq!(dev.get("/nothing/here").status, 404);
}

#[test]
fn replies_go_over_a_line_within_one_process_too() {
    let folder = folder_with(&format!("{APP}{}", says("hello", "one")));
    let mut dev =
        Dev::start_as(folder.path(), |command| command.env("RUST_LOG", "info,funcatron_runner::line=debug"));
    let said = |dev: &Dev, words| dev.lines().iter().filter(|line| line.contains(words)).count();
    eventually("line", || {
        assert_eq!(dev.get("/hello").body, "one");
        (said(&dev, "replies go by a line") == 1).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(dev.get("/hello").body, "one");
    }
    assert_eq!(said(&dev, "a line is over"), 0, "{:#?}", dev.lines());
    dev.interrupt();
    assert_eq!(dev.ended().code(), Some(0));
}

#[test]
fn a_changed_handler_takes_effect_soon_and_loses_no_call() {
    let folder = folder_with(&format!("{APP}{}", says("hello", "one")));
    let dev = Dev::start(folder.path());
    assert_eq!(dev.get("/hello").body, "one");
    for text in ["two", "three"] {
        change_takes_effect(&dev, "/hello", text, || {
            write(folder.path(), "fn.yaml", &format!("{APP}{}", says("hello", text)));
        });
    }
}

#[test]
fn a_changed_value_takes_effect_soon_and_loses_no_call() {
    let fn_text = python("hello", "import os; return {\"statusCode\": 200, \"body\": os.environ[\"WORD\"]}");
    let fn_text = fn_text.replacen(
        "  runtime: python\n",
        "  runtime: python\n  env: [{name: WORD, valueFrom: {configMapKeyRef: {name: words, key: word}}}]\n",
        1,
    );
    let text = |word: &str| {
        format!(
            "{APP}{fn_text}apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: words}}\ndata: {{word: {word}}}\n"
        )
    };
    let folder = folder_with(&text("red"));
    let dev = Dev::start(folder.path());
    assert_eq!(dev.get("/hello").body, "red");
    change_takes_effect(&dev, "/hello", "blue", || write(folder.path(), "fn.yaml", &text("blue")));
}

#[test]
fn a_folder_of_code_serves_and_a_change_in_it_takes_effect() {
    let folder = folder_with(&format!("{APP}{}", says("hello", "")).replace(
        "    inline: |\n      def handler(event, context):\n          return {\"statusCode\": 200, \"body\": \"\"}\n",
        "    path: code\n",
    ));
    let code = folder.path().join("code");
    std::fs::create_dir(&code).unwrap();
    let func = "import words\n\ndef handler(event, context):\n    return {\"statusCode\": 200, \"body\": words.WORD}\n";
    write(&code, "func.py", func);
    write(&code, "words.py", "WORD = 'one'\n");
    let dev = Dev::start(folder.path());
    assert_eq!(dev.get("/hello").body, "one");
    change_takes_effect(&dev, "/hello", "two", || write(&code, "words.py", "WORD = 'two'\n"));
}

#[test]
fn a_broken_change_is_told_with_its_place_and_the_last_good_version_serves() {
    let good = format!("{APP}{}", says("hello", "one"));
    let folder = folder_with(&good);
    let dev = Dev::start(folder.path());
    let serves = |what: &str| assert_eq!(dev.get("/hello").body, "one", "{what}");

    let mark = dev.mark();
    write(
        folder.path(),
        "fn.yaml",
        &good.replace("  runtime: python\n", "  runtime: python\n  concurrency: two\n"),
    );
    dev.line(mark, &["error:", "fn.yaml:12: spec.concurrency:", "two"]);
    serves("a field of the wrong type");

    let mark = dev.mark();
    write(folder.path(), "fn.yaml", "kind: [App\nspec: }\n");
    dev.line(mark, &["error:", "fn.yaml:2:"]);
    serves("no YAML");

    let mark = dev.mark();
    let import = good.replace("def handler", "import nothing_of_this_name\n      def handler");
    write(folder.path(), "fn.yaml", &import);
    dev.line(mark, &["error: Fn hello cannot be loaded", "serves on"]);
    dev.line(mark, &["nothing_of_this_name"]);
    serves("a handler that does not import");

    let mark = dev.mark();
    write(folder.path(), "fn.yaml", &good.replace("runtime: python", "runtime: cobol"));
    dev.line(mark, &["error:", "spec.runtime: cobol", "node, python"]);
    serves("a runtime that nobody knows");

    change_takes_effect(&dev, "/hello", "two", || {
        write(folder.path(), "fn.yaml", &format!("{APP}{}", says("hello", "two")));
    });
    dev.line(mark, &["all manifests are fine again"]);
}

#[test]
fn a_broken_manifest_at_the_start_does_not_keep_the_others_from_serving() {
    let broken = says("other", "x").replace("  app: shop\n  runtime", "  app: shpo\n  runtime");
    let folder = folder_with(&format!("{APP}{}{broken}", says("hello", "one")));
    let dev = Dev::start(folder.path());
    dev.line(0, &["error:", "fn.yaml:", "spec.app:", "App shpo is not in this folder"]);
    assert_eq!(dev.get("/hello").body, "one");
}

#[test]
fn a_missing_key_is_told_with_file_and_key() {
    let with_env = |name: &str, source: &str| {
        let env = format!("  runtime: python\n  env: [{{name: TOKEN, valueFrom: {{{source}}}}}]\n");
        says(name, "x").replacen("  runtime: python\n", &env, 1)
    };
    let folder = folder_with(&format!(
        "{APP}{}{}{}apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {{other: x}}\n",
        with_env("one", "secretKeyRef: {name: db, key: url}"),
        with_env("two", "configMapKeyRef: {name: settings, key: region}"),
        says("three", "here"),
    ));
    let dev = Dev::start(folder.path());
    dev.line(0, &["error:", "fn.yaml:", "spec.env:", "TOKEN", "key url of Secret db"]);
    dev.line(0, &["error:", "fn.yaml:", "spec.env:", "TOKEN", "key region of ConfigMap settings"]);
    assert_eq!(dev.get("/three").body, "here");
}

#[test]
fn a_changed_openapi_document_takes_effect() {
    let text = |path: &str| {
        let fn_text = says("hello", "one");
        let (fn_text, _) = fn_text.split_once("---\n").unwrap();
        format!(
            "{APP}{fn_text}---\napiVersion: funcatron.dev/v1alpha1\nkind: Route\nmetadata: {{name: api}}\nspec:\n  app: \
             shop\n  basePath: /v1\n  fn: hello\n  openapi:\n    configMapKeyRef: {{name: api, key: api.yaml}}\n---\n\
             apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: api}}\ndata:\n  api.yaml: |\n    openapi: 3.0.3\n    info: \
             {{title: t, version: '1'}}\n    paths:\n      {path}:\n        get: {{operationId: x, responses: {{'200': \
             {{description: d}}}}}}\n"
        )
    };
    let folder = folder_with(&text("/old"));
    let dev = Dev::start(folder.path());
    assert_eq!(dev.get("/v1/old").body, "one");
    assert_eq!(dev.get("/v1/new").status, 404);
    let begun = Instant::now();
    write(folder.path(), "fn.yaml", &text("/new"));
    eventually("the new path", || (dev.get("/v1/new").body == "one").then_some(()));
    assert!(begun.elapsed() <= EFFECT_MAX, "{:?}", begun.elapsed());
    assert_eq!(dev.get("/v1/old").status, 404);
}

#[test]
fn a_deleted_fn_goes_and_a_new_one_comes() {
    let folder = folder_with(&format!("{APP}{}", says("hello", "one")));
    write(folder.path(), "more.yaml", &says("other", "two"));
    let dev = Dev::start(folder.path());
    assert_eq!(dev.invoke("other").body, "two");
    std::fs::remove_file(folder.path().join("more.yaml")).unwrap();
    eventually("the Fn's end", || (dev.invoke("other").status == 404).then_some(()));
    assert_eq!(dev.get("/other").status, 404, "its Route was in the same file");
    assert_eq!(dev.get("/hello").body, "one");
    write(folder.path(), "third.yaml", &says("third", "three"));
    eventually("the new Fn", || (dev.get("/third").body == "three").then_some(()));
}

#[test]
fn a_missing_interpreter_is_told_once_and_the_other_fns_serve() {
    // The program itself: what PATH finds may be a script that looks for it.
    let python3 = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    let path = tempfile::tempdir().unwrap();
    let link = path.path().join("python3");
    std::os::unix::fs::symlink(String::from_utf8(python3.stdout).unwrap().trim(), link).unwrap();
    let folder = copy_of_the_shop();
    let dev = Dev::start_as(folder.path(), |command| command.env("PATH", path.path()));
    dev.line(0, &["error: node is not installed", "get-order, page, page-next"]);
    assert_eq!(dev.get("/v1/orders").status, 200);
    assert_eq!(dev.get("/v1/orders/7").status, 503);

    let mark = dev.mark();
    let orders = std::fs::read_to_string(folder.path().join("orders.yaml")).unwrap();
    write(folder.path(), "orders.yaml", &orders.replace("value: welcome", "value: servus"));
    dev.line(mark, &["ready:"]);
    let told = dev.lines().iter().filter(|line| line.contains("node is not installed")).count();
    assert_eq!(told, 1);
}

#[test]
fn ctrl_c_lets_a_slow_call_finish_and_leaves_no_process() {
    let signs = tempfile::tempdir().unwrap();
    let (begun, go) = (signs.path().join("begun"), signs.path().join("go"));
    let wait = format!(
        "import os, time; open(\"{}\", \"w\").close(); [time.sleep(0.01) for _ in range(2000) if not \
         os.path.exists(\"{}\")]; return {{\"statusCode\": 200, \"body\": \"slow\"}}",
        begun.display(),
        go.display()
    );
    let folder = folder_with(&format!("{APP}{}", python("slow", &wait)));
    let mut dev = Dev::start(folder.path());
    let below = descendants_of(&dev);
    let address = dev.public();
    let call = std::thread::spawn(move || kit::request(&address, "GET", "/slow").unwrap());
    eventually("call in the function", || begun.exists().then_some(()));
    dev.interrupt();
    eventually("refused connection", || TcpStream::connect(dev.public()).is_err().then_some(()));
    std::fs::write(&go, "").unwrap();
    assert_eq!(call.join().unwrap(), kit::Answer { status: 200, body: "slow".to_owned() });
    assert_eq!(dev.ended().code(), Some(0));
    for process in below {
        eventually("end of a host's process", || (!kit::runs(process)).then_some(()));
    }
}

fn descendants_of(dev: &Dev) -> Vec<u32> {
    let below = kit::descendants(dev.id());
    assert!(!below.is_empty(), "a host runs");
    below
}

/// Runs to its end, which must be soon.
fn run(args: &[&str]) -> Output {
    funcatron().args(args).output().unwrap()
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_port_in_use_is_told_once_with_its_flag() {
    let folder = folder_with(APP);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let path = folder.path().to_str().unwrap();
    for (flag, args) in [
        ("--port", ["dev", path, "--port", &port, "--invoke-port", "0"]),
        ("--invoke-port", ["dev", path, "--port", "0", "--invoke-port", &port]),
    ] {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(1));
        let told = told(&output);
        assert_eq!(told.lines().count(), 1, "{told}");
        for word in [&*format!("127.0.0.1:{port}"), "in use", &*format!("with {flag}")] {
            assert!(told.contains(word), "{word} in {told}");
        }
    }
}

#[test]
fn an_empty_folder_is_told_what_belongs_there() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&["dev", folder.path().to_str().unwrap(), "--port", "0"]);
    assert_eq!(output.status.code(), Some(1));
    let told = told(&output);
    assert!(told.contains("holds no manifests (*.yaml, *.yml, *.json)"), "{told}");
    let output = run(&["dev", "/nowhere/at/all", "--port", "0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(self::told(&output).contains("/nowhere/at/all"), "{output:?}");
}

#[test]
fn the_version_names_the_commit() {
    let git = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let git = git.ok().filter(|output| output.status.success());
    let commit = git.map_or("unknown".to_owned(), |output| String::from_utf8(output.stdout).unwrap());
    let version = told(&run(&["--version"]));
    assert!(version.contains(&format!("({})", commit.trim())), "{version} of {commit}");
}

#[test]
fn help_teaches_dev_by_an_example_that_serves() {
    let help = told(&run(&["dev", "--help"]));
    let text = help.split_once("hello/fn.yaml:\n").unwrap().1.split_once("  $ funcatron").unwrap().0;
    let folder = tempfile::tempdir().unwrap();
    let plain: String =
        text.lines().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect();
    write(Path::new(folder.path()), "fn.yaml", &plain);
    let dev = Dev::start(folder.path());
    let answer = dev.invoke("greet");
    assert!(answer.status == 200 && answer.body.contains("world"), "{answer:?}");
}
