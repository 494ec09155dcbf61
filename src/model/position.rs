//! Places in the binlog: a [`Position`], and the [`GtidSet`] it may carry.
//!
//! A GTID set prints and parses as MySQL writes it: `uuid:1-10:12-20:tag:1-3,uuid:…`, tags (MySQL 8.3) included. Gaps are
//! kept: a set that was flattened would claim transactions nobody has seen.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A place in the binlog of one server: everything up to it is known.
///
/// ```text
/// <server uuid>/<file>:<offset>                 a server without GTIDs
/// <server uuid>/<file>:<offset>/<GTID set>      the set may be empty
/// ```
///
/// Cheap to copy: the GTID set is shared until it is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub server_uuid: Arc<str>,
    /// Binlog file, for instance `binlog.000003`.
    pub file: Arc<str>,
    /// Offset in that file; files may be larger than 4 GiB.
    pub offset: u64,
    /// `None` for a server that runs without GTIDs.
    pub gtids: Option<Arc<GtidSet>>,
}

impl Position {
    /// Whether `self` is at or after `other` by file and offset; only meaningful on one server.
    pub fn reaches(&self, other: &Position) -> bool {
        (file_order(&self.file), self.offset) >= (file_order(&other.file), other.offset)
    }

    /// Whether everything up to `other` is also up to here.
    pub fn contains(&self, other: &Position) -> bool {
        match (&self.gtids, &other.gtids) {
            (Some(ours), Some(theirs)) => ours.contains_all(theirs),
            _ => self.reaches(other),
        }
    }

    /// Whether a transaction is up to here, by its identity if that is a GTID, else by the place after it.
    pub fn covers(&self, id: &str, after: &Position) -> bool {
        match (&self.gtids, id.parse::<GtidSet>()) {
            (Some(ours), Ok(one)) if !one.is_empty() => ours.contains_all(&one),
            _ => self.reaches(after),
        }
    }

    /// `uuid:file:offset`, the identity of a transaction that has no GTID (contract E5).
    pub fn place(&self) -> String {
        format!("{}:{}:{}", self.server_uuid, self.file, self.offset)
    }

    /// Identity of the last transaction of this server up to here: its GTID, else [`Position::place`].
    pub fn last_transaction(&self) -> String {
        let last = self.gtids.as_ref().and_then(|set| set.last(&self.server_uuid));
        last.map_or_else(|| self.place(), |number| format!("{}:{number}", self.server_uuid))
    }
}

impl Default for Position {
    fn default() -> Self {
        Self { server_uuid: Arc::from(""), file: Arc::from(""), offset: 0, gtids: None }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.server_uuid, self.file, self.offset)?;
        self.gtids.as_ref().map_or(Ok(()), |gtids| write!(f, "/{gtids}"))
    }
}

impl FromStr for Position {
    type Err = BadPosition;

    fn from_str(text: &str) -> Result<Self, BadPosition> {
        let bad = || BadPosition(text.to_owned());
        let mut parts = text.splitn(3, '/');
        let (server_uuid, place) = parts.next().zip(parts.next()).ok_or_else(bad)?;
        let (file, offset) = place.rsplit_once(':').ok_or_else(bad)?;
        Ok(Self {
            server_uuid: Arc::from(server_uuid),
            file: Arc::from(file),
            offset: offset.parse().map_err(|_| bad())?,
            gtids: parts.next().map(|set| set.parse().map(Arc::new)).transpose()?,
        })
    }
}

/// Text that is no position, or no GTID set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no binlog position")]
pub struct BadPosition(String);

/// Binlog files are numbered, with six digits until these run out: `binlog.999999` comes before `binlog.1000000`.
fn file_order(file: &str) -> (usize, &str) {
    let number = file.rsplit_once('.').map_or(file, |(_, number)| number);
    (number.len(), number)
}

/// Who numbered a transaction: the server it was committed on first, and the tag it was given there (empty: none).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    pub uuid: Uuid,
    pub tag: Box<str>,
}

/// One transaction's identity: `uuid:number` or `uuid:tag:number`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gtid {
    pub source: Source,
    pub number: u64,
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source.uuid)?;
        if !self.source.tag.is_empty() {
            write!(f, ":{}", self.source.tag)?;
        }
        write!(f, ":{}", self.number)
    }
}

