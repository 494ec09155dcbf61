//! Which keys of a table the stream has touched since a moment: what an audit needs to tell drift from change.
//!
//! Kept under the tables' lock, by key hash (64 bits), so that it costs little and holds no keys. It ends by itself when the rows as a whole
//! are replaced, or when more keys were touched than it may remember.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher as _};

use crate::model::Key;

/// Keys remembered at most, about 200 MB.
const MOST_KEYS: usize = 8_000_000;

#[derive(Debug)]
pub struct Watch {
    /// Number of the last touch of each key.
    touched: HashMap<u64, u64>,
    touches: u64,
    /// Rows that were there at the beginning and have not been touched.
    untouched_rows: usize,
    whole: bool,
}

impl Watch {
    pub(super) fn new(rows: usize) -> Self {
        Self { touched: HashMap::new(), touches: 0, untouched_rows: rows, whole: true }
    }

    /// A change of `key` is about to be applied; `held`: it has a row now.
    pub(super) fn touch(&mut self, key: &Key, held: bool) {
        if !self.whole {
            return;
        }
        self.touches += 1;
        if self.touched.insert(hash(key), self.touches).is_none() && held {
            self.untouched_rows -= 1;
        }
        if self.touched.len() > MOST_KEYS {
            self.end();
        }
    }

    /// All rows were replaced.
    pub(super) fn end(&mut self) {
        self.whole = false;
        self.touched = HashMap::new();
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Touches so far: a mark for [`Watch::touched_since`].
    pub fn mark(&self) -> u64 {
        self.touches
    }

    pub fn touched_since(&self, key: &Key, mark: u64) -> bool {
        self.touched.get(&hash(key)).is_some_and(|&last| last > mark)
    }

    pub fn is_touched(&self, hash: u64) -> bool {
        self.touched.contains_key(&hash)
    }

    pub fn untouched_rows(&self) -> usize {
        self.untouched_rows
    }
}

/// The same for the same key in the whole process.
pub fn hash(key: &Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(key.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_untouched_until_they_are_touched() {
        let (a, b) = (Key::new(*b"a"), Key::new(*b"b"));
        let mut watch = Watch::new(2);
        let mark = watch.mark();
        assert!(!watch.touched_since(&a, mark));
        watch.touch(&a, true);
        watch.touch(&a, true);
        watch.touch(&b, false);
        assert_eq!(watch.untouched_rows(), 1);
        assert!(watch.touched_since(&a, mark) && !watch.touched_since(&a, watch.mark()));
        assert!(watch.is_touched(hash(&b)));
        watch.end();
        assert!(!watch.is_whole());
    }
}
