//! A follower looked at before anything runs: for `walferry check`. Changes nothing.

use super::MySqlSink;
use super::failure::plain_error;
use super::session::{Missing, Session, connect, set_up};
use super::tables::{Table, check_names};
use super::types::Held;
use super::wire::{Wire, literal, quoted};
use crate::config::MySqlSinkSettings;
use crate::error::{Error, Result};
use crate::model::TableSchema;

/// Rights that the url's user needs on its database.
pub(super) const RIGHTS: [&str; 9] = [
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "CREATE",
    "ALTER",
    "DROP",
    "INDEX",
    "CREATE TEMPORARY TABLES",
];

/// What a follower says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// `VERSION()`.
    pub version: String,
    /// It takes no writes.
    pub read_only: bool,
    /// `max_allowed_packet`, in bytes.
    pub packet_max_bytes: u64,
    /// The user as the server knows it, in its own quotes.
    pub user: String,
    /// Those of [`RIGHTS`] that the user seems to lack; a role may have them.
    pub lacking: Vec<String>,
    /// Rows may come by LOAD DATA LOCAL.
    pub local_infile: bool,
    /// A commit survives the loss of power: `innodb_flush_log_at_trx_commit` is 1.
    pub durable: bool,
    /// The binary log's format, where it is on.
    pub log_format: Option<String>,
    /// Names of tables are told apart by case.
    pub tells_case: bool,
}

/// How a table of the leader's stands there.
#[derive(Debug)]
pub(super) enum Standing {
    /// It is there, and takes the rows.
    Fits,
    /// It is not there, and can be made.
    Missing,
    /// It cannot be held, or not in the table that is there.
    Refused(Error),
}

/// A follower that is looked at.
pub(super) struct Inspection {
    sink: MySqlSink,
    version: String,
}

impl Inspection {
    /// Connects.
    ///
    /// # Errors
    /// Transient when the server cannot be reached; halt for wrong credentials, a certificate that does not verify,
    /// or a server that is too old.
    pub(super) async fn open(settings: &MySqlSinkSettings) -> Result<Self> {
        let limit = settings.statement_timeout;
        let missing = match settings.create_tables {
            true => Missing::Leave,
            false => Missing::Refuse,
        };
        let (mut wire, server) = connect(&settings.server, limit, missing).await?;
        set_up(&mut wire, server, limit).await?;
        let rows = wire.rows("SELECT VERSION()").await;
        let rows = rows.map_err(|cause| plain_error(&cause, "asking for the server's version"))?;
        let version = rows
            .into_iter()
            .next()
            .and_then(|mut row| row.pop().flatten());
        let mut sink = MySqlSink::new("", "", "", settings.clone());
        sink.session = Some(Session::over(wire, server, limit));
        Ok(Inspection {
            sink,
            version: version.unwrap_or_default(),
        })
    }

    /// What the server says of itself.
    ///
    /// # Errors
    /// As a query.
    pub(super) async fn facts(&mut self) -> Result<Facts> {
        let failed = |cause| plain_error(&cause, "reading the server's settings");
        let wire = &mut self.sink.session()?.wire;
        let sql = "SELECT @@global.read_only, @@max_allowed_packet, CURRENT_USER(), \
             @@innodb_flush_log_at_trx_commit, @@global.log_bin, @@session.binlog_format, @@lower_case_table_names, @@global.local_infile";
        let rows = wire.rows(sql).await.map_err(failed)?;
        let row = rows.into_iter().next().unwrap_or_default();
        let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        let (user, host) = text(2)
            .rsplit_once('@')
            .map(|(user, host)| (user.to_owned(), host.to_owned()))
            .unwrap_or_default();
        let grantee = format!("'{user}'@'{host}'");
        let of = literal(&grantee);
        let database = literal(&self.sink.databases.own().replace('_', "\\_"));
        let plain = literal(self.sink.databases.own());
        let sql = format!(
            "SELECT PRIVILEGE_TYPE FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = {of} UNION \
             SELECT PRIVILEGE_TYPE FROM information_schema.SCHEMA_PRIVILEGES WHERE GRANTEE = {of} \
             AND ({plain} LIKE TABLE_SCHEMA OR TABLE_SCHEMA IN ({plain}, {database}))"
        );
        let wire = &mut self.sink.session()?.wire;
        let granted: Vec<String> = wire
            .rows(&sql)
            .await
            .map_err(failed)?
            .into_iter()
            .filter_map(|mut row| row.pop().flatten())
            .collect();
        let lacks = |right: &&&str| !granted.iter().any(|granted| granted == **right);
        Ok(Facts {
            version: self.version.clone(),
            read_only: !matches!(text(0).as_str(), "0" | "OFF"),
            packet_max_bytes: text(1).parse().unwrap_or(0),
            user: grantee,
            lacking: RIGHTS
                .iter()
                .filter(lacks)
                .map(|right| (*right).to_owned())
                .collect(),
            durable: text(3) == "1",
            log_format: (text(4) == "1").then(|| text(5)),
            tells_case: text(6) == "0",
            local_infile: text(7) == "1",
        })
    }

