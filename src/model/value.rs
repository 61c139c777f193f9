//! Rows in flat memory: one byte arena and one cell array a table and chunk.
//!
//! A cell is the text that Postgres prints, NULL, or absent (an unchanged TOAST column, or a
//! column that is not part of an old key). Absent is never written into a follower.

/// One column value of a row; `Text` points into the arena of the [`Rows`] it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// No information: the follower's value stays.
    Absent,
    /// SQL NULL.
    Null,
    /// Postgres's text form, `len` bytes from `start` in the arena.
    Text {
        /// First byte in the arena.
        start: u32,
        /// Length in bytes.
        len: u32,
    },
}

/// A row: the index of its first cell; it has as many cells as the schema has columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowRef(pub u32);

/// The rows of one table in one chunk. All rows have `width` cells.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    bytes: Vec<u8>,
    cells: Vec<Cell>,
    width: usize,
}

impl Rows {
    /// An empty store for rows of `width` columns.
    pub fn new(width: usize) -> Self {
        Rows {
            bytes: Vec::new(),
            cells: Vec::new(),
            width,
        }
    }

    /// Columns a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Bytes of memory in use, for budgets.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len() + self.cells.len() * size_of::<Cell>()
    }

    /// Adds a row of absent cells and names it.
    pub fn add_row(&mut self) -> RowRef {
        let row = RowRef(
            u32::try_from(self.cells.len()).expect("a chunk's budget keeps it below 2^32 cells"),
        );
        self.cells
            .resize(self.cells.len() + self.width, Cell::Absent);
        row
    }

    /// Adds a row with the same cells as `row`.
    pub fn copy_row(&mut self, row: RowRef) -> RowRef {
        let first = row.0 as usize;
        let copy = RowRef(
            u32::try_from(self.cells.len()).expect("a chunk's budget keeps it below 2^32 cells"),
        );
        self.cells.extend_from_within(first..first + self.width);
        copy
    }

    /// The cells of a row.
    pub fn row(&self, row: RowRef) -> &[Cell] {
        &self.cells[row.0 as usize..row.0 as usize + self.width]
    }

    /// The cells of a row, to be set.
    pub fn row_mut(&mut self, row: RowRef) -> &mut [Cell] {
        &mut self.cells[row.0 as usize..row.0 as usize + self.width]
    }

    /// Appends bytes to the arena and gives the cell that stands for them.
    pub fn push_text(&mut self, text: &[u8]) -> Cell {
        let start =
            u32::try_from(self.bytes.len()).expect("a chunk's budget keeps its arena below 4 GiB");
        self.bytes.extend_from_slice(text);
        Cell::Text {
            start,
            len: u32::try_from(text.len()).expect("Postgres values are below 1 GiB"),
        }
    }

    /// The arena, for a parser that writes values in pieces; pair with [`Rows::text_since`].
    pub fn arena_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The cell for all bytes written to the arena since it was `start` bytes long.
    pub fn text_since(&self, start: usize) -> Cell {
        Cell::Text {
            start: u32::try_from(start).expect("a chunk's budget keeps its arena below 4 GiB"),
            len: u32::try_from(self.bytes.len() - start).expect("Postgres values are below 1 GiB"),
        }
    }

    /// The text of a cell; `None` for NULL and for absent.
    pub fn text(&self, cell: Cell) -> Option<&[u8]> {
        match cell {
            Cell::Absent | Cell::Null => None,
            Cell::Text { start, len } => {
                Some(&self.bytes[start as usize..start as usize + len as usize])
            }
        }
    }
}
