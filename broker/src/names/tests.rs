use super::*;

fn app(namespace: &str, name: &str) -> AppNames {
    AppNames::new(&Installation::parse("inst").unwrap(), namespace, name).unwrap()
}

/// RabbitMQ matches anywhere, so a test must too: this understands just what the patterns use.
fn allows(pattern: &str, name: &str) -> bool {
    let anchored = pattern.strip_prefix('^').and_then(|rest| rest.strip_suffix('$'));
    let body = anchored.expect("anchored at both ends");
    alternatives(body).iter().any(|one| matches_one(one, name))
}

/// Expands `a(b|c)d` and leaves what has no group.
fn alternatives(pattern: &str) -> Vec<String> {
    let Some(open) = pattern.find('(') else { return vec![pattern.to_owned()] };
    let mut depth = 0;
    let close = pattern[open..]
        .char_indices()
        .find(|(_, c)| {
            depth += i32::from(*c == '(') - i32::from(*c == ')');
            depth == 0
        })
        .map(|(at, _)| open + at)
        .expect("balanced");
    let (head, inner, tail) = (&pattern[..open], &pattern[open + 1..close], &pattern[close + 1..]);
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in inner.char_indices() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        if c == '|' && depth == 0 {
            parts.push(&inner[start..at]);
            start = at + 1;
        }
    }
    parts.push(&inner[start..]);
    parts.iter().flat_map(|part| alternatives(&format!("{head}{part}{tail}"))).collect()
}

/// Literals, `\.` and a final `.*`; a bare dot would be any character.
fn matches_one(pattern: &str, name: &str) -> bool {
    let (literal, open) = match pattern.strip_suffix(".*") {
        Some(literal) => (literal, true),
        None => (pattern, false),
    };
    assert!(!literal.replace(r"\.", "").contains('.'), "an unescaped dot in {pattern}");
    let literal = literal.replace(r"\.", ".");
    if open { name.starts_with(&literal) } else { name == literal }
}

#[test]
fn names_are_as_documented() {
    let names = app("team-a", "shop");
    assert_eq!(names.revision_queue("orders-1a2b").unwrap().as_str(), "inst.team-a.shop.rev.orders-1a2b");
    assert_eq!(names.durable_queue("mail").unwrap().as_str(), "inst.team-a.shop.fn.mail");
    assert_eq!(names.dead_queue("mail").unwrap().as_str(), "inst.team-a.shop.dead.mail");
    assert_eq!(names.wake_queue("python").unwrap().as_str(), "inst.team-a.shop.wake.python");
    assert_eq!(names.runner_queue("x7").unwrap().as_str(), "inst.team-a.shop.r.x7");
    assert_eq!(names.cancel_exchange().as_str(), "inst.team-a.shop.cancel");
    assert_eq!(names.event_exchange("payments").unwrap().as_str(), "inst.team-a.shop.x.payments");
    assert_eq!(names.user(), "inst.team-a.shop");
    let installation = names.installation();
    assert_eq!(installation.reply_exchange().as_str(), "inst.replies");
    assert_eq!(installation.gateway_queue("x7").unwrap().as_str(), "inst.gw.x7");
    assert_eq!(installation.reports_queue().as_str(), "inst.reports");
    assert_eq!(installation.ledger_queue().as_str(), "inst.ledger");
}

#[test]
fn the_longest_parts_fit_a_short_string() {
    let label = "a".repeat(63);
    let installation = Installation::parse(&"i".repeat(20)).unwrap();
    let names = AppNames::new(&installation, &label, &label).unwrap();
    for name in [
        names.revision_queue(&label).unwrap(),
        names.durable_queue(&label).unwrap(),
        names.dead_queue(&label).unwrap(),
        names.wake_queue(&label).unwrap(),
        names.runner_queue(&label).unwrap(),
    ] {
        assert!(name.as_str().len() <= NAME_BYTES_MAX);
        assert_eq!(QueueName::parse(name.as_str()), Ok(name));
    }
    assert!(names.event_exchange(&label).unwrap().as_str().len() <= NAME_BYTES_MAX);
}

#[test]
fn a_part_that_is_no_label_is_refused() {
    let installation = Installation::parse("inst").unwrap();
    for part in ["", "-a", "a-", "A", "a.b", "a_b", "ä", "a b", ".*", &"a".repeat(64)] {
        assert!(AppNames::new(&installation, part, "shop").is_err(), "{part:?} as namespace");
        assert!(AppNames::new(&installation, "team-a", part).is_err(), "{part:?} as app");
        assert!(app("team-a", "shop").revision_queue(part).is_err(), "{part:?} as revision");
        assert!(app("team-a", "shop").event_exchange(part).is_err(), "{part:?} as exchange");
    }
    for id in ["", "amq", "a.b", "A", "(", &"a".repeat(21)] {
        assert!(Installation::parse(id).is_err(), "{id:?}");
    }
    assert!(QueueName::parse("").is_err());
    assert!(QueueName::parse(&"a".repeat(256)).is_err());
    assert!(BindingKey::parse("paid.\n").is_err());
}

