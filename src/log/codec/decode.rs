//! The reading side. Trusts nothing: not a length, not an index, not the order of members.

use std::sync::Arc;

use super::{ColumnPlan, PLACEHOLDER, json, plan_columns};
use crate::error::{Error, Result};
use crate::model::{Cell, Change, ColumnKind, Op, Position, RowRef, Rows, TableSchema};

/// Reads keys and values of one schema version. After an error the [`Rows`] hold leftovers that
/// nothing refers to.
pub struct RecordDecoder {
    schema: Arc<TableSchema>,
    columns: Box<[ColumnPlan]>,
    key: Box<[ColumnPlan]>,
}

/// The commit time in a record's value, milliseconds since 1970 by the leader's clock: its last member.
pub fn commit_time_ms(value: &[u8]) -> Option<i64> {
    let digits = value.strip_suffix(b"}")?;
    let name = memchr::memrchr(b':', digits)?;
    let digits = digits[..=name]
        .ends_with(b"\"ts_ms\":")
        .then_some(&digits[name + 1..])?;
    str::from_utf8(digits).ok()?.parse().ok()
}

/// Where and why bytes are not a record; never holds any of them.
#[derive(Clone, Copy, Debug)]
struct Malformed {
    what: &'static str,
    at: usize,
    column: Option<usize>,
}

type Parsed<T> = std::result::Result<T, Malformed>;

impl RecordDecoder {
    /// Compiles the decoder.
    pub fn new(schema: Arc<TableSchema>) -> Self {
        RecordDecoder {
            columns: plan_columns(&schema, 0..schema.columns.len()),
            key: plan_columns(&schema, schema.key.iter().copied()),
            schema,
        }
    }

    /// The schema it was made for.
    pub fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// Reads a value into `rows`. `moved` of the change is `None`: it comes from a header.
    ///
    /// Key columns of `after`, and of `before` where there is one, are set and not null; without a
    /// key all columns of `before` are set. Absent cells of `after` come only with `c` and `u`.
    ///
    /// # Errors
    /// Halt when the bytes are not what [`RecordEncoder`](super::RecordEncoder) writes for this schema.
    ///
    /// # Panics
    /// When `rows` has another width than the schema.
    pub fn value(&self, position: Position, value: &[u8], rows: &mut Rows) -> Result<Change> {
        assert_eq!(rows.width(), self.columns.len(), "width of rows");
        rows.arena_mut().reserve(value.len());
        self.parse_value(position, value, rows)
            .map_err(|why| self.explain("value", why).at(position))
    }

    /// Reads a key (of the record, or of a MOVE's header) into a row with only key cells set.
    ///
    /// # Errors
    /// Halt when the bytes are not what [`RecordEncoder`](super::RecordEncoder) writes for this
    /// schema. The caller adds the position.
    ///
    /// # Panics
    /// When `rows` has another width than the schema.
    pub fn key(&self, key: &[u8], rows: &mut Rows) -> Result<RowRef> {
        assert_eq!(rows.width(), self.columns.len(), "width of rows");
        self.parse_key(key, rows)
            .map_err(|why| self.explain("key", why))
    }

    fn parse_key(&self, key: &[u8], rows: &mut Rows) -> Parsed<RowRef> {
        let mut input = Input { bytes: key, at: 0 };
        if self.key.is_empty() {
            return Err(input.wrong("the table has no key"));
        }
        let row = rows.add_row();
        for column in &self.key {
            input.member(column)?;
            let cell = input.cell(column, rows)?;
            rows.row_mut(row)[column.index] = cell;
        }
        input.expect(b"}", "expected the end of the key")?;
        if input.at != key.len() {
            return Err(input.wrong("bytes behind the end"));
        }
        input.check_utf8()?;
        self.check_key(&input, row, rows)?;
        Ok(row)
    }

    fn parse_value(&self, position: Position, value: &[u8], rows: &mut Rows) -> Parsed<Change> {
        let mut input = Input {
            bytes: value,
            at: 0,
        };
        let op = input.op()?;
        let absent = self.absent_list(op, &mut input)?;
        input.expect(b",\"before\":", "expected `before`")?;
        let before = self.before(op, &mut input, rows)?;
        input.expect(b",\"after\":", "expected `after`")?;
        let after = self.after(op, &mut input, absent, rows)?;
        input.check_utf8()?;
        let end = input.rest();
        if !end.starts_with(b",\"source\":{") || !end.ends_with(b"}") {
            return Err(input.wrong("expected `source` and the end"));
        }
        Ok(Change {
            op,
            position,
            before,
            after,
            moved: None,
        })
    }

