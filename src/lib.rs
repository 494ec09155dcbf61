//! Larder: MySQL tables in memory, Kafka streams joined against them, exactly once.
//!
//! Folders are the stations of the data's way, in reading order:
//!
//! ```text
//! mysql ──► table ──► join ──► kafka        carried by `flow`, put together by `app`, watched by `http`
//! ```
//!
//! `model`, `table` and `join` are pure: no `async`, no I/O, no clock. ARCHITECTURE.md has the map.

pub mod model;

pub mod config;

pub mod debezium;
pub mod mysql;
pub mod table;

pub mod join;

pub mod kafka;

pub mod flow;

pub mod metrics;

pub mod http;

pub mod simulate;

pub mod demo;

pub mod app;
mod ask;
pub mod cli;
pub mod logging;
