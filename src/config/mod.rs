//! Configuration: what is written (a [`file::File`] of sections) becomes what is meant (a [`Plan`]).
//!
//! Every check and every default is here, and what always holds is: a [`Plan`] exists only if nothing is wrong; all that is
//! wrong is reported at once, in order of the file, each with its line, its dotted key and a remedy; the text of a secret
//! stands in no error. Reading order:
//!
//! ```text
//! expand, units, name  ──►  file (a reader that knows which keys it was asked for)  ──►  sections/*  ──►  Plan  ──►  describe
//! ```

mod choice;
mod describe;
mod expand;
mod file;
mod name;
pub mod plan;
pub mod secret;
mod sections;
#[cfg(test)]
mod tests;
mod units;

use std::fmt;
use std::fs;
use std::path::Path;

pub use describe::{describe, describe_json};
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
    /// The dotted key, for instance `streams.order-items.join.product.table`; empty where the file as a whole is meant.
    pub key: String,
    pub message: String,
    /// What to do about it; empty where the message already says so.
    pub remedy: String,
}

/// What a configuration takes from outside its text. [`load`] and [`parse`] use the process's; tests bring their own.
pub struct Surroundings<'a> {
    /// Relative paths are taken from here (contract G1).
    pub folder: &'a Path,
    /// Default of `instance`.
    pub host: String,
    /// Looks up an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

/// More than any configuration needs; keeps a wrong path (a log, a device) from filling memory.
const FILE_BYTES: u64 = 16 << 20;

/// Reads, checks and compiles a configuration file.
pub fn load(path: &Path) -> Result<Plan, Errors> {
    let place = path.display().to_string();
    let unreadable = |message: String| {
        let remedy = "name the configuration with --config FILE or in LARDER_CONFIG".to_owned();
        Errors(vec![Error { place: place.clone(), key: String::new(), message, remedy }])
    };
    let metadata = fs::metadata(path).map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    if metadata.len() > FILE_BYTES {
        return Err(unreadable(format!("has {} bytes, more than a configuration can have", metadata.len())));
    }
    let text = fs::read_to_string(path).map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    parse(&text, &place, folder)
}

/// The same for text that stands in no file; relative paths are taken from `folder`, `place` names the text in errors.
pub fn parse(text: &str, place: &str, folder: &Path) -> Result<Plan, Errors> {
    let host = gethostname::gethostname().to_string_lossy().into_owned();
    let variable = |name: &str| std::env::var(name).ok();
    parse_in(text, place, &Surroundings { folder, host, variable: &variable })
}

/// The same with surroundings of the caller's making.
pub fn parse_in(text: &str, place: &str, around: &Surroundings<'_>) -> Result<Plan, Errors> {
    let file = file::File::new(text, place, around);
    let document = file::document(text, &file);
    let plan = document.as_ref().map(|document| sections::plan(file::Section::root(&file, document)));
    file.settle(plan)
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "\n    {}", self.remedy)?;
        }
        Ok(())
    }
}