#[test]
fn a_user_may_do_its_work_and_no_more() {
    let (ours, gateway) = (app("team-a", "shop"), "inst.gw.x7");
    let Permissions { configure, write, read } = ours.permissions();
    let own = |kind: &str| format!("inst.team-a.shop.{kind}");
    assert!(allows(&configure, &own("r.x7")));
    for name in [own("rev.a"), own("fn.a"), own("wake.a"), own("x.a"), own("cancel"), own("dead.a")] {
        assert!(!allows(&configure, &name), "configure {name}");
    }
    for name in [own("r.x7"), own("x.payments"), "inst.replies".to_owned()] {
        assert!(allows(&write, &name), "write {name}");
    }
    // The default exchange is checked under this name.
    for name in
        ["amq.default", &own("rev.a"), &own("fn.a"), &own("cancel"), gateway, "inst.reports", "inst.ledger"]
    {
        assert!(!allows(&write, name), "write {name}");
    }
    for name in [own("rev.a"), own("fn.a"), own("wake.a"), own("r.x7"), own("cancel")] {
        assert!(allows(&read, &name), "read {name}");
    }
    for name in ["inst.replies", "inst.reports", "inst.ledger", gateway, &own("x.payments"), &own("dead.a")] {
        assert!(!allows(&read, name), "read {name}");
    }
}

#[test]
fn a_sibling_whose_name_begins_alike_is_not_reached() {
    let siblings = [
        app("team-a", "shop-b"),
        app("team-a-b", "shop"),
        app("team", "a-shop"),
        app("team-b", "shop"),
        app("team-a", "xshop"),
    ];
    let Permissions { configure, write, read } = app("team-a", "shop").permissions();
    for sibling in siblings {
        let theirs = [
            sibling.revision_queue("a").unwrap().to_string(),
            sibling.runner_queue("a").unwrap().to_string(),
            sibling.wake_queue("a").unwrap().to_string(),
            sibling.durable_queue("a").unwrap().to_string(),
            sibling.cancel_exchange().to_string(),
            sibling.event_exchange("a").unwrap().to_string(),
        ];
        for name in theirs {
            for pattern in [&configure, &write, &read] {
                assert!(!allows(pattern, &name), "{pattern} allows {name}");
                // Nor with something in front, or another character for a dot.
                assert!(!allows(pattern, &format!("x{name}")));
            }
        }
    }
    assert!(!allows(&read, "instxteam-axshopxrev.a"));
    assert!(!allows(&write, "inst.replies.more"));
}

#[test]
fn the_exchange_of_replies_is_none_for_events() {
    let names = app("team-a", "shop");
    assert_eq!(names.event_replies().as_str(), "inst.team-a.shop.x.replies");
    assert_eq!(names.event_exchange("replies"), Err(NameError::Reserved));
    assert!(allows(&names.permissions().write, names.event_replies().as_str()));
}

#[test]
fn a_name_is_read_back_as_what_it_is() {
    let names = app("team-a", "shop");
    let installation = names.installation().clone();
    let of_app = |kind| Some(Meaning::App { namespace: "team-a".to_owned(), app: "shop".to_owned(), kind });
    let cases = [
        (names.revision_queue("o-1").unwrap().to_string(), of_app(AppObject::Revision("o-1".to_owned()))),
        (names.durable_queue("o").unwrap().to_string(), of_app(AppObject::Durable("o".to_owned()))),
        (names.dead_queue("o").unwrap().to_string(), of_app(AppObject::Dead("o".to_owned()))),
        (names.wake_queue("o").unwrap().to_string(), of_app(AppObject::Wake("o".to_owned()))),
        (names.runner_queue("o").unwrap().to_string(), of_app(AppObject::Runner)),
        (names.event_exchange("o").unwrap().to_string(), of_app(AppObject::Exchange("o".to_owned()))),
        (names.bridge_exchange("o").unwrap().to_string(), of_app(AppObject::Bridge("o".to_owned()))),
        (names.cancel_exchange().to_string(), of_app(AppObject::Cancel)),
        (installation.reply_exchange().to_string(), Some(Meaning::Replies)),
        (installation.reports_queue().to_string(), Some(Meaning::Reports)),
        (installation.ledger_queue().to_string(), Some(Meaning::Ledger)),
        (installation.gateway_queue("o").unwrap().to_string(), Some(Meaning::Gateway)),
        ("inst2.replies".to_owned(), None),
        ("inst.a.b.c.d.e".to_owned(), None),
        ("inst.team-a.shop.other.o".to_owned(), None),
        ("amq.gen-x".to_owned(), None),
    ];
    for (name, meaning) in cases {
        assert_eq!(Meaning::of(&installation, &name), meaning, "{name}");
    }
    assert_eq!(Meaning::of_user(&installation, names.user()), of_app(AppObject::User));
    assert_eq!(Meaning::of_user(&installation, "guest"), None);
    assert_eq!(Meaning::of_user(&installation, "inst.a.b.c"), None);
}

#[test]
fn apps_of_a_shared_broker_user_keep_their_names_and_sign_as_that_user() {
    let shared = Installation::parse("dev-00c0ffee").unwrap().shared_by("funcatron");
    let names = AppNames::new(&shared, "default", "shop").unwrap();
    assert_eq!(names.user(), "funcatron");
    assert_eq!(names.cancel_exchange().as_str(), "dev-00c0ffee.default.shop.cancel");
}
