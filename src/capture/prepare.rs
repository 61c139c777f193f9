//! Before an epoch: the tables, the topics, the publication, the slot.
//!
//! Idempotent. Only a pipeline's very first start makes a publication and a slot; once the log has
//! an entry, what is missing is lost, and making it anew would hide that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio_postgres::Client;

use crate::capture::CaptureContext;
use crate::capture::existing::{Missing, Places, kept_for, shortest_kept};
use crate::capture::own_log::OwnLog;
use crate::capture::tables::Labels;
use crate::config::SourceSettings;
use crate::error::{Error, Result};
use crate::killpoint::{self, Point};
use crate::log::commit_log::Captured;
use crate::log::producer::EpochProducer;
use crate::log::topics::{TopicAdmin, Topics};
use crate::model::{Epoch, Oid, Selection, TableName};
use crate::postgres::{classify, connect};
use crate::source::catalog::{self, CatalogTable};
use crate::source::event_trigger;
use crate::source::full_identity;
use crate::source::publication::{self, Publication};
use crate::source::published;
use crate::source::refusals::{self, Refusal};

/// What preparation found and made.
pub struct Prepared {
    /// An ordinary connection for catalog queries.
    pub client: Client,
    /// The captured set.
    pub tables: Vec<CatalogTable>,
    /// Tables that somebody dropped from the managed publication: left out of this epoch, which ends
    /// once the log says so; the next one captures and copies them.
    pub dropped: Vec<TableName>,
    /// Captured tables that the leader has dropped, and no other one has their name.
    pub dropped_by_leader: Vec<TableName>,
    /// Tables that are in a managed publication and no longer wanted: to be dropped from it after
    /// the epoch entry.
    pub leaving: Vec<TableName>,
    /// Names in records.
    pub labels: Labels,
    /// The log, read to its end.
    pub log: OwnLog,
    /// The log's epoch that all of this was prepared for.
    pub epoch: Option<Epoch>,
    /// Why tables that are selected are not captured.
    pub left_out: Vec<Refusal>,
    /// For how long the tables' topics keep their records at most; none: for ever.
    pub retention: Option<Duration>,
}

/// Prepares everything that an epoch needs.
///
/// # Errors
/// Transient when leader or Kafka cannot be reached; halt, with remedy, for what a person must decide.
pub async fn prepare(
    context: &CaptureContext,
    topics: &Topics,
    producer: &EpochProducer,
) -> Result<Prepared> {
    let source = &context.source;
    let client = connect(
        &source.postgres,
        &format!("walferry_{}_catalog", context.pipeline),
    )
    .await?;
    catalog::prepare_session(&client).await?;
    let database = client
        .query_one("SELECT current_database()::text", &[])
        .await
        .map_err(|error| classify(&error, "asking for the database"))?
        .get::<_, String>(0);
    let mut tables = if source.manage_publication {
        let selection = Selection::new(&source.include, &source.exclude);
        catalog::selected(&client, &selection).await?
    } else {
        published::tables(&client, &source.publication).await?
    };
    if source.event_trigger {
        event_trigger::settle(&client).await?;
    }
    full_identity::settle_keys(&client, &source.slot, &mut tables).await?;
    let places = Places {
        context,
        topics,
        producer,
        client: &client,
        admin: TopicAdmin::open(&context.kafka)?,
        database: &database,
    };
    let fresh = || OwnLog::new(context.kafka.clone(), topics.commits());
    let mut log = context.kept_log.take().unwrap_or_else(fresh);
    let mut found = places.look(&tables, &mut log).await?;
    let missing = match places.judge(&found, &log, &tables) {
        Ok(missing) => missing,
        // Another instance may have made things between the questions; what it made is there now.
        Err(first) => {
            tracing::debug!(error = %first, "looking once more before halting");
            found = places.look(&tables, &mut log).await?;
            match places.judge(&found, &log, &tables) {
                Ok(missing) => missing,
                Err(error) => {
                    places.same_system(&log).await?;
                    return Err(error);
                }
            }
        }
    };
    let mut left_out = leave_out(&mut tables, &log, source.manage_publication)?;
    let dropped_by_leader = dropped_by_leader(&client, &log, &tables).await?;
    places.make_topics(&found, &mut log, &mut tables).await?;
    killpoint::pass(Point::TopicsMade);
    let (mut dropped, mut leaving) = (Vec::new(), Vec::new());
    if source.manage_publication {
        dropped = places.leave_out_dropped(missing, &log, &mut tables).await?;
        let not_joined;
        (leaving, not_joined) =
            prepare_publication(context, &client, missing, found.publication, &tables).await?;
        for (table, error) in not_joined {
            let captured = log.ledger().captured().contains_key(&table);
            if captured || !log.has_entries() {
                return Err(error);
            }
            tables.retain(|other| other.schema.table != table);
            left_out.push(not_joined_refusal(table, &error));
        }
    }
    killpoint::pass(Point::PublicationMade);
    if missing.slot {
        places.create_slot().await?;
        killpoint::pass(Point::SlotMade);
    }
    warn_of_retention(source, shortest_kept(topics, &tables, &found.topics));
    let retention = kept_for(context.kafka.retention, topics, &tables, &found.topics);
    Ok(Prepared {
        tables,
        dropped,
        dropped_by_leader,
        leaving,
        epoch: log.place().epoch,
        labels: Labels {
            pipeline: context.pipeline.clone(),
            database,
        },
        log,
        client,
        left_out,
        retention,
    })
}

