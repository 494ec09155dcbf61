//! Where the parts a stream needs stand in a record: every path of the stream in one trie, followed in one reading.
//!
//! ```text
//! {"id":"c6…","createdAt":"20…","items":[{"productId":"21",…},{"productId":"36",…}],…}
//!       └slot 0            └slot 1        └────────┬─ element 0 ┘
//!                                        item root: slot 0, item.productId: slot 1
//! ```
//!
//! What always holds: a span is a whole, checked JSON value; of equal member names the last one counts (contract E3).

use super::reader::{Fault, Name, Reader, position};

/// A stretch of the record's bytes; empty where the path leads to nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn new(start: usize, end: usize) -> Self {
        let place = |at| u32::try_from(at).expect("a record is below 4 GiB, checked before it is read");
        Self { start: place(start), end: place(end) }
    }

    #[inline]
    pub fn of(self, text: &[u8]) -> Option<&[u8]> {
        if self.start == self.end { None } else { text.get(self.start as usize..self.end as usize) }
    }
}

/// The compiled paths of one stream.
#[derive(Debug)]
pub(super) struct Shape {
    nodes: Vec<Node>,
    record_slots: usize,
    item_slots: usize,
    /// Note every member of the record, for outputs without a template.
    pub members: bool,
    /// Elements of `each` noted at most; more are only counted.
    pub max_elements: usize,
    pub depth: usize,
}

#[derive(Debug, Default)]
struct Node {
    slot: Option<usize>,
    children: Vec<(Step, usize)>,
    /// This is the array the stream explodes.
    each: bool,
}

#[derive(Debug)]
struct Step {
    name: String,
    position: Option<usize>,
}

const RECORD: usize = 0;
const ITEM: usize = 1;

/// What was found in one record; kept between records for its memory.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Those of the record, then those of each element.
    slots: Vec<Span>,
    pub each: Each,
    /// Of the `each` array, also those above the limit.
    pub elements: usize,
    /// Name with its quotes, and value, of every member of the record in order.
    pub members: Vec<(Span, Span)>,
    record_slots: usize,
    item_slots: usize,
}

/// What stands at the `each` path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Each {
    #[default]
    Nothing,
    Array,
    Other,
}

/// What a record is as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    Object,
    Null,
    /// Neither; with the word for it.
    Other(&'static str),
}

impl Shape {
    pub fn new(depth: usize, max_elements: usize) -> Self {
        Self { nodes: vec![Node::default(), Node::default()], record_slots: 0, item_slots: 0, members: false, max_elements, depth }
    }

    /// The slot a path below the record gets.
    pub fn record(&mut self, steps: &[String]) -> usize {
        let node = self.node(RECORD, steps);
        *self.nodes[node].slot.get_or_insert_with(|| {
            self.record_slots += 1;
            self.record_slots - 1
        })
    }

    /// The slot a path below every element gets.
    pub fn item(&mut self, steps: &[String]) -> usize {
        let node = self.node(ITEM, steps);
        *self.nodes[node].slot.get_or_insert_with(|| {
            self.item_slots += 1;
            self.item_slots - 1
        })
    }

    pub fn each(&mut self, steps: &[String]) {
        let node = self.node(RECORD, steps);
        self.nodes[node].each = true;
    }

    fn node(&mut self, root: usize, steps: &[String]) -> usize {
        let mut node = root;
        for step in steps {
            node = match self.nodes[node].children.iter().find(|(s, _)| s.name == *step) {
                Some(&(_, child)) => child,
                None => {
                    let child = self.nodes.len();
                    self.nodes.push(Node::default());
                    self.nodes[node].children.push((Step { name: step.clone(), position: position(step) }, child));
                    child
                }
            };
        }
        node
    }

    /// Reads a whole record. An error carries the byte it stands at.
    pub fn read(&self, text: &str, found: &mut Found) -> Result<Whole, (Fault, usize)> {
        found.clear(self);
        let mut walk = Walk { shape: self, reader: Reader::new(text, self.depth), found };
        walk.whole().map_err(|fault| (fault, walk.reader.at))
    }
}

impl Found {
    fn clear(&mut self, shape: &Shape) {
        self.record_slots = shape.record_slots;
        self.item_slots = shape.item_slots;
        self.slots.clear();
        self.slots.resize(shape.record_slots, Span::default());
        self.members.clear();
        self.forget_elements();
    }

