//! One App's flood over its limit, beside another App: a gateway, two runners and two clients, all processes of their
//! own.

use std::process::Command;

#[test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
fn a_flood_is_held_to_its_apps_limit_and_the_app_beside_it_is_never_refused() {
    let url = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} names the test broker"));
    let ran = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["flood", "--role", "check"])
        .env("FUNCATRON_BENCH_AMQP", url("FUNCATRON_TEST_AMQP"))
        .env("FUNCATRON_BENCH_MANAGEMENT", url("FUNCATRON_TEST_MANAGEMENT"))
        .status();
    assert!(ran.is_ok_and(|status| status.success()), "its output says why");
}
