//! The broker within the process keeps the contract.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a rule that breaks is to stop its test")]

mod contract;

use async_trait::async_trait;
use funcatron_broker::link::Connector;
use funcatron_broker::local::LocalBroker;

struct Local(LocalBroker);

#[async_trait]
impl contract::Kit for Local {
    fn connector(&self) -> &dyn Connector {
        &self.0
    }

    async fn cut(&self) {
        self.0.drop_links("cut by the test");
    }
}

macro_rules! rules {
    ($($rule:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $rule() {
                contract::$rule(Box::new(Local(LocalBroker::new()))).await;
            }
        )*
    };
}

each_rule!(rules);
