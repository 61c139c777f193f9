//! Before an epoch: the tables, the topics, the publication, the slot.
//!
//! Idempotent. Only a pipeline's very first start makes a publication and a slot; once the log has
//! an entry, what is missing is lost, and making it anew would hide that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio_postgres::Client;

use crate::capture::CaptureContext;
use crate::capture::own_log::OwnLog;
use crate::capture::tables::Labels;
use crate::error::{Error, Result};
use crate::killpoint::{self, Point};
use crate::log::commit_log::Captured;
use crate::log::producer::EpochProducer;
use crate::log::topics::{Retention, TopicAdmin, TopicSpec, TopicState, Topics};
use crate::model::{Epoch, Selection, TableName};
use crate::postgres::{classify, connect};
use crate::source::catalog::{self, CatalogTable, Refusal};
use crate::source::connection::ReplicationConnection;
use crate::source::full_identity;
use crate::source::publication::{self, Publication};
use crate::source::published;
use crate::source::slot::{self, SlotState};

/// What preparation found and made.
pub struct Prepared {
    /// An ordinary connection for catalog queries.
    pub client: Client,
    /// The captured set.
    pub tables: Vec<CatalogTable>,
    /// Tables that somebody dropped from the managed publication: left out of this epoch, which ends
    /// once the log says so; the next one captures and copies them.
    pub dropped: Vec<TableName>,
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
    let mut tables = if source.manage_publication {
        let selection = Selection::new(&source.include, &source.exclude);
        catalog::selected(&client, &selection).await?
    } else {
        published::tables(&client, &source.publication).await?
    };
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
            places.judge(&found, &log, &tables)?
        }
    };
    let mut left_out = leave_out(&mut tables, &log, source.manage_publication)?;
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
    let retention = kept_for(context.kafka.retention, topics, &tables, &found.topics);
    Ok(Prepared {
        tables,
        dropped,
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

/// What was there when it was asked for.
struct Found {
    slot: Option<SlotState>,
    publication: Option<Publication>,
    topics: BTreeMap<String, TopicState>,
}

impl Found {
    fn partitions(&self, topic: &String) -> Option<i32> {
        self.topics.get(topic).map(|state| state.partitions)
    }
}

/// Where preparation looks and makes things.
struct Places<'a> {
    context: &'a CaptureContext,
    topics: &'a Topics,
    producer: &'a EpochProducer,
    client: &'a Client,
    admin: TopicAdmin,
    database: &'a str,
}

impl Places<'_> {
    /// Looks at slot, publication and topics, and reads the log on.
    async fn look(&self, tables: &[CatalogTable], log: &mut OwnLog) -> Result<Found> {
        let (source, topics) = (&self.context.source, self.topics);
        let slot = slot::read(self.client, &source.slot).await?;
        if let Some(found) = &slot {
            slot::check(found, &source.slot, self.database)?;
        }
        let publication = publication::read(self.client, &source.publication).await?;
        if let Some(found) = &publication {
            publication::check(found, &source.publication, source.manage_publication)?;
        }
        let mut names = vec![topics.commits(), topics.schemas(), topics.progress()];
        for table in tables {
            names.push(topics.table(&table.schema.table));
            names.push(topics.copy(&table.schema.table));
        }
        let found = Found {
            slot,
            publication,
            topics: self.admin.describe(&names).await?,
        };
        if found.topics.contains_key(&topics.commits()) {
            self.read_on(log).await?;
        }
        Ok(found)
    }

    async fn read_on(&self, log: &mut OwnLog) -> Result<()> {
        let commits = self.producer.partition_slot(&self.topics.commits(), 0);
        log.read_on(self.producer, commits).await?;
        Ok(())
    }

    /// What has to be made; nothing that was lost.
    fn judge(&self, found: &Found, log: &OwnLog, tables: &[CatalogTable]) -> Result<Missing> {
        let missing = decide(
            Existing {
                topic: found.topics.contains_key(&self.topics.commits()),
                entries: log.has_entries(),
                publication: found.publication.is_some(),
                slot: found.slot.is_some(),
            },
            self.context.source.manage_publication,
        )?;
        if log.has_entries() {
            let mut needed = vec![self.topics.schemas()];
            needed.extend(log.ledger().captured().keys().filter_map(|table| {
                let still = tables.iter().any(|other| other.schema.table == *table);
                still.then(|| self.topics.table(table))
            }));
            if let Some(gone) = needed.iter().find(|name| !found.topics.contains_key(*name)) {
                return Err(Error::halt(
                    format!("topic {gone} is gone, with the changes that followers may still need"),
                    "begin a new pipeline (another pipeline name), which copies every table again",
                ));
            }
        }
        Ok(missing)
    }

    /// Makes the topics that are missing, and tells the tables their number of partitions.
    async fn make_topics(
        &self,
        found: &Found,
        log: &mut OwnLog,
        tables: &mut [CatalogTable],
    ) -> Result<()> {
        let specs = topic_specs(self.context, self.topics, tables, &|name| {
            found.partitions(name)
        });
        self.admin.ensure(&specs).await?;
        let partitions: BTreeMap<&String, i32> = specs
            .iter()
            .map(|spec| (&spec.name, spec.partitions))
            .collect();
        for table in tables.iter_mut() {
            let count = partitions[&self.topics.table(&table.schema.table)];
            table.schema.partitions = u32::try_from(count).unwrap_or(1);
        }
        if !found.topics.contains_key(&self.topics.commits()) {
            self.read_on(log).await?;
        }
        Ok(())
    }

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

    async fn create_slot(&self) -> Result<()> {
        let (source, name) = (
            &self.context.source,
            format!("walferry_{}", self.context.pipeline),
        );
        let mut connection = ReplicationConnection::open(&source.postgres, &name, &[]).await?;
        match connection.create_slot(&source.slot, false, false).await {
            Ok(slot) => {
                tracing::info!(slot = %source.slot, lsn = %slot.consistent_point, "slot created");
                Ok(())
            }
            Err(error) if slot::read(self.client, &source.slot).await?.is_some() => {
                Err(Error::transient("another instance is making the slot").caused_by(error.what()))
            }
            Err(error) => Err(error),
        }
    }
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

/// The longest that any of the tables' topics keeps records; those not there yet are made as the
/// settings say. None: for ever, or not known.
fn kept_for(
    set: Duration,
    topics: &Topics,
    tables: &[CatalogTable],
    found: &BTreeMap<String, TopicState>,
) -> Option<Duration> {
    let names = tables.iter().flat_map(|table| {
        let table = &table.schema.table;
        [topics.table(table), topics.copy(table)]
    });
    names
        .map(|name| found.get(&name))
        .try_fold(set, |longest, state| {
            let Some(state) = state else {
                return Some(longest);
            };
            let millis = state.config.get("retention.ms")?.parse::<u64>().ok()?;
            Some(longest.max(Duration::from_millis(millis)))
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Limits, Oid, ReplicaIdentity, TableSchema};

    fn table(name: &str, oid: u32) -> CatalogTable {
        CatalogTable {
            schema: TableSchema {
                table: TableName::new("public", name),
                relation: Oid(oid),
                columns: Vec::new(),
                key: Vec::new(),
                primary_key: Vec::new(),
                identity: ReplicaIdentity::Default,
                partitions: 1,
                types: Vec::new(),
            },
            leaves: Vec::new(),
            partitioned: false,
            rows_estimate: None,
            limits: Limits::default(),
            missing_key_columns: Vec::new(),
        }
    }

    #[test]
    fn the_log_is_kept_as_long_as_the_topic_that_keeps_longest() {
        let day = Duration::from_secs(86_400);
        let tables = ["a", "b"].map(|name| table(name, 1));
        let topics = Topics::new("p");
        let with = |retention: &[(&str, &str)]| {
            let state = |&(name, ms): &(&str, &str)| {
                let state = TopicState {
                    partitions: 1,
                    config: BTreeMap::from([("retention.ms".to_owned(), ms.to_owned())]),
                    replication: 1,
                };
                (name.to_owned(), state)
            };
            let found = retention.iter().map(state).collect();
            kept_for(day, &topics, &tables, &found)
        };
        assert_eq!(with(&[]), Some(day));
        assert_eq!(with(&[("p.public.a", "1000")]), Some(day));
        let longer = [("p.public.a", "1000"), ("p.copy.public.b", "172800000")];
        assert_eq!(with(&longer), Some(2 * day));
        assert_eq!(with(&[("p.public.b", "-1")]), None, "for ever");
        assert_eq!(with(&[("p.commits", "-1")]), Some(day), "no table's topic");
    }

    #[test]
    fn a_table_that_somebody_dropped_from_the_publication_is_told_from_one_that_joins() {
        let name = |name: &str| TableName::new("public", name);
        let tables = [
            table("stays", 1),
            table("dropped", 2),
            table("joins", 3),
            table("made_anew", 5),
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
