//! The change of names: in one transaction, while the follower in use takes no step.
//!
//! `ALTER DATABASE … RENAME` takes the database's lock first, so that new sessions wait, and then waits up to
//! 5 s until there are no others (`CountOtherDBBackends`). A second session ends them meanwhile, and only
//! once the lock is held, or they would come back. The session that holds the old follower's checkpoint goes
//! last: with it gone earlier the sink could take one more step, beyond what was compared.

use std::time::{Duration, SystemTime};

use tokio_postgres::Client;

use super::standing::{Found, Mark};
use super::{Beside, comment, get, read_boundary, run};
use crate::error::{Class, Error, Result};
use crate::killpoint::{self, Point};
use crate::model::Lsn;
use crate::model::relation::quote_identifier;
use crate::postgres::classify;

/// Databases to rename from: one that every server has.
const OTHERS: [&str; 2] = ["postgres", "template1"];
/// How often sessions are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long another session may hold the database's lock, as one that alters it does.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '5s'";
/// Bytes of a name.
const NAME_MAX: usize = 63;

/// The lock keeps the sink from a durable step.
const HOLD: &str = "SELECT applied::text FROM walferry.checkpoint \
    WHERE pipeline = $1 AND sink = $2 FOR UPDATE";

/// Others' sessions in databases whose lock the session $1 holds. Vacuum's workers are ended by the server.
const SESSIONS: &str = "SELECT a.pid, COALESCE(a.usename::text, ''), a.datname::text \
    FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_locks l ON l.locktype = 'object' \
        AND l.classid = 'pg_catalog.pg_database'::pg_catalog.regclass AND l.objid = a.datid \
        AND l.mode = 'AccessExclusiveLock' AND l.granted AND l.pid = $1 \
    WHERE a.backend_type IS DISTINCT FROM 'autovacuum worker'";

const HOLDS_LOCK: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l \
    WHERE l.locktype = 'object' AND l.classid = 'pg_catalog.pg_database'::pg_catalog.regclass \
        AND l.mode = 'AccessExclusiveLock' AND l.granted AND l.pid = $1)";

const END: &str = "SELECT pg_catalog.pg_terminate_backend($1)";

const OID: &str = "SELECT oid FROM pg_catalog.pg_database WHERE datname = $1";

/// The follower in use stands still while this lives.
pub struct Held {
    client: Client,
    pid: i32,
    /// Where it stands.
    pub boundary: Lsn,
}

impl Beside<'_> {
    /// Keeps the follower in use from a durable step; waits for the one under way.
    ///
    /// # Errors
    /// As a query; halt when there is no checkpoint.
    pub async fn hold(&self) -> Result<Held> {
        let client = self.in_use().await?;
        run(&client, "BEGIN", "holding the follower in use").await?;
        let of = [&self.pipeline, &self.sink];
        let row = client.query_opt(HOLD, &[of[0], of[1]]).await;
        let row = row.map_err(|error| classify(&error, "holding the follower in use"))?;
        let pid = pid(&client).await?;
        Ok(Held {
            client,
            pid,
            boundary: read_boundary(row)?,
        })
    }

    /// Gives the new database the name of the one in use, whose name becomes another one: the new one's mark
    /// tells it ([`Beside::look`]). The new one's sink must have ended.
    ///
    /// # Errors
    /// Transient when a session does not end, or something is in the way that may go; halt when a right is
    /// missing. Nothing has changed then, unless the connection was lost over COMMIT.
    pub async fn swap(&self, found: &Found, held: Held) -> Result<()> {
        let (name, new) = (found.name.as_str(), self.database);
        let mark = Mark {
            pipeline: self.pipeline.to_owned(),
            sink: self.sink.to_owned(),
            database: new.to_owned(),
            before: Some(name_of_the_old(name, SystemTime::now())),
        };
        let before = mark.before.as_deref().unwrap_or_default();
        let (client, other) = (self.elsewhere(found).await?, self.elsewhere(found).await?);
        run(&client, LOCK_TIMEOUT, "setting up a session").await?;
        let expected = oid(&client, new).await?;
        let sql = format!(
            "BEGIN; ALTER DATABASE {} RENAME TO {}; ALTER DATABASE {} RENAME TO {}; {}",
            quote_identifier(name),
            quote_identifier(before),
            quote_identifier(new),
            quote_identifier(name),
            comment(name, Some(&mark.to_string())),
        );
        let renamer = pid(&client).await?;
        let mut ending = Ending {
            client: &other,
            renamer,
            held: Some(held),
            refused: None,
        };
        let renamed = {
            let renaming = run(&client, &sql, "renaming the databases");
            tokio::pin!(renaming);
            loop {
                tokio::select! {
                    renamed = &mut renaming => break renamed,
                    () = tokio::time::sleep(LOOK_EVERY) => ending.end_sessions().await?,
                }
            }
        };
        if let Err(error) = renamed {
            return Err(ending.refused.unwrap_or(error));
        }
        // Whoever has given the names to other databases meanwhile is not to be helped along.
        if oid(&client, name).await? != expected {
            return Err(Error::transient(format!(
                "database {new} was not the one that the follower was built in"
            )));
        }
        killpoint::pass(Point::BesideRenaming);
        run(&client, "COMMIT", "committing the databases' names").await
    }

    /// A session in a database that is not renamed.
    async fn elsewhere(&self, found: &Found) -> Result<Client> {
        let mut last = None;
        for name in OTHERS.into_iter().filter(|name| *name != found.name) {
            match self.connect(&self.on(name)).await {
                Ok(client) => return Ok(client),
                Err(error) if error.class() == Class::Halt => last = Some((name, error)),
                Err(error) => return Err(error),
            }
        }
        let why = last.map_or_else(String::new, |(name, error)| {
            format!(" {name}: {}", error.what())
        });
        Err(Error::halt(
            format!(
                "databases are renamed from a session in another one, and there is none to connect to:{why}"
            ),
            "GRANT CONNECT ON DATABASE postgres TO the sink's role, and allow it in pg_hba.conf",
        ))
    }
}