    /// Reads the list of absent columns and gives it back as input for [`Self::whole_row`]; empty
    /// when there is none. It must name columns in their order, each once.
    fn absent_list<'a>(&self, op: Op, input: &mut Input<'a>) -> Parsed<Input<'a>> {
        let mut list = Input {
            bytes: input.bytes,
            at: input.at,
        };
        if !input.take(b",\"absent\":[") {
            list.bytes = &[];
            return Ok(list);
        }
        match op {
            Op::Insert | Op::Update => {}
            Op::Delete | Op::Read | Op::Truncate => {
                return Err(input.wrong("`absent` in an operation that has all columns"));
            }
        }
        list.at = input.at;
        let mut more = true;
        for column in &self.columns {
            if more && input.take(column.name()) {
                more = input.take(b",");
            }
        }
        if more {
            return Err(input.wrong("`absent` names something else than columns, or not in order"));
        }
        input.expect(b"]", "expected the end of `absent`")?;
        list.bytes = &input.bytes[..input.at];
        Ok(list)
    }

    fn before(&self, op: Op, input: &mut Input<'_>, rows: &mut Rows) -> Parsed<Option<RowRef>> {
        let is_null = input.take(b"null");
        match (op, is_null) {
            (Op::Insert | Op::Read | Op::Truncate | Op::Update, true) => Ok(None),
            (Op::Update | Op::Delete, false) => self.known_columns(input, rows).map(Some),
            (Op::Delete, true) => Err(input.wrong("a delete without an old row")),
            (Op::Insert | Op::Read | Op::Truncate, false) => {
                Err(input.wrong("an old row in an operation that has none"))
            }
        }
    }

    fn after(
        &self,
        op: Op,
        input: &mut Input<'_>,
        absent: Input<'_>,
        rows: &mut Rows,
    ) -> Parsed<Option<RowRef>> {
        match op {
            Op::Delete | Op::Truncate => {
                input.expect(b"null", "a new row in an operation that has none")?;
                Ok(None)
            }
            Op::Insert | Op::Update | Op::Read => self.whole_row(input, absent, rows).map(Some),
        }
    }

    /// An object of some columns, in order; all of them when the table has no key.
    fn known_columns(&self, input: &mut Input<'_>, rows: &mut Rows) -> Parsed<RowRef> {
        let row = rows.add_row();
        let mut lead: &[u8] = b"{";
        for column in &self.columns {
            let start = input.at;
            if !(input.take(lead) && input.take(column.member())) {
                input.at = start;
                continue;
            }
            lead = b",";
            let cell = input.cell(column, rows)?;
            rows.row_mut(row)[column.index] = cell;
        }
        input.end_object(lead == b"{")?;
        self.check_key(input, row, rows)?;
        if self.key.is_empty() && rows.row(row).contains(&Cell::Absent) {
            return Err(input.wrong("an old row without all columns in a table without a key"));
        }
        Ok(row)
    }

    /// An object of all columns; those on the list of absent ones hold the placeholder.
    fn whole_row(
        &self,
        input: &mut Input<'_>,
        mut absent: Input<'_>,
        rows: &mut Rows,
    ) -> Parsed<RowRef> {
        let row = rows.add_row();
        for column in &self.columns {
            input.member(column)?;
            if absent.take(column.name()) {
                absent.take(b",");
                input.placeholder(column)?;
            } else {
                let cell = input.cell(column, rows)?;
                rows.row_mut(row)[column.index] = cell;
            }
        }
        input.end_object(self.columns.is_empty())?;
        self.check_key(input, row, rows)?;
        Ok(row)
    }

    fn check_key(&self, input: &Input<'_>, row: RowRef, rows: &Rows) -> Parsed<()> {
        let cells = rows.row(row);
        let unknown = |c: &&ColumnPlan| !matches!(cells[c.index], Cell::Text { .. });
        match self.key.iter().find(unknown) {
            Some(column) => Err(input.wrong_in("a key column is absent or null", column)),
            None => Ok(()),
        }
    }

    #[cold]
    fn explain(&self, part: &str, why: Malformed) -> Error {
        let Malformed { what, at, column } = why;
        let table = &self.schema.table;
        let column = match column.and_then(|index| self.schema.columns.get(index)) {
            Some(column) => format!(", column \"{}\"", column.name),
            None => String::new(),
        };
        Error::halt(
            format!("table {table}{column}: malformed {part} of a record: {what} (byte {at})"),
            "find out what else writes to the table's topic and stop it, then rebuild this follower from a new copy",
        )
    }
}

