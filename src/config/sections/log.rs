//! `[log]`: what is logged on stderr, and how.

use tracing_subscriber::EnvFilter;

use crate::config::file::{Section, Text};
use crate::config::plan::LogPlan;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

pub(super) fn read(section: Section<'_>) -> LogPlan {
    let level = section.text("level").filter(|text| check(&section, text)).map_or_else(|| "info".to_owned(), |text| text.text);
    let format = section.choice("format");
    section.close();
    LogPlan { level, format }
}

/// A bare word would be read as the name of a module and switch everything else off: only levels may stand alone.
fn check(section: &Section<'_>, text: &Text) -> bool {
    if text.text.contains(['=', ',', '[']) {
        let valid = text.text.parse::<EnvFilter>().is_ok();
        if !valid {
            let remedy = "write `level` or `module=level`, several with commas: \"info,larder::kafka=debug\"";
            section.file().fault(&text.at, format!("{} is not a log filter", text.quoted()), remedy);
        }
        return valid;
    }
    let valid = LEVELS.contains(&text.text.as_str());
    if !valid {
        text.unknown("is not a log level", LEVELS.into_iter(), section.file());
    }
    valid
}