/// Ends sessions for another one that renames databases.
struct Ending<'a> {
    client: &'a Client,
    renamer: i32,
    held: Option<Held>,
    /// A session that may not be ended.
    refused: Option<Error>,
}

impl Ending<'_> {
    async fn end_sessions(&mut self) -> Result<()> {
        let failed = |error| classify(&error, "ending sessions in the databases that are renamed");
        let holds = self.client.query_one(HOLDS_LOCK, &[&self.renamer]).await;
        if !get::<bool>(&holds.map_err(failed)?, 0)? {
            return Ok(());
        }
        let own = self.held.as_ref().map(|held| held.pid);
        let mut others = 0;
        for row in self
            .client
            .query(SESSIONS, &[&self.renamer])
            .await
            .map_err(failed)?
        {
            let (pid, role, database): (i32, String, String) =
                (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
            if Some(pid) == own {
                continue;
            }
            others += 1;
            if let Err(error) = self.client.query_one(END, &[&pid]).await {
                self.refused = Some(Error::halt(
                    format!(
                        "session {pid} of role {role} in database {database} may not be ended: {}",
                        classify(&error, "pg_terminate_backend").what()
                    ),
                    "end it, or run the command again with a sink's role that may: a superuser's sessions are \
                     ended by superusers only",
                ));
            }
        }
        if others == 0
            && let Some(held) = self.held.take()
        {
            held.client
                .batch_execute("ROLLBACK")
                .await
                .map_err(failed)?;
        }
        Ok(())
    }
}

async fn pid(client: &Client) -> Result<i32> {
    let row = client
        .query_one("SELECT pg_catalog.pg_backend_pid()", &[])
        .await;
    get(
        &row.map_err(|error| classify(&error, "asking for a session's process"))?,
        0,
    )
}

async fn oid(client: &Client, database: &str) -> Result<u32> {
    let row = client.query_opt(OID, &[&database]).await;
    let row = row.map_err(|error| classify(&error, "looking for a database"))?;
    let gone = || Error::transient(format!("database {database} is gone"));
    get(&row.ok_or_else(gone)?, 0)
}

/// `shop_before_20261129_113500`: what the database in use is called afterwards. Names are bounded in bytes.
fn name_of_the_old(name: &str, now: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(now).to_string();
    let digits: String = time.chars().filter(char::is_ascii_digit).collect();
    let (day, clock) = digits.split_at(8);
    let suffix = format!("_before_{day}_{clock}");
    let mut end = name.len().min(NAME_MAX - suffix.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_ones_name_tells_when_and_fits() {
        let at = humantime::parse_rfc3339("2026-11-29T11:35:07Z").unwrap();
        assert_eq!(name_of_the_old("shop", at), "shop_before_20261129_113507");
        for long in ["x".repeat(63), "ü".repeat(31)] {
            let name = name_of_the_old(&long, at);
            assert!(
                name.len() <= NAME_MAX && name.len() >= NAME_MAX - 1,
                "{name}"
            );
            assert!(name.ends_with("_before_20261129_113507"), "{name}");
        }
    }
}