/// Bytes and a place in them, never beyond their end.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Steps over `literal` if it comes next.
    #[inline]
    fn take(&mut self, literal: &[u8]) -> bool {
        let found = self.rest().starts_with(literal);
        if found {
            self.at += literal.len();
        }
        found
    }

    fn expect(&mut self, literal: &[u8], what: &'static str) -> Parsed<()> {
        if self.take(literal) {
            return Ok(());
        }
        Err(self.wrong(what))
    }

    #[cold]
    fn wrong(&self, what: &'static str) -> Malformed {
        Malformed {
            what,
            at: self.at,
            column: None,
        }
    }

    #[cold]
    fn wrong_in(&self, what: &'static str, column: &ColumnPlan) -> Malformed {
        Malformed {
            what,
            at: self.at,
            column: Some(column.index),
        }
    }

    /// All bytes read so far are UTF-8.
    fn check_utf8(&self) -> Parsed<()> {
        let read = self.bytes.get(..self.at).unwrap_or_default();
        match std::str::from_utf8(read) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.wrong("not UTF-8")),
        }
    }

    fn op(&mut self) -> Parsed<Op> {
        let op = match self.rest() {
            [b'{', b'"', b'o', b'p', b'"', b':', b'"', op, b'"', ..] => match op {
                b'c' => Op::Insert,
                b'u' => Op::Update,
                b'd' => Op::Delete,
                b'r' => Op::Read,
                b't' => Op::Truncate,
                _other => return Err(self.wrong("an operation that is none of c, u, d, r, t")),
            },
            _other => return Err(self.wrong("expected `op` first")),
        };
        self.at += br#"{"op":"x""#.len();
        Ok(op)
    }

    /// A column's lead: `{"name":` or `,"name":`.
    #[inline]
    fn member(&mut self, column: &ColumnPlan) -> Parsed<()> {
        if self.take(&column.lead) {
            return Ok(());
        }
        Err(self.wrong_in("expected this column", column))
    }

    fn end_object(&mut self, empty: bool) -> Parsed<()> {
        let end: &[u8] = if empty { b"{}" } else { b"}" };
        self.expect(end, "expected the end of a row")
    }

    fn placeholder(&mut self, column: &ColumnPlan) -> Parsed<()> {
        let found = self.take(b"\"") && self.take(PLACEHOLDER.as_bytes()) && self.take(b"\"");
        if found {
            return Ok(());
        }
        Err(self.wrong_in("expected the placeholder of an absent column", column))
    }

    /// A column's value, its text in the arena of `rows`.
    #[inline]
    fn cell(&mut self, column: &ColumnPlan, rows: &mut Rows) -> Parsed<Cell> {
        if self.rest().first() == Some(&b'n') {
            if self.take(b"null") {
                return Ok(Cell::Null);
            }
            return Err(self.wrong_in("expected a value", column));
        }
        match column.kind {
            ColumnKind::Text => self.string(column, rows),
            ColumnKind::Integer => {
                let len = json::integer_len(self.rest());
                self.number(len, column, rows)
            }
            ColumnKind::Float => {
                for special in [&b"NaN"[..], b"Infinity", b"-Infinity"] {
                    let start = self.at;
                    if self.take(b"\"") && self.take(special) && self.take(b"\"") {
                        return Ok(rows.push_text(special));
                    }
                    self.at = start;
                }
                let len = json::number_len(self.rest());
                self.number(len, column, rows)
            }
            ColumnKind::Bool => {
                if self.take(b"true") {
                    Ok(rows.push_text(b"t"))
                } else if self.take(b"false") {
                    Ok(rows.push_text(b"f"))
                } else {
                    Err(self.wrong_in("expected true or false", column))
                }
            }
        }
    }

    /// The number of `len` bytes that comes next.
    #[inline]
    fn number(&mut self, len: usize, column: &ColumnPlan, rows: &mut Rows) -> Parsed<Cell> {
        if len == 0 {
            return Err(self.wrong_in("expected a number", column));
        }
        let digits = self.rest().get(..len).unwrap_or_default();
        self.at += len;
        Ok(rows.push_text(digits))
    }

    #[inline]
    fn string(&mut self, column: &ColumnPlan, rows: &mut Rows) -> Parsed<Cell> {
        if !self.take(b"\"") {
            return Err(self.wrong_in("expected a string", column));
        }
        let rest = self.rest();
        let plain = json::find_special(rest);
        if rest.get(plain) == Some(&b'"') {
            self.at += plain + 1;
            return Ok(rows.push_text(&rest[..plain]));
        }
        self.escaped_string(column, rows)
    }

    /// The rest of a string that has escapes (or no end), written to the arena in pieces.
    fn escaped_string(&mut self, column: &ColumnPlan, rows: &mut Rows) -> Parsed<Cell> {
        let start = rows.arena_mut().len();
        loop {
            let rest = self.rest();
            let (plain, special) = rest.split_at(json::find_special(rest));
            rows.arena_mut().extend_from_slice(plain);
            self.at += plain.len();
            match special.first() {
                None => return Err(self.wrong_in("a string without an end", column)),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(rows.text_since(start));
                }
                Some(_) => {
                    let (byte, len) = json::read_escape(special).ok_or_else(|| {
                        self.wrong_in(
                            "a character that must be escaped, or an unknown escape",
                            column,
                        )
                    })?;
                    rows.arena_mut().push(byte);
                    self.at += len;
                }
            }
        }
    }
}
