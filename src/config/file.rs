//! What is written: a TOML document with the place of everything in it, read section by section.
//!
//! A [`Section`] remembers which keys it was asked for, so the keys that exist are listed nowhere but in the code that reads
//! them, and [`Section::close`] knows every other key as a mistake. Reading never fails: a fault is noted in the [`File`] and
//! the default stands in, so that one run finds all faults; [`File::settle`] lets a plan out only if there were none.
//!
//! A fault shows a value as it is written, never as it is after expansion: what comes from the environment or from a file
//! may be a secret.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::choice::Choice;
use super::plan::Plan;
use super::{Error, Errors, Secret, Surroundings, expand, name, units};

/// The text being read, and what is wrong with it so far.
pub(super) struct File<'t> {
    place: &'t str,
    /// Byte offset of the start of each line.
    lines: Vec<usize>,
    around: &'t Surroundings<'t>,
    faults: RefCell<Vec<(usize, Error)>>,
    /// Every key asked for, names replaced by `*`; the reference file must have them all.
    #[cfg(test)]
    pub asked: RefCell<std::collections::BTreeSet<String>>,
}

/// A place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At {
    /// Dotted.
    pub key: String,
    offset: usize,
    /// The text here has references: what it stands for is not shown.
    pub refers: bool,
}

/// A TOML table; absent ones read as empty.
pub(super) struct Section<'f> {
    file: &'f File<'f>,
    at: At,
    table: Table<'f>,
    /// Keys asked for, in order of the code.
    known: RefCell<Vec<&'static str>>,
    /// Keys reported already.
    refused: RefCell<Vec<&'static str>>,
    #[cfg(test)]
    pattern: String,
}

#[derive(Clone, Copy)]
enum Table<'f> {
    Absent,
    /// Written as something else, and reported.
    Faulty,
    Written(&'f DeTable<'f>),
}

/// Any value, with its place.
pub(super) struct Value<'f> {
    file: &'f File<'f>,
    pub at: At,
    value: &'f DeValue<'f>,
}

/// A text value after expansion.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub text: String,
    /// As it stands in the file: what errors may show.
    written: String,
    pub at: At,
}

/// Parses the TOML of `text`; `None` if it is none, which is noted in `file`. Of several faults in one line the first is noted.
pub(super) fn document<'t>(text: &'t str, file: &File<'_>) -> Option<DeTable<'t>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut last_line = 0;
    for error in &errors {
        let offset = error.span().map_or(0, |span| span.start);
        let (line, column) = file.position(offset);
        if line != last_line {
            let at = At { key: String::new(), offset, refers: false };
            let remedy = match error.message().starts_with("duplicate") {
                true => "write each key and each `[section]` once",
                false => "text stands in quotes, `key = value` on one line",
            };
            file.fault(&at, format!("not TOML: {} (column {column})", error.message()), remedy);
        }
        last_line = line;
    }
    errors.is_empty().then(|| document.into_inner())
}

// === impl File ===

impl<'t> File<'t> {
    pub fn new(text: &str, place: &'t str, around: &'t Surroundings<'t>) -> Self {
        let lines = std::iter::once(0).chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1)).collect();
        Self {
            place,
            lines,
            around,
            faults: RefCell::default(),
            #[cfg(test)]
            asked: RefCell::default(),
        }
    }

    pub fn around(&self) -> &Surroundings<'t> {
        self.around
    }

    pub fn fault(&self, at: &At, message: impl Into<String>, remedy: impl Into<String>) {
        let place = format!("{}:{}", self.place, self.position(at.offset).0);
        let error = Error { place, key: at.key.clone(), message: message.into(), remedy: remedy.into() };
        self.faults.borrow_mut().push((at.offset, error));
    }

    /// The plan if there were no faults, else the faults in order of the file.
    pub fn settle(self, plan: Option<Plan>) -> Result<Plan, Errors> {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|(offset, _)| *offset);
        match plan {
            Some(plan) if faults.is_empty() => Ok(plan),
            _ => Err(Errors(faults.into_iter().map(|(_, error)| error).collect())),
        }
    }

    /// Line and column in bytes, from 1.
    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= offset);
        (line, offset - self.lines[line - 1] + 1)
    }
}

