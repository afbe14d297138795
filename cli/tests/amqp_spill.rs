//! Bodies that no message carries, with gateway, runner and ledger on a real RabbitMQ.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, as the tests themselves"
)]

mod kit;

#[test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
fn a_body_that_no_message_carries_comes_whole() {
    let url = std::env::var("FUNCATRON_TEST_AMQP")
        .expect("FUNCATRON_TEST_AMQP is not set: cargo xtask test runs this with a RabbitMQ");
    kit::spill::a_body_that_no_message_carries_comes_whole(|command| command.args(["--amqp", &url]));
}
