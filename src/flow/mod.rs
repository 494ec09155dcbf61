//! What moves the data: `capture` (MySQL → tables), `publish` (MySQL → change topics), `enrich` (Kafka → join → Kafka, one worker a thread), `batch` (its pure accounting), `status` (what
//! the outside sees of it), `audit` (tables compared with MySQL).

pub mod audit;
pub mod backoff;
pub mod batch;
pub mod capture;
pub mod enrich;
pub mod lag;
pub mod outputs;
pub mod publish;
pub mod status;
pub mod warm;
