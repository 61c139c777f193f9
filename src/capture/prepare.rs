//! Before an epoch: the tables, the topics, the publication, the slot.
//!
//! Idempotent. Only a pipeline's very first start makes a publication and a slot; once the log has
//! an entry, what is missing is lost, and making it anew would hide that.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use crate::capture::CaptureContext;
use crate::capture::own_log::OwnLog;
use crate::capture::tables::Labels;
use crate::error::{Error, Result};
use crate::log::producer::EpochProducer;
use crate::log::topics::{Retention, TopicAdmin, TopicSpec, Topics};
use crate::model::{Selection, TableName};
use crate::postgres::{classify, connect};
use crate::source::catalog::{self, CatalogTable, Refusal};
use crate::source::connection::ReplicationConnection;
use crate::source::publication::{self, Publication};
use crate::source::slot::{self, SlotState};

/// What preparation found and made.
pub struct Prepared {
    /// An ordinary connection for catalog queries.
    pub client: Client,
    /// The captured set.
    pub tables: Vec<CatalogTable>,
    /// Tables that are in a managed publication and no longer wanted: to be dropped from it after
    /// the epoch entry.
    pub leaving: Vec<TableName>,
    /// Names in records.
    pub labels: Labels,
    /// The log, read to its end.
    pub log: OwnLog,
    /// Why tables that are selected are not captured.
    pub left_out: Vec<Refusal>,
}

/// What is there of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Existing {
    /// The commits topic.
    topic: bool,
    /// At least one valid entry in it.
    entries: bool,
    publication: bool,
    slot: bool,
}

/// What has to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Missing {
    publication: bool,
    slot: bool,
}

/// What a start may make, or why it must not.
fn decide(found: Existing, managed: bool) -> Result<Missing> {
    const ANEW: &str = "begin a new pipeline (another pipeline name, or delete slot, publication and the pipeline's topics): it copies every table again";
    if !managed && !found.publication {
        return Err(Error::halt(
            "the publication does not exist, and manage_publication is false",
            "create the publication, or set manage_publication = true",
        ));
    }
    if found.entries && !found.slot {
        return Err(Error::halt(
            "the commit log has entries, but the replication slot is gone: changes since then may be lost",
            ANEW,
        ));
    }
    if found.slot && !found.topic {
        return Err(Error::halt(
            "the replication slot exists, but the commits topic does not: what was published is lost",
            ANEW,
        ));
    }
    // The publication is made before the slot: a slot without one means that it was dropped.
    if !found.publication && (found.entries || found.slot) {
        return Err(Error::halt(
            "the publication is gone: changes since it was dropped were not sent",
            ANEW,
        ));
    }
    Ok(Missing {
        publication: !found.publication,
        slot: !found.slot,
    })
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
    let found_slot = slot::read(&client, &source.slot).await?;
    if let Some(found) = &found_slot {
        slot::check(found, &source.slot, &database)?;
    }
    let found_publication = publication::read(&client, &source.publication).await?;
    if let Some(found) = &found_publication {
        publication::check(found, &source.publication, source.manage_publication)?;
    }
    let mut tables = if source.manage_publication {
        let selection = Selection::new(&source.include, &source.exclude);
        catalog::selected(&client, &selection).await?
    } else {
        catalog::published(&client, &source.publication).await?
    };
    let (log, missing, mut left_out) = prepare_topics(
        context,
        topics,
        producer,
        &found_slot,
        &found_publication,
        &mut tables,
    )
    .await?;
    let leaving = if source.manage_publication {
        let (leaving, not_joined) =
            prepare_publication(context, &client, missing, found_publication, &tables).await?;
        for (table, error) in not_joined {
            let captured = log.ledger().captured().contains_key(&table);
            if captured || !log.has_entries() {
                return Err(error);
            }
            tables.retain(|other| other.schema.table != table);
            left_out.push(not_joined_refusal(table, &error));
        }
        leaving
    } else {
        Vec::new()
    };
    if missing.slot {
        create_slot(context).await?;
    }
    Ok(Prepared {
        client,
        tables,
        leaving,
        labels: Labels {
            pipeline: context.pipeline.clone(),
            database,
        },
        log,
        left_out,
    })
}

