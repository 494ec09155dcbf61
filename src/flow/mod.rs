//! What moves the data: `capture` (MySQL → tables), `enrich` (Kafka → join → Kafka, one worker a thread), `batch` (its pure accounting), `status` (what
//! the outside sees of it).

pub mod batch;
pub mod capture;
pub mod enrich;
pub mod lag;
pub mod outputs;
pub mod status;
