//! Commands of the replication protocol as text, and settings in Postgres's own forms. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::model::Lsn;
use crate::model::relation::{quote_identifier, quote_literal};

/// Postgres's default of `wal_sender_timeout`.
const WAL_SENDER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

pub(super) fn create_slot_command(
    name: &str,
    temporary: bool,
    export_snapshot: bool,
    server_major: u32,
) -> String {
    let name = quote_identifier(name);
    let temporary = if temporary { " TEMPORARY" } else { "" };
    let snapshot = match (server_major >= 15, export_snapshot) {
        (true, true) => "(SNAPSHOT 'export')",
        (true, false) => "(SNAPSHOT 'nothing')",
        (false, true) => "EXPORT_SNAPSHOT",
        (false, false) => "NOEXPORT_SNAPSHOT",
    };
    format!("CREATE_REPLICATION_SLOT {name}{temporary} LOGICAL pgoutput {snapshot}")
}

/// The publications are an identifier list inside a literal.
pub(super) fn start_replication_command(slot: &str, at: Lsn, publications: &[String]) -> String {
    let names: Vec<String> = publications.iter().map(|p| quote_identifier(p)).collect();
    format!(
        "START_REPLICATION SLOT {} LOGICAL {at} (proto_version '1', publication_names {}, messages 'true')",
        quote_identifier(slot),
        quote_literal(&names.join(",")),
    )
}

pub(super) fn server_major(parameters: &BTreeMap<String, String>) -> Result<u32> {
    let version = parameters.get("server_version").map_or("", String::as_str);
    let digits = version.split(|c: char| !c.is_ascii_digit()).next();
    digits.unwrap_or_default().parse().map_err(|_| {
        Error::halt(
            format!("the server's version `{version}` is no Postgres version"),
            "connect to Postgres itself, not through a pooler",
        )
    })
}

/// How long the stream may be silent, from `wal_sender_timeout`: the leader asks for a sign of life
/// at half of it. None when it is switched off.
pub(super) fn idle_timeout(options: &[(&str, String)]) -> Result<Option<Duration>> {
    let Some((_, text)) = options
        .iter()
        .find(|(name, _)| *name == "wal_sender_timeout")
    else {
        return Ok(Some(WAL_SENDER_TIMEOUT_DEFAULT));
    };
    match parse_setting_duration(text) {
        Some(Duration::ZERO) => Ok(None),
        Some(duration) => Ok(Some(duration)),
        None => Err(Error::halt(
            format!("wal_sender_timeout = `{text}` is no duration in Postgres's form"),
            "write a number with ms, s, min, h or d",
        )),
    }
}

/// A time setting in Postgres's form: a whole number, milliseconds without a unit.
fn parse_setting_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let unit_ms = match unit.trim() {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _other => return None,
    };
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

pub(super) fn command_name(command: &str) -> &str {
    command.split(' ').next().unwrap_or(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    #[test]
    fn names_are_quoted_for_the_replication_grammar() {
        assert_eq!(
            create_slot_command("a\"b", true, true, 15),
            "CREATE_REPLICATION_SLOT \"a\"\"b\" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')"
        );
        assert_eq!(
            create_slot_command("s", false, false, 14),
            "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput NOEXPORT_SNAPSHOT"
        );
        assert_eq!(
            start_replication_command("s", Lsn(0x1_0000_00AB), &["p".into(), "it's \"p\"".into()]),
            "START_REPLICATION SLOT \"s\" LOGICAL 1/AB (proto_version '1', publication_names \
             '\"p\",\"it''s \"\"p\"\"\"', messages 'true')"
        );
    }

    #[test]
    fn durations_are_read_as_postgres_reads_them() {
        for (text, ms) in [
            ("0", 0),
            ("10000", 10_000),
            ("10000ms", 10_000),
            ("10s", 10_000),
            (" 2 min ", 120_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
        ] {
            let parsed = parse_setting_duration(text);
            assert_eq!(parsed, Some(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "s",
            "-1",
            "1 fortnight",
            "99999999999999999999",
            "18446744073709551615d",
        ] {
            assert_eq!(parse_setting_duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_version_is_its_first_number() {
        for (text, major) in [
            ("18.6 (Debian 18.6-1)", 18),
            ("17beta1", 17),
            ("14devel", 14),
        ] {
            let parameters = BTreeMap::from([("server_version".to_owned(), text.to_owned())]);
            assert_eq!(server_major(&parameters).unwrap(), major);
        }
        assert_eq!(
            server_major(&BTreeMap::new()).unwrap_err().class(),
            Class::Halt
        );
    }
}
