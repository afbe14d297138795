//! One GiB each way through two gateways, a runner and a function, all processes of their own.

use std::process::Command;

#[test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
fn a_gib_passes_each_way_unchanged_and_grows_no_process() {
    let url = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} names the test broker"));
    let ran = Command::new(env!("CARGO_BIN_EXE_bench"))
        .arg("streams")
        .env("FUNCATRON_BENCH_AMQP", url("FUNCATRON_TEST_AMQP"))
        .env("FUNCATRON_BENCH_MANAGEMENT", url("FUNCATRON_TEST_MANAGEMENT"))
        .status();
    assert!(ran.is_ok_and(|status| status.success()), "its output says why");
}
