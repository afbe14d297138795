//! The broker's policies: how long a failed call waits for its next attempt, and which dead letters are kept. What a
//! Fn needs is decided here without I/O; what differs from it on the broker is written, and nothing else.
//! Never touches a policy of another installation, nor one that is not named like ours.

mod keeper;
pub(crate) mod version;

use funcatron_broker::names::{AppNames, NameError};
use funcatron_broker::policy::{Kept, Policy, Waits};
use funcatron_broker::topology::DEAD_LENGTH_MAX;
use funcatron_crds::{DeadLetters, FnAsync, Span};
use kube::ResourceExt;
use tracing::{info, warn};

use self::version::BrokerVersion;
use crate::context::{Context, ReconcileError};
use crate::function::Observed;
use crate::keys::Name;

pub(crate) use keeper::Keeper;

/// What a Fn's queues go by besides what goes for all. The CRD's rules have refused what is out of bounds.
///
/// # Errors
/// A name that the CRD's rules should have refused.
pub fn of_fn(names: &AppNames, fn_name: &str, asked: Option<&FnAsync>) -> Result<Vec<Policy>, NameError> {
    let Some(FnAsync { retry, dead_letter, .. }) = asked else { return Ok(vec![]) };
    let length = |span: Option<&Span>| span.and_then(|span| span.to_duration().ok());
    let mut policies = vec![];
    let backoff = length(retry.as_ref().and_then(|retry| retry.backoff.as_ref()));
    if let Some(waits) = backoff.map(Waits::of).filter(|waits| *waits != Waits::default()) {
        policies.push(Policy::retries(names, fn_name, waits)?);
    }
    if let Some(DeadLetters { max_length, max_age }) = dead_letter {
        let length_max = max_length.and_then(|length| u32::try_from(length).ok());
        let length_max = length_max.unwrap_or(DEAD_LENGTH_MAX);
        let kept = Kept { length_max, age_max: length(max_age.as_ref()) };
        policies.extend(Policy::dead_letters(names, fn_name, kept)?);
    }
    Ok(policies)
}

/// Learns what the broker can, and has the policy for all stand. After each new link, and from time to time: what was
/// known of it may not hold any more.
pub(crate) async fn renew(ctx: &Context) {
    ctx.policies.doubt();
    if let Err(error) = renewed(ctx).await {
        warn!(%error, "cannot have the broker's policies stand; trying again");
    }
}

async fn renewed(ctx: &Context) -> Result<(), ReconcileError> {
    match ctx.management.version().await?.as_deref().and_then(BrokerVersion::parse) {
        Some(version) => {
            if ctx.broker.learn(version.clone()) {
                info!(%version, delayed_retries = version.delays_retries(), "learnt the broker's version");
            }
        }
        None => warn!("the broker does not tell its version: failed calls may be tried again at once"),
    }
    let policy = Policy::of_all(&ctx.config.installation);
    if is_understood(ctx, &policy) {
        ctx.policies.ensure(&ctx.management, &ctx.config.installation, &policy).await?;
    }
    Ok(())
}

/// A broker of which nothing is known yet is not asked for what it may not have.
fn is_understood(ctx: &Context, policy: &Policy) -> bool {
    !policy.needs_delayed_retries() || ctx.broker.version().is_some_and(|version| version.delays_retries())
}

/// Has a Fn's policies stand, and no others for its queues.
pub(crate) async fn keep(ctx: &Context, key: &Name, observed: &Observed) -> Result<(), ReconcileError> {
    if !ctx.broker.is_up() {
        return Ok(());
    }
    let spec = &observed.function.spec;
    let names = ctx.names(&key.namespace, &spec.app)?;
    let mut wanted = of_fn(&names, &observed.function.name_any(), spec.detached.as_ref())?;
    wanted.retain(|policy| is_understood(ctx, policy));
    for policy in &wanted {
        ctx.policies.ensure(&ctx.management, &ctx.config.installation, policy).await?;
    }
    for queue in [names.durable_queue(&key.name)?, names.dead_queue(&key.name)?] {
        let is_wanted = wanted.iter().any(|policy| policy.is_for(queue.as_str()));
        // What is not known to stand is found by a sweep, or after the next look at all.
        if !is_wanted && ctx.policies.stands(queue.as_str()) {
            ctx.policies.remove(&ctx.management, queue.as_str()).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use funcatron_broker::names::Installation;
    use funcatron_broker::policy::Rule;
    use funcatron_crds::AsyncRetry;

    fn rules(asked: &FnAsync) -> Vec<Rule> {
        let names = AppNames::new(&Installation::parse("i").unwrap(), "team-a", "shop").unwrap();
        of_fn(&names, "mail", Some(asked)).unwrap().iter().map(Policy::rule).collect()
    }

    fn backoff(length: &str) -> Option<AsyncRetry> {
        Some(AsyncRetry { backoff: Some(Span::new(length)), ..AsyncRetry::default() })
    }

    #[test]
    fn a_fn_has_policies_of_its_own_only_for_what_it_says() {
        assert_eq!(rules(&FnAsync::default()), []);
        let says_the_defaults =
            FnAsync { retry: backoff("1s"), dead_letter: Some(DeadLetters::default()), ..FnAsync::default() };
        assert_eq!(rules(&says_the_defaults), []);
        let dead_letter = DeadLetters { max_length: Some(5), max_age: Some(Span::new("24h")) };
        let says_both =
            FnAsync { retry: backoff("500ms"), dead_letter: Some(dead_letter), ..FnAsync::default() };
        let kept = Kept { length_max: 5, age_max: Some(Duration::from_secs(86_400)) };
        assert_eq!(
            rules(&says_both),
            [Rule::Retries(Waits::of(Duration::from_millis(500))), Rule::DeadLetters(kept)]
        );
    }
}
