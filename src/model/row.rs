//! A row of a table: its JSON text (contract C), ready to be spliced whole or by column.

/// One allocation: column count, the span of every column's value, then the JSON object.
///
/// ```text
/// u32 columns │ (u32 start, u32 end) × columns │ {"id":21,"name":"Veg Parcel",…}
/// ```
///
/// Spans count from the first byte of the JSON text.
#[derive(Clone, PartialEq, Eq)]
pub struct Row(Box<[u8]>);

const WORD: usize = 4;

impl Row {
    /// The row as a compact JSON object, fields in the table's column order.
    #[inline]
    pub fn json(&self) -> &[u8] {
        &self.0[WORD + self.column_count() * 2 * WORD..]
    }

    /// The JSON text of one column's value, by its index in the schema; `None` past the last column.
    pub fn column(&self, index: usize) -> Option<&[u8]> {
        self.columns(index, index)
    }

    /// The JSON text from the value of column `first` to that of column `last`, with the names between:
    /// `"Veg Parcel","category":"side orders"`. `None` past the last column.
    #[inline]
    pub fn columns(&self, first: usize, last: usize) -> Option<&[u8]> {
        if first.max(last) >= self.column_count() {
            return None;
        }
        let (start, end) = (self.word(WORD + first * 2 * WORD), self.word(2 * WORD + last * 2 * WORD));
        self.json().get(start..end)
    }

    #[inline]
    pub fn column_count(&self) -> usize {
        self.word(0)
    }

    /// The row as it lies in memory, for [`Row::from_bytes`].
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A row from what [`Row::as_bytes`] gave; `None` for bytes no row has. Whether the text is JSON is not looked at: who keeps
    /// rows elsewhere keeps a checksum with them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let columns = bytes.get(..WORD)?.try_into().map(u32::from_le_bytes).ok()? as usize;
        let json = bytes.len().checked_sub(columns.checked_mul(2 * WORD)?.checked_add(WORD)?)?;
        let row = Self(bytes.into());
        let in_text = |index: usize| {
            let (start, end) = (row.word(WORD + index * 2 * WORD), row.word(2 * WORD + index * 2 * WORD));
            start <= end && end <= json
        };
        (json >= "{}".len() && (0..columns).all(in_text)).then_some(row)
    }

    /// Bytes held, for `larder_table_bytes`.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn word(&self, at: usize) -> usize {
        let bytes = self.0[at..at + WORD].try_into().expect("a word has four bytes");
        u32::from_le_bytes(bytes) as usize
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.json()))
    }
}

/// Writes rows one after the other, re-using its buffers.
///
/// ```
/// # use larder::model::RowBuilder;
/// let mut builder = RowBuilder::default();
/// builder.value("id").extend_from_slice(b"21");
/// builder.value("name").extend_from_slice(b"\"Veg Parcel\"");
/// let row = builder.finish();
/// assert_eq!(row.json(), br#"{"id":21,"name":"Veg Parcel"}"#);
/// assert_eq!(row.column(1), Some(&b"\"Veg Parcel\""[..]));
/// ```
#[derive(Default)]
pub struct RowBuilder {
    json: Vec<u8>,
    spans: Vec<(u32, u32)>,
}

impl RowBuilder {
    /// Begins the next column; the caller appends its JSON text to the buffer returned.
    pub fn value(&mut self, name: &str) -> &mut Vec<u8> {
        self.end_value();
        self.json.push(if self.spans.is_empty() { b'{' } else { b',' });
        write_string(&mut self.json, name);
        self.json.push(b':');
        let start = self.offset();
        self.spans.push((start, start));
        &mut self.json
    }

    /// The same for a column whose name has been rendered before: `label` is the name as a JSON string, and a colon.
    pub fn labelled_value(&mut self, label: &[u8]) -> &mut Vec<u8> {
        self.end_value();
        self.json.push(if self.spans.is_empty() { b'{' } else { b',' });
        self.json.extend_from_slice(label);
        let start = self.offset();
        self.spans.push((start, start));
        &mut self.json
    }

