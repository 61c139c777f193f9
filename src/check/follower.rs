//! A Postgres follower: rights, encoding, not the leader, and tables that can take the rows.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::{LeaderFacts, Part, Verdict, failure, judge_encoding, judge_version, pass};
use crate::config::{PostgresSinkSettings, SinkSettings};
use crate::error::{Error, Result};
use crate::model::{Selection, TableName, TableSchema};
use crate::postgres::{classify, connect};

/// What the follower says of itself and of the role we came as.
struct Follower {
    version: i32,
    database: String,
    encoding: String,
    in_recovery: bool,
    system_id: Option<String>,
    role: String,
    may_set_role: bool,
    has_schema: bool,
    may_create: bool,
}

pub(super) async fn look(
    sink: &SinkSettings,
    store: &PostgresSinkSettings,
    facts: &LeaderFacts,
    part: &mut Part<'_>,
) {
    let client = match connect(&store.postgres, "walferry check").await {
        Ok(client) => client,
        Err(error) => {
            part.add("connection", Verdict::unreachable(&error));
            return;
        }
    };
    part.add("connection", pass("connected"));
    match read(&client).await {
        Ok(follower) => judge(&follower, facts, part),
        Err(error) => part.add("server", Verdict::unanswered(&error)),
    }
    if let Err(error) = tables(&client, sink, store, facts, part).await {
        part.add("tables", Verdict::unanswered(&error));
    }
}

/// The cluster's system identifier, where the role may see it.
pub(super) async fn system_id(client: &Client) -> Result<Option<String>> {
    let allowed: bool = client
        .query_one(
            "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')",
            &[],
        )
        .await
        .map_err(|error| classify(&error, "reading rights"))?
        .get(0);
    if !allowed {
        return Ok(None);
    }
    let row = client
        .query_one(
            "SELECT system_identifier::text FROM pg_catalog.pg_control_system()",
            &[],
        )
        .await
        .map_err(|error| classify(&error, "reading the system identifier"))?;
    Ok(Some(row.get(0)))
}

async fn read(client: &Client) -> Result<Follower> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::int4, current_database()::text,
                    pg_catalog.pg_encoding_to_char(d.encoding)::text, pg_catalog.pg_is_in_recovery(),
                    current_user::text,
                    pg_catalog.to_regnamespace('walferry') IS NOT NULL,
                    CASE WHEN pg_catalog.to_regnamespace('walferry') IS NULL
                         THEN pg_catalog.has_database_privilege(d.oid, 'CREATE')
                         ELSE pg_catalog.has_schema_privilege('walferry', 'CREATE') END
             FROM pg_catalog.pg_database d WHERE d.datname = current_database()",
            &[],
        )
        .await
        .map_err(|error| classify(&error, "reading the server's settings"))?;
    // Asked by doing it, for this session only: covers superusers and GRANT SET ON PARAMETER alike.
    let may_set_role = client
        .batch_execute("BEGIN; SET LOCAL session_replication_role = 'replica'; ROLLBACK")
        .await;
    if may_set_role.is_err() {
        client
            .batch_execute("ROLLBACK")
            .await
            .map_err(|error| classify(&error, "rolling back"))?;
    }
    Ok(Follower {
        version: row.get(0),
        database: row.get(1),
        encoding: row.get(2),
        in_recovery: row.get(3),
        system_id: system_id(client).await?,
        role: row.get(4),
        may_set_role: may_set_role.is_ok(),
        has_schema: row.get(5),
        may_create: row.get(6),
    })
}

fn judge(follower: &Follower, facts: &LeaderFacts, part: &mut Part<'_>) {
    part.add("version", judge_version(follower.version));
    part.add("encoding", judge_encoding(&follower.encoding));
    part.add("role in the cluster", judge_recovery(follower.in_recovery));
    part.add("identity", judge_identity(follower, facts));
    part.add("session_replication_role", judge_replica_role(follower));
    part.add("schema walferry", judge_schema(follower));
}

fn judge_recovery(in_recovery: bool) -> Verdict {
    if in_recovery {
        failure(
            "the server is a standby and takes no writes",
            "name a primary in the sink's url",
        )
    } else {
        pass("primary")
    }
}