/// Topics may keep records for a shorter time than the settings say: they were made with others.
fn warn_of_retention(source: &SourceSettings, shortest: Option<Duration>) {
    let lasts = source.copies_last(shortest);
    if let (Some(every), Some(shortest), false) = (source.copy_every, shortest, lasts) {
        tracing::warn!(
            every = %humantime::format_duration(every),
            retention = %humantime::format_duration(shortest),
            remedy = "raise retention.ms of the pipeline's table topics and copy topics to twice copy.every",
            "a copy may expire before the next one is complete: topics keep records for too short a time"
        );
    }
}

/// Takes refused tables out where that harms nobody: the set is walferry's to choose, the pipeline
/// runs already, and the table is not captured.
///
/// # Errors
/// Halt for all others that are refused.
fn leave_out(tables: &mut Vec<CatalogTable>, log: &OwnLog, managed: bool) -> Result<Vec<Refusal>> {
    let mut left_out = Vec::new();
    if managed && log.has_entries() {
        let captured = log.ledger().captured().values();
        let captured = captured.map(|table| table.relation).collect();
        left_out = refusals::leave_out(tables, &captured);
    }
    match refused(&refusals::refusals(tables)) {
        Some(error) => Err(error),
        None => Ok(left_out),
    }
}

/// One halt for all refused tables, if there are any.
pub fn refused(refusals: &[Refusal]) -> Option<Error> {
    let first = refusals.first()?;
    let all: Vec<String> = refusals
        .iter()
        .map(|refusal| format!("{}: {}", refusal.table, refusal.what))
        .collect();
    Some(Error::halt(
        format!("tables cannot be captured: {}", all.join("; ")),
        first.remedy.clone(),
    ))
}

impl Places<'_> {
    /// Takes tables that somebody dropped from the publication out of this epoch's captured set.
    async fn leave_out_dropped(
        &self,
        missing: Missing,
        log: &OwnLog,
        tables: &mut Vec<CatalogTable>,
    ) -> Result<Vec<TableName>> {
        if missing.publication {
            return Ok(Vec::new());
        }
        let name = &self.context.source.publication;
        // Asked after the log was read: a table joins the publication before the log says so.
        let publication = publication::read(self.client, name).await?;
        let published = publication.map(|found| found.tables).unwrap_or_default();
        let gone = dropped(tables, log.ledger().captured(), &published);
        for table in &gone {
            tracing::error!(
                publication = %name, %table,
                "somebody dropped the table from the publication, so changes of it are missing: it is copied again"
            );
        }
        tables.retain(|table| !gone.contains(&table.schema.table));
        Ok(gone)
    }
}

