//! Which objects are kept, and how much room they have.

use funcatron_broker::message::{CallId, Ended};
use funcatron_broker::names::Installation;
use funcatron_ledger::ObjectName;
use funcatron_ledger::store::{Keep, Room, Store};

use super::rules::HOUR_MS;
use super::*;

const EIGHT_DAYS_MS: u64 = 8 * 24 * HOUR_MS;

fn object(app: &str, id: CallId) -> ObjectName {
    ObjectName::new(&Installation::parse("i").unwrap(), "team-a", app, id).unwrap()
}

async fn reserve(store: &Store, name: &ObjectName, bytes: u64, room: Room) -> bool {
    store.reserve_object(name, bytes, T0, room).await.unwrap()
}

async fn due(store: &Store, at_ms: u64) -> Vec<CallId> {
    let mut due: Vec<CallId> =
        store.objects_to_collect(at_ms).await.unwrap().iter().map(ObjectName::id).collect();
    due.sort_unstable();
    due
}

pub(crate) async fn an_object_is_kept_for_as_long_as_its_call_may_need_it(store: Store) {
    let mut ids: Vec<CallId> = (0..5).map(|_| CallId::fresh()).collect();
    ids.sort_unstable();
    let [waits, done, dead, unknown, foreign] = ids[..] else { unreachable!() };
    for id in [waits, done, dead, unknown] {
        assert!(reserve(&store, &object("shop", id), 7, Room::ANY).await);
    }
    // Another App's call of the same id says nothing about it.
    assert!(reserve(&store, &object("site", foreign), 7, Room::ANY).await);
    write(&store, [waits, done, dead, foreign].map(|id| queued(id, T0))).await;
    assert_eq!(due(&store, T0).await, []);
    let over = |id| ended(id, T0, 1, Ended::Success, true);
    let gave_up = event(dead, T0, Happened::Dead { reason: "its last attempt failed".into() });
    write(&store, [over(done), over(foreign), gave_up]).await;
    assert_eq!(due(&store, T0).await, [done], "a dead letter may be redriven");
    store.forget_object(&object("shop", done)).await.unwrap();
    assert_eq!(due(&store, T0).await, []);
    let keep = Keep::for_ms(HOUR_MS);
    assert_eq!(store.sweep(T0 + HOUR_MS + 1, &keep).await.unwrap().forgotten, 3);
    assert_eq!(due(&store, T0 + HOUR_MS + 1).await, [dead], "it goes with its call");
    // The one whose call nobody has told of yet may still be in a queue.
    assert_eq!(due(&store, T0 + EIGHT_DAYS_MS).await, [dead]);
    assert_eq!(due(&store, T0 + EIGHT_DAYS_MS + 1).await, [dead, unknown, foreign]);
}

pub(crate) async fn objects_have_so_much_room_of_an_app_and_of_all(store: Store) {
    let room = Room { of_app: 100, of_all: 150 };
    let (first, second) = (object("shop", CallId::fresh()), object("shop", CallId::fresh()));
    assert!(reserve(&store, &first, 60, room).await);
    assert!(!reserve(&store, &second, 41, room).await);
    assert!(reserve(&store, &second, 40, room).await);
    assert!(!reserve(&store, &first, 61, room).await, "what grows is weighed again");
    let other = object("site", CallId::fresh());
    assert!(!reserve(&store, &other, 51, room).await);
    assert!(reserve(&store, &other, 50, room).await);
    store.forget_object(&first).await.unwrap();
    assert!(reserve(&store, &second, 100, room).await);
}
