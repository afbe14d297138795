//! Waiting for a condition, with a deadline and the last thing seen when it passes.

use std::fmt::Debug;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between two looks: short against what is waited for, long against what a look costs.
const PAUSE: Duration = Duration::from_millis(250);

/// Looks until `look` answers `Ok`; panics with its last `Err` when the time has passed.
///
/// # Panics
/// When the deadline passes: this is an assertion.
#[allow(clippy::panic, reason = "a wait is an assertion of a test")]
pub fn until<T, E: Debug>(what: &str, within: Duration, look: impl FnMut() -> Result<T, E>) -> T {
    match look_until(within, look) {
        Ok(seen) => seen,
        Err(last) => panic!("{what}: not within {within:?}; last seen: {last:#?}"),
    }
}

/// The same for those who go on without it: an error says what was waited for and what was seen last.
pub fn within<T>(
    what: &str,
    deadline: Duration,
    look: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    look_until(deadline, look).map_err(|last| last.context(format!("{what}: not within {deadline:?}")))
}

fn look_until<T, E>(within: Duration, mut look: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(seen) => return Ok(seen),
            Err(last) if start.elapsed() >= within => return Err(last),
            Err(_) => sleep(PAUSE),
        }
    }
}
