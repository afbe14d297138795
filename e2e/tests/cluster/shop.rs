//! `kubectl apply -f examples/shop`: every way into a Fn.

use std::time::{Duration, Instant};

use anyhow::ensure;
use e2e::client::{get as http_get, request};
use e2e::cluster::{self, GATEWAY, GATEWAY_HOSTNAME, SYSTEM};
use e2e::kubectl::{get, kubectl};
use e2e::wait::until;

use crate::broker;

const NAMESPACE: &str = "e2e-shop";
const HOST: &str = "shop.example.com";

#[test]
fn the_shop_answers_every_way_in() {
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    let began = Instant::now();
    cluster::apply_example(NAMESPACE, "shop").unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(30));
    println!("every object of examples/shop Ready after {:.1} s", began.elapsed().as_secs_f64());

    an_openapi_route_reaches_python_node_and_an_image();
    weights_share_the_requests();
    an_http_trigger_reaches_its_fn();
    a_queue_trigger_runs_and_dead_letters();
    columns_tell();
    nothing_secret_shows();
}

fn an_openapi_route_reaches_python_node_and_an_image() {
    let orders = http_get(&format!("{GATEWAY}/v1/orders?limit=2&customer=ada"), HOST).unwrap();
    assert_eq!(orders.status, 200, "{orders:?}");
    let body = orders.json().unwrap();
    assert_eq!(body["greeting"], "welcome", "the Fn's variable wins over its App's");
    assert_eq!(body["currency"], "EUR");
    assert_eq!(body["orders"].as_array().unwrap().len(), 2);
    assert!(orders.headers.contains_key("fn-call-id"), "{orders:?}");

    let order = http_get(&format!("{GATEWAY}/v1/orders/7"), HOST).unwrap();
    assert_eq!((order.status, order.json().unwrap()["total"].as_i64()), (200, Some(70)), "{order:?}");
    assert_eq!(order.json().unwrap()["warehouse"], "berlin", "from the ConfigMap of envFrom");
    assert_eq!(http_get(&format!("{GATEWAY}/v1/orders/x"), HOST).unwrap().status, 404);

    let headers = [("Host", HOST), ("Content-Type", "application/json")];
    let invoice =
        request("POST", &format!("{GATEWAY}/v1/invoices"), &headers, r#"{"customer":"ada","total":10}"#)
            .unwrap();
    assert_eq!(invoice.status, 200, "{invoice:?}");
    assert_eq!(invoice.json().unwrap()["greeting"], "hello", "{invoice:?}");

    let wrong = request("DELETE", &format!("{GATEWAY}/v1/orders"), &headers, "").unwrap();
    assert_eq!(wrong.status, 405, "{wrong:?}");
    assert!(wrong.headers["allow"].contains("GET"), "{wrong:?}");
    assert_eq!(http_get(&format!("{GATEWAY}/v1/nothing"), HOST).unwrap().status, 404);
    assert_eq!(http_get(&format!("{GATEWAY}/v1/orders"), "other.example.com").unwrap().status, 404);
}

fn weights_share_the_requests() {
    let answers: Vec<String> =
        (0..60).map(|_| http_get(&format!("{GATEWAY}/shop/cart"), HOST).unwrap().body).collect();
    let next = answers.iter().filter(|body| body.contains("new shop")).count();
    // Nine in ten go to the first: 60 requests have none or more than 24 of the second once in a thousand runs.
    assert!(answers.iter().all(|body| body.contains("shop")), "{answers:?}");
    assert!((1..=24).contains(&next), "{next} of 60 went to the backend of weight 10");
}

fn an_http_trigger_reaches_its_fn() {
    let url = format!("{GATEWAY}/t/{NAMESPACE}/shop/hook?limit=1");
    assert_eq!(http_get(&url, GATEWAY_HOSTNAME).unwrap().status, 200);
    assert_eq!(http_get(&url, HOST).unwrap().status, 404, "never on a tenant's hostname");
}

fn a_queue_trigger_runs_and_dead_letters() {
    let names = format!("{}.{NAMESPACE}.shop", broker::installation());
    let exchange = format!("{names}.x.payments");
    assert!(broker::publish(&exchange, "paid.card", r#"{"amount": 5}"#).unwrap(), "a queue takes it");
    assert!(
        !broker::publish(&exchange, "refused.card", r#"{"amount": 5}"#).unwrap(),
        "the key does not match"
    );
    until("the event ran and is acknowledged", Duration::from_secs(20), || {
        let logs = kubectl(&[
            "--namespace",
            NAMESPACE,
            "logs",
            "deployment/shop-python-runners",
            "--container",
            "host",
        ])?;
        ensure!(logs.contains("paid: 5"), "{logs}");
        let durable = broker::queues(&format!("{names}.fn.on-paid"))?;
        ensure!(durable == [(format!("{names}.fn.on-paid"), 0)], "{durable:?}");
        Ok(())
    });
    assert!(broker::publish(&exchange, "paid.cash", r#"{"amount": -1}"#).unwrap());
    until("the failing event is a dead letter, seen and counted", Duration::from_secs(60), || {
        let dead = broker::queues(&format!("{names}.dead.on-paid"))?;
        ensure!(dead == [(format!("{names}.dead.on-paid"), 1)], "{dead:?}");
        let counted = get(NAMESPACE, &["trigger", "on-paid"])?["status"]["deadLetters"].clone();
        ensure!(counted == 1, "status.deadLetters is {counted}");
        Ok(())
    });
    let logs =
        kubectl(&["--namespace", NAMESPACE, "logs", "deployment/shop-python-runners", "--container", "host"])
            .unwrap();
    assert_eq!(logs.matches("ValueError: a payment cannot be negative").count(), 4, "four attempts:\n{logs}");
}

/// The value of the shop's Secret stands in no status, table or log of ours, and the runners' pods hold no token.
fn nothing_secret_shows() {
    const VALUE: &str = "only-an-example";
    let objects =
        "apps.funcatron.dev,fns,routes.funcatron.dev,triggers,deployments,controllerrevisions,events";
    let shown = [
        get(NAMESPACE, &[objects]).unwrap().to_string(),
        get(SYSTEM, &["configmaps"]).unwrap().to_string(),
        kubectl(&["--namespace", SYSTEM, "logs", "deployment/funcatron-operator", "--tail=-1"]).unwrap(),
        kubectl(&[
            "--namespace",
            SYSTEM,
            "logs",
            "--selector=app.kubernetes.io/component=gateway",
            "--tail=-1",
        ])
        .unwrap(),
        kubectl(&["--namespace", NAMESPACE, "logs", "deployment/shop-python-runners", "--all-containers"])
            .unwrap(),
    ];
    for text in shown {
        assert!(!text.contains(VALUE), "{}", &text[..text.len().min(500)]);
    }
    for pod in get(NAMESPACE, &["pods"]).unwrap()["items"].as_array().unwrap() {
        assert_eq!(pod["spec"]["automountServiceAccountToken"], false, "{}", pod["metadata"]["name"]);
        let host = pod["spec"]["initContainers"].as_array().unwrap();
        assert!(
            !host[0].to_string().contains("AMQP"),
            "user code's container holds no broker credentials: {host:?}"
        );
    }
}

fn columns_tell() {
    let fns = kubectl(&["--namespace", NAMESPACE, "get", "fns"]).unwrap();
    for word in ["NAME", "APP", "READY", "URL", "list-orders", "/invoke/e2e-shop/list-orders", "True"] {
        assert!(fns.contains(word), "{word} in\n{fns}");
    }
    let routes = kubectl(&["--namespace", NAMESPACE, "get", "routes.funcatron.dev"]).unwrap();
    for word in ["orders-api", "shop.example.com", "True"] {
        assert!(routes.contains(word), "{word} in\n{routes}");
    }
}
