//! The leader: settings, rights, tables, publication and slot.

use tokio_postgres::Client;

use super::{LeaderFacts, Part, Verdict, failure, judge_encoding, judge_version, pass, warning};
use crate::config::SourceSettings;
use crate::config::values::print_size;
use crate::error::Result;
use crate::model::{Selection, TableName};
use crate::postgres::{classify, connect};
use crate::source::catalog::{self, CatalogTable};
use crate::source::{publication, published, slot};

/// Less WAL than this is kept for a slot for minutes only on a busy leader.
const SMALL_KEEP_BYTES: i64 = 10 << 30;
/// Slots and walsenders in use at once: the stream, and the temporary slot of a copy.
const NEEDED: i64 = 2;

/// What the leader says of itself and of the role we came as.
struct Leader {
    version: i32,
    database: String,
    system_id: Option<String>,
    wal_level: String,
    encoding: String,
    in_recovery: bool,
    free_slots: i64,
    free_senders: i64,
    keep_megabytes: i64,
    role: String,
    superuser: bool,
    replication: bool,
    may_create: bool,
}

pub(super) async fn look(source: &SourceSettings, part: &mut Part<'_>) -> LeaderFacts {
    let mut facts = LeaderFacts::default();
    let client = match connect(&source.postgres, "walferry check").await {
        Ok(client) => client,
        Err(error) => {
            part.add("connection", Verdict::unreachable(&error));
            return facts;
        }
    };
    part.add("connection", pass("connected"));
    let leader = match read(&client, source).await {
        Ok(leader) => leader,
        Err(error) => {
            part.add("server", Verdict::unanswered(&error));
            return facts;
        }
    };
    judge(&leader, source, part);
    facts.identity = leader
        .system_id
        .clone()
        .map(|id| (id, leader.database.clone()));
    match tables(&client, source, part).await {
        Ok(tables) => facts.tables = tables.into_iter().map(|table| table.schema).collect(),
        Err(error) => part.add("tables", Verdict::unanswered(&error)),
    }
    if let Err(error) = publication_and_slot(&client, source, &leader, part).await {
        part.add("publication and slot", Verdict::unanswered(&error));
    }
    facts
}

async fn read(client: &Client, source: &SourceSettings) -> Result<Leader> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::int4, current_database()::text,
                    current_setting('wal_level'), pg_catalog.pg_encoding_to_char(d.encoding)::text,
                    pg_catalog.pg_is_in_recovery(),
                    current_setting('max_replication_slots')::int8
                      - (SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE slot_name <> $1),
                    current_setting('max_wal_senders')::int8
                      - (SELECT count(*) FROM pg_catalog.pg_stat_replication),
                    (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size'),
                    current_user::text, r.rolsuper, r.rolreplication,
                    pg_catalog.has_database_privilege(d.oid, 'CREATE')
             FROM pg_catalog.pg_database d, pg_catalog.pg_roles r
             WHERE d.datname = current_database() AND r.rolname = current_user",
            &[&source.slot],
        )
        .await
        .map_err(|error| classify(&error, "reading the server's settings"))?;
    Ok(Leader {
        version: row.get(0),
        database: row.get(1),
        system_id: super::follower::system_id(client).await?,
        wal_level: row.get(2),
        encoding: row.get(3),
        in_recovery: row.get(4),
        free_slots: row.get(5),
        free_senders: row.get(6),
        keep_megabytes: row.get(7),
        role: row.get(8),
        superuser: row.get(9),
        replication: row.get(10),
        may_create: row.get(11),
    })
}

fn judge(leader: &Leader, source: &SourceSettings, part: &mut Part<'_>) {
    part.add("version", judge_version(leader.version));
    part.add("wal_level", judge_wal_level(&leader.wal_level));
    part.add("encoding", judge_encoding(&leader.encoding));
    part.add("role in the cluster", judge_recovery(leader.in_recovery));
    let slots = judge_free("max_replication_slots", leader.free_slots);
    part.add("free replication slots", slots);
    let senders = judge_free("max_wal_senders", leader.free_senders);
    part.add("free walsenders", senders);
    part.add("max_slot_wal_keep_size", judge_keep(leader.keep_megabytes));
    part.add("right to replicate", judge_replication(leader));
    if source.manage_publication {
        part.add("right to create the publication", judge_create(leader));
    }
}

