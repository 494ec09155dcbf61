//! Identities of transactions: a [`Gtid`], and sets of them.
//!
//! A [`GtidSet`] prints and parses as the server writes it: `uuid:1-10:12-20:tag:1-3,uuid:…` of MySQL, tags (8.3) included, or
//! `0-1-270,1-2-5` of MariaDB. Gaps are kept: a set that was flattened would claim transactions nobody has seen. MariaDB has none:
//! a domain is read in the order of its binlog, and its last transaction stands for all before it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::position::BadPosition;

/// Who numbered a transaction: the server it was committed on first, and the tag it was given there (empty: none).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    pub uuid: Uuid,
    pub tag: Box<str>,
}

/// One transaction's identity: `uuid:number` or `uuid:tag:number` of MySQL, `domain-server-sequence` of MariaDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gtid {
    MySql { source: Source, number: u64 },
    MariaDb(DomainGtid),
}

/// A transaction of MariaDB. Numbers rise within a domain, whoever of its servers gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DomainGtid {
    pub domain: u32,
    /// `server_id` of the server it was committed on first.
    pub server: u32,
    pub sequence: u64,
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gtid::MySql { source, number } if source.tag.is_empty() => write!(f, "{}:{number}", source.uuid),
            Gtid::MySql { source, number } => write!(f, "{}:{}:{number}", source.uuid, source.tag),
            Gtid::MariaDb(gtid) => write!(f, "{gtid}"),
        }
    }
}

impl fmt::Display for DomainGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server, self.sequence)
    }
}

impl FromStr for DomainGtid {
    type Err = BadPosition;

    fn from_str(text: &str) -> Result<Self, BadPosition> {
        let bad = || BadPosition(text.to_owned());
        let mut parts = text.split('-');
        let mut part = || parts.next().filter(|part| part.starts_with(|c: char| c.is_ascii_digit())).ok_or_else(bad);
        let (domain, server, sequence) = (part()?, part()?, part()?);
        let gtid = Self {
            domain: domain.parse().map_err(|_| bad())?,
            server: server.parse().map_err(|_| bad())?,
            sequence: sequence.parse().map_err(|_| bad())?,
        };
        parts.next().is_none().then_some(gtid).ok_or_else(bad)
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

/// A set of transactions: MySQL's, as in `gtid_executed`, or MariaDB's, as in `gtid_binlog_pos`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GtidSet {
    /// MySQL: per source its intervals in order, with at least one number between two.
    sources: BTreeMap<Source, Vec<Interval>>,
    /// MariaDB: per domain the last transaction; those before it are in the set.
    domains: BTreeMap<u32, DomainGtid>,
}

impl GtidSet {
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.domains.is_empty()
    }

    /// MySQL's sources with their intervals, in order of uuid and tag.
    pub fn sources(&self) -> impl Iterator<Item = (&Source, &[Interval])> {
        self.sources.iter().map(|(source, intervals)| (source, intervals.as_slice()))
    }

    pub fn contains(&self, gtid: &Gtid) -> bool {
        match gtid {
            Gtid::MySql { source, number } => self.sources.get(source).is_some_and(|intervals| covers(intervals, (*number, *number))),
            Gtid::MariaDb(gtid) => self.reaches(gtid),
        }
    }

    fn reaches(&self, gtid: &DomainGtid) -> bool {
        self.domains.get(&gtid.domain).is_some_and(|last| last.sequence >= gtid.sequence)
    }

    /// Whether every transaction of `other` is in this set.
    pub fn contains_all(&self, other: &GtidSet) -> bool {
        let has = |source, wanted: &[Interval]| {
            self.sources.get(source).is_some_and(|intervals| wanted.iter().all(|&interval| covers(intervals, interval)))
        };
        other.sources.iter().all(|(source, wanted)| has(source, wanted)) && other.domains.values().all(|gtid| self.reaches(gtid))
    }

