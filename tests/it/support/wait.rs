//! Bounded waiting for a condition.

use std::time::{Duration, Instant};

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until the answer is `Ok`; after `within` panics with what was waited for and the last `Err`.
#[track_caller]
pub fn wait_for<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + within;
    loop {
        let last = match probe() {
            Ok(found) => return found,
            Err(last) => last,
        };
        assert!(Instant::now() < deadline, "waited {within:?} for {what}; last seen: {last}");
        std::thread::sleep(PAUSE);
    }
}

/// [`wait_for`] where there is nothing to bring back and nothing to say.
#[track_caller]
pub fn wait_until(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, within, || if condition() { Ok(()) } else { Err("not yet".to_owned()) });
}
