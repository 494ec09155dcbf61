//! `[streams.NAME]`: what is read, joined and written. Paths and templates are compiled by `join`; here they get their place,
//! their tables and the check of the columns they name.

use jiff::tz::{Offset, TimeZone};

use crate::config::file::{At, Section, Text, Value, refuse_later};
use crate::config::name;
use crate::config::plan::{Limits, TablePlan};
use crate::join::path::{PathError, Root, Scope};
use crate::join::{JoinPlan, Missing, Path, StreamPlan, Template};
use crate::model::TableId;

/// Roots of paths that are not rows (contract G4).
const RESERVED_JOINS: [&str; 5] = ["record", "item", "index", "place", "meta"];
/// Its consumer group would be the publisher's (contract E1).
const RESERVED_STREAM: &str = "publish";
/// Topics of our own begin with it.
pub(super) const INTERNAL: &str = "larder.";
/// Headers of our own begin with it (contract E5).
const OWN_HEADERS: &str = "larder-";

/// Where the topics of a stream are written.
struct Topics {
    from: At,
    topic: At,
}

/// A stream while it is read.
struct Stream<'s, 'f> {
    section: &'s Section<'f>,
    /// Names, and tables where known, of the joins read so far.
    joins: Vec<(String, Option<TableId>)>,
    /// What paths may begin with once all joins are done.
    each: bool,
    /// Columns named by paths, with the place that names them.
    needed: Vec<(TableId, String, At)>,
}

/// The topic of all dead letters of a configuration.
pub(in crate::config) fn dead_letters(name: &str) -> String {
    format!("{name}.dead-letters")
}

/// In order of name. Fills `TablePlan::needed` and `TablePlan::key_widths`.
pub(super) fn read(root: &Section<'_>, name: &str, limits: &Limits, tables: &mut [TablePlan]) -> Vec<StreamPlan> {
    let sections = root.named("streams");
    let mut streams: Vec<(StreamPlan, Topics)> = Vec::with_capacity(sections.len());
    for (name, section) in &sections {
        let mut stream = Stream { section, joins: Vec::new(), each: section.has("each"), needed: Vec::new() };
        streams.push(stream.read(name, limits, tables));
        let (plan, _) = &streams[streams.len() - 1];
        for join in &plan.joins {
            let key = format!("streams.{name}.join.{}.key", join.name);
            // None at a join that is at fault otherwise.
            if let Some(table) = tables.get_mut(join.table.index()) {
                table.key_widths.push((join.key.len(), key));
            }
        }
        for (table, column, at) in stream.needed {
            need(root, &mut tables[table.index()], column, &at);
        }
    }
    check_topics(root, name, &streams);
    let mut streams: Vec<StreamPlan> = streams.into_iter().map(|(plan, _)| plan).collect();
    for (_, section) in sections {
        section.close();
    }
    streams.sort_by(|a, b| a.name.cmp(&b.name));
    streams
}

/// Notes that a column is needed; it must be in the projection.
fn need(root: &Section<'_>, table: &mut TablePlan, column: String, at: &At) {
    if table.columns.as_ref().is_some_and(|columns| !columns.contains(&column)) {
        let shown = if at.refers { "this column".to_owned() } else { format!("its column \"{column}\"") };
        let message = format!("`tables.{}` is read without {shown}", table.name);
        root.file().fault(at, message, format!("add it to `tables.{}.columns`", table.name));
    }
    let needed = (column, at.key.clone());
    if !table.needed.contains(&needed) {
        table.needed.push(needed);
    }
}

/// No record may come round again, and nothing but ourselves writes our topics (contract G4).
fn check_topics(root: &Section<'_>, name: &str, streams: &[(StreamPlan, Topics)]) {
    let file = root.file();
    let dead_letters = dead_letters(name);
    for (stream, at) in streams {
        if stream.from == dead_letters {
            let remedy = "read another topic; to repair dead letters, copy them to a topic of their own";
            file.fault(&at.from, "the dead letters of this configuration would come round", remedy);
        }
        if stream.topic.is_empty() {
            continue;
        }
        if let Some((reader, _)) = streams.iter().find(|(reader, _)| reader.from == stream.topic) {
            let message = format!("is also the input of `streams.{}`: records would come round", reader.name);
            file.fault(&at.topic, message, "write to another topic");
        }
        if stream.topic == dead_letters {
            file.fault(&at.topic, "is the topic of the dead letters", "write to another topic");
        }
        if stream.topic.starts_with(INTERNAL) {
            file.fault(&at.topic, format!("topics that begin with `{INTERNAL}` are larder's own"), "write to another topic");
        }
    }
}

// === impl Stream ===