// === impl At ===

impl At {
    /// A key below, at the same place in the file.
    pub fn below(&self, name: &str) -> Self {
        self.child(name, self.offset)
    }

    fn child(&self, name: &str, offset: usize) -> Self {
        let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let name = if bare { name.to_owned() } else { format!("{name:?}") };
        Self { key: if self.key.is_empty() { name } else { format!("{}.{name}", self.key) }, offset, refers: false }
    }
}

// === impl Section ===

impl<'f> Section<'f> {
    pub fn root(file: &'f File<'f>, document: &'f DeTable<'f>) -> Self {
        Self {
            file,
            at: At { key: String::new(), offset: 0, refers: false },
            table: Table::Written(document),
            known: RefCell::default(),
            refused: RefCell::default(),
            #[cfg(test)]
            pattern: String::new(),
        }
    }

    pub fn file(&self) -> &'f File<'f> {
        self.file
    }

    pub fn at(&self) -> &At {
        &self.at
    }

    /// The place of a key: its own where it is written, else the section's.
    pub fn at_key(&self, key: &str) -> At {
        let offset = self.entry(key).map_or(self.at.offset, |(offset, _)| offset);
        self.at.child(key, offset)
    }

    pub fn is_written(&self) -> bool {
        matches!(self.table, Table::Written(_))
    }

    /// Written as something that is no table, which is reported.
    pub fn is_faulty(&self) -> bool {
        matches!(self.table, Table::Faulty)
    }

    pub fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    fn entry(&self, key: &str) -> Option<(usize, &'f DeValue<'f>)> {
        let Table::Written(table) = self.table else { return None };
        table.get_key_value(key).map(|(key, value)| (key.span().start, value.get_ref()))
    }

    fn ask(&self, key: &'static str) {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
        #[cfg(test)]
        self.file.asked.borrow_mut().insert(self.pattern_of(key));
    }

    #[cfg(test)]
    fn pattern_of(&self, key: &str) -> String {
        if self.pattern.is_empty() { key.to_owned() } else { format!("{}.{key}", self.pattern) }
    }