fn judge_identity(follower: &Follower, facts: &LeaderFacts) -> Verdict {
    let (Some(own), Some((leader, database))) = (&follower.system_id, &facts.identity) else {
        return pass("not compared with the leader, which was not asked or may not tell");
    };
    if own == leader && *database == follower.database {
        return failure(
            "this is the leader's own database: its changes would be applied to itself",
            "correct the sink's url",
        );
    }
    pass("not the leader")
}

fn judge_replica_role(follower: &Follower) -> Verdict {
    let role = &follower.role;
    if follower.may_set_role {
        return pass(format!("role {role} may set it"));
    }
    let remedy = if follower.version >= 150_000 {
        format!("run GRANT SET ON PARAMETER session_replication_role TO \"{role}\"")
    } else {
        format!("run ALTER ROLE \"{role}\" SUPERUSER (from Postgres 15 on a grant is enough)")
    };
    failure(
        format!("role {role} may not set it: triggers and foreign keys would act a second time"),
        remedy,
    )
}

fn judge_schema(follower: &Follower) -> Verdict {
    if follower.may_create {
        let how = if follower.has_schema {
            "is there"
        } else {
            "will be created"
        };
        return pass(how);
    }
    let (role, database) = (&follower.role, &follower.database);
    if follower.has_schema {
        failure(
            format!("is there, but role {role} may not create tables in it"),
            format!("run GRANT CREATE, USAGE ON SCHEMA walferry TO \"{role}\""),
        )
    } else {
        failure(
            format!(
                "role {role} lacks CREATE on database {database}: there is no place for the checkpoint"
            ),
            format!(
                "run GRANT CREATE ON DATABASE \"{database}\" TO \"{role}\", or CREATE SCHEMA walferry AUTHORIZATION \"{role}\""
            ),
        )
    }
}

/// A column of a follower's table.
struct FollowerColumn {
    not_null: bool,
    has_default: bool,
    generated: bool,
}

async fn tables(
    client: &Client,
    sink: &SinkSettings,
    store: &PostgresSinkSettings,
    facts: &LeaderFacts,
    part: &mut Part<'_>,
) -> Result<()> {
    let selection = Selection::new(&sink.include, &sink.exclude);
    let (mut well, mut missing) = (0, 0);
    for schema in facts.tables.iter().filter(|s| selection.takes(&s.table)) {
        let subject = format!("table {}", schema.table);
        let Some(columns) = columns(client, &schema.table).await? else {
            if !store.create_tables {
                part.add(
                    &subject,
                    failure(
                        "is not there, and create_tables is false",
                        "create it, or set create_tables = true",
                    ),
                );
            }
            missing += 1;
            continue;
        };
        let problems = shape_problems(schema, &columns);
        if problems.is_empty() {
            well += 1;
        }
        for (found, remedy) in problems {
            part.add(&subject, failure(found, remedy));
        }
    }
    if !facts.tables.is_empty() {
        let rest = if store.create_tables {
            "will be created"
        } else {
            "are missing"
        };
        part.add("tables", pass(format!("{well} fit, {missing} {rest}")));
    }
    Ok(())
}

async fn columns(
    client: &Client,
    table: &TableName,
) -> Result<Option<BTreeMap<String, FollowerColumn>>> {
    let doing = "reading the shape of a table";
    let found = client
        .query_opt(
            "SELECT c.oid, c.relkind::text FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = $2",
            &[&table.schema, &table.name],
        )
        .await
        .map_err(|error| classify(&error, doing))?;
    let Some(found) = found else {
        return Ok(None);
    };
    let kind: String = found.get(1);
    if kind != "r" && kind != "p" {
        return Err(Error::halt(
            format!("{table} is not a table on the follower"),
            "rename what has its name, or exclude the table in the sink's settings",
        ));
    }
    let rows = client
        .query(
            "SELECT attname::text, attnotnull, atthasdef OR attidentity <> '', attgenerated <> ''
             FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped",
            &[&found.get::<_, u32>(0)],
        )
        .await
        .map_err(|error| classify(&error, doing))?;
    let columns = rows.iter().map(|row| {
        let column = FollowerColumn {
            not_null: row.get(1),
            has_default: row.get(2),
            generated: row.get(3),
        };
        (row.get(0), column)
    });
    Ok(Some(columns.collect()))
}

