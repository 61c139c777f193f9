//! A follower before anything runs, for `walferry check`: version, rights, settings, and tables that can take the
//! rows.

use super::inspect::{Facts, Inspection, Standing};
use crate::config::MySqlSinkSettings;
use crate::error::Result;
use crate::model::TableSchema;
use crate::sink::look::{failure, pass, warning};
use crate::sink::{Looked, Verdict};

/// A packet that holds most rows. The server's own default is 16 MiB.
const PACKET_BYTES: u64 = 16 * 1024 * 1024;

/// Names of key columns in one line: more are not what somebody reads.
const SHOWN_MAX: usize = 5;

/// Looks; changes nothing.
pub(crate) async fn look(settings: &MySqlSinkSettings, tables: &[TableSchema]) -> Looked {
    let mut looked = Looked::new();
    let mut inspection = match Inspection::open(settings).await {
        Ok(inspection) => inspection,
        Err(error) => {
            looked.push(("connection", Verdict::unreachable(&error)));
            return looked;
        }
    };
    looked.push(("connection", pass("connected")));
    match inspection.facts().await {
        Ok(found) => {
            let grant = inspection.grant(&found);
            judge(&found, &grant, &mut looked);
        }
        Err(error) => looked.push(("server", Verdict::unanswered(&error))),
    }
    let looked_at = look_at_tables(&mut inspection, (settings, tables), &mut looked).await;
    if let Err(error) = looked_at {
        looked.push(("tables", Verdict::unanswered(&error)));
    }
    looked
}

fn judge(found: &Facts, grant: &str, looked: &mut Looked) {
    looked.push(("version", pass(found.version.as_str())));
    looked.push(("writes", judge_read_only(found.read_only)));
    looked.push(("rights", judge_rights(found, grant)));
    looked.push(("max_allowed_packet", judge_packet(found.packet_max_bytes)));
    looked.push(("local_infile", judge_infile(found.local_infile)));
    looked.push(("durability", judge_durability(found.durable)));
    looked.push(("binary log", judge_log(found.log_format.as_deref())));
    if !found.tells_case {
        looked.push((
            "lower_case_table_names",
            warning(
                "names of tables are not told apart by case: tables with a capital letter are refused",
                "exclude such tables, or make the server anew with lower_case_table_names = 0",
            ),
        ));
    }
}

fn judge_infile(on: bool) -> Verdict {
    match on {
        true => pass("on"),
        false => warning(
            "off: rows of copies go by INSERT, which takes half as long again",
            "run SET GLOBAL local_infile = 1, if copies are large",
        ),
    }
}

fn judge_read_only(read_only: bool) -> Verdict {
    match read_only {
        true => failure(
            "the server takes no writes (read_only)",
            "run SET GLOBAL read_only = 0, or name a primary in the sink's url",
        ),
        false => pass("taken"),
    }
}

fn judge_rights(found: &Facts, grant: &str) -> Verdict {
    match found.lacking.as_slice() {
        [] => pass(format!("{} has those that are needed", found.user)),
        lacking => warning(
            format!(
                "{} has no {} of its own; a role may give it",
                found.user,
                lacking.join(", ")
            ),
            format!("run {grant}; other databases that tables are to be in need the same"),
        ),
    }
}

fn judge_packet(bytes: u64) -> Verdict {
    let text = format!("{} MiB", bytes / 1024 / 1024);
    match bytes < PACKET_BYTES {
        true => warning(
            format!("{text}: a row that is larger halts the sink (bytes of bytea count twice)"),
            "raise max_allowed_packet on the server, at most to 1 GiB",
        ),
        false => pass(text),
    }
}

fn judge_durability(durable: bool) -> Verdict {
    match durable {
        true => pass("commits are flushed"),
        false => warning(
            "innodb_flush_log_at_trx_commit is not 1: a crash of the server may take commits back that walferry \
             counts on, checkpoint and rows together",
            "run SET GLOBAL innodb_flush_log_at_trx_commit = 1",
        ),
    }
}

fn judge_log(format: Option<&str>) -> Verdict {
    match format {
        None => pass("off"),
        Some("STATEMENT") => failure(
            "statements: the follower's own replicas could not repeat them exactly",
            "set binlog_format = MIXED or ROW",
        ),
        Some(format) => pass(format),
    }
}

async fn look_at_tables(
    inspection: &mut Inspection,
    (settings, tables): (&MySqlSinkSettings, &[TableSchema]),
    looked: &mut Looked,
) -> Result<()> {
    let (mut well, mut missing) = (0, 0);
    for schema in tables {
        match inspection.table(schema).await? {
            Standing::Fits => well += 1,
            Standing::Missing => {
                missing += 1;
                if !settings.create_tables {
                    looked.push((
                        "table",
                        failure(
                            format!("{} is not there, and create_tables is false", schema.table),
                            "create it, or set create_tables = true",
                        ),
                    ));
                }
            }
            Standing::Refused(error) => {
                looked.push(("table", Verdict::unanswered(&error)));
                continue;
            }
        }
        remark(inspection, schema, looked).await?;
    }
    if !tables.is_empty() {
        let rest = match settings.create_tables {
            true => "will be created",
            false => "are missing",
        };
        looked.push(("tables", pass(format!("{well} fit, {missing} {rest}"))));
    }
    Ok(())
}

async fn remark(
    inspection: &mut Inspection,
    schema: &TableSchema,
    looked: &mut Looked,
) -> Result<()> {
    let table = &schema.table;
    let bounded = inspection.bounded(schema)?;
    if !bounded.is_empty() {
        let shown = bounded.iter().take(SHOWN_MAX);
        let shown: Vec<String> = shown
            .map(|(name, max)| format!("{name} up to {max}"))
            .collect();
        looked.push((
            "key",
            warning(
                format!(
                    "table {table}: its key has no bound on the leader, and one on the follower: {}",
                    shown.join(", ")
                ),
                "nothing, if no value is longer: the sink halts at the first one that is",
            ),
        ));
    }
    let triggers = inspection.triggers(schema).await?;
    if !triggers.is_empty() {
        looked.push((
            "triggers",
            warning(
                format!(
                    "table {table}: its triggers on the follower act on walferry's writes as on anybody's: {}",
                    triggers.join(", ")
                ),
                "drop those that change rows of the leader's tables: the leader's own have done so already",
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_is_judged_with_the_remedy() {
        assert!(matches!(judge_packet(1 << 20), Verdict::Warning(..)));
        assert!(matches!(judge_packet(16 << 20), Verdict::Pass(_)));
        assert!(matches!(judge_log(Some("STATEMENT")), Verdict::Failure(..)));
        assert!(matches!(judge_log(Some("ROW")), Verdict::Pass(_)));
        assert!(matches!(judge_read_only(true), Verdict::Failure(..)));
        let mut facts = Facts {
            user: "'w'@'%'".to_owned(),
            ..Facts::default()
        };
        assert!(matches!(judge_rights(&facts, ""), Verdict::Pass(_)));
        facts.lacking = vec!["ALTER".to_owned()];
        let Verdict::Warning(found, remedy) = judge_rights(&facts, "GRANT ALTER") else {
            panic!("passed")
        };
        assert!(
            found.contains("ALTER") && remedy.starts_with("run GRANT ALTER"),
            "{found} {remedy}"
        );
    }
}
