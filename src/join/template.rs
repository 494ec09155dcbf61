//! The small language of output values, keys and headers (design 5), compiled.
//!
//! A string that begins with `$` is a path, optionally `| conversion`; `$$` begins a literal `$`; everything else is a
//! literal. Tables and arrays nest. What is compiled is flat: JSON text to copy and places to fill in, in output order.

use toml::Value;

use super::convert::Conversion;
use super::path::{Path, PathError, Root, Scope};
use crate::model::row::write_string;

#[derive(Debug, Clone)]
pub struct Template {
    pub(super) parts: Vec<Part>,
}

#[derive(Debug, Clone)]
pub(super) enum Part {
    /// JSON text that is always the same.
    Text(Vec<u8>),
    Value {
        path: Path,
        conversion: Option<Conversion>,
    },
    /// A nested table all of whose paths begin at rows: when each of these joins missed, it is null itself and the next
    /// `parts` are passed over (contract E7).
    Table {
        joins: Vec<usize>,
        parts: usize,
    },
}

impl Template {
    /// Compiles a TOML value: `$path | conversion`, literals, nested tables and arrays. An error carries the keys below
    /// `value` that lead to the fault.
    pub fn compile(value: &Value, scope: &Scope) -> Result<Self, (Vec<String>, PathError)> {
        let mut compiler = Compiler { scope, parts: Vec::new(), keys: Vec::new(), sealed: 0 };
        match compiler.value(value, true) {
            Ok(()) => Ok(Self { parts: compiler.parts }),
            Err(error) => Err((compiler.keys, error)),
        }
    }

    /// Every path in it, for checks of columns.
    pub fn paths(&self) -> Vec<&Path> {
        self.parts
            .iter()
            .filter_map(|part| match part {
                Part::Value { path, .. } => Some(path),
                Part::Text(_) | Part::Table { .. } => None,
            })
            .collect()
    }
}

struct Compiler<'a> {
    scope: &'a Scope,
    parts: Vec<Part>,
    /// Where we are; left standing at a fault.
    keys: Vec<String>,
    /// Parts before this one belong to a nested table that is complete: text is not added to them.
    sealed: usize,
}

impl Compiler<'_> {
    fn value(&mut self, value: &Value, outermost: bool) -> Result<(), PathError> {
        match value {
            Value::String(text) => self.string(text)?,
            Value::Integer(number) => self.text(number.to_string().as_bytes()),
            Value::Float(number) if number.is_finite() => self.text(ryu::Buffer::new().format_finite(*number).as_bytes()),
            Value::Float(number) => {
                return Err(PathError::new(format!("{number} has no form in JSON"), "use a finite number, or a string"));
            }
            Value::Boolean(truth) => self.text(if *truth { b"true" } else { b"false" }),
            Value::Datetime(time) => self.quoted(&time.to_string()),
            Value::Array(elements) => self.array(elements)?,
            Value::Table(table) if outermost => self.members(table)?,
            Value::Table(table) => self.table(table)?,
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), PathError> {
        match text.strip_prefix('$') {
            Some(rest) if rest.starts_with('$') => self.quoted(rest),
            Some(rest) => {
                let (path, conversion) = match conversion_mark(rest) {
                    Some(at) => (rest[..at].trim(), Some(Conversion::parse(rest[at + 1..].trim())?)),
                    None => (rest.trim(), None),
                };
                let path = Path::parse(path, self.scope)?;
                self.parts.push(Part::Value { path, conversion });
            }
            None => self.quoted(text),
        }
        Ok(())
    }

    fn array(&mut self, elements: &[Value]) -> Result<(), PathError> {
        self.text(b"[");
        for (index, element) in elements.iter().enumerate() {
            if index > 0 {
                self.text(b",");
            }
            self.keys.push(index.to_string());
            self.value(element, false)?;
            self.keys.pop();
        }
        self.text(b"]");
        Ok(())
    }

    fn members(&mut self, table: &toml::Table) -> Result<(), PathError> {
        self.text(b"{");
        for (index, (name, value)) in table.iter().enumerate() {
            if index > 0 {
                self.text(b",");
            }
            self.quoted(name);
            self.text(b":");
            self.keys.push(name.clone());
            self.value(value, false)?;
            self.keys.pop();
        }
        self.text(b"}");
        Ok(())
    }

    fn table(&mut self, table: &toml::Table) -> Result<(), PathError> {
        let at = self.parts.len();
        self.parts.push(Part::Table { joins: Vec::new(), parts: 0 });
        self.members(table)?;
        match self.joins_alone(at + 1) {
            Some(joins) => self.parts[at] = Part::Table { joins, parts: self.parts.len() - at - 1 },
            None => drop(self.parts.remove(at)),
        }
        self.sealed = self.parts.len();
        Ok(())
    }

    /// The joins that the paths from part `from` on begin at, when there are paths and all of them begin at rows.
    fn joins_alone(&self, from: usize) -> Option<Vec<usize>> {
        let mut joins = Vec::new();
        for part in &self.parts[from..] {
            match part {
                Part::Value { path: Path { root: Root::Join(join), .. }, .. } if joins.contains(join) => {}
                Part::Value { path: Path { root: Root::Join(join), .. }, .. } => joins.push(*join),
                Part::Value { .. } => return None,
                Part::Text(_) | Part::Table { .. } => {}
            }
        }
        (!joins.is_empty()).then_some(joins)
    }

    fn quoted(&mut self, text: &str) {
        let mut json = Vec::with_capacity(text.len() + 2);
        write_string(&mut json, text);
        self.text(&json);
    }

    fn text(&mut self, json: &[u8]) {
        let sealed = self.parts.len() == self.sealed;
        match self.parts.last_mut() {
            Some(Part::Text(text)) if !sealed => text.extend_from_slice(json),
            _ => self.parts.push(Part::Text(json.to_vec())),
        }
    }
}

