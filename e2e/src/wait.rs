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
pub fn until<T, E: Debug>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(last) if start.elapsed() >= within => {
                panic!("{what}: not within {within:?}; last seen: {last:#?}")
            }
            Err(_) => sleep(PAUSE),
        }
    }
}
