//! The broker within the process keeps the contract.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a rule that breaks is to stop its test")]

mod contract;

use async_trait::async_trait;
use funcatron_broker::link::Connector;
use funcatron_broker::local::LocalBroker;
use funcatron_broker::policy::Policy;

#[derive(Default)]
struct Local(LocalBroker, parking_lot::Mutex<Vec<Policy>>);

impl Local {
    fn change(&self, change: impl FnOnce(&mut Vec<Policy>)) {
        let mut policies = self.1.lock();
        change(&mut policies);
        self.0.set_policies(policies.clone());
    }
}

#[async_trait]
impl contract::Kit for Local {
    fn connector(&self) -> &dyn Connector {
        &self.0
    }

    async fn cut(&self) {
        self.0.drop_links("cut by the test");
    }

    async fn put_policy(&self, policy: &Policy) {
        self.change(|policies| policies.push(policy.clone()));
    }

    async fn delete_policy(&self, policy: &Policy) {
        self.change(|policies| policies.retain(|other| other != policy));
    }
}

macro_rules! rules {
    ($($rule:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $rule() {
                contract::$rule(Box::new(Local::default())).await;
            }
        )*
    };
}

each_rule!(rules);
