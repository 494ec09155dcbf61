//! A checker: does an enriched order show a whole number of MySQL transactions?
//!
//! The writer stamps the same version number into every product in one transaction (`description = 'v17'`), so the version is known
//! to every item; the items say by `larder-origin` which order they are of.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::Record;

/// One enriched item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Of the input: partition, offset, element.
    pub origin: (i32, i64, usize),
    pub version: u64,
    /// `larder-at`.
    pub at: String,
}

/// The items in order of their origin.
pub fn of(records: &[Record]) -> Vec<Item> {
    let mut items: Vec<Item> = records
        .iter()
        .map(|record| {
            let value = record.json();
            let version = value["product"]["description"].as_str().and_then(|text| text.strip_prefix('v')?.parse().ok());
            let origin = record.header("larder-origin").expect("every output has its origin");
            let mut parts = origin.rsplit('/').map(|part| part.parse::<i64>());
            let (Some(Ok(element)), Some(Ok(offset)), Some(Ok(partition))) = (parts.next(), parts.next(), parts.next()) else {
                panic!("origin {origin}")
            };
            Item {
                origin: (partition.try_into().expect("a partition"), offset, element.try_into().expect("an element")),
                version: version.unwrap_or_else(|| panic!("no version in {value}")),
                at: record.header("larder-at").expect("a joined output says its transaction").to_owned(),
            }
        })
        .collect();
    items.sort_by_key(|item| item.origin);
    items
}

/// How many versions were seen, or what is wrong: an item twice, an order of two versions, a version that went back within a
/// partition, two versions under one `larder-at`.
pub fn check(items: &[Item]) -> Result<usize, String> {
    let mut under = BTreeMap::new();
    for pair in items.windows(2) {
        let [before, item] = pair else { continue };
        if before.origin == item.origin {
            return Err(format!("twice: {item:?}"));
        }
        let (partition, offset, _) = item.origin;
        if (before.origin.0, before.origin.1) == (partition, offset) && before.version != item.version {
            return Err(format!("an order of two versions: {before:?}, {item:?}"));
        }
        if before.origin.0 == partition && before.version > item.version {
            return Err(format!("the version went back: {before:?}, {item:?}"));
        }
    }
    for item in items {
        if *under.entry(&item.at).or_insert(item.version) != item.version {
            return Err(format!("another version under the same larder-at: {item:?}"));
        }
    }
    Ok(items.iter().map(|item| item.version).collect::<BTreeSet<_>>().len())
}
