//! MySQL: connect and preconditions · snapshot · binlog (events → transactions) · decode (row bytes → values).
//!
//! `mysql_async` carries the protocol; the bytes of rows are ours to read (`decode`, `json`).

pub mod decode;
pub mod json;
pub mod status;

pub use status::SourceStatus;
