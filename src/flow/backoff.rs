//! How long whoever lost Kafka waits before it tries again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Waits that double from 50 ms to 5 s, and end early when the daemon stops.
#[derive(Default)]
pub struct Backoff {
    rounds: u32,
}

impl Backoff {
    pub fn is_first(&self) -> bool {
        self.rounds == 0
    }

    pub fn sleep(&mut self, stop: &AtomicBool) {
        let wait = Duration::from_millis(50 << self.rounds.min(7)).min(Duration::from_secs(5));
        self.rounds += 1;
        let until = Instant::now() + wait;
        while Instant::now() < until && !stop.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
