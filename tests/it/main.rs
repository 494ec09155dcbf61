//! Larder against real servers: one binary, so that all modules share one MySQL and one Kafka.
//!
//! `make test` prepares what this needs. Tests here are plain `#[test]` functions; every wait is bounded and says what it waited for.

mod support;
mod support_works;

mod as_of;
mod audit;
mod bounded;
mod capture;
mod ddl;
mod mariadb;
mod positions;
mod random;
mod snapshot;
mod start;
mod store;
mod types;
mod values;

mod bad_input;
mod enrich;
mod gate;
mod operate;
mod versions;

mod exactly_once;
mod history;
mod kill;
mod ledger;
mod publish;
mod publish_faults;