/// Why a follower's table cannot take the rows, with remedies.
fn shape_problems(
    schema: &TableSchema,
    columns: &BTreeMap<String, FollowerColumn>,
) -> Vec<(String, String)> {
    let table = schema.table.quoted();
    let mut problems = Vec::new();
    for column in &schema.columns {
        if !columns.contains_key(&column.name) {
            let name = crate::model::relation::quote_identifier(&column.name);
            problems.push((
                format!("lacks the column {}", column.name),
                format!(
                    "run ALTER TABLE {table} ADD COLUMN {name} {}",
                    column.type_name
                ),
            ));
        }
    }
    for (name, column) in columns {
        let fed = schema.columns.iter().any(|c| c.name == *name);
        if !fed && column.not_null && !column.has_default && !column.generated {
            problems.push((
                format!("its column {name} is NOT NULL without a default, and the leader does not have it"),
                "give it a default, drop its NOT NULL, or drop the column".to_owned(),
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Column, ColumnKind, Oid, ReplicaIdentity};

    fn follower() -> Follower {
        Follower {
            version: 180_006,
            database: "shop".to_owned(),
            encoding: "UTF8".to_owned(),
            in_recovery: false,
            system_id: Some("7".to_owned()),
            role: "w".to_owned(),
            may_set_role: true,
            has_schema: false,
            may_create: true,
        }
    }

    #[test]
    fn the_leader_itself_is_no_follower() {
        let leader = |id: &str, database: &str| LeaderFacts {
            identity: Some((id.to_owned(), database.to_owned())),
            tables: Vec::new(),
        };
        assert!(matches!(
            judge_identity(&follower(), &leader("7", "shop")),
            Verdict::Failure(..)
        ));
        for other in [
            leader("7", "other"),
            leader("8", "shop"),
            LeaderFacts::default(),
        ] {
            assert!(matches!(
                judge_identity(&follower(), &other),
                Verdict::Pass(_)
            ));
        }
    }

    #[test]
    fn missing_rights_come_with_the_statement_for_the_version() {
        let mut lacking = follower();
        lacking.may_set_role = false;
        let Verdict::Failure(_, remedy) = judge_replica_role(&lacking) else {
            panic!("passed")
        };
        assert!(remedy.contains("GRANT SET ON PARAMETER"), "{remedy}");
        lacking.version = 140_010;
        let Verdict::Failure(_, remedy) = judge_replica_role(&lacking) else {
            panic!("passed")
        };
        assert!(remedy.contains("SUPERUSER"), "{remedy}");
        lacking.may_create = false;
        assert!(matches!(judge_schema(&lacking), Verdict::Failure(..)));
    }

    #[test]
    fn tables_that_cannot_take_the_rows_are_refused() {
        let schema = TableSchema {
            table: TableName::new("public", "a"),
            relation: Oid(1),
            columns: vec![Column {
                name: "id".to_owned(),
                type_oid: Oid(20),
                type_modifier: -1,
                type_name: "bigint".to_owned(),
                kind: ColumnKind::Integer,
                not_null: true,
                number: None,
                fill: None,
            }],
            key: vec![0],
            primary_key: vec![0],
            identity: ReplicaIdentity::Default,
            partitions: 1,
            types: Vec::new(),
            dropped: Vec::new(),
            rewritten: None,
            unpublished: Vec::new(),
            exact: false,
        };
        let column = |not_null, has_default, generated| FollowerColumn {
            not_null,
            has_default,
            generated,
        };
        let id = ("id".to_owned(), column(true, false, false));
        let with = |name: &str, extra| {
            BTreeMap::from([
                ("id".to_owned(), column(true, false, false)),
                (name.to_owned(), extra),
            ])
        };
        assert_eq!(shape_problems(&schema, &BTreeMap::from([id])), []);
        assert_eq!(
            shape_problems(&schema, &with("x", column(true, true, false))),
            []
        );
        assert_eq!(
            shape_problems(&schema, &with("x", column(false, false, false))),
            []
        );
        assert!(
            shape_problems(&schema, &with("x", column(true, false, false)))[0]
                .0
                .contains("x")
        );
        let missing = shape_problems(&schema, &BTreeMap::new());
        assert!(
            missing[0].1.contains("ADD COLUMN \"id\" bigint"),
            "{missing:?}"
        );
    }
}
