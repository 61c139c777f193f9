//! Where a rebuild beside the follower in use stands, and whether it may be done: read at once, judged purely.

use std::fmt;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::get;
use super::settings::Kind;
use crate::error::{Error, Result};
use crate::postgres::classify;

/// How a mark begins; the rest is JSON.
const MARK: &str = "walferry rebuild: ";
/// Objects and sinks that an error names.
const NAMED_MAX: usize = 10;

/// Databases that are never built in: every server has them.
const SERVERS_OWN: [&str; 3] = ["postgres", "template0", "template1"];

/// `to_jsonb`, as not every version has all columns.
const LOOK: &str = "SELECT d.datname::text, pg_catalog.to_jsonb(d)::text, \
        pg_catalog.pg_encoding_to_char(d.encoding)::text, \
        (SELECT spcname::text FROM pg_catalog.pg_tablespace s WHERE s.oid = d.dattablespace), \
        pg_catalog.shobj_description(d.oid, 'pg_database'), \
        pg_catalog.pg_get_userbyid(d.datdba)::text \
    FROM pg_catalog.pg_database d WHERE d.datname = $1";

/// Whether the role may create databases, owns this one, may give the owner another one, and may end others'
/// sessions. SET as a kind of membership is of version 16.
const RIGHTS: &str = "SELECT r.rolsuper OR r.rolcreatedb, pg_catalog.pg_has_role(d.datdba, 'USAGE'), \
        r.rolsuper OR CASE WHEN pg_catalog.current_setting('server_version_num')::int >= 160000 \
            THEN pg_catalog.pg_has_role(d.datdba, 'SET') ELSE pg_catalog.pg_has_role(d.datdba, 'MEMBER') END, \
        r.rolsuper OR pg_catalog.pg_has_role('pg_signal_backend', 'USAGE'), r.rolname::text \
    FROM pg_catalog.pg_roles r, pg_catalog.pg_database d \
    WHERE r.rolname = current_user AND d.datname = pg_catalog.current_database()";

const THERE: &str = "SELECT pg_catalog.to_regclass('walferry.checkpoint') IS NOT NULL";

const SINKS: &str = "SELECT pipeline, sink FROM walferry.checkpoint ORDER BY 1, 2";

/// What a database's comment says of a rebuild that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Pipeline.
    pub pipeline: String,
    /// Sink.
    pub sink: String,
    /// Under which name the database is built, or was.
    pub database: String,
    /// Name of the one whose place it has taken; none: it has not yet.
    pub before: Option<String>,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        write!(f, "{MARK}{json}")
    }
}

impl Mark {
    fn parse(comment: &str) -> Option<Mark> {
        serde_json::from_str(comment.strip_prefix(MARK)?).ok()
    }
}

/// A database that is there.
#[derive(Clone, Debug)]
pub struct There {
    /// What its comment says.
    pub mark: Option<Mark>,
    kind: Kind,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Name of the database in use.
    pub name: String,
    /// How it was created.
    pub(super) kind: Kind,
    owner: String,
    mark: Option<Mark>,
    role: String,
    may_create: bool,
    owns: bool,
    may_give: bool,
    may_end: bool,
    /// Sinks that have a checkpoint in it.
    sinks: Vec<(String, String)>,
    /// The database beside it.
    pub(super) beside: Option<There>,
    /// What there is in that one, where it has no mark.
    pub(super) objects: Vec<String>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The database is to be created.
    Create,
    /// It is there and empty.
    Begin,
    /// It was begun.
    GoOn,
    /// A new database is in use, and the command that built it has not ended.
    Finish(Mark),
}

impl Found {
    /// What is to be done for this sink in this database.
    ///
    /// # Errors
    /// Halt with the reason why it may not be done.
    pub fn stage(&self, of: (&str, &str), database: &str) -> Result<Stage> {
        let is_ours = |mark: &&Mark| (mark.pipeline.as_str(), mark.sink.as_str()) == of;
        if let Some(mark) = self.mark.as_ref().filter(is_ours)
            && mark.before.is_some()
        {
            return Ok(Stage::Finish(mark.clone()));
        }
        self.is_allowed(of, database)?;
        let Some(there) = &self.beside else {
            return Ok(Stage::Create);
        };
        match &there.mark {
            Some(mark) if is_ours(&mark) && mark.before.is_none() => Ok(Stage::GoOn),
            Some(other) => Err(Error::halt(
                format!(
                    "database {database} is one that walferry rebuild has built for sink {} of pipeline {}",
                    other.sink, other.pipeline
                ),
                "name another one with --beside",
            )),
            None if !self.objects.is_empty() => Err(Error::halt(
                format!(
                    "database {database} is there, and not empty: it has {}",
                    listed(&self.objects)
                ),
                "name one with --beside that is empty or is not there",
            )),
            None if there.kind.holds_others(&self.kind) => Err(Error::halt(
                format!(
                    "database {database} has another encoding or locale than {}",
                    self.name
                ),
                format!("DROP DATABASE {database}: it is empty, and is created as it has to be"),
            )),
            None => Ok(Stage::Begin),
        }
    }