/// Tables that the log has as captured and that are no more on the leader, where no other one has their name.
async fn dropped_by_leader(
    client: &Client,
    log: &OwnLog,
    tables: &[CatalogTable],
) -> Result<Vec<TableName>> {
    let is_named = |name: &TableName| tables.iter().any(|table| table.schema.table == *name);
    let captured = log.ledger().captured().values();
    let missing: Vec<&Captured> = captured.filter(|table| !is_named(&table.table)).collect();
    let oids: Vec<Oid> = missing.iter().map(|table| table.relation).collect();
    let there = catalog::there(client, &oids).await?;
    let gone = missing
        .into_iter()
        .filter(|table| !there.contains(&table.relation));
    Ok(gone.map(|table| table.table.clone()).collect())
}

/// Tables that the log has as captured, but that are not in the publication although they are the
/// same tables. A table joins the publication before the log, and leaves it after the log: so
/// somebody else took them out, and their changes since were not sent.
fn dropped(
    tables: &[CatalogTable],
    captured: &BTreeMap<TableName, Captured>,
    published: &BTreeSet<TableName>,
) -> Vec<TableName> {
    let gone = tables.iter().filter(|table| {
        let known = captured.get(&table.schema.table);
        known.is_some_and(|known| known.relation == table.schema.relation)
            && !published.contains(&table.schema.table)
    });
    gone.map(|table| table.schema.table.clone()).collect()
}

/// Why a table is left out that could not be added to the publication.
pub fn not_joined_refusal(table: TableName, error: &Error) -> Refusal {
    Refusal {
        table,
        what: error.what(),
        remedy: error
            .remedy()
            .unwrap_or("nothing: it joins as soon as it can")
            .to_owned(),
    }
}

/// Makes the publication or adds the tables that joined; returns those that are to leave, and those
/// that could not be added.
async fn prepare_publication(
    context: &CaptureContext,
    client: &Client,
    missing: Missing,
    found: Option<Publication>,
    tables: &[CatalogTable],
) -> Result<(Vec<TableName>, Vec<(TableName, Error)>)> {
    let name = &context.source.publication;
    let wanted: BTreeSet<&TableName> = tables.iter().map(|table| &table.schema.table).collect();
    let found = match found {
        Some(found) if !missing.publication => found,
        Some(_) | None => {
            let list: Vec<&TableName> = wanted.into_iter().collect();
            publication::run(client, &publication::create_statement(name, &list)).await?;
            tracing::info!(publication = %name, tables = list.len(), "publication created");
            return Ok((Vec::new(), Vec::new()));
        }
    };
    let joining: Vec<&TableName> = wanted
        .iter()
        .filter(|table| !found.tables.contains(**table))
        .copied()
        .collect();
    let not_joined = join(client, name, &joining).await;
    let leaving = found.tables.into_iter();
    let leaving = leaving.filter(|table| !wanted.contains(table)).collect();
    Ok((leaving, not_joined))
}

/// Adds tables to the publication one by one; those that could not be, with why.
pub async fn join(
    client: &Client,
    publication: &str,
    tables: &[&TableName],
) -> Vec<(TableName, Error)> {
    let mut not_joined = Vec::new();
    for &table in tables {
        let statement = publication::add_statement(publication, &[table]);
        match publication::run(client, &statement).await {
            Ok(()) => tracing::info!(publication, %table, "table joins the publication"),
            Err(error) => not_joined.push((table.clone(), error.at(format!("table {table}")))),
        }
    }
    not_joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Limits, Oid};

    #[test]
    fn a_table_that_somebody_dropped_from_the_publication_is_told_from_one_that_joins() {
        let name = |name: &str| TableName::new("public", name);
        let tables = [
            CatalogTable::bare("stays", 1),
            CatalogTable::bare("dropped", 2),
            CatalogTable::bare("joins", 3),
            CatalogTable::bare("made_anew", 5),
        ];
        let known = [
            ("stays", 1),
            ("dropped", 2),
            ("made_anew", 4),
            ("unwanted", 6),
        ];
        let captured = known.map(|(table, relation)| {
            let known = Captured {
                table: name(table),
                relation: Oid(relation),
                limits: Limits::default(),
            };
            (name(table), known)
        });
        let captured = BTreeMap::from(captured);
        let published = BTreeSet::from([name("stays")]);
        assert_eq!(
            dropped(&tables, &captured, &published),
            vec![name("dropped")]
        );
    }
}