    /// The JSON text of a column already written.
    pub fn column(&self, index: usize) -> &[u8] {
        let (start, end) = self.spans[index];
        let end = if index + 1 == self.spans.len() { self.json.len() } else { end as usize };
        &self.json[start as usize..end]
    }

    /// Drops what was begun, so that the builder can be used again after an error.
    pub fn clear(&mut self) {
        self.json.clear();
        self.spans.clear();
    }

    /// Ends the row. Rows are limited to 4 GiB of JSON, far above MySQL's own limit.
    pub fn finish(&mut self) -> Row {
        self.end_value();
        if self.spans.is_empty() {
            self.json.push(b'{');
        }
        self.json.push(b'}');
        let mut bytes = Vec::with_capacity(WORD + self.spans.len() * 2 * WORD + self.json.len());
        bytes.extend_from_slice(&(self.spans.len() as u32).to_le_bytes());
        for (start, end) in &self.spans {
            bytes.extend_from_slice(&start.to_le_bytes());
            bytes.extend_from_slice(&end.to_le_bytes());
        }
        bytes.extend_from_slice(&self.json);
        self.clear();
        Row(bytes.into_boxed_slice())
    }

    fn end_value(&mut self) {
        let end = self.offset();
        if let Some(last) = self.spans.last_mut()
            && last.1 <= last.0
        {
            last.1 = end;
        }
    }

    fn offset(&self) -> u32 {
        u32::try_from(self.json.len()).expect("a row has less than 4 GiB of JSON")
    }
}

/// Appends `text` as a JSON string with the escapes JSON asks for and no others.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(&mut *out, text).expect("writing to memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_splice_without_rendering() {
        let mut builder = RowBuilder::default();
        for _ in 0..2 {
            builder.value("a").extend_from_slice(b"1");
            builder.value("b\"").extend_from_slice(b"null");
            assert_eq!(builder.column(0), b"1");
            assert_eq!(builder.column(1), b"null");
            let row = builder.finish();
            assert_eq!(row.json(), br#"{"a":1,"b\"":null}"#);
            assert_eq!(row.column(0), Some(&b"1"[..]));
            assert_eq!(row.column(1), Some(&b"null"[..]));
            assert_eq!(row.column(2), None);
            assert_eq!(row.columns(0, 1), Some(&br#"1,"b\"":null"#[..]));
            assert_eq!((row.columns(0, 2), row.columns(1, 0)), (None, None));
        }
    }

    #[test]
    fn rows_come_back_from_their_bytes_and_from_no_others() {
        let mut builder = RowBuilder::default();
        builder.value("a").extend_from_slice(b"1");
        builder.value("b").extend_from_slice(b"\"x\"");
        let row = builder.finish();
        assert_eq!(Row::from_bytes(row.as_bytes()).as_ref(), Some(&row));
        assert_eq!(Row::from_bytes(builder.finish().as_bytes()).map(|empty| empty.column_count()), Some(0));
        for end in 0..row.size() {
            let cut = Row::from_bytes(&row.as_bytes()[..end]);
            assert!(cut.is_none_or(|cut| (0..2).all(|index| cut.column(index) == row.column(index))), "cut at {end}");
        }
        for at in 0..WORD * 5 {
            let mut bytes = row.as_bytes().to_vec();
            bytes[at] ^= 0xff;
            // Whatever it is, looking at it does not panic.
            let _ = Row::from_bytes(&bytes).map(|row| (row.json().len(), row.column(0).map(<[u8]>::len), row.column(1).map(<[u8]>::len)));
        }
    }

    #[test]
    fn a_row_without_columns_is_an_empty_object() {
        assert_eq!(RowBuilder::default().finish().json(), b"{}");
    }
}