    /// The connection.
    ///
    /// # Errors
    /// Transient when it is lost.
    pub(super) fn wire(&mut self) -> Result<&mut Wire> {
        Ok(&mut self.sink.session()?.wire)
    }

    /// The table, if it takes the rows of the version; else why it does not.
    ///
    /// # Errors
    /// As a query.
    pub(super) async fn fitting(&mut self, schema: &TableSchema) -> Result<Result<Table, String>> {
        let sink = &mut self.sink;
        let named = sink.named(&schema.table)?;
        let held = sink.held(schema)?;
        let Some(found) = sink.find(&named).await? else {
            return Ok(Err("the follower has no table of this name".to_owned()));
        };
        let fit = sink.fit((schema, &held), &named, (&[], &found), false);
        Ok(fit.map_err(|error| error.what()))
    }

    /// How a table stands there.
    ///
    /// # Errors
    /// As a query.
    pub(super) async fn table(&mut self, schema: &TableSchema) -> Result<Standing> {
        let sink = &mut self.sink;
        let tells_case = sink.session()?.tells_case;
        let named = match sink.named(&schema.table) {
            Ok(named) => named,
            Err(error) => return Ok(Standing::Refused(error)),
        };
        if let Err(error) = check_names(schema, (&named.database, &named.name), tells_case) {
            return Ok(Standing::Refused(error));
        }
        let held = match sink.held(schema) {
            Ok(held) => held,
            Err(error) => return Ok(Standing::Refused(error)),
        };
        let Some(found) = sink.find(&named).await? else {
            return Ok(Standing::Missing);
        };
        Ok(
            match sink.fit((schema, &held), &named, (&[], &found), false) {
                Ok(_fits) => Standing::Fits,
                Err(error) => Standing::Refused(error),
            },
        )
    }

    /// Key columns without a bound on the leader, and how many characters or bytes of them the follower holds.
    ///
    /// # Errors
    /// Halt where a key cannot be held at all.
    pub(super) fn bounded(&mut self, schema: &TableSchema) -> Result<Vec<(String, u32)>> {
        let held = self.sink.held(schema)?;
        let bound = |&n: &usize| {
            let column = &schema.columns[n];
            let max = match held[n] {
                Held::Varchar(max) | Held::Varbinary(max) => max,
                _exact => return None,
            };
            let unbounded = matches!(
                column.type_name.as_str(),
                "text" | "character varying" | "bytea" | "numeric"
            );
            unbounded.then(|| (column.name.clone(), max))
        };
        Ok(schema.key.iter().filter_map(bound).collect())
    }

    /// Triggers of a table on the follower, which act on walferry's writes as on anybody's.
    ///
    /// # Errors
    /// As a query.
    pub(super) async fn triggers(&mut self, schema: &TableSchema) -> Result<Vec<String>> {
        let Ok(named) = self.sink.named(&schema.table) else {
            return Ok(Vec::new());
        };
        let sql = format!(
            "SELECT TRIGGER_NAME FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA = {} \
             AND EVENT_OBJECT_TABLE = {} ORDER BY 1",
            literal(&named.database),
            literal(&named.name)
        );
        let rows = self.sink.session()?.wire.rows(&sql).await;
        let rows = rows.map_err(|cause| plain_error(&cause, "reading the follower's triggers"))?;
        Ok(rows
            .into_iter()
            .filter_map(|mut row| row.pop().flatten())
            .collect())
    }

    /// The statement that gives the rights that are lacking.
    pub(super) fn grant(&self, facts: &Facts) -> String {
        format!(
            "GRANT {} ON {}.* TO {}",
            facts.lacking.join(", "),
            quoted(self.sink.databases.own()),
            facts.user
        )
    }
}
