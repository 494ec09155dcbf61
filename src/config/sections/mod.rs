//! The sections of a configuration, one file each, put together into the [`Plan`]. Defaults and bounds stand where a key is
//! read; what concerns several sections is checked in [`streams`] (names of tables, columns) and here (nothing to do).

mod http;
mod kafka;
mod limits;
mod log;
mod mysql;
mod publish;
mod state;
mod streams;
mod tables;

pub(super) use kafka::is_secret;
#[cfg(test)]
pub(super) use kafka::properties as client_properties;
pub(super) use streams::dead_letters;

use super::file::Section;
use super::name;
use super::plan::Plan;

pub(super) fn plan(root: Section<'_>) -> Plan {
    root.later(&[("zones", "named polygons"), ("stores", "OLAP stores"), ("feeds", "topics as store tables"), ("queries", "HTTP queries")]);
    let name = dotted_name(&root, "name").or_else(|| {
        if !root.has("name") {
            let remedy = "write `name = \"shop\"`: consumer groups and transactional ids begin with it";
            root.file().fault(&root.at_key("name"), "is missing", remedy);
        }
        None
    });
    let host = || root.file().around().host.replace(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-'), "-");
    let instance = dotted_name(&root, "instance").unwrap_or_else(host);
    let limits = limits::read(root.section("limits"));
    let (mut tables, published) = tables::read(&root);
    let name = name.unwrap_or_default();
    let streams = streams::read(&root, &name, &limits, &mut tables);
    publish::check_topics(&root, &name, &published, &streams);
    if tables.is_empty() && streams.is_empty() && !root.has("tables") && !root.has("streams") {
        root.file().fault(root.at(), "there is nothing to do", "write at least one `[tables.NAME]` or `[streams.NAME]`");
    }
    let plan = Plan {
        mysql: mysql::read(root.section("mysql"), &name, &instance, &tables),
        kafka: kafka::read(root.section("kafka"), &limits),
        http: http::read(root.section("http")),
        log: log::read(root.section("log")),
        state: state::read(root.section("state")),
        name,
        instance,
        tables,
        streams,
        limits,
    };
    root.close();
    plan
}

/// A name that becomes part of groups, topics and transactional ids; `None` if absent or at fault.
fn dotted_name(root: &Section<'_>, key: &'static str) -> Option<String> {
    let text = root.text(key)?;
    if !name::is_dotted_name(&text.text) {
        let remedy = format!("use 1 to {} letters, digits, `.`, `_` and `-`", name::NAME_BYTES);
        root.file().fault(&text.at, format!("{} cannot be a name", text.quoted()), remedy);
        return None;
    }
    Some(text.text)
}
