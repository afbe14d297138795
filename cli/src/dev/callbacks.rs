//! What the ledger is told of Fns: the operator's part on a cluster. Each word is told once, and again when it changes.

use std::collections::BTreeMap;

use funcatron_broker::link::{Confirm, Link, LinkError, Target};
use funcatron_broker::message::FnEvent;
use funcatron_broker::names::Installation;
use jiff::Timestamp;
use tracing::warn;

use super::manifests::Key;
use super::plan::{Broken, Plan};

/// What was told, by App and Fn.
#[derive(Default)]
pub(crate) struct Words(BTreeMap<(Key, String), FnEvent>);

impl Words {
    /// Tells what has changed since it was last told.
    pub(crate) async fn tell(
        &mut self,
        link: &dyn Link,
        installation: &Installation,
        news: Vec<FnEvent>,
    ) -> Result<(), LinkError> {
        let at_ms = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
        for word in news {
            let Ok(envelope) = FnEvent { at_ms, ..word.clone() }.into_envelope() else { continue };
            let queue = installation.ledger_queue();
            match link.publish_confirmed(Target::queue(&queue), envelope, true).await? {
                Confirm::Acked => self.keep(word),
                refused => warn!(?refused, "the ledger is not told whom a Fn calls back"),
            }
        }
        Ok(())
    }

    fn keep(&mut self, word: FnEvent) {
        let key = (Key::new(&word.namespace, &word.app), word.fn_name.clone());
        match word.deleted {
            true => drop(self.0.remove(&key)),
            false => drop(self.0.insert(key, word)),
        }
    }

    /// Words of a plan that the ledger does not know. What is broken stays as it was.
    pub(crate) fn news(&self, plan: &Plan, invoke_base: &str) -> Vec<FnEvent> {
        let planned = |(key, fn_name): &(Key, String)| plan.apps.get(key)?.fns.get(fn_name);
        let stays = |(key, fn_name): &(Key, String)| {
            plan.broken.contains(&Broken::Fn(Key::new(&key.namespace, fn_name)))
        };
        let gone = self.0.iter().filter(|(key, _)| planned(key).is_none() && !stays(key));
        let mut news: Vec<FnEvent> =
            gone.map(|(_, word)| FnEvent { deleted: true, ..word.clone() }).collect();
        for (key, app) in &plan.apps {
            for (fn_name, planned) in &app.fns {
                let url = format!("{invoke_base}/invoke/{}/{fn_name}", key.namespace);
                let word = FnEvent { url, ..planned.word.clone() };
                if self.0.get(&(key.clone(), fn_name.clone())) != Some(&word) {
                    news.push(word);
                }
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use funcatron_broker::message::CallbackTarget;

    use super::*;
    use crate::dev::manifests::{self, Schemas};
    use crate::dev::plan::compile;

    fn plan(detached: &str) -> Plan {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "apiVersion: funcatron.dev/v1alpha1\nkind: App\nmetadata: {{name: shop}}\nspec: {{}}\n---\n\
             apiVersion: funcatron.dev/v1alpha1\nkind: Fn\nmetadata: {{name: mail}}\n\
             spec: {{app: shop, runtime: python, source: {{inline: 'x'}}{detached}}}\n"
        );
        std::fs::write(folder.path().join("a.yaml"), text).unwrap();
        let manifests = manifests::read(folder.path(), &Schemas::compile().unwrap()).unwrap();
        compile(&Installation::parse("dev").unwrap(), &manifests, &BTreeMap::new())
    }

    #[test]
    fn what_is_new_changed_or_gone_is_told_and_nothing_twice() {
        let mut words = Words::default();
        let mut tell = |plan: &Plan| {
            let news = words.news(plan, "http://dev");
            news.iter().cloned().for_each(|word| words.keep(word));
            assert_eq!(words.news(plan, "http://dev"), [], "nothing twice");
            news
        };
        let first = tell(&plan(""));
        assert_eq!(
            (first.len(), &*first[0].url, &first[0].on_success),
            (1, "http://dev/invoke/default/mail", &None)
        );
        let changed = tell(&plan(", async: {onSuccess: {fn: thank}}"));
        assert_eq!(changed[0].on_success, Some(CallbackTarget::Fn("thank".into())));
        assert_eq!(tell(&plan(", async: {onSuccess: {fn: thank}}")), []);
        let gone = tell(&Plan::default());
        assert!(gone.len() == 1 && gone[0].deleted && gone[0].fn_name == "mail");
    }
}