fn judge_wal_level(level: &str) -> Verdict {
    if level == "logical" {
        pass("logical")
    } else {
        failure(
            level,
            "run ALTER SYSTEM SET wal_level = 'logical' and restart the server",
        )
    }
}

fn judge_recovery(in_recovery: bool) -> Verdict {
    if in_recovery {
        failure(
            "the server is a standby",
            "name the primary in the source's url: slot and publication are made there",
        )
    } else {
        pass("primary")
    }
}

fn judge_free(setting: &str, free: i64) -> Verdict {
    if free >= NEEDED {
        return pass(format!("{free} free"));
    }
    let found = format!("{free} free, {NEEDED} needed: the stream and, at times, a copy");
    let remedy = format!("raise {setting} and restart the server, or drop what is not used");
    if free >= 1 {
        // The stream's own may be among those in use now.
        warning(found, remedy)
    } else {
        failure(found, remedy)
    }
}

fn judge_keep(megabytes: i64) -> Verdict {
    if megabytes < 0 {
        return pass(
            "-1, unlimited: nothing is lost while walferry is away, but WAL then grows until the disk is full; watch walferry_source_slot_retained_bytes",
        );
    }
    let bytes = megabytes.saturating_mul(1 << 20);
    let found = print_size(u64::try_from(bytes).unwrap_or_default());
    if bytes < SMALL_KEEP_BYTES {
        warning(
            format!(
                "{found}: once the slot lags by more, the leader drops WAL and every table must be copied again"
            ),
            "raise max_slot_wal_keep_size to what the disk can hold, at least the WAL of your longest outage",
        )
    } else {
        pass(found)
    }
}

fn judge_replication(leader: &Leader) -> Verdict {
    if leader.superuser || leader.replication {
        pass(format!("role {}", leader.role))
    } else {
        failure(
            format!("role {} has neither REPLICATION nor SUPERUSER", leader.role),
            format!(
                "run ALTER ROLE \"{}\" REPLICATION (on a managed service, grant its replication role)",
                leader.role
            ),
        )
    }
}

fn judge_create(leader: &Leader) -> Verdict {
    if leader.may_create {
        pass(format!("CREATE on database {}", leader.database))
    } else {
        failure(
            format!(
                "role {} lacks CREATE on database {}",
                leader.role, leader.database
            ),
            format!(
                "run GRANT CREATE ON DATABASE \"{}\" TO \"{}\", or make the publication yourself and set manage_publication = false",
                leader.database, leader.role
            ),
        )
    }
}

async fn tables(
    client: &Client,
    source: &SourceSettings,
    part: &mut Part<'_>,
) -> Result<Vec<CatalogTable>> {
    catalog::prepare_session(client).await?;
    let selection = Selection::new(&source.include, &source.exclude);
    let mut tables = if source.manage_publication {
        catalog::selected(client, &selection).await?
    } else {
        published::tables(client, &source.publication).await?
    };
    tables.retain(|table| selection.takes(&table.schema.table));
    if tables.is_empty() {
        part.add(
            "tables",
            warning(
                "no table is selected",
                "correct [tables] include and exclude, or create the tables: those made later are taken up too",
            ),
        );
        return Ok(tables);
    }
    part.add("tables", pass(format!("{} selected", tables.len())));
    let refused = crate::source::refusals::refusals(&tables);
    if refused.is_empty() {
        part.add(
            "replica identities",
            pass("every table's rows can be told apart"),
        );
    }
    for refusal in refused {
        let subject = format!("table {}", refusal.table);
        part.add(&subject, failure(refusal.what, refusal.remedy));
    }
    rights(client, source, &tables, part).await?;
    Ok(tables)
}

