//! The small language of output values, keys and headers (design 5), compiled.

use super::path::{Path, PathError, Scope};

#[derive(Debug, Clone)]
pub struct Template {
    _private: (),
}

impl Template {
    /// Compiles a TOML value: `$path | conversion`, literals, nested tables and arrays. An error carries the keys below
    /// `value` that lead to the fault.
    pub fn compile(_value: &toml::Value, _scope: &Scope) -> Result<Self, (Vec<String>, PathError)> {
        todo!("helper join")
    }

    /// Every path in it, for checks of columns.
    pub fn paths(&self) -> Vec<&Path> {
        todo!("helper join")
    }
}