    /// Adds one transaction. The usual case, the number after the last one, allocates nothing. In a domain of MariaDB it is the last
    /// one from now on, also where an operator set its number back: a position is where the server is asked to go on.
    pub fn insert(&mut self, gtid: &Gtid) {
        match gtid {
            Gtid::MySql { source, number } => {
                let run = (*number, *number);
                match self.sources.get_mut(source) {
                    Some(intervals) => add(intervals, run),
                    None => {
                        self.sources.insert(source.clone(), vec![run]);
                    }
                }
            }
            Gtid::MariaDb(gtid) => {
                self.domains.insert(gtid.domain, *gtid);
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
        for gtid in other.domains.values() {
            if !self.reaches(gtid) {
                self.domains.insert(gtid.domain, *gtid);
            }
        }
    }

    /// The transactions that are in this set and not in `other`; of a domain of MariaDB its last one.
    #[must_use]
    pub fn minus(&self, other: &GtidSet) -> GtidSet {
        let mut left = GtidSet::default();
        for (source, intervals) in &self.sources {
            let taken = other.sources.get(source).map_or(&[][..], Vec::as_slice);
            let runs: Vec<Interval> = intervals.iter().flat_map(|&run| uncovered(run, taken)).collect();
            if !runs.is_empty() {
                left.sources.insert(source.clone(), runs);
            }
        }
        left.domains.extend(self.domains.iter().filter(|(_, gtid)| !other.reaches(gtid)));
        left
    }

    /// The last transaction of a server of MySQL, by the text of its uuid and without tag, or of every domain of MariaDB.
    pub(super) fn last(&self, uuid: &str) -> Option<String> {
        if !self.domains.is_empty() {
            return Some(self.to_string());
        }
        let source = Source { uuid: uuid.parse().ok()?, tag: "".into() };
        self.sources.get(&source)?.last().map(|&(_, last)| format!("{uuid}:{last}"))
    }
}

/// The parts of a run that no interval of `taken` (in order) covers.
fn uncovered((first, last): Interval, taken: &[Interval]) -> Vec<Interval> {
    let (mut runs, mut first) = (Vec::new(), first);
    let from = taken.partition_point(|&(_, end)| end < first);
    for &(start, end) in taken[from..].iter().take_while(|&&(start, _)| start <= last) {
        if start > first {
            runs.push((first, start - 1));
        }
        first = end.saturating_add(1);
    }
    if first <= last {
        runs.push((first, last));
    }
    runs
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
        for (index, gtid) in self.domains.values().enumerate() {
            f.write_str(if index > 0 { "," } else { "" })?;
            write!(f, "{gtid}")?;
        }
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

    /// Accepts what MySQL prints: white space and line breaks between the sources, upper case, sets in any order; and what MariaDB
    /// prints. Of several GTIDs in a domain the highest number counts.
    fn from_str(text: &str) -> Result<Self, BadPosition> {
        let bad = || BadPosition(text.to_owned());
        let mut set = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            if let Ok(gtid) = part.parse::<DomainGtid>() {
                if !set.reaches(&gtid) {
                    set.domains.insert(gtid.domain, gtid);
                }
                continue;
            }
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
        Gtid::MySql { source: Source { uuid: uuid.parse().expect("a uuid"), tag: tag.into() }, number }
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
    fn positions_of_mariadb_are_one_transaction_per_domain() {
        let set: GtidSet = " 0-1-270,\n7-12-18446744073709551615 ".parse().expect("a set");
        assert_eq!(set.to_string(), "0-1-270,7-12-18446744073709551615");
        let gtid = |text: &str| Gtid::MariaDb(text.parse().expect("a GTID"));
        assert!(set.contains(&gtid("0-1-270")) && set.contains(&gtid("0-5-3")));
        assert!(!set.contains(&gtid("0-1-271")) && !set.contains(&gtid("1-1-1")));
        let behind: GtidSet = "0-2-269".parse().expect("a set");
        assert!(set.contains_all(&behind) && !behind.contains_all(&set));
        assert_eq!(set.minus(&behind), set);
        assert_eq!(behind.minus(&set), GtidSet::default());
        let mut moved = set;
        moved.insert(&gtid("0-2-271"));
        assert_eq!(moved.to_string(), "0-2-271,7-12-18446744073709551615", "the server changes, the domain goes on");
        for bad in ["0-1", "0-1-2-3", "-1-2-3", "0-1-18446744073709551616", "0-1-+5"] {
            assert!(bad.parse::<GtidSet>().is_err(), "{bad}");
        }
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
            let left_over: Vec<_> = model.difference(&other).copied().collect();
            prop_assert_eq!(a.minus(&b), set(&left_over));
            prop_assert_eq!(&both, &set(&[left, right].concat()));
            prop_assert_eq!(both.to_string().parse(), Ok(both));
        }

        #[test]
        fn no_text_panics(text in "[0-9a-f:,\\-x ]{0,60}") {
            let _ = text.parse::<GtidSet>();
        }
    }
}
