//! MySQL: connect and preconditions · snapshot · binlog (events → transactions) · decode (row bytes → values).
//!
//! `mysql_async` carries the protocol; the bytes of rows are ours to read.

pub mod connect;
pub mod preconditions;

pub mod catalogue;
pub mod snapshot;

pub mod assemble;
pub mod binlog;
pub mod event;
pub mod statement;

pub mod table_map;
pub mod wire;
pub mod decode;
pub mod json;
mod json_diff;
pub mod charset;
#[rustfmt::skip]
mod charset_tables;
pub mod cursor;
pub mod result;
pub mod render;
pub mod text;
pub mod status;

pub use status::SourceStatus;
