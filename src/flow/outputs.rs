//! What becomes of one record, collected while the tables are locked and sent after they are free again. Pure.

use crate::join;

/// One output record of the input at hand.
#[derive(Debug)]
pub struct Written {
    pub element: Option<u32>,
    key: Option<Span>,
    value: Span,
    /// Names and values, in `headers` of the arena.
    headers: std::ops::Range<usize>,
}

#[derive(Debug)]
pub struct Dead {
    pub element: Option<u32>,
    pub stage: &'static str,
    pub reason: &'static str,
    pub message: String,
}

/// Bytes from `start` to `end` in the arena.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
}

/// One buffer for all outputs of a record, re-used from record to record.
#[derive(Debug)]
pub struct Outputs {
    /// Most bytes it takes (promise W8): outputs that repeat a large record multiply it by the number of its elements.
    limit: usize,
    overflowed: bool,
    bytes: Vec<u8>,
    headers: Vec<(Span, Span)>,
    pub written: Vec<Written>,
    pub dead: Vec<Dead>,
    pub dropped: Vec<&'static str>,
}

impl Outputs {
    pub fn within(limit: usize) -> Self {
        Self {
            limit,
            bytes: Vec::new(),
            headers: Vec::new(),
            written: Vec::new(),
            dead: Vec::new(),
            dropped: Vec::new(),
            overflowed: false,
        }
    }

    /// More was written than the limit; what is here is not all.
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// The whole record becomes one dead letter (contract E9).
    pub fn replace_by_dead_letter(&mut self, stage: &'static str, reason: &'static str, message: String) {
        self.clear();
        self.dead.push(Dead { element: None, stage, reason, message });
    }

    pub fn clear(&mut self) {
        self.overflowed = false;
        self.bytes.clear();
        self.headers.clear();
        self.written.clear();
        self.dead.clear();
        self.dropped.clear();
    }

    pub fn key(&self, written: &Written) -> Option<&[u8]> {
        written.key.map(|span| self.slice(span))
    }

    pub fn value(&self, written: &Written) -> &[u8] {
        self.slice(written.value)
    }

    /// Name and value of the configured headers; names came in as text.
    pub fn headers(&self, written: &Written) -> Vec<(&str, &[u8])> {
        self.headers[written.headers.clone()]
            .iter()
            .map(|&(name, value)| (std::str::from_utf8(self.slice(name)).unwrap_or_default(), self.slice(value)))
            .collect()
    }

    /// Bytes of all outputs.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    fn slice(&self, span: Span) -> &[u8] {
        &self.bytes[span.start..span.end]
    }

    fn push(&mut self, bytes: &[u8]) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Span { start, end: self.bytes.len() }
    }
}

impl join::Output for Outputs {
    fn write(&mut self, element: Option<u32>, key: Option<&[u8]>, value: &[u8], headers: &[(&str, &[u8])]) {
        self.overflowed |= self.bytes.len().saturating_add(value.len()) > self.limit;
        if self.overflowed {
            return;
        }
        let key = key.map(|key| self.push(key));
        let value = self.push(value);
        let first = self.headers.len();
        for (name, value) in headers {
            let name = self.push(name.as_bytes());
            let value = self.push(value);
            self.headers.push((name, value));
        }
        self.written.push(Written { element, key, value, headers: first..self.headers.len() });
    }

    fn dead_letter(&mut self, element: Option<u32>, stage: &'static str, reason: &'static str, message: &str) {
        self.dead.push(Dead { element, stage, reason, message: message.to_string() });
    }

    fn drop(&mut self, _element: Option<u32>, reason: &'static str) {
        self.dropped.push(reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::Output as _;

    #[test]
    fn what_is_above_the_limit_is_not_kept_and_the_record_becomes_one_dead_letter() {
        let mut outputs = Outputs::within(10);
        outputs.write(Some(0), None, b"12345", &[]);
        outputs.write(Some(1), None, b"12345", &[]);
        assert!(!outputs.overflowed());
        outputs.write(Some(2), None, b"1", &[]);
        assert!(outputs.overflowed() && outputs.size() == 10);
        outputs.replace_by_dead_letter("shape", "too-large", "too much".into());
        assert!(outputs.written.is_empty() && !outputs.overflowed());
        assert_eq!((outputs.dead.len(), outputs.dead[0].element), (1, None));
    }
}