/// Where the bar before a conversion stands: the first one outside quoted names.
fn conversion_mark(text: &str) -> Option<usize> {
    let mut quoted = false;
    text.char_indices().find_map(|(at, c)| {
        quoted ^= c == '"';
        (c == '|' && !quoted).then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(value: &str) -> Result<Template, (Vec<String>, PathError)> {
        let scope = Scope { each: true, joins: vec!["product".into(), "shop".into()] };
        let table: toml::Table = format!("value = {value}").parse().expect("TOML");
        Template::compile(&table["value"], &scope)
    }

    /// The template with `…` for text, `<path>` for places and `(joins: …)` for tables.
    fn draw(value: &str) -> String {
        let template = compile(value).unwrap_or_else(|(keys, e)| panic!("{keys:?}: {}", e.message));
        let joins = ["product".to_owned(), "shop".to_owned()];
        let draw = |part: &Part| match part {
            Part::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Part::Value { path, conversion } => {
                format!("<{}{}>", path.describe(&joins), conversion.map_or(String::new(), |c| format!("|{}", c.name())))
            }
            Part::Table { joins, parts } => format!("({joins:?}:{parts})"),
        };
        template.parts.iter().map(draw).collect::<Vec<_>>().join("")
    }

    #[test]
    fn literals_stand_for_themselves() {
        assert_eq!(draw(r#""a\nb""#), r#""a\nb""#);
        assert_eq!(draw(r#""$$5""#), r#""$5""#);
        assert_eq!(draw("[1, 1.0, true, 2024-01-02T03:04:05Z, {}]"), r#"[1,1.0,true,"2024-01-02T03:04:05Z",{}]"#);
    }

    #[test]
    fn places_and_tables() {
        assert_eq!(draw(r#""$record.a | string""#), "<$record.a|string>");
        assert_eq!(draw(r#"'$record."a|b"|number'"#), "<$record.a|b|number>");
        assert_eq!(
            draw(r#"{ b = "$item", a = { x = "$product.x", n = 1, s = { y = "$shop.y" } }, c = 1 }"#),
            r#"{"b":<$item>,"a":([0, 1]:8){"x":<$product.x>,"n":1,"s":([1]:3){"y":<$shop.y>}},"c":1}"#
        );
        assert_eq!(draw(r#"{ a = { x = "$product.x", i = "$index" } }"#), r#"{"a":{"x":<$product.x>,"i":<$index>}}"#);
    }

    #[test]
    fn faults_carry_their_keys() {
        let keys = |value: &str| compile(value).map(|_| ()).map_err(|(keys, error)| (keys.join("."), error.message));
        assert_eq!(keys(r#"{ a = { b = [1, "$x"] } }"#).map_err(|e| e.0), Err("a.b.1".to_owned()));
        assert_eq!(keys(r#"{ a = "$record.a | strnig" }"#), Err(("a".to_owned(), "unknown conversion `strnig`".to_owned())));
        assert_eq!(keys(r#"{ a = "$place.h3 | cell" }"#).map_err(|e| e.0), Err("a".to_owned()));
        assert!(keys("{ a = nan }").is_err());
    }
}
