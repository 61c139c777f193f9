//! The replication slot as `pg_replication_slots` shows it.

use tokio_postgres::Client;

use crate::error::{Error, NEW_PIPELINE, Result};
use crate::model::Lsn;
use crate::postgres::classify;

/// A slot of the leader's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// The output plugin; none for a physical slot.
    pub plugin: Option<String>,
    /// The database it belongs to.
    pub database: Option<String>,
    /// Confirmed position, as the server has it in memory.
    pub confirmed_flush: Option<Lsn>,
    /// `wal_status`: `lost` means that the leader has removed WAL that the slot needed.
    pub wal_status: Option<String>,
    /// Whether a session uses it.
    pub active: bool,
}

/// Reads a slot; `None` when there is none of that name.
pub async fn read(client: &Client, name: &str) -> Result<Option<SlotState>> {
    let row = client
        .query_opt(
            "SELECT plugin::text, database::text, confirmed_flush_lsn::text, wal_status, active
             FROM pg_catalog.pg_replication_slots WHERE slot_name = $1",
            &[&name],
        )
        .await
        .map_err(|error| classify(&error, "reading the slot"))?;
    let Some(row) = row else {
        return Ok(None);
    };
    let confirmed_flush = match row.get::<_, Option<String>>(2) {
        None => None,
        Some(text) => Some(text.parse().map_err(|error| {
            Error::transient("reading the slot's confirmed position").caused_by(error)
        })?),
    };
    Ok(Some(SlotState {
        plugin: row.get(0),
        database: row.get(1),
        confirmed_flush,
        wal_status: row.get(3),
        active: row.get(4),
    }))
}

/// Checks that a slot is one that walferry can stream from.
///
/// # Errors
/// Halt when it is of another kind or database, or has lost WAL.
pub fn check(slot: &SlotState, name: &str, database: &str) -> Result<()> {
    if slot.plugin.as_deref() != Some("pgoutput") || slot.database.as_deref() != Some(database) {
        return Err(Error::halt(
            format!(
                "slot {name} is not a pgoutput slot of database {database} (plugin {}, database {})",
                slot.plugin.as_deref().unwrap_or("none"),
                slot.database.as_deref().unwrap_or("none")
            ),
            "point the source's url at the database that the slot belongs to, or set `slot` in the \
             source's file to another name",
        ));
    }
    if slot.wal_status.as_deref() == Some("lost") {
        return Err(Error::halt(
            format!(
                "slot {name} has lost WAL that walferry has not read: changes are missing for good"
            ),
            format!(
                "raise max_slot_wal_keep_size on the leader to more than it writes while walferry is \
                 away; then {NEW_PIPELINE}"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_lost_wal_or_is_another_ones_is_refused() {
        let good = SlotState {
            plugin: Some("pgoutput".into()),
            database: Some("shop".into()),
            confirmed_flush: Some(Lsn(1)),
            wal_status: Some("reserved".into()),
            active: false,
        };
        assert!(check(&good, "s", "shop").is_ok());
        for bad in [
            SlotState {
                plugin: None,
                ..good.clone()
            },
            SlotState {
                plugin: Some("test_decoding".into()),
                ..good.clone()
            },
            SlotState {
                database: Some("other".into()),
                ..good.clone()
            },
            SlotState {
                wal_status: Some("lost".into()),
                ..good.clone()
            },
        ] {
            assert!(check(&bad, "s", "shop").is_err(), "{bad:?}");
        }
    }
}
