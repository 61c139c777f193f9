//! Tables that the leader has renamed, moved to another schema or dropped: the same is done with the follower's.
//!
//! RENAME and DROP commit by themselves, so the transaction that passes the epoch entry only notes what is to be
//! done (`walferry_moves`), and has what walferry keeps of the tables under their new names. Behind its COMMIT, or
//! at the beginning of the next session, it is done: drops first, so that names are free, then all renames in one
//! statement, which servers do wholly or not at all. That statement also renames a table of walferry's own, made
//! before: its new name says that all of it is done, whatever was killed in between, and without its old name the
//! statement of a worker that was replaced meanwhile fails. Until then readers find the rows under the old name.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::MySqlSink;
use super::catalog;
use super::ddl::run;
use super::emptying::is_it;
use super::failure::plain_error;
use super::prepare::Named;
use super::session::make_database;
use super::transaction::Ending;
use super::wire::{literal, quoted};
use crate::error::Result;
use crate::model::{Moves, TableName};

/// Tables of walferry's own by a table's name.
const BY_NAME: [&str; 2] = ["walferry_tables", "walferry_columns"];

/// What is said to have failed.
const MOVING: &str = "renaming and dropping tables";

/// Names of the table that says whether the moves are done.
struct Marker {
    to_do: String,
    done: String,
}

/// Something that is noted to be done.
struct Noted {
    old: TableName,
    new: Option<TableName>,
}

impl MySqlSink {
    /// Notes in the transaction what is to be done; the new names of tables that will have them.
    pub(super) async fn note_moves(
        &mut self,
        moves: &Moves,
        moved: &mut BTreeSet<TableName>,
    ) -> Result<(), Ending> {
        self.start_now().await?;
        let mut dropped = Vec::new();
        for table in &moves.dropped {
            if self.is_ours(table).await? {
                dropped.push(table);
            }
        }
        let mut renamed = Vec::new();
        for (old, new) in &moves.renamed {
            if self.is_ours(old).await? {
                renamed.push((old, new));
            } else {
                tracing::warn!(%old, %new, "the leader's table is renamed, and the follower has none of its old name that walferry has filled: it is copied anew");
            }
        }
        // A name that is not free keeps its table back, whose own name is not free then.
        loop {
            let free: BTreeSet<&TableName> = renamed
                .iter()
                .map(|(old, _)| *old)
                .chain(dropped.iter().copied())
                .collect();
            let mut kept = None;
            for (at, (_, new)) in renamed.iter().enumerate() {
                if !free.contains(new) && self.is_there(new).await? {
                    kept = Some(at);
                    break;
                }
            }
            let Some(at) = kept else { break };
            let (old, new) = renamed.remove(at);
            tracing::warn!(%old, %new, "the leader's table is renamed, and the follower has another one of the new name: it is copied anew into that one");
        }
        let mut sql = self.forgetting(&dropped);
        sql.extend(self.renaming_notes(&renamed));
        sql.extend(self.noting(&dropped, &renamed));
        let wire = &mut self.session()?.wire;
        for statement in sql {
            run(wire, &statement, MOVING).await?;
        }
        moved.extend(renamed.iter().map(|(_, new)| (*new).clone()));
        self.moving = !dropped.is_empty() || !renamed.is_empty();
        Ok(())
    }

    /// Whether the follower has it, and walferry has filled it for this sink.
    async fn is_ours(&mut self, table: &TableName) -> Result<bool> {
        if !self.is_there(table).await? {
            return Ok(false);
        }
        let sql = format!(
            "SELECT 1 FROM walferry_tables WHERE {} AND {}",
            self.me.is_mine(),
            is_it(table)
        );
        let rows = self.session()?.wire.rows(&sql).await;
        let rows = rows.map_err(|cause| plain_error(&cause, "reading walferry_tables"))?;
        Ok(!rows.is_empty())
    }

    async fn is_there(&mut self, table: &TableName) -> Result<bool> {
        let named = self.named(table)?;
        let found = catalog::read(&mut self.session()?.wire, &named.database, &named.name);
        Ok(found.await?.is_some_and(|found| found.kind == "BASE TABLE"))
    }

    /// Nothing is known by these names any more.
    fn forgetting(&self, dropped: &[&TableName]) -> Vec<String> {
        let forget = |table: &&TableName| {
            BY_NAME.map(|kept| format!("DELETE FROM {kept} WHERE {}", is_it(table)))
        };
        dropped.iter().flat_map(forget).collect()
    }

    /// What is known by the old names is known by the new ones, by way of names that no table has.
    fn renaming_notes(&self, renamed: &[(&TableName, &TableName)]) -> Vec<String> {
        let way = |n: usize| TableName::new("", n.to_string());
        let mut all = Vec::new();
        let mut rename = |from: &TableName, to: &TableName| {
            for kept in BY_NAME {
                all.push(format!("DELETE FROM {kept} WHERE {}", is_it(to)));
                all.push(format!(
                    "UPDATE {kept} SET table_schema = {}, table_name = {} WHERE {}",
                    literal(&to.schema),
                    literal(&to.name),
                    is_it(from)
                ));
            }
        };
        for (n, (old, _)) in renamed.iter().enumerate() {
            rename(old, &way(n));
        }
        for (n, (_, new)) in renamed.iter().enumerate() {
            rename(&way(n), new);
        }
        all
    }