    fn forget_elements(&mut self) {
        self.slots.truncate(self.record_slots);
        self.each = Each::Nothing;
        self.elements = 0;
    }

    #[inline]
    pub fn record(&self, slot: usize) -> Span {
        self.slots.get(slot).copied().unwrap_or_default()
    }

    #[inline]
    pub fn item(&self, element: usize, slot: usize) -> Span {
        self.slots.get(self.record_slots + element * self.item_slots + slot).copied().unwrap_or_default()
    }
}

struct Walk<'a> {
    shape: &'a Shape,
    reader: Reader<'a>,
    found: &'a mut Found,
}

impl<'a> Walk<'a> {
    fn whole(&mut self) -> Result<Whole, Fault> {
        self.reader.space();
        let whole = match self.reader.peek() {
            Some(b'{') => Whole::Object,
            Some(b'n') => Whole::Null,
            Some(b'[') => Whole::Other("an array"),
            Some(b'"') => Whole::Other("a string"),
            Some(b't' | b'f') => Whole::Other("a boolean"),
            _ => Whole::Other("a number"),
        };
        match whole {
            Whole::Object => self.value(RECORD, 0)?,
            Whole::Null | Whole::Other(_) => self.reader.skip()?,
        }
        self.reader.end()?;
        Ok(whole)
    }

    /// Passes the value the reader stands at and notes what the node and those below ask for, in the slots from `base` on.
    fn value(&mut self, id: usize, base: usize) -> Result<(), Fault> {
        let node = &self.shape.nodes[id];
        let start = self.reader.at;
        if node.each {
            self.elements()?;
        }
        if !node.each || !node.children.is_empty() {
            // Paths of the record may also lead into the array that is exploded: it is read once more for them.
            self.reader.at = start;
            match self.reader.peek() {
                Some(b'{') if id == RECORD && self.shape.members => self.members(node, base, true)?,
                Some(b'{') if !node.children.is_empty() => self.members(node, base, false)?,
                Some(b'[') if !node.children.is_empty() => self.positions(node, base)?,
                _ => self.reader.skip()?,
            }
        }
        if let Some(slot) = node.slot {
            self.found.slots[base + slot] = Span::new(start, self.reader.at);
        }
        Ok(())
    }

    fn members(&mut self, node: &'a Node, base: usize, note: bool) -> Result<(), Fault> {
        let mut more = self.reader.enter(b'}')?;
        while more {
            let name = self.reader.name()?;
            let start = self.reader.at;
            match self.child(node, &name) {
                Some(child) => {
                    self.forget(child, base);
                    self.value(child, base)?;
                }
                None => self.reader.skip()?,
            }
            if note {
                self.found.members.push((Span::new(name.start, name.end), Span::new(start, self.reader.at)));
            }
            more = self.reader.next(b'}')?;
        }
        Ok(())
    }

    fn positions(&mut self, node: &'a Node, base: usize) -> Result<(), Fault> {
        let mut index = 0;
        let mut more = self.reader.enter(b']')?;
        while more {
            match node.children.iter().find(|(step, _)| step.position == Some(index)) {
                Some(&(_, child)) => self.value(child, base)?,
                None => self.reader.skip()?,
            }
            index += 1;
            more = self.reader.next(b']')?;
        }
        Ok(())
    }

    fn elements(&mut self) -> Result<(), Fault> {
        self.found.forget_elements();
        if self.reader.peek() != Some(b'[') {
            let null = self.reader.peek() == Some(b'n');
            self.reader.skip()?;
            self.found.each = if null { Each::Nothing } else { Each::Other };
            return Ok(());
        }
        self.found.each = Each::Array;
        let mut more = self.reader.enter(b']')?;
        while more {
            if self.found.elements < self.shape.max_elements {
                let base = self.found.slots.len();
                self.found.slots.resize(base + self.shape.item_slots, Span::default());
                self.value(ITEM, base)?;
            } else {
                self.reader.skip()?;
            }
            self.found.elements += 1;
            more = self.reader.next(b']')?;
        }
        Ok(())
    }

