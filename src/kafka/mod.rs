//! Kafka: configuration of clients, topics, and the session of one worker (consumer + transactional producer).
//!
//! All calls block (librdkafka), so everything here is called from blocking threads.

pub mod client;
pub mod record;
pub mod session;
pub mod topics;

pub use client::{Fault, Role};
pub use session::Session;