/// SELECT for copies; ownership to put a table into a publication.
async fn rights(
    client: &Client,
    source: &SourceSettings,
    tables: &[CatalogTable],
    part: &mut Part<'_>,
) -> Result<()> {
    let oids: Vec<u32> = tables.iter().map(|t| t.schema.relation.0).collect();
    let rows = client
        .query(
            "SELECT n.nspname, c.relname,
                    pg_catalog.has_table_privilege(c.oid, 'SELECT')
                      AND pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
                    pg_catalog.pg_has_role(c.relowner, 'USAGE'),
                    NOT pg_catalog.row_security_active(c.oid)
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid = ANY($1) ORDER BY 1, 2",
            &[&oids],
        )
        .await
        .map_err(|error| classify(&error, "reading rights on tables"))?;
    let lacking = |column: usize| -> Vec<String> {
        let rows = rows.iter().filter(|row| !row.get::<_, bool>(column));
        rows.map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)).quoted())
            .collect()
    };
    if source.copy {
        let verdict = judge_rights(
            &lacking(2),
            "SELECT",
            "GRANT SELECT ON them (and USAGE on their schemas) to the role",
        );
        part.add("right to copy tables", verdict);
        let verdict = judge_rights(
            &lacking(4),
            "BYPASSRLS, without which a table with row security cannot be copied whole,",
            "give the role BYPASSRLS (ALTER ROLE … BYPASSRLS)",
        );
        part.add("row security", verdict);
    }
    if source.manage_publication {
        let verdict = judge_rights(
            &lacking(3),
            "ownership, which ALTER PUBLICATION … ADD TABLE asks for,",
            "make the role a member of their owners, or make the publication yourself and set manage_publication = false",
        );
        part.add("right to publish tables", verdict);
    }
    Ok(())
}

fn judge_rights(lacking: &[String], right: &str, remedy: &str) -> Verdict {
    /// More names than this do not help anybody.
    const NAMED: usize = 5;
    if lacking.is_empty() {
        return pass("on all selected tables");
    }
    let more = match lacking.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = lacking[..lacking.len().min(NAMED)].join(", ");
    failure(format!("the role lacks {right} on {named}{more}"), remedy)
}

async fn publication_and_slot(
    client: &Client,
    source: &SourceSettings,
    leader: &Leader,
    part: &mut Part<'_>,
) -> Result<()> {
    let name = &source.publication;
    match publication::read(client, name).await? {
        Some(found) => match publication::check(&found, name, source.manage_publication) {
            Ok(()) => part.add("publication", pass(format!("{name} is there"))),
            Err(error) => part.add("publication", Verdict::failed(&error, "correct it")),
        },
        None if source.manage_publication => {
            part.add("publication", pass(format!("{name} will be created")));
        }
        None => part.add(
            "publication",
            failure(
                format!("{name} is not there, and manage_publication is false"),
                "create it, or set manage_publication = true",
            ),
        ),
    }
    match slot::read(client, &source.slot).await? {
        None => part.add("slot", pass(format!("{} will be created", source.slot))),
        Some(found) => match slot::check(&found, &source.slot, &leader.database) {
            Ok(()) if found.active => part.add("slot", pass("in use: a source is running")),
            Ok(()) => part.add(
                "slot",
                pass(format!("{} is there, not in use", source.slot)),
            ),
            Err(error) => part.add("slot", Verdict::failed(&error, "drop it, or name another")),
        },
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_pass(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Pass(_))
    }

    #[test]
    fn a_server_that_cannot_decode_is_refused() {
        assert!(is_pass(&judge_wal_level("logical")));
        assert!(matches!(judge_wal_level("replica"), Verdict::Failure(..)));
        assert!(is_pass(&judge_recovery(false)));
        assert!(matches!(judge_recovery(true), Verdict::Failure(..)));
    }

    #[test]
    fn free_slots_must_serve_stream_and_copy() {
        assert!(is_pass(&judge_free("max_wal_senders", 2)));
        assert!(matches!(
            judge_free("max_wal_senders", 1),
            Verdict::Warning(..)
        ));
        assert!(matches!(
            judge_free("max_wal_senders", 0),
            Verdict::Failure(..)
        ));
    }

    #[test]
    fn a_small_wal_limit_warns_and_none_passes() {
        assert!(is_pass(&judge_keep(-1)));
        assert!(is_pass(&judge_keep(100 * 1024)));
        assert!(matches!(judge_keep(64), Verdict::Warning(..)));
    }

    #[test]
    fn missing_rights_name_a_few_tables() {
        let names: Vec<String> = (0..7).map(|n| format!("t{n}")).collect();
        let Verdict::Failure(found, _) = judge_rights(&names, "SELECT", "grant it") else {
            panic!("passed")
        };
        assert!(found.contains("t0, t1, t2, t3, t4 and 2 more"), "{found}");
        assert!(is_pass(&judge_rights(&[], "SELECT", "")));
    }
}
