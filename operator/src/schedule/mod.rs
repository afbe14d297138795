//! When a Trigger's schedule fires, under which id, and with what message: the cores that the operator and `dev`
//! share. Never reads a clock, holds no client, performs no I/O.
//!
//! A tick is a moment that the cron expression names. It is due when its jitter has passed, and fired when its call is
//! with the broker.

mod call;
mod decide;
mod timetable;

pub use call::{Occasion, call, call_id, queued};
pub use decide::{Act, CALL_AGE_MAX, Decision, Earlier, Firing, History, decide};
pub use timetable::{Timetable, TimetableError};