impl<'f> Stream<'_, 'f> {
    fn read(&mut self, name: &str, limits: &Limits, tables: &[TablePlan]) -> (StreamPlan, Topics) {
        let section = self.section;
        section.later(&[("time", "event time"), ("place", "positions, cells and zones"), ("format", "Debezium-shaped input")]);
        if name == RESERVED_STREAM {
            let message = format!("the consumer group `<name>.{RESERVED_STREAM}` is larder's own");
            section.file().fault(section.at(), message, "give the stream another name");
        }
        let from = self.topic(section, "from", "write `from = \"topic\"`, the topic to read");
        let each = section.text("each").and_then(|text| self.checked(&text.at, Path::parse_each(&text.text)));
        let joins = self.joins(tables);
        let to = section.section("to");
        let topic = self.topic(&to, "topic", "write `topic = \"…\"`, the topic to write");
        let key = to.value("key").and_then(|value| self.template(&value));
        let value = to.value("value").and_then(|value| self.template(&value));
        let headers = self.headers(&to.section("headers"));
        let places = Topics { from: section.at_key("from"), topic: to.at_key("topic") };
        to.close();
        let plan = StreamPlan {
            name: name.to_owned(),
            from,
            each,
            joins,
            topic,
            key,
            value,
            headers,
            bad: section.choice("bad"),
            start: section.choice("start"),
            workers: section.integer("workers", 1, 1..=256) as usize,
            zone: section.text("zone").and_then(|text| self.zone(&text)).unwrap_or(TimeZone::UTC),
            json_depth: limits.json_depth,
            outputs_per_record: limits.outputs_per_record,
            message_bytes: limits.message_bytes,
        };
        (plan, places)
    }

    /// The name of a topic; empty if it is at fault.
    fn topic(&self, section: &Section<'f>, key: &'static str, remedy: &str) -> String {
        let Some(text) = section.required_text(key, remedy) else { return String::new() };
        if !name::is_topic(&text.text) {
            let remedy = format!("use 1 to {} letters, digits, `.`, `_` and `-`", name::TOPIC_BYTES);
            section.file().fault(&text.at, format!("{} cannot be a topic", text.quoted()), remedy);
            return String::new();
        }
        text.text
    }

    /// An IANA name, or a fixed offset such as `+05:30`.
    fn zone(&self, text: &Text) -> Option<TimeZone> {
        let zone = offset(&text.text).map(TimeZone::fixed).or_else(|| TimeZone::get(&text.text).ok());
        if zone.is_none() {
            let known: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
            let message = format!("no time zone {}", text.quoted());
            let message = name::did_you_mean(message, &text.text, '"', known.iter().map(String::as_str));
            self.section.file().fault(&text.at, message, "give an IANA name (\"Asia/Kolkata\") or an offset (\"+05:30\")");
        }
        zone
    }

    // --- joins ---

    fn joins(&mut self, tables: &[TablePlan]) -> Vec<JoinPlan> {
        let sections = self.section.named("join");
        let names: Vec<&str> = sections.iter().map(|(name, _)| name.as_str()).collect();
        let mut joins = Vec::with_capacity(sections.len());
        for (i, (name, section)) in sections.iter().enumerate() {
            joins.push(self.join(name, section, &names[i..], tables));
        }
        for (_, section) in sections {
            section.close();
        }
        joins
    }

    /// `later` are the names of this join and those after it, whose rows the key cannot use.
    fn join(&mut self, name: &str, section: &Section<'f>, later: &[&str], tables: &[TablePlan]) -> JoinPlan {
        section.later(&[
            ("index", "joins on columns other than the key"),
            ("as_of", "joins with earlier row versions"),
            ("within", "tables made of topics"),
            ("max_lag", "holding joins while the source lags"),
        ]);
        if RESERVED_JOINS.contains(&name) {
            let message = format!("`{name}` has a meaning of its own in paths");
            section.file().fault(section.at(), message, "give the join another name");
        }
        let table = section
            .required_text("table", "write `table = \"…\"`, a name of `[tables]`")
            .and_then(|text| table_named(section, &text, tables));
        let key = self.join_key(section, later);
        if let (Some(key), Some(columns)) = (&key, table.and_then(|table| tables[table.index()].key.as_ref()))
            && key.len() != columns.len()
        {
            let message = format!("{} for a key of {}", count(key.len(), "path"), count(columns.len(), "column"));
            let remedy = format!("give one path for each of {}", name::list(columns.iter().map(String::as_str), '"'));
            section.file().fault(&section.at_key("key"), message, remedy);
        }
        self.joins.push((name.to_owned(), table));
        JoinPlan { name: name.to_owned(), table: table.unwrap_or(TableId(0)), key: key.unwrap_or_default(), missing: missing(section) }
    }

    /// One path per key column; `None` if any is at fault.
    fn join_key(&mut self, section: &Section<'f>, later: &[&str]) -> Option<Vec<Path>> {
        let Some(value) = section.value("key") else {
            if !section.is_faulty() {
                let remedy = "write `key = \"record.…\"`, the path of the value to look up, or an array of one path per key column";
                section.file().fault(&section.at_key("key"), "is missing", remedy);
            }
            return None;
        };
        let texts = value.texts()?;
        if texts.is_empty() {
            section.file().fault(&value.at, "is empty", "give one path per key column");
        }
        let scope = self.scope();
        let paths: Vec<Option<Path>> = texts.iter().map(|text| self.key_path(text, later, &scope)).collect();
        paths.into_iter().collect()
    }

    fn key_path(&mut self, text: &Text, later: &[&str], scope: &Scope) -> Option<Path> {
        let root = text.text.split('.').next().unwrap_or_default();
        if later.contains(&root) && !RESERVED_JOINS.contains(&root) {
            let message = format!("the row of `{root}` is not there yet");
            self.section.file().fault(&text.at, message, "a key can use the rows of joins that stand before it in the file");
            return None;
        }
        let path = self.checked(&text.at, Path::parse(&text.text, scope))?;
        self.note(&path, &text.at);
        Some(path)
    }

    // --- paths and templates ---

    /// What paths may begin with after the joins read so far.
    fn scope(&self) -> Scope {
        Scope { each: self.each, joins: self.joins.iter().map(|(name, _)| name.clone()).collect() }
    }

    fn checked(&self, at: &At, path: Result<Path, PathError>) -> Option<Path> {
        path.map_err(|fault| self.fault(at, fault)).ok()
    }

    /// Reports what `join` says about a path or template, unless that would show what a reference stands for.
    fn fault(&self, at: &At, fault: PathError) {
        let hidden =
            || PathError { message: "is wrong once its references are replaced".to_owned(), remedy: "look at what they bring".to_owned() };
        let fault = if at.refers { hidden() } else { fault };
        self.section.file().fault(at, fault.message, fault.remedy);
    }

    /// Notes the column that a path takes from a row; a row taken whole needs none in particular.
    fn note(&mut self, path: &Path, at: &At) {
        if let Root::Join(join) = path.root
            && let Some(column) = path.steps.first()
            && let Some((_, Some(table))) = self.joins.get(join)
        {
            self.needed.push((*table, column.clone(), at.clone()));
        }
    }

    /// Compiles leaf by leaf first, so that each fault has its own line and one does not hide the next, then as a whole.
    fn template(&mut self, value: &Value<'f>) -> Option<Template> {
        let scope = self.scope();
        let mut valid = true;
        let whole = value.template(&mut |at, leaf| match Template::compile(leaf, &scope) {
            Ok(template) => template.paths().into_iter().for_each(|path| self.note(path, at)),
            Err((_, fault)) => {
                self.fault(at, fault);
                valid = false;
            }
        })?;
        if !valid {
            return None;
        }
        let place = |(keys, fault): (Vec<String>, PathError)| {
            let at = keys.iter().fold(value.at.clone(), |at, key| at.below(key));
            self.fault(&at, fault);
        };
        Template::compile(&whole, &scope).map_err(place).ok()
    }

    fn headers(&mut self, section: &Section<'f>) -> Vec<(String, Template)> {
        let mut headers = Vec::new();
        for (name, value) in section.entries() {
            if name.starts_with(OWN_HEADERS) || name.is_empty() {
                let message = format!("headers that begin with `{OWN_HEADERS}` are larder's own");
                let message = if name.is_empty() { "a header needs a name".to_owned() } else { message };
                section.file().fault(&value.at, message, "give the header another name");
            }
            if let Some(template) = self.template(&value) {
                headers.push((name.to_owned(), template));
            }
        }
        headers
    }
}

