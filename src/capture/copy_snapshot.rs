//! The snapshot that a copy reads: of the leader, by a temporary slot, or of a follower.

use crate::capture::copy::Copier;
use crate::capture::copy_follower::{Begun, Follower};
use crate::capture::copy_rows::SnapshotTable;
use crate::capture::tables::limits_changed;
use crate::error::{Error, Result};
use crate::killpoint::{self, Point};
use crate::model::{Lsn, Oid};
use crate::source::catalog::CatalogTable;
use crate::source::copy::{Snapshot, open_snapshot};
use crate::source::published;

impl Copier {
    /// A snapshot of the leader, and the tables in it.
    pub(super) async fn of_leader(
        &self,
        copy: i64,
        tables: &[CatalogTable],
    ) -> Result<(Snapshot, Vec<SnapshotTable>)> {
        let source = &self.context.source;
        let snapshot = open_snapshot(
            &source.postgres,
            &format!("walferry_{}_copy", self.context.pipeline),
            &format!("walferry_copy_{:08x}_{copy}", rand::random::<u32>()),
            source.copy_readers,
        )
        .await?;
        killpoint::pass(Point::CopySnapshot);
        self.check_leader(&snapshot)?;
        let oids: Vec<Oid> = tables.iter().map(|table| table.schema.relation).collect();
        let mut at_point = snapshot.lock(&oids).await?;
        self.check_limits(&snapshot, tables).await?;
        for (then, now) in at_point.iter_mut().zip(tables) {
            // Topics, and what a named publication limits, belong to the captured set.
            then.schema.table = now.schema.table.clone();
            then.schema.partitions = now.schema.partitions;
            then.limit(now.limits.clone());
            then.schema.rewritten = self.rewrites.at(then.schema.relation);
        }
        let read = at_point.into_iter().map(SnapshotTable::of_leader);
        Ok((snapshot, read.collect()))
    }

    /// A snapshot of a follower, and the tables in it.
    pub(super) async fn of_follower(
        &self,
        follower: &Follower,
        tables: &[CatalogTable],
    ) -> Result<(Snapshot, Vec<SnapshotTable>)> {
        // Not below what the entry of the copy's begin has as its `at`, which was sent before.
        let from = self.published.borrow().to.unwrap_or(Lsn::ZERO);
        let begun = Begun {
            epoch: self.epoch,
            from,
            tables,
            schemas: (&self.context.kafka, self.topics.schemas()),
            rewritten: &|relation| self.rewrites.at(relation),
        };
        let (snapshot, read) = follower.snapshot(&begun).await?;
        killpoint::pass(Point::CopySnapshot);
        self.check_leader(&snapshot)?;
        Ok((snapshot, read))
    }

    /// The copy's sessions are new ones: after a fail-over they may be on another leader than the
    /// stream, and rows of one history must not be joined with changes of another.
    fn check_leader(&self, snapshot: &Snapshot) -> Result<()> {
        let found = &snapshot.identity;
        if (&found.system_id, found.timeline) == (&self.leader.0, self.leader.1) {
            return Ok(());
        }
        Err(Error::transient(format!(
            "the copy is connected to a leader on timeline {}, the stream to one on timeline {}",
            found.timeline, self.leader.1
        )))
    }

    /// The rows are limited as the epoch says, changes from the point on as the catalog said at the
    /// point: both must be the same.
    async fn check_limits(&self, snapshot: &Snapshot, tables: &[CatalogTable]) -> Result<()> {
        let source = &self.context.source;
        let Some(session) = snapshot
            .readers
            .first()
            .filter(|_| !source.manage_publication)
        else {
            return Ok(());
        };
        let oids: Vec<Oid> = tables.iter().map(|table| table.schema.relation).collect();
        let then = published::memberships(session, &source.publication, &oids).await?;
        let other = tables
            .iter()
            .find(|table| then.get(&table.schema.relation) != table.limits.membership.as_ref());
        match other {
            None => Ok(()),
            Some(table) => Err(limits_changed(&table.schema.table)),
        }
    }
}
