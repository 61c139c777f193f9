//! A follower that is not Postgres, read for a comparison with its leader.
//!
//! Both servers print each column in one form that holds all of its value as far as the store does, and hash that
//! form with MD5, which all of them compute alike. Which form that is depends on how the store holds the column, so the
//! store says it for both.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::error::Result;
use crate::model::TableSchema;

/// Rows and sum of their numbers, by bucket.
pub type Sums = BTreeMap<i32, (u64, i128)>;
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
    async fn checkpoint(&self) -> Result<crate::model::Checkpoint>;

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
