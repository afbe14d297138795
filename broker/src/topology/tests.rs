use super::*;

fn names() -> AppNames {
    AppNames::new(&Installation::parse("inst").unwrap(), "team-a", "shop").unwrap()
}

fn queues(items: &[Item]) -> Vec<(&str, &QueueSpec)> {
    let mut queues = Vec::new();
    for item in items {
        if let Item::Queue { name, spec } = item {
            queues.push((name.as_str(), spec));
        }
    }
    queues
}

#[test]
fn every_queue_is_bounded() {
    let (names, key) = (names(), BindingKey::parse("paid.#").unwrap());
    let all = [
        installation(names.installation()),
        ledger(names.installation()),
        gateway(names.installation(), "x").unwrap().1,
        app(&names),
        runner(&names, "x").unwrap().1,
        wake(&names, "python").unwrap(),
        revision(&names, "o-1").unwrap(),
        trigger(&names, "mail", "payments", &key).unwrap(),
    ]
    .concat();
    assert_eq!(queues(&all).len(), 8);
    assert!(queues(&all).iter().all(|(_, spec)| (1..=1_000_000).contains(&spec.length_max)));
}

#[test]
fn dead_letters_have_a_queue_before_anything_can_die() {
    let items = durable(&names(), "mail").unwrap();
    let [(dead, _), (queue, spec)] = queues(&items)[..] else { panic!("two queues") };
    assert_eq!((dead, queue), ("inst.team-a.shop.dead.mail", "inst.team-a.shop.fn.mail"));
    let attempts = spec.attempts.as_ref().unwrap();
    assert_eq!(attempts.dead_letter.as_str(), dead);
    assert_eq!(attempts.delivery_limit, 101);
    // RabbitMQ dead-letters at least once only so.
    assert_eq!((spec.kind, spec.overflow), (QueueKind::Quorum, Overflow::RejectPublish));
}

#[test]
fn an_event_of_a_call_is_never_given_up_on() {
    let items = ledger(names().installation());
    let [(queue, spec)] = queues(&items)[..] else { panic!("one queue") };
    assert_eq!(queue, "inst.ledger");
    assert_eq!((spec.kind, spec.overflow), (QueueKind::Quorum, Overflow::RejectPublish));
    assert!(spec.keeps_trying && spec.attempts.is_none());
}

#[test]
fn what_is_bound_is_declared_before() {
    let key = BindingKey::parse("paid.#").unwrap();
    let items = trigger(&names(), "mail", "payments", &key).unwrap();
    let Some(Item::Binding { exchange, queue, key }) = items.last() else { panic!("a binding, last") };
    assert_eq!(key, "paid.#");
    assert!(items.iter().any(|item| matches!(item, Item::Exchange { name, .. } if name == exchange)));
    assert!(items.iter().any(|item| matches!(item, Item::Queue { name, .. } if name == queue)));
}

#[test]
fn a_runner_declares_only_what_its_user_may_configure() {
    let (queue, items) = runner(&names(), "x7").unwrap();
    assert_eq!(queue.as_str(), "inst.team-a.shop.r.x7");
    assert!(!items.iter().any(|item| matches!(item, Item::Exchange { .. })));
}

#[test]
fn what_a_bridge_brings_reaches_its_fn_whatever_its_key() {
    let items = bridge(&names(), "mail", "on-order").unwrap();
    let Some(Item::Binding { exchange, queue, key }) = items.last() else { panic!("a binding, last") };
    assert_eq!(exchange.as_str(), "inst.team-a.shop.x.bridge.on-order");
    assert_eq!((queue.as_str(), key.as_str()), ("inst.team-a.shop.fn.mail", ""));
    assert!(items.contains(&Item::Exchange { name: exchange.clone(), kind: ExchangeKind::Fanout }));
}

#[test]
fn what_brings_events_brings_the_way_of_their_replies() {
    let items = trigger(&names(), "mail", "payments", &BindingKey::parse("#").unwrap()).unwrap();
    let replies = Item::Exchange { name: names().event_replies(), kind: ExchangeKind::Direct };
    assert!(items.contains(&replies));
}
