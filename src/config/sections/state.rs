//! `[state]`: what may be kept on disk (contract G1).

use crate::config::file::Section;
use crate::config::plan::StatePlan;

pub(super) fn read(section: Section<'_>) -> StatePlan {
    let path = section.text("path").and_then(|text| {
        let path = section.file().around().folder.join(&text.text);
        if text.text.is_empty() || text.text.ends_with('/') || path.is_dir() {
            let remedy = "name a file, for instance \"larder.redb\", or remove the key to keep nothing";
            section.file().fault(&text.at, format!("{} is no file", text.quoted()), remedy);
            return None;
        }
        Some(path)
    });
    section.close();
    StatePlan { path }
}