    #[inline]
    fn child(&self, node: &Node, name: &Name) -> Option<usize> {
        let text = self.reader.text();
        node.children.iter().find(|(step, _)| name.is(text, step.name.as_bytes())).map(|&(_, child)| child)
    }

    /// Forgets what an earlier member of the same name has left at this node and below.
    fn forget(&mut self, id: usize, base: usize) {
        let node = &self.shape.nodes[id];
        if node.each {
            self.found.forget_elements();
        }
        if let Some(slot) = node.slot {
            self.found.slots[base + slot] = Span::default();
        }
        for &(_, child) in &node.children {
            self.forget(child, base);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(path: &str) -> Vec<String> {
        path.split('.').filter(|s| !s.is_empty()).map(str::to_owned).collect()
    }

    fn read(shape: &Shape, text: &str) -> (Found, Result<Whole, (Fault, usize)>) {
        let mut found = Found::default();
        let result = shape.read(text, &mut found);
        (found, result)
    }

    fn at(found: &Found, slot: usize, text: &str) -> Option<String> {
        found.record(slot).of(text.as_bytes()).map(|f| String::from_utf8_lossy(f).into_owned())
    }

    #[test]
    fn one_reading_finds_record_and_elements() {
        let mut shape = Shape::new(64, 100);
        let (id, second) = (shape.record(&steps("id")), shape.record(&steps("items.1.p")));
        let (item, p) = (shape.item(&[]), shape.item(&steps("p")));
        shape.each(&steps("items"));
        let text = r#" {"items": [ {"p":1} , {"p":[2]} , 3 ], "id" : "x" } "#;
        let (found, result) = read(&shape, text);
        assert_eq!(result, Ok(Whole::Object));
        assert_eq!(at(&found, id, text).as_deref(), Some("\"x\""));
        assert_eq!(at(&found, second, text).as_deref(), Some("[2]"));
        assert_eq!((found.each, found.elements), (Each::Array, 3));
        let items: Vec<_> = (0..3).map(|e| (found.item(e, item).of(text.as_bytes()), found.item(e, p).of(text.as_bytes()))).collect();
        assert_eq!(items[0], (Some(&br#"{"p":1}"#[..]), Some(&b"1"[..])));
        assert_eq!(items[1], (Some(&br#"{"p":[2]}"#[..]), Some(&b"[2]"[..])));
        assert_eq!(items[2], (Some(&b"3"[..]), None));
    }

    #[test]
    fn the_last_of_equal_names_counts_with_all_below() {
        let mut shape = Shape::new(64, 100);
        let (b, c) = (shape.record(&steps("a.b")), shape.record(&steps("a.c")));
        shape.item(&[]);
        shape.each(&steps("a.items"));
        let text = r#"{"a":{"b":1,"items":[1,2]},"\u0061":{"c":2}}"#;
        let (found, _) = read(&shape, text);
        assert_eq!((at(&found, b, text), at(&found, c, text).as_deref()), (None, Some("2")));
        assert_eq!((found.each, found.elements), (Each::Nothing, 0));
        let (found, _) = read(&shape, r#"{"a":{"items":[1,2],"items":[3]}}"#);
        assert_eq!((found.each, found.elements), (Each::Array, 1));
    }

    #[test]
    fn elements_above_the_limit_are_counted_only() {
        let mut shape = Shape::new(64, 2);
        shape.item(&[]);
        shape.each(&steps("items"));
        let (found, _) = read(&shape, r#"{"items":[1,2,3,4]}"#);
        assert_eq!((found.elements, found.slots.len()), (4, 2));
        let (_, result) = read(&shape, r#"{"items":[1,2,3,x]}"#);
        assert_eq!(result, Err((Fault::Unexpected, 16)));
    }

    #[test]
    fn what_a_record_is() {
        let shape = Shape::new(64, 2);
        assert_eq!(read(&shape, " null ").1, Ok(Whole::Null));
        assert_eq!(read(&shape, "[]").1, Ok(Whole::Other("an array")));
        assert_eq!(read(&shape, "-1.5").1, Ok(Whole::Other("a number")));
        assert_eq!(read(&shape, "").1, Err((Fault::End, 0)));
        assert_eq!(read(&shape, "{} x").1, Err((Fault::Trailing, 3)));
    }
}
