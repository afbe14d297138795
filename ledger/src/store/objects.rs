//! Rows that stand for objects: how much room they take, and which of them nobody needs.
//!
//! Never touches an object.

use sqlx::Row as _;

use super::rows::{self, signed};
use super::sweep::SILENCE_MS;
use super::{Store, StoreError};
use crate::objects::ObjectName;

/// Objects that one look hands out: each costs a request to the object store.
const STEP: i64 = 100;

const RESERVE: &str = "INSERT INTO objects (namespace, app, call_id, bytes, at_ms, known) \
     VALUES ($1, $2, $3, $4, $5, 0) ON CONFLICT (namespace, app, call_id) DO UPDATE SET bytes = excluded.bytes";
const TAKEN: &str = "SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS of_all, \
     CAST(COALESCE(SUM(CASE WHEN namespace = $1 AND app = $2 THEN bytes ELSE 0 END), 0) AS BIGINT) AS of_app \
     FROM objects";
const FORGET: &str = "DELETE FROM objects WHERE namespace = $1 AND app = $2 AND call_id = $3";
/// From here on an object without a call is one whose call was forgotten.
const KNOW: &str = "UPDATE objects SET known = 1 WHERE known = 0 AND EXISTS (SELECT 1 FROM calls c \
     WHERE c.id = objects.call_id AND c.namespace = objects.namespace AND c.app = objects.app)";
/// Those of calls that are over, but for the dead, which may be redriven for as long as they are kept.
const DUE: &str = "SELECT o.namespace AS namespace, o.app AS app, o.call_id AS call_id FROM objects o \
     LEFT JOIN calls c ON c.id = o.call_id AND c.namespace = o.namespace AND c.app = o.app \
     WHERE c.status IN ('success', 'error', 'timeout', 'cancelled') \
     OR (c.id IS NULL AND (o.known = 1 OR o.at_ms < $1)) LIMIT $2";

/// How many bytes may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// By one App's objects.
    pub of_app: u64,
    /// By all.
    pub of_all: u64,
}

impl Room {
    /// For what takes the place of something else.
    pub const ANY: Self = Self { of_app: u64::MAX, of_all: u64::MAX };
}

impl Store {
    /// Has an object's row say that it takes so many bytes, where there is room for them; says whether there is. Two at
    /// once may take the last room both.
    pub async fn reserve_object(
        &self,
        name: &ObjectName,
        bytes: u64,
        now_ms: u64,
        room: Room,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.writes.begin().await?;
        sqlx::query(RESERVE)
            .bind(name.namespace().to_owned())
            .bind(name.app().to_owned())
            .bind(name.id().to_string())
            .bind(signed(bytes))
            .bind(signed(now_ms))
            .execute(&mut *transaction)
            .await?;
        let taken = sqlx::query(TAKEN).bind(name.namespace().to_owned()).bind(name.app().to_owned());
        let row = taken.fetch_one(&mut *transaction).await?;
        let (of_all, of_app): (i64, i64) = (row.try_get("of_all")?, row.try_get("of_app")?);
        let has_room = of_all <= signed(room.of_all) && of_app <= signed(room.of_app);
        if has_room {
            transaction.commit().await?;
        }
        Ok(has_room)
    }

    /// An object is gone.
    pub async fn forget_object(&self, name: &ObjectName) -> Result<(), StoreError> {
        let of = sqlx::query(FORGET).bind(name.namespace().to_owned()).bind(name.app().to_owned());
        of.bind(name.id().to_string()).execute(&self.writes).await?;
        Ok(())
    }

    /// Notes which objects' calls are known, before one of them is forgotten.
    pub(super) async fn know_objects(&self) -> Result<(), StoreError> {
        sqlx::query(KNOW).execute(&self.writes).await?;
        Ok(())
    }

    /// Objects that nobody needs: of calls that have ended well or were taken back, that are forgotten, or of which nothing
    /// was heard for longer than any call may live.
    pub async fn objects_to_collect(&self, now_ms: u64) -> Result<Vec<ObjectName>, StoreError> {
        self.know_objects().await?;
        let due = sqlx::query(DUE).bind(signed(now_ms).saturating_sub(SILENCE_MS)).bind(STEP);
        let rows = due.fetch_all(&self.reads).await?;
        let read = rows.iter().map(|row| {
            let id = rows::id("call_id", &row.try_get::<String, _>("call_id")?)?;
            Ok(ObjectName::known(row.try_get("namespace")?, row.try_get("app")?, id))
        });
        read.collect()
    }
}
