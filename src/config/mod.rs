//! Configuration: what is written ([`File`]) becomes what is meant ([`Plan`]); every check and every default is here.

pub mod plan;
pub mod secret;

pub use plan::Plan;
pub use secret::Secret;

/// Everything wrong with a configuration, ready to be printed on stderr, one block per error (contract G3).
#[derive(Debug)]
pub struct Errors(pub Vec<Error>);

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// `file:line`, or the file alone.
    pub place: String,
    /// The dotted key, for instance `streams.order-items.join.product.table`.
    pub key: String,
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// Reads, checks and compiles a configuration file.
pub fn load(_path: &std::path::Path) -> Result<Plan, Errors> {
    todo!("helper config")
}

/// The same for text that stands in no file; relative paths are taken from `folder`, `place` names the text in errors.
pub fn parse(_text: &str, _place: &str, _folder: &std::path::Path) -> Result<Plan, Errors> {
    todo!("helper config")
}
