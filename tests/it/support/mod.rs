//! What the tests against real servers stand on.
//!
//! ```text
//! Mysql, Kafka     a server in a container of its own (`start`) or one shared by the whole test process (`shared`)
//! Daemon           the built binary as a child process, in a folder of its own
//! Proxy            a TCP proxy between two of them that can swallow, cut and delay
//! Shop             the pizza shop's tables and topics on the shared servers
//! wait_for         the only way to wait: bounded, and a failure says for what
//! ```
//!
//! What always holds: names of databases, topics and groups are unique over all processes ([`unique`]); helpers block, so tests need
//! no runtime, and may be called from a test that has one; a helper that fails panics with the cause; containers are
//! removed when the process ends, however it ends.

pub mod container;
pub mod daemon;
pub mod kafka;
pub mod mysql;
pub mod proxy;
pub mod shop;
pub mod wait;

pub use daemon::{Answer, Daemon};
pub use kafka::{Kafka, Message, Record};
pub use mysql::Mysql;
pub use proxy::{Fault, Proxy};
pub use shop::Shop;
pub use wait::{wait_for, wait_until};

use std::future::Future;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The runtime of all helpers: connections and containers outlive the test that made them.
pub static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("build the runtime of the tests")
});

/// Runs a future to its end on [`RUNTIME`], from a plain test or from within another runtime.
pub fn block_on<F>(future: F) -> F::Output
where
    F: Future + Send,
    F::Output: Send,
{
    // Another thread, because a thread that drives one runtime must not block on a second.
    let outcome = std::thread::scope(|scope| scope.spawn(|| RUNTIME.block_on(future)).join());
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A name no other test, process or earlier run uses; letters, digits and `_`, so it serves as database name and, with
/// whatever is added to it, as topic or group.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}_{}_{count}", std::process::id())
}