/// Takes refused tables out where that harms nobody: the set is walferry's to choose, the pipeline
/// runs already, and the table is not captured.
///
/// # Errors
/// Halt for all others that are refused.
fn leave_out(tables: &mut Vec<CatalogTable>, log: &OwnLog, managed: bool) -> Result<Vec<Refusal>> {
    let mut left_out = Vec::new();
    if managed && log.has_entries() {
        let captured = log.ledger().captured().values().copied().collect();
        left_out = catalog::leave_out(tables, &captured);
    }
    match refused(&catalog::refusals(tables)) {
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

async fn prepare_topics(
    context: &CaptureContext,
    topics: &Topics,
    producer: &EpochProducer,
    found_slot: &Option<SlotState>,
    found_publication: &Option<Publication>,
    tables: &mut Vec<CatalogTable>,
) -> Result<(OwnLog, Missing, Vec<Refusal>)> {
    let admin = TopicAdmin::open(&context.kafka)?;
    let mut names = vec![topics.commits(), topics.schemas(), topics.progress()];
    for table in tables.iter() {
        names.push(topics.table(&table.schema.table));
        names.push(topics.copy(&table.schema.table));
    }
    let there = admin.describe(&names).await?;
    let mut log = OwnLog::new(context.kafka.clone(), topics.commits());
    let topic = there.contains_key(&topics.commits());
    if topic {
        log.read_on(producer, producer.partition_slot(&topics.commits(), 0))
            .await?;
    }
    let missing = decide(
        Existing {
            topic,
            entries: log.has_entries(),
            publication: found_publication.is_some(),
            slot: found_slot.is_some(),
        },
        context.source.manage_publication,
    )?;
    let left_out = leave_out(tables, &log, context.source.manage_publication)?;
    let known = |name: &String| there.get(name).map(|state| state.partitions);
    if log.has_entries() {
        let mut needed = vec![topics.schemas()];
        needed.extend(log.ledger().captured().keys().filter_map(|table| {
            let still = tables.iter().any(|other| other.schema.table == *table);
            still.then(|| topics.table(table))
        }));
        if let Some(gone) = needed.iter().find(|name| known(name).is_none()) {
            return Err(Error::halt(
                format!("topic {gone} is gone, with the changes that followers may still need"),
                "begin a new pipeline (another pipeline name), which copies every table again",
            ));
        }
    }
    let specs = topic_specs(context, topics, tables, &known);
    admin.ensure(&specs).await?;
    let partitions: BTreeMap<&String, i32> = specs
        .iter()
        .map(|spec| (&spec.name, spec.partitions))
        .collect();
    for table in tables.iter_mut() {
        let count = partitions[&topics.table(&table.schema.table)];
        table.schema.partitions = u32::try_from(count).unwrap_or(1);
    }
    if !topic {
        log.read_on(producer, producer.partition_slot(&topics.commits(), 0))
            .await?;
    }
    Ok((log, missing, left_out))
}

/// All topics as they must be; those that are there keep their number of partitions.
fn topic_specs(
    context: &CaptureContext,
    topics: &Topics,
    tables: &[CatalogTable],
    known: &impl Fn(&String) -> Option<i32>,
) -> Vec<TopicSpec> {
    let single = |name: String, retention| TopicSpec {
        name,
        partitions: 1,
        retention,
    };
    let mut specs = vec![
        single(topics.commits(), Retention::Unlimited),
        single(topics.schemas(), Retention::Unlimited),
        single(topics.progress(), Retention::Compacted),
    ];
    let asked = i32::try_from(context.source.partitions).unwrap_or(i32::MAX);
    for table in tables {
        let (own, copy) = (
            topics.table(&table.schema.table),
            topics.copy(&table.schema.table),
        );
        let partitions = known(&own).or(known(&copy)).unwrap_or(asked);
        for name in [own, copy] {
            specs.push(TopicSpec {
                name,
                partitions,
                retention: Retention::Settings,
            });
        }
    }
    specs
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

async fn create_slot(context: &CaptureContext) -> Result<()> {
    let name = format!("walferry_{}", context.pipeline);
    let mut connection = ReplicationConnection::open(&context.source.postgres, &name, &[]).await?;
    let slot = connection
        .create_slot(&context.source.slot, false, false)
        .await?;
    tracing::info!(slot = %context.source.slot, lsn = %slot.consistent_point, "slot created");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_first_start_makes_things_and_nothing_lost_is_made_anew() {
        let found = |topic, entries, publication, slot| Existing {
            topic,
            entries,
            publication,
            slot,
        };
        let missing = |publication, slot| Some(Missing { publication, slot });
        for (existing, managed, wanted) in [
            (found(false, false, false, false), true, missing(true, true)),
            (found(true, false, false, false), true, missing(true, true)),
            (found(true, false, true, false), true, missing(false, true)),
            (found(true, false, true, true), true, missing(false, false)),
            (found(true, true, true, true), true, missing(false, false)),
            (found(true, true, true, true), false, missing(false, false)),
            (
                found(false, false, true, false),
                false,
                missing(false, true),
            ),
            (found(false, false, false, false), false, None),
            (found(true, true, true, false), true, None),
            (found(true, true, false, true), true, None),
            (found(true, false, false, true), true, None),
            (found(false, false, true, true), true, None),
        ] {
            let decided = decide(existing, managed);
            assert_eq!(decided.as_ref().ok(), wanted.as_ref(), "{existing:?}");
            if let Err(error) = decided {
                assert!(error.remedy().is_some());
            }
        }
    }
}
