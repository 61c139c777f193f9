//! What all sinks have in common, and the two kinds that have little else.

use std::num::NonZeroU64;
use std::time::Duration;

use super::checks::{choice, duration, number, optional_duration, size};
use super::connector::{self, tables};
use super::document::Document;
use super::{
    BuildIndexes, PostgresSinkSettings, SchemaChanges, SinkSettings, StdoutForm, StdoutFrom,
    StdoutSinkSettings, StoreSettings, TakenIndexes, VerifySettings, defaults, raw,
};
use crate::error::Result;

/// What every sink's file may say.
pub(super) struct Common {
    /// `[tables]`.
    pub tables: raw::Tables,
    /// `batch_max_bytes`, and what it is otherwise.
    pub batch_max_bytes: (Option<raw::Size>, usize),
    /// `fetch_max_bytes`.
    pub fetch_max_bytes: Option<raw::Size>,
    /// `batch_max_age`, decided already.
    pub batch_max_age: Duration,
}

impl Common {
    /// Of a kind whose batches are of the usual size, and wait for nothing.
    pub(super) fn new(
        tables: raw::Tables,
        batch_max_bytes: Option<raw::Size>,
        fetch_max_bytes: Option<raw::Size>,
    ) -> Self {
        Common {
            tables,
            batch_max_bytes: (batch_max_bytes, defaults::SINK_BATCH),
            fetch_max_bytes,
            batch_max_age: Duration::ZERO,
        }
    }

    /// The sink of this name with its store.
    pub(super) fn sink(
        self,
        document: &Document,
        name: &str,
        store: StoreSettings,
    ) -> Result<SinkSettings> {
        let (include, exclude) = tables(document, self.tables)?;
        let (batch, otherwise) = self.batch_max_bytes;
        let fetch = self.fetch_max_bytes;
        Ok(SinkSettings {
            name: name.to_owned(),
            store,
            include,
            exclude,
            batch_max_bytes: size(document, "batch_max_bytes", batch, otherwise)?,
            fetch_max_bytes: size(document, "fetch_max_bytes", fetch, defaults::FETCH)?,
            batch_max_age: self.batch_max_age,
        })
    }
}

/// `kind = "postgres"`.
pub(super) fn postgres(document: &Document, name: &str) -> Result<SinkSettings> {
    let raw: raw::PostgresSink = document.parse()?;
    let store = PostgresSinkSettings {
        postgres: connector::postgres(document, raw.url, raw.tls, raw.connect_timeout)?,
        create_tables: raw.create_tables.unwrap_or(true),
        schema_changes: schema_changes(document, raw.schema_changes)?,
        statement_timeout: statement_timeout(document, raw.statement_timeout)?,
        indexes: choice(
            document,
            "indexes",
            raw.indexes,
            TakenIndexes::None,
            &[
                ("none", TakenIndexes::None),
                ("unique", TakenIndexes::Unique),
                ("all", TakenIndexes::All),
            ],
        )?,
        build_indexes: choice(
            document,
            "build_indexes",
            raw.build_indexes,
            BuildIndexes::AfterRows,
            &[
                ("after-rows", BuildIndexes::AfterRows),
                ("with-rows", BuildIndexes::WithRows),
            ],
        )?,
        verify: verify(document, raw.verify_every, raw.verify_max_rows_per_second)?,
    };
    let store = StoreSettings::Postgres(store);
    let common = Common::new(raw.tables, raw.batch_max_bytes, raw.fetch_max_bytes);
    common.sink(document, name, store)
}

/// `kind = "stdout"`.
pub(super) fn stdout(document: &Document, name: &str) -> Result<SinkSettings> {
    let raw: raw::StdoutSink = document.parse()?;
    let from = choice(
        document,
        "from",
        raw.from,
        StdoutFrom::Now,
        &[("now", StdoutFrom::Now), ("earliest", StdoutFrom::Earliest)],
    )?;
    let store = StoreSettings::Stdout(StdoutSinkSettings {
        from,
        form: StdoutForm::Json,
    });
    let common = Common::new(raw.tables, raw.batch_max_bytes, raw.fetch_max_bytes);
    common.sink(document, name, store)
}

/// `schema_changes` of a sink.
pub(super) fn schema_changes(document: &Document, text: Option<String>) -> Result<SchemaChanges> {
    choice(
        document,
        "schema_changes",
        text,
        SchemaChanges::Follow,
        &[
            ("follow", SchemaChanges::Follow),
            ("compatible", SchemaChanges::Compatible),
            ("halt", SchemaChanges::Halt),
        ],
    )
}

/// `statement_timeout` of a sink.
pub(super) fn statement_timeout(document: &Document, value: Option<raw::Span>) -> Result<Duration> {
    duration(
        document,
        "statement_timeout",
        value,
        defaults::STATEMENT_TIMEOUT,
        (Duration::from_secs(1), Duration::from_secs(24 * 3600)),
    )
}

/// `verify_every` and `verify_max_rows_per_second` of a sink.
pub(super) fn verify(
    document: &Document,
    every: Option<raw::Span>,
    max_rows_per_second: Option<u32>,
) -> Result<VerifySettings> {
    let second = Duration::from_secs(1);
    let bounds = (second, 365 * 86_400 * second);
    let rate = max_rows_per_second.map(|rows| {
        let key = "verify_max_rows_per_second";
        number(document, key, Some(rows), rows, 1, 1_000_000_000)
    });
    let rate = rate.transpose()?.map(u64::from);
    Ok(VerifySettings {
        every: optional_duration(document, "verify_every", every, bounds)?,
        max_rows_per_second: rate.and_then(NonZeroU64::new),
    })
}