    /// Whatever stands at `key`.
    pub fn value(&self, key: &'static str) -> Option<Value<'f>> {
        self.ask(key);
        let (offset, value) = self.entry(key)?;
        Some(Value::new(self.file, self.at.child(key, offset), value))
    }

    pub fn text(&self, key: &'static str) -> Option<Text> {
        self.value(key)?.text()
    }

    /// Text that must be there and not be empty; `remedy` says how to write it. `None` is reported.
    pub fn required_text(&self, key: &'static str, remedy: &str) -> Option<Text> {
        let Some(value) = self.value(key) else {
            if !matches!(self.table, Table::Faulty) {
                self.file.fault(&self.at_key(key), "is missing", remedy);
            }
            return None;
        };
        let text = value.text()?;
        if text.text.is_empty() {
            self.file.fault(&text.at, "is empty", remedy);
            return None;
        }
        Some(text)
    }

    pub fn secret(&self, key: &'static str) -> Option<Secret> {
        self.text(key).map(|text| Secret::new(text.text))
    }

    /// A path, relative ones from the folder of the configuration file; the file must exist.
    pub fn path(&self, key: &'static str) -> Option<PathBuf> {
        let text = self.text(key)?;
        let path = self.file.around.folder.join(&text.text);
        if !path.is_file() {
            let remedy = "relative paths are taken from the folder of the configuration file";
            self.file.fault(&text.at, format!("there is no file {}", text.quoted()), remedy);
        }
        Some(path)
    }

    /// An array of text, or one text for an array of one.
    pub fn texts(&self, key: &'static str) -> Option<Vec<Text>> {
        self.value(key)?.texts()
    }

    pub fn integer(&self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(value) = self.value(key) else { return default };
        value.integer().and_then(|number| value.bounded(number, range, |n| n.to_string())).unwrap_or(default)
    }

    pub fn boolean(&self, key: &'static str, default: bool) -> bool {
        self.value(key).and_then(|value| value.boolean()).unwrap_or(default)
    }

    /// Bytes: a text with a unit, or a number.
    pub fn size(&self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> usize {
        let read = |value: Value<'f>| value.size().and_then(|bytes| value.bounded(bytes, range, units::show_size));
        let bytes = self.value(key).and_then(read).unwrap_or(default);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    pub fn duration(&self, key: &'static str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let read = |value: Value<'f>| value.duration().and_then(|time| value.bounded(time, range, units::show_duration));
        self.value(key).and_then(read).unwrap_or(default)
    }

    /// One of the values of `C`; the first of them where the key is absent.
    pub fn choice<C: Choice>(&self, key: &'static str) -> C {
        self.value(key).and_then(|value| value.choice()).unwrap_or(C::VALUES[0].1)
    }

    pub fn section(&self, key: &'static str) -> Section<'f> {
        self.ask(key);
        #[cfg(test)]
        let pattern = self.pattern_of(key);
        let (offset, table) = match self.entry(key) {
            Some((offset, value)) => (offset, Some(value)),
            None => (self.at.offset, None),
        };
        let section = Section {
            file: self.file,
            at: self.at.child(key, offset),
            table: Table::Absent,
            known: RefCell::default(),
            refused: RefCell::default(),
            #[cfg(test)]
            pattern,
        };
        match table {
            Some(value) => section.with(value),
            None if matches!(self.table, Table::Faulty) => Section { table: Table::Faulty, ..section },
            None => section,
        }
    }

    /// The sections `[key.NAME]` in order of the file. A name that cannot be one is reported.
    pub fn named(&self, key: &'static str) -> Vec<(String, Section<'f>)> {
        self.ask(key);
        let Some((offset, value)) = self.entry(key) else { return Vec::new() };
        let at = self.at.child(key, offset);
        let DeValue::Table(table) = value else {
            let example = format!("name each one: `[{}.NAME]`", at.key);
            self.file.fault(&at, format!("must be a table, is {}", kind(value)), example);
            return Vec::new();
        };
        let mut sections = Vec::with_capacity(table.len());
        for (name, value) in table {
            let at = at.child(name.get_ref(), name.span().start);
            if !name::is_name(name.get_ref()) {
                let remedy = format!("use 1 to {} letters, digits, `_` and `-`", name::NAME_BYTES);
                self.file.fault(&at, "cannot be a name", remedy);
            }
            let section = Section {
                file: self.file,
                at,
                table: Table::Absent,
                known: RefCell::default(),
                refused: RefCell::default(),
                #[cfg(test)]
                pattern: format!("{}.*", self.pattern_of(key)),
            };
            sections.push((name.get_ref().to_string(), section.with(value.get_ref())));
        }
        sections
    }

    fn with(self, value: &'f DeValue<'f>) -> Self {
        let table = match value {
            DeValue::Table(table) => Table::Written(table),
            other => {
                self.file.fault(&self.at, format!("must be a table, is {}", kind(other)), format!("write it as `[{}]`", self.at.key));
                Table::Faulty
            }
        };
        Self { table, ..self }
    }

    /// Everything in a section whose keys are the user's.
    pub fn entries(&self) -> Vec<(&'f str, Value<'f>)> {
        match self.table {
            Table::Written(table) => entries(self.file, &self.at, table),
            Table::Absent | Table::Faulty => Vec::new(),
        }
    }

    /// Refuses keys of Larder's design that this version does not have: key, and what it would bring.
    pub fn later(&self, keys: &[(&'static str, &str)]) {
        for (key, what) in keys {
            if self.has(key) {
                refuse_later(self.file, &self.at_key(key), &format!("`{key}` ({what})"));
            }
            self.refused.borrow_mut().push(key);
        }
    }

    /// Ends the reading of the section: keys nobody asked for are mistakes.
    pub fn close(self) {
        let known = self.known.into_inner();
        let refused = self.refused.into_inner();
        let Table::Written(table) = self.table else { return };
        for key in table.keys() {
            let text: &str = key.get_ref();
            if known.contains(&text) || refused.contains(&text) {
                continue;
            }
            let at = self.at.child(text, key.span().start);
            let message = name::did_you_mean(format!("unknown key `{text}`"), text, '`', known.iter().copied());
            self.file.fault(&at, message, format!("the keys here are {}", name::list(known.iter().copied(), '`')));
        }
    }
}

/// Says that something of Larder's design is not there yet, in words of its own: it is no misspelling.
pub(super) fn refuse_later(file: &File<'_>, at: &At, what: &str) {
    file.fault(
        at,
        format!("{what} is not in this version of larder"),
        format!("remove it, or take a later version than {}", env!("CARGO_PKG_VERSION")),
    );
}

// === impl Value ===

impl<'f> Value<'f> {
    fn new(file: &'f File<'f>, at: At, value: &'f DeValue<'f>) -> Self {
        let refers = matches!(value, DeValue::String(written) if expand::has_reference(written));
        Self { file, at: At { refers, ..at }, value }
    }

    pub fn text(&self) -> Option<Text> {
        let DeValue::String(written) = self.value else {
            self.mistyped("text in quotes");
            return None;
        };
        match expand::expand(written, self.file.around) {
            Ok(text) => Some(Text { text, written: written.to_string(), at: self.at.clone() }),
            Err(fault) => {
                self.file.fault(&self.at, fault.message, fault.remedy);
                None
            }
        }
    }

    /// An array of text, or one text for an array of one; `None` if any of it is at fault.
    pub fn texts(&self) -> Option<Vec<Text>> {
        match self.value {
            DeValue::Array(_) => {
                let texts: Vec<Option<Text>> = self.elements().iter().map(Value::text).collect();
                texts.into_iter().collect()
            }
            DeValue::String(_) => Some(vec![self.text()?]),
            _ => {
                self.mistyped("text in quotes or an array of it");
                None
            }
        }
    }

    /// The elements of an array, each with its own place.
    fn elements(&self) -> Vec<Value<'f>> {
        let DeValue::Array(array) = self.value else { return Vec::new() };
        let element = |(i, value): (usize, &'f toml::Spanned<DeValue<'f>>)| {
            Value::new(self.file, self.at.child(&i.to_string(), value.span().start), value.get_ref())
        };
        array.iter().enumerate().map(element).collect()
    }

    /// A whole number, or text that refers to one.
    pub fn integer(&self) -> Option<u64> {
        let number = match self.value {
            DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix()).ok(),
            DeValue::String(_) if self.at.refers => self.text()?.text.trim().parse().ok(),
            _ => None,
        };
        if number.is_none() {
            self.mistyped("a whole number that is not negative");
        }
        number
    }

    /// True or false, or text that refers to one.
    fn boolean(&self) -> Option<bool> {
        let boolean = match self.value {
            DeValue::Boolean(boolean) => Some(*boolean),
            DeValue::String(_) if self.at.refers => self.text()?.text.trim().parse().ok(),
            _ => None,
        };
        if boolean.is_none() {
            self.mistyped("true or false");
        }
        boolean
    }

    fn size(&self) -> Option<u64> {
        let DeValue::String(_) = self.value else { return self.integer() };
        let text = self.text()?;
        let size = units::size(&text.text);
        if size.is_none() {
            self.file.fault(&self.at, format!("{} is not a size", text.quoted()), "write \"256 MiB\", \"10 MB\" or a number of bytes");
        }
        size
    }

    fn duration(&self) -> Option<Duration> {
        let DeValue::String(_) = self.value else {
            self.mistyped("a duration with its unit, as text");
            return None;
        };
        let text = self.text()?;
        let duration = units::duration(&text.text);
        if duration.is_none() {
            self.file.fault(&self.at, format!("{} is not a duration", text.quoted()), "write \"100ms\", \"30s\", \"5m\" or \"2h\"");
        }
        duration
    }

    pub fn choice<C: Choice>(&self) -> Option<C> {
        let text = self.text()?;
        let found = C::VALUES.iter().find(|(name, _)| *name == text.text).map(|(_, value)| *value);
        if found.is_none() {
            text.unknown("is not a value of this key", C::VALUES.iter().map(|(name, _)| *name), self.file);
        }
        found
    }

    fn bounded<T: PartialOrd + Copy>(&self, value: T, range: RangeInclusive<T>, show: impl Fn(T) -> String) -> Option<T> {
        if range.contains(&value) {
            return Some(value);
        }
        let (low, high) = (show(*range.start()), show(*range.end()));
        self.file.fault(&self.at, "is out of bounds", format!("give {low} to {high}"));
        None
    }

    /// The value of a client property: text, number or boolean as text.
    pub fn scalar_text(&self) -> Option<String> {
        match self.value {
            DeValue::Integer(integer) => Some(integer.to_string()),
            DeValue::Float(float) => Some(float.to_string()),
            DeValue::Boolean(boolean) => Some(boolean.to_string()),
            DeValue::String(_) => self.text().map(|text| text.text),
            _ => {
                self.mistyped("text, a number or a boolean");
                None
            }
        }
    }

    /// Whether a table stands here.
    pub fn is_table(&self) -> bool {
        matches!(self.value, DeValue::Table(_))
    }

    /// Whether the table here has this key.
    pub fn has(&self, key: &str) -> bool {
        matches!(self.value, DeValue::Table(table) if table.contains_key(key))
    }

    /// Hands every value that is neither table nor array to `leaf`, after expansion, and gives the whole back. A text that
    /// begins with a reference is a literal whatever the reference brings, so no environment variable becomes a template path.
    pub fn template(&self, leaf: &mut impl FnMut(&At, &toml::Value)) -> Option<toml::Value> {
        let value = match self.value {
            DeValue::Table(written) => {
                let mut table = toml::Table::new();
                let mut whole = true;
                for (key, value) in entries(self.file, &self.at, written) {
                    match value.template(leaf) {
                        Some(value) => _ = table.insert(key.to_owned(), value),
                        None => whole = false,
                    }
                }
                return whole.then_some(toml::Value::Table(table));
            }
            DeValue::Array(_) => {
                let values: Vec<Option<toml::Value>> = self.elements().iter().map(|value| value.template(leaf)).collect();
                return values.into_iter().collect::<Option<Vec<_>>>().map(toml::Value::Array);
            }
            DeValue::String(written) => {
                let text = self.text()?.text;
                let literal = written.starts_with("${") && text.starts_with('$');
                toml::Value::String(if literal { format!("${text}") } else { text })
            }
            DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
                Ok(number) => toml::Value::Integer(number),
                Err(_) => {
                    self.file.fault(&self.at, "is too large", "give a number of at most 64 bits, or write it as text");
                    return None;
                }
            },
            DeValue::Float(float) => match float.as_str().parse() {
                Ok(number) => toml::Value::Float(number),
                Err(_) => {
                    self.mistyped("a number");
                    return None;
                }
            },
            DeValue::Boolean(boolean) => toml::Value::Boolean(*boolean),
            DeValue::Datetime(datetime) => toml::Value::Datetime(*datetime),
        };
        leaf(&self.at, &value);
        Some(value)
    }

    fn mistyped(&self, wanted: &str) {
        self.file.fault(&self.at, format!("must be {wanted}, is {}", kind(self.value)), "");
    }
}

fn entries<'f>(file: &'f File<'f>, at: &At, table: &'f DeTable<'f>) -> Vec<(&'f str, Value<'f>)> {
    let mut entries = Vec::with_capacity(table.len());
    for (key, value) in table {
        let at = at.child(key.get_ref(), key.span().start);
        entries.push((key.get_ref().as_ref(), Value::new(file, at, value.get_ref())));
    }
    entries
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(integer) if integer.as_str().starts_with('-') => "negative",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

// === impl Text ===

impl Text {
    /// As it is written, for errors.
    pub fn quoted(&self) -> String {
        const SHOWN: usize = 100;
        let cut: String = self.written.chars().take(SHOWN).collect();
        let dots = if cut.len() < self.written.len() { "…" } else { "" };
        format!("\"{}{dots}\"", cut.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'"))
    }

    /// Reports a text that is none of `known`, with the nearest of them.
    pub fn unknown<'a>(&self, what: &str, known: impl Iterator<Item = &'a str> + Clone, file: &File<'_>) {
        let message = name::did_you_mean(format!("{} {what}", self.quoted()), &self.text, '"', known.clone());
        file.fault(&self.at, message, format!("give one of {}", name::list(known, '"')));
    }
}