    fn noting(&self, dropped: &[&TableName], renamed: &[(&TableName, &TableName)]) -> Vec<String> {
        let drops = dropped.iter().map(|old| (*old, None));
        let renames = renamed.iter().map(|(old, new)| (*old, Some(*new)));
        let note = |(step, (old, new)): (usize, (&TableName, Option<&TableName>))| {
            let new = new.map_or_else(
                || "NULL, NULL".to_owned(),
                |new| format!("{}, {}", literal(&new.schema), literal(&new.name)),
            );
            format!(
                "INSERT INTO walferry_moves (pipeline, sink, step, old_schema, old_name, new_schema, new_name) \
                 VALUES ({}, {step}, {}, {}, {new})",
                self.me.values(),
                literal(&old.schema),
                literal(&old.name)
            )
        };
        drops.chain(renames).enumerate().map(note).collect()
    }

    /// Does what is noted. Nothing is noted: nothing is done.
    ///
    /// # Errors
    /// Transient when a table is not to be had: it is done at the beginning of the next session.
    pub(super) async fn finish_moves(&mut self) -> Result<()> {
        self.moving = false;
        let noted = self.noted_moves().await?;
        let marker = self.marker();
        let done = self.has_own_table(&marker.done).await?;
        if noted.is_empty() {
            // Left by one that was cut off behind the last of the notes: the next moves are not done yet.
            return match done {
                true => self.forget_marker(&marker).await,
                false => Ok(()),
            };
        }
        if !done {
            self.move_all(&noted, &marker).await?;
        }
        let me = Arc::clone(&self.me);
        let wire = &mut self.session()?.wire;
        run(
            wire,
            &format!("DELETE FROM walferry_moves WHERE {}", me.is_mine()),
            MOVING,
        )
        .await?;
        self.forget_marker(&marker).await?;
        let names = noted
            .iter()
            .flat_map(|one| std::iter::once(&one.old).chain(&one.new));
        let names: BTreeSet<TableName> = names.cloned().collect();
        self.past.retain(|schema| !names.contains(&schema.table));
        self.session()?.forget(&names);
        for Noted { old, new } in &noted {
            match new {
                Some(new) => {
                    tracing::info!(%old, %new, "the follower's table is renamed as the leader's");
                }
                None => {
                    tracing::info!(table = %old, "the follower's table is dropped as the leader's")
                }
            }
        }
        Ok(())
    }

    async fn forget_marker(&mut self, marker: &Marker) -> Result<()> {
        let drop = format!("DROP TABLE IF EXISTS {}", quoted(&marker.done));
        run(&mut self.session()?.wire, &drop, MOVING).await
    }

    async fn move_all(&mut self, noted: &[Noted], marker: &Marker) -> Result<()> {
        let mut ddl = Vec::new();
        let mut renames: [Vec<String>; 2] = Default::default();
        let own = self.databases.own().to_owned();
        for (n, Noted { old, new }) in noted.iter().enumerate() {
            let from = self.named(old)?.quoted;
            let Some(new) = new else {
                ddl.push(format!("DROP TABLE IF EXISTS {from}"));
                continue;
            };
            let Named {
                database,
                quoted: to,
                ..
            } = self.named(new)?;
            let server = self.session()?.server;
            make_database(&mut self.session()?.wire, server, &database).await?;
            // All old names are free behind the first half: tables may have changed places.
            let way = format!(
                "{}.{}",
                quoted(&own),
                quoted(&format!("{}_{n}", marker.to_do))
            );
            renames[0].push(format!("{from} TO {way}"));
            renames[1].push(format!("{way} TO {to}"));
        }
        let to_do = quoted(&marker.to_do);
        let make = format!("CREATE TABLE IF NOT EXISTS {to_do} (n INT) ENGINE=InnoDB");
        run(&mut self.session()?.wire, &make, MOVING).await?;
        let [away, back] = renames;
        let mark = format!("{to_do} TO {}", quoted(&marker.done));
        let all: Vec<String> = away.into_iter().chain(back).chain([mark]).collect();
        ddl.push(format!("RENAME TABLE {}", all.join(", ")));
        self.fenced_ddl(&noted[0].old, None, ddl).await
    }

    async fn noted_moves(&mut self) -> Result<Vec<Noted>> {
        let sql = format!(
            "SELECT old_schema, old_name, new_schema, new_name FROM walferry_moves WHERE {} ORDER BY step",
            self.me.is_mine()
        );
        let rows = self.session()?.wire.rows(&sql).await;
        let rows = rows.map_err(|cause| plain_error(&cause, "reading walferry_moves"))?;
        let noted = rows.into_iter().map(|row| {
            let text = |at: usize| row.get(at).cloned().flatten();
            let name = |at: usize| Some(TableName::new(text(at)?, text(at + 1)?));
            Noted {
                old: name(0).unwrap_or_else(|| TableName::new("", "")),
                new: name(2),
            }
        });
        Ok(noted.collect())
    }

    async fn has_own_table(&mut self, name: &str) -> Result<bool> {
        let own = self.databases.own().to_owned();
        let found = catalog::read(&mut self.session()?.wire, &own, name).await?;
        Ok(found.is_some())
    }

    fn marker(&self) -> Marker {
        let token = self.me.token();
        Marker {
            to_do: format!("walferry_moving_{token}"),
            done: format!("walferry_moved_{token}"),
        }
    }
}