    fn is_allowed(&self, (pipeline, sink): (&str, &str), database: &str) -> Result<()> {
        let (name, role) = (&self.name, &self.role);
        if database == name {
            return Err(Error::halt(
                format!("--beside {database}: that is the database in use"),
                "name another one: it is created",
            ));
        }
        if SERVERS_OWN.contains(&database) || database.is_empty() || database.len() > 63 {
            return Err(Error::halt(
                format!("--beside {database}: a follower is not built in a database of this name"),
                "name another one, of at most 63 bytes: it is created",
            ));
        }
        if !self.may_create {
            return Err(Error::halt(
                format!("role {role} may not create and rename databases"),
                format!("as a superuser: ALTER ROLE {role} CREATEDB"),
            ));
        }
        if !self.owns {
            return Err(Error::halt(
                format!("role {role} does not own database {name}, and so may not rename it"),
                format!(
                    "ALTER DATABASE {name} OWNER TO {role}, or GRANT {} TO {role}",
                    self.owner
                ),
            ));
        }
        if !self.may_end {
            return Err(Error::halt(
                format!(
                    "role {role} may not end the sessions of others, and a database is renamed when it has none"
                ),
                format!("as a superuser: GRANT pg_signal_backend TO {role}"),
            ));
        }
        let is_own = |other: &&(String, String)| other.0 == pipeline && other.1 == sink;
        if let Some((pipeline, sink)) = self.sinks.iter().find(|other| !is_own(other)) {
            return Err(Error::halt(
                format!(
                    "sink {sink} of pipeline {pipeline} has its checkpoint in database {name} too, and would lose it"
                ),
                "give that sink a database of its own, or rebuild this one without --beside; if that sink is gone \
                 for good: delete its row from walferry.checkpoint",
            ));
        }
        if !self.sinks.iter().any(|one| is_own(&one)) {
            return Err(Error::halt(
                format!(
                    "sink {sink} has no checkpoint in database {name} yet: there is nothing to take the place of"
                ),
                "start it with walferry run: it copies every table",
            ));
        }
        Ok(())
    }

    /// What is to be said of things that the new database would not have; none if there are none.
    pub fn lost(&self, left: &[String]) -> Option<String> {
        let name = &self.name;
        let said = || {
            format!(
                "database {name} has what the new one will not have: {}",
                listed(left)
            )
        };
        (!left.is_empty()).then(said)
    }

    /// The owner that the new database can have.
    pub(super) fn owner_to_be(&self) -> Option<&str> {
        (self.may_give && self.owner != self.role).then_some(self.owner.as_str())
    }
}

