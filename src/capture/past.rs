//! What the pipeline's own schema topic says of captured tables before an epoch: the catalog is as it is now,
//! and changes that are still to be streamed may be of shapes that lie between the two.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::KafkaSettings;
use crate::error::{Error, Result};
use crate::log::schemas::SchemaStore;
use crate::log::topics::Topics;
use crate::model::{Column, Lsn, Oid, TableSchema};
use crate::source::catalog::CatalogTable;

/// What is known of the tables of an epoch.
#[derive(Debug, Default)]
pub struct Pasts {
    /// The newest version that is not of the shape that the catalog has now: the stream is there still, or has
    /// passed it.
    pub before: HashMap<Oid, TableSchema>,
    /// Where their rows were rewritten.
    pub rewrites: Rewrites,
}

/// Where tables' rows were last rewritten in a way that the stream does not show. Shared by whoever makes
/// versions: a copy that begins behind it holds the rewritten rows.
#[derive(Clone, Debug, Default)]
pub struct Rewrites(Arc<Mutex<HashMap<Oid, Lsn>>>);

impl Rewrites {
    /// The newest one of a table.
    pub fn at(&self, relation: Oid) -> Option<Lsn> {
        self.all().get(&relation).copied()
    }

    /// Notes one; one that is known is met again when the stream is read again.
    pub fn note(&self, relation: Oid, lsn: Lsn) {
        let mut all = self.all();
        let newest = all.entry(relation).or_default();
        *newest = lsn.max(*newest);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Oid, Lsn>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the topic to its end, for these tables.
///
/// # Errors
/// As [`SchemaStore::open`].
pub async fn read(
    kafka: &KafkaSettings,
    topics: &Topics,
    tables: &[CatalogTable],
) -> Result<Pasts> {
    let (kafka, topic) = (kafka.clone(), topics.schemas());
    let now: Vec<TableSchema> = tables.iter().map(|table| table.schema.clone()).collect();
    let read = tokio::task::spawn_blocking(move || {
        let store = SchemaStore::open(&kafka, &topic)?;
        let mut pasts = Pasts::default();
        for now in &now {
            let versions = store.of(now.relation);
            for lsn in versions.iter().filter_map(|version| version.rewritten) {
                pasts.rewrites.note(now.relation, lsn);
            }
            if let Some(before) = versions.iter().find(|before| !has_columns_of(before, now)) {
                pasts
                    .before
                    .insert(now.relation, TableSchema::clone(before));
            }
        }
        Ok(pasts)
    });
    read.await
        .map_err(|error| Error::transient("reading the schema versions").caused_by(error))?
}

fn has_columns_of(one: &TableSchema, other: &TableSchema) -> bool {
    let is_same = |(one, other): (&Column, &Column)| {
        let of = |column: &Column| (column.type_oid, column.type_modifier, column.number);
        one.name == other.name && of(one) == of(other)
    };
    one.columns.len() == other.columns.len() && one.columns.iter().zip(&other.columns).all(is_same)
}