/// A server's uuid, printed in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for Uuid {
    type Err = BadPosition;

    fn from_str(text: &str) -> Result<Self, BadPosition> {
        let bad = || BadPosition(text.to_owned());
        let mut digits = text.bytes().filter(|&b| b != b'-').map(|b| char::from(b).to_digit(16));
        let mut bytes = [0; 16];
        for byte in &mut bytes {
            let (high, low) = digits.next().flatten().zip(digits.next().flatten()).ok_or_else(bad)?;
            *byte = u8::try_from(high << 4 | low).map_err(|_| bad())?;
        }
        digits.next().is_none().then_some(Self(bytes)).ok_or_else(bad)
    }
}

/// First and last transaction number of a run, both in it.
pub type Interval = (u64, u64);

/// A set of transactions, as in `gtid_executed`: per source its intervals in order, with at least one number between two.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GtidSet {
    sources: BTreeMap<Source, Vec<Interval>>,
}

impl GtidSet {
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Sources with their intervals, in order of uuid and tag.
    pub fn sources(&self) -> impl Iterator<Item = (&Source, &[Interval])> {
        self.sources.iter().map(|(source, intervals)| (source, intervals.as_slice()))
    }

    pub fn contains(&self, gtid: &Gtid) -> bool {
        self.sources.get(&gtid.source).is_some_and(|intervals| covers(intervals, (gtid.number, gtid.number)))
    }

    /// Whether every transaction of `other` is in this set.
    pub fn contains_all(&self, other: &GtidSet) -> bool {
        other.sources.iter().all(|(source, wanted)| {
            self.sources.get(source).is_some_and(|intervals| wanted.iter().all(|&interval| covers(intervals, interval)))
        })
    }

    /// Adds one transaction. The usual case, the number after the last one, allocates nothing.
    pub fn insert(&mut self, gtid: &Gtid) {
        let run = (gtid.number, gtid.number);
        match self.sources.get_mut(&gtid.source) {
            Some(intervals) => add(intervals, run),
            None => {
                self.sources.insert(gtid.source.clone(), vec![run]);
            }
        }
    }

    /// Adds every transaction of `other`.
    pub fn union(&mut self, other: &GtidSet) {
        for (source, intervals) in &other.sources {
            let own = self.sources.entry(source.clone()).or_default();
            for &interval in intervals {
                add(own, interval);
            }
        }
    }

    /// Highest untagged transaction number of a server, by the text of its uuid.
    fn last(&self, uuid: &str) -> Option<u64> {
        let source = Source { uuid: uuid.parse().ok()?, tag: "".into() };
        self.sources.get(&source)?.last().map(|&(_, last)| last)
    }
}

fn covers(intervals: &[Interval], wanted: Interval) -> bool {
    let after = intervals.partition_point(|&(first, _)| first <= wanted.0);
    after > 0 && intervals[after - 1].1 >= wanted.1
}

/// Adds an interval, joining it with those it touches.
fn add(intervals: &mut Vec<Interval>, (first, last): Interval) {
    // The runs from `begin` to `end` touch the new one: not wholly before it, not wholly after it.
    let begin = intervals.partition_point(|&(_, end)| end.saturating_add(1) < first);
    let end = intervals.partition_point(|&(start, _)| start <= last.saturating_add(1));
    if begin == end {
        intervals.insert(begin, (first, last));
    } else {
        intervals[begin] = (first.min(intervals[begin].0), last.max(intervals[end - 1].1));
        intervals.drain(begin + 1..end);
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut uuid = None;
        for (source, intervals) in &self.sources {
            if uuid != Some(source.uuid) {
                f.write_str(if uuid.is_some() { "," } else { "" })?;
                write!(f, "{}", source.uuid)?;
                uuid = Some(source.uuid);
            }
            if !source.tag.is_empty() {
                write!(f, ":{}", source.tag)?;
            }
            for &(first, last) in intervals {
                write!(f, ":{first}")?;
                if last > first {
                    write!(f, "-{last}")?;
                }
            }
        }
        Ok(())
    }
}

impl FromStr for GtidSet {
    type Err = BadPosition;