/// Some of these, and how many more there are.
fn listed(all: &[String]) -> String {
    let named: Vec<&str> = all.iter().take(NAMED_MAX).map(String::as_str).collect();
    match all.len().saturating_sub(NAMED_MAX) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// Asks a session in the database in use; `objects` is left to whoever can look into the other one.
pub(super) async fn look(client: &Client, database: &str) -> Result<Found> {
    let failed = |error| classify(&error, "looking at the follower's databases");
    let row = client.query_one("SELECT pg_catalog.current_database()::text", &[]);
    let name: String = get(&row.await.map_err(failed)?, 0)?;
    let (own, owner) = database_of(client, &name).await?.ok_or_else(|| {
        Error::transient(format!("database {name} has got another name this moment"))
    })?;
    let rights = client.query_one(RIGHTS, &[]).await.map_err(failed)?;
    let mut sinks = Vec::new();
    let there = client.query_one(THERE, &[]).await.map_err(failed)?;
    if get(&there, 0)? {
        for row in client.query(SINKS, &[]).await.map_err(failed)? {
            sinks.push((get(&row, 0)?, get(&row, 1)?));
        }
    }
    let beside = database_of(client, database).await?;
    Ok(Found {
        name,
        kind: own.kind,
        owner,
        mark: own.mark,
        may_create: get(&rights, 0)?,
        owns: get(&rights, 1)?,
        may_give: get(&rights, 2)?,
        may_end: get(&rights, 3)?,
        role: get(&rights, 4)?,
        sinks,
        beside: beside.map(|(there, _owner)| there),
        objects: Vec::new(),
    })
}

/// A database of this name, and its owner.
async fn database_of(client: &Client, name: &str) -> Result<Option<(There, String)>> {
    let row = client.query_opt(LOOK, &[&name]).await;
    let row = row.map_err(|error| classify(&error, "looking at the server's databases"))?;
    let Some(row) = row else { return Ok(None) };
    let columns: String = get(&row, 1)?;
    let comment: Option<String> = get(&row, 4)?;
    let there = There {
        mark: comment.as_deref().and_then(Mark::parse),
        kind: Kind::read(&columns, get(&row, 2)?, get(&row, 3)?)?,
    };
    Ok(Some((there, get(&row, 5)?)))
}

/// A database's comment.
pub(super) async fn comment_of(client: &Client, name: &str) -> Result<Option<String>> {
    let row = client.query_opt(LOOK, &[&name]).await;
    let row = row.map_err(|error| classify(&error, "looking at the server's databases"))?;
    row.map_or(Ok(None), |row| get(&row, 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(sink: &str, before: Option<&str>) -> Mark {
        Mark {
            pipeline: "p".to_owned(),
            sink: sink.to_owned(),
            database: "new \"one\"".to_owned(),
            before: before.map(str::to_owned),
        }
    }

    fn found() -> Found {
        Found {
            name: "shop".to_owned(),
            kind: Kind::default(),
            owner: "owner".to_owned(),
            mark: None,
            role: "feeder".to_owned(),
            may_create: true,
            owns: true,
            may_give: true,
            may_end: true,
            sinks: vec![("p".to_owned(), "a".to_owned())],
            beside: None,
            objects: Vec::new(),
        }
    }

    fn there(mark: Option<Mark>) -> Option<There> {
        let kind = Kind::default();
        Some(There { mark, kind })
    }

    #[test]
    fn a_mark_is_read_as_it_was_written_and_other_comments_are_none() {
        for mark in [mark("a", None), mark("a", Some("shop_before_1"))] {
            assert_eq!(Mark::parse(&mark.to_string()), Some(mark));
        }
        for other in ["", "our shop", "walferry rebuild: by hand", "{}"] {
            assert_eq!(Mark::parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_to_be_done_follows_from_the_databases_and_their_marks() {
        let stage = |found: &Found| found.stage(("p", "a"), "new").unwrap();
        assert_eq!(stage(&found()), Stage::Create);
        let at = |beside, mark| Found {
            beside,
            mark,
            ..found()
        };
        assert_eq!(stage(&at(there(None), None)), Stage::Begin);
        assert_eq!(stage(&at(there(Some(mark("a", None))), None)), Stage::GoOn);
        let swapped = mark("a", Some("shop_before_1"));
        assert_eq!(
            stage(&at(None, Some(swapped.clone()))),
            Stage::Finish(swapped)
        );
        // That of another sink is not this one's to finish, and one that is not in use is no reason.
        assert_eq!(stage(&at(None, Some(mark("b", Some("x"))))), Stage::Create);
    }

    #[test]
    fn what_may_not_be_done_is_refused_with_the_reason() {
        let refused = |found: Found, part: &str| {
            let error = found.stage(("p", "a"), "new").unwrap_err();
            assert!(error.what().contains(part), "{error}");
            assert!(error.remedy().is_some(), "{error}");
        };
        let with = |beside| Found { beside, ..found() };
        refused(
            with(there(Some(mark("b", None)))),
            "for sink b of pipeline p",
        );
        refused(
            with(there(Some(mark("a", Some("x"))))),
            "has built for sink a",
        );
        let objects: Vec<String> = (0..12).map(|n| format!("table t{n}")).collect();
        refused(
            Found {
                objects,
                ..with(there(None))
            },
            "t9 and 2 more",
        );
        let mut other = there(None);
        other.as_mut().unwrap().kind.collate = "C".to_owned();
        refused(with(other), "another encoding or locale");
        refused(
            Found {
                may_create: false,
                ..found()
            },
            "may not create",
        );
        refused(
            Found {
                owns: false,
                ..found()
            },
            "does not own database shop",
        );
        refused(
            Found {
                may_end: false,
                ..found()
            },
            "may not end the sessions",
        );
        let mut shared = found();
        shared.sinks.push(("q".to_owned(), "a".to_owned()));
        refused(shared, "sink a of pipeline q");
        refused(
            Found {
                sinks: Vec::new(),
                ..found()
            },
            "no checkpoint in database shop",
        );
        for name in ["shop", "postgres", "template1", "", &"x".repeat(64)] {
            assert!(found().stage(("p", "a"), name).is_err(), "{name}");
        }
    }
}
