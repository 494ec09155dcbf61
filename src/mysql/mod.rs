//! MySQL: connect and preconditions · snapshot · binlog (events → transactions) · decode (row bytes → values).
//!
//! `mysql_async` carries the protocol; the bytes of rows are ours to read.

pub mod connect;
pub mod identity;
mod mariadb;
pub mod preconditions;
pub mod resume;

mod cascades;
pub mod catalogue;
pub mod chunks;
pub mod defaults;
pub mod keys;
pub mod load;
pub mod place;
pub mod read_through;
pub mod snapshot;

pub mod assemble;
pub mod binlog;
pub mod event;
pub mod maker;
pub mod statement;
pub mod unpack;

pub mod charset;
pub mod decode;
pub mod json;
mod json_diff;
pub mod table_map;
pub mod wire;
#[rustfmt::skip]
mod charset_tables;
pub mod cursor;
pub mod render;
pub mod requests;
pub mod result;
pub mod rows;
pub mod status;
pub mod text;

pub use status::SourceStatus;
