//! Kafka: configuration of clients, topics, the transactional producer, the session of one worker (consumer + producer), and the
//! election of the one that publishes changes.
//!
//! All calls block (librdkafka), so everything here is called from blocking threads.

pub mod client;
pub mod election;
pub mod producer;
pub mod reader;
pub mod record;
pub mod session;
pub mod topics;

pub use client::{Fault, Role};
pub use session::Session;