    /// Accepts what MySQL prints: white space and line breaks between the sources, upper case, sets in any order.
    fn from_str(text: &str) -> Result<Self, BadPosition> {
        let bad = || BadPosition(text.to_owned());
        let mut set = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let mut words = part.split(':').map(str::trim);
            let mut source = Source { uuid: words.next().ok_or_else(bad)?.parse()?, tag: "".into() };
            for word in words {
                if !word.starts_with(|c: char| c.is_ascii_digit()) {
                    if word.is_empty() || !word.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric()) {
                        return Err(bad());
                    }
                    source.tag = word.to_ascii_lowercase().into();
                    continue;
                }
                let (first, last) = word.split_once('-').unwrap_or((word, word));
                let (first, last): Interval = (first.trim().parse().map_err(|_| bad())?, last.trim().parse().map_err(|_| bad())?);
                if first == 0 || last < first {
                    return Err(bad());
                }
                add(set.sources.entry(source.clone()).or_default(), (first, last));
            }
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "ffffffff-71ca-11e1-9e33-c80aa9429562";

    fn gtid((source, number): (u8, u64)) -> Gtid {
        let uuid = if source & 1 == 0 { A } else { B };
        let tag = if source & 2 == 0 { "" } else { "blue" };
        Gtid { source: Source { uuid: uuid.parse().expect("a uuid"), tag: tag.into() }, number }
    }

    fn set(numbers: &[(u8, u64)]) -> GtidSet {
        let mut set = GtidSet::default();
        numbers.iter().for_each(|&number| set.insert(&gtid(number)));
        set
    }

    #[test]
    fn b10_gtid_sets_with_gaps_sources_and_tags() {
        let text = format!("{A}:1-10:12-20:blue:1:3-4,{B}:7");
        let set: GtidSet = text.parse().expect("a set");
        assert_eq!(set.to_string(), text);
        assert!(set.contains(&gtid((0, 12))));
        assert!(!set.contains(&gtid((0, 11))), "gaps are kept");
        assert!(!set.contains(&gtid((2, 2))));
        assert_eq!(format!(" {}:1-10 :12-20,\n{A}:blue:1:3-4 , {B}:7,", A.to_uppercase()).parse(), Ok(set));
        for bad in ["x:1", "3e11fa47:1", &format!("{A}:0"), &format!("{A}:5-4"), &format!("{A}:1-2-3"), &format!("{A}::1")] {
            assert!(bad.parse::<GtidSet>().is_err(), "{bad}");
        }
        assert_eq!("".parse(), Ok(GtidSet::default()));
    }

    #[test]
    fn positions_print_and_parse() {
        for text in [format!("{A}/binlog.000003:5000000000/{A}:1-5"), format!("{A}/b:4"), format!("{A}/b:4/")] {
            assert_eq!(text.parse::<Position>().expect("a position").to_string(), text);
        }
        let at = |text: &str| text.parse::<Position>().expect("a position");
        assert!(at("u/b.1000000:4").reaches(&at("u/b.999999:900")));
        assert!(!at("u/b.000009:900").reaches(&at("u/b.000010:4")));
        assert!(at("u/b.000009:900").reaches(&at("u/b.000009:900")));
        assert_eq!(at(&format!("{A}/b.1:4/{A}:1-5:7")).last_transaction(), format!("{A}:7"));
        assert_eq!(at(&format!("{A}/b.1:4")).last_transaction(), format!("{A}:b.1:4"));
    }

    proptest! {
        #[test]
        fn sets_behave_as_sets_of_numbers(
            left in prop::collection::vec((0..4u8, 1..40u64), 0..60),
            right in prop::collection::vec((0..4u8, 1..40u64), 0..60),
        ) {
            let (a, b) = (set(&left), set(&right));
            let model: BTreeSet<_> = left.iter().copied().collect();
            let other: BTreeSet<_> = right.iter().copied().collect();
            for source in 0..4 {
                for number in 1..41 {
                    prop_assert_eq!(a.contains(&gtid((source, number))), model.contains(&(source, number)));
                }
            }
            prop_assert_eq!(a.contains_all(&b), model.is_superset(&other));
            let mut both = a.clone();
            both.union(&b);
            prop_assert!(both.contains_all(&a) && both.contains_all(&b));
            prop_assert_eq!(&both, &set(&[left, right].concat()));
            prop_assert_eq!(both.to_string().parse(), Ok(both));
        }

        #[test]
        fn no_text_panics(text in "[0-9a-f:,\\-x ]{0,60}") {
            let _ = text.parse::<GtidSet>();
            let _ = text.parse::<Position>();
        }
    }
}