fn table_named(section: &Section<'_>, text: &Text, tables: &[TablePlan]) -> Option<TableId> {
    let found = tables.iter().position(|table| table.name == text.text);
    if found.is_none() {
        let known = || tables.iter().map(|table| table.name.as_str());
        let message = name::did_you_mean(format!("no table {}", text.quoted()), &text.text, '"', known());
        let remedy = match tables {
            [] => "write the table as `[tables.NAME]`".to_owned(),
            _ => format!("the tables are {}", name::list(known(), '"')),
        };
        section.file().fault(&text.at, message, remedy);
    }
    Some(TableId(u16::try_from(found?).unwrap_or(u16::MAX)))
}

/// `missing = { wait = …, then = … }` is of a later version.
fn missing(section: &Section<'_>) -> Missing {
    match section.value("missing") {
        None => Missing::Null,
        Some(value) if value.has("wait") => {
            refuse_later(section.file(), &value.at, "`wait` (waiting for rows that come later)");
            Missing::Null
        }
        Some(value) => value.choice().unwrap_or(Missing::Null),
    }
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// `+HH:MM` or `-HH:MM`.
fn offset(text: &str) -> Option<Offset> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let two_digits = |text: &str| (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<i32>().ok())?;
    let (hours, minutes) = (two_digits(hours)?, two_digits(minutes)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_have_hours_and_minutes() {
        assert_eq!(offset("+05:30"), Offset::from_seconds(19_800).ok());
        assert_eq!(offset("-08:00"), Offset::from_seconds(-28_800).ok());
        for wrong in ["", "05:30", "+5:30", "+24:00", "+05:60", "+0530", "+é:00", "é"] {
            assert_eq!(offset(wrong), None, "{wrong:?}");
        }
    }
}
