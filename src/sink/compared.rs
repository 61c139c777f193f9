//! A follower that is not Postgres, read for a comparison with its leader.
//!
//! Both servers print each column in one form that holds all of its value as far as the store does, and hash that
//! form with MD5, which all of them compute alike. Which form that is depends on how the store holds the column, so the
//! store says it for both.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::error::Result;
use crate::model::{Checkpoint, Column, TableSchema};

/// What is in a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Rows.
    pub rows: u64,
    /// Sum of the numbers of their contents: 64 bits a row.
    pub hashes: i128,
}

/// What is in all buckets.
pub type Sums = BTreeMap<i32, Sum>;
/// MD5 of rows' contents in hexadecimal, by key.
pub type Contents = BTreeMap<Vec<String>, String>;

/// How a table is compared.
#[derive(Clone, Debug, Default)]
pub struct Forms {
    /// On the leader: expressions of type text, one a column that is compared.
    pub leader: Vec<String>,
    /// On the follower, the same columns.
    pub follower: Vec<String>,
    /// Which of them are the key, in its order.
    pub key: Vec<usize>,
    /// Columns that are left out, as the store holds them in a form of its own.
    pub left_out: Vec<String>,
    /// The follower's table in SQL, as it is read.
    pub table: String,
}

/// What leader and follower print of a column; none where the store keeps a form of its own.
pub type Printed = Option<(String, String)>;

impl Forms {
    /// Of a table that is read by this name; `printed` says how each column is. Why it cannot be compared, if it
    /// cannot.
    ///
    /// # Errors
    /// When a column of the key has no form.
    pub fn new(
        table: String,
        schema: &TableSchema,
        mut printed: impl FnMut(usize, &Column) -> Printed,
    ) -> Result<Self, String> {
        let mut forms = Forms {
            table,
            ..Forms::default()
        };
        let mut places = vec![None; schema.columns.len()];
        for (n, column) in schema.columns.iter().enumerate() {
            match printed(n, column) {
                Some((leader, follower)) => {
                    places[n] = Some(forms.leader.len());
                    forms.leader.push(leader);
                    forms.follower.push(follower);
                }
                None => forms.left_out.push(column.name.clone()),
            }
        }
        let key: Option<Vec<usize>> = schema.key.iter().map(|n| places[*n]).collect();
        forms.key = key.ok_or("a column of its key is held in a form of the store's own")?;
        Ok(forms)
    }

    /// The key on the leader.
    pub fn key_on_leader(&self) -> Vec<String> {
        self.key.iter().map(|n| self.leader[*n].clone()).collect()
    }

    /// The key on the follower.
    pub fn key_on_follower(&self) -> Vec<String> {
        self.key.iter().map(|n| self.follower[*n].clone()).collect()
    }
}

/// What the leader prints of a column that is held as its text: what the type's output function prints, which a cast
/// of `char(n)` does not.
pub fn text_on_leader(column: &str) -> String {
    format!("CASE WHEN num_nulls({column}) = 0 THEN concat({column}) END")
}

/// What the leader prints of bytes.
pub fn bytes_on_leader(column: &str) -> String {
    format!("encode({column}, 'hex')")
}

/// What the leader prints of a day and time; its session is in UTC.
pub fn moment_on_leader(column: &str) -> String {
    format!("to_char({column}, 'YYYY-MM-DD HH24:MI:SS.US')")
}

/// A connection to a follower that is compared.
#[async_trait]
pub trait Compared: Send + Sync {
    /// The follower's clock, microseconds since 1970.
    ///
    /// # Errors
    /// As a query.
    async fn clock_us(&self) -> Result<i64>;

    /// Opens a snapshot of what the follower shows now, if the store has such; an earlier one is over. Whether it has.
    ///
    /// # Errors
    /// As a statement.
    async fn begin_snapshot(&mut self) -> Result<bool>;

    /// The checkpoint's version and boundary as the snapshot shows them.
    ///
    /// # Errors
    /// As a query; halt when there is none, or it cannot be read.
    async fn checkpoint(&self) -> Result<Checkpoint>;

    /// How this table is compared; why it cannot be, if it cannot.
    ///
    /// # Errors
    /// As a query.
    async fn forms(&self, schema: &TableSchema) -> Result<Result<Forms, String>>;

    /// Sums of all rows in `buckets` buckets: the number of a row is the first 64 bits of its content's MD5, signed;
    /// its bucket the same of its key, modulo `buckets`, from 0.
    ///
    /// # Errors
    /// As a query.
    async fn sums(&self, forms: &Forms, buckets: u64) -> Result<Sums>;

    /// Rows in some of the buckets.
    ///
    /// # Errors
    /// As a query.
    async fn contents(&self, forms: &Forms, buckets: u64, of: &[i32]) -> Result<Contents>;
}
