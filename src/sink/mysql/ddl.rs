//! Statements that commit by themselves.

use std::time::Duration;

use super::MySqlSink;
use super::checkpoint;
use super::failure::{plain_error, summary};
use super::wire::{Cause, Wire};
use crate::error::{Class, Error, Result};
use crate::model::TableName;

/// Longest wait for what alters a table: it may have to write all of it anew.
pub(super) const ALTERING_LIMIT: Duration = Duration::from_secs(24 * 3_600);

/// What is said to have failed where walferry's own tables are written.
pub(super) const KEEPING: &str = "writing what walferry keeps on the follower";

impl MySqlSink {
    /// Runs a statement that commits by itself, and does no harm to whoever else may own the table by now.
    pub(super) async fn ddl(&mut self, table: &TableName, doing: &str, sql: &str) -> Result<()> {
        let session = self.session()?;
        if let Some(lifted) = session.lifted() {
            run(&mut session.wire, &lifted, KEEPING).await?;
        }
        let done = session.wire.command_within(sql, ALTERING_LIMIT).await;
        if let Some(lowered) = session.lowered()
            && !session.wire.is_closed()
        {
            run(&mut session.wire, &lowered, KEEPING).await?;
        }
        done.map_err(|cause| ddl_error(table, doing, &cause))?;
        Ok(())
    }

    /// Runs statements that commit by themselves and destroy rows, unless the checkpoint is another one's by now.
    pub(super) async fn fenced_ddl(
        &mut self,
        table: &TableName,
        version: Option<i64>,
        ddl: Vec<String>,
    ) -> Result<()> {
        let me = std::sync::Arc::clone(&self.me);
        let sql = checkpoint::fenced(&me, version, &ddl);
        let done = self.ddl(table, "emptying", &sql).await;
        let Err(error) = done else {
            return Ok(());
        };
        let wire = &mut self.session()?.wire;
        run(wire, &checkpoint::unlock(&me), KEEPING).await?;
        let refused = checkpoint::why_refused(wire, &me).await;
        // Its version says that it is another one's, or was changed.
        if refused.class() == Class::Fenced || error.what().contains("error 1048") {
            self.has_orders = refused.class() == Class::Transient;
            return Err(refused);
        }
        Err(error)
    }
}

/// DDL that fails: what passes by itself does, everything else is told with its number.
fn ddl_error(table: &TableName, doing: &str, cause: &Cause) -> Error {
    let plain = plain_error(cause, doing).at(format!("table {table}"));
    match (cause, plain.class()) {
        (Cause::Server(error), Class::Halt) if !matches!(error.code, 1044 | 1142 | 1227 | 1370) => {
            Error::halt(
                format!("table {table}: {doing}: {}", summary(error)),
                "make the table on the follower by hand with fewer or shorter columns, or another type under \
                 [columns], as the error's number says; or exclude it in the sink's file",
            )
        }
        _as_it_is => plain,
    }
}

/// Runs a statement; `doing` says what for, if it fails.
pub(super) async fn run(wire: &mut Wire, sql: &str, doing: &str) -> Result<()> {
    let done = wire.command(sql).await;
    done.map_err(|cause| plain_error(&cause, doing))?;
    Ok(())
}
