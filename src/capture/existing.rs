//! What is there of a pipeline on the leader and in Kafka, and making what a start may make.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_postgres::Client;

use crate::capture::CaptureContext;
use crate::capture::own_log::OwnLog;
use crate::error::{Error, NEW_PIPELINE, Result};
use crate::log::producer::EpochProducer;
use crate::log::takeover;
use crate::log::topics::{Retention, TopicAdmin, TopicSpec, TopicState, Topics};
use crate::source::catalog::CatalogTable;
use crate::source::connection::ReplicationConnection;
use crate::source::publication::{self, Publication};
use crate::source::slot::{self, SlotState};

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
pub(super) struct Missing {
    pub(super) publication: bool,
    pub(super) slot: bool,
}

/// What a start may make, or why it must not.
fn decide(found: Existing, managed: bool) -> Result<Missing> {
    if !managed && !found.publication {
        return Err(Error::halt(
            "the publication does not exist, and manage_publication is false",
            "create the publication, or set manage_publication = true",
        ));
    }
    if found.entries && !found.slot {
        return Err(Error::halt(
            "the commit log has entries, but the replication slot is gone: changes since then may be lost",
            NEW_PIPELINE,
        ));
    }
    if found.slot && !found.topic {
        return Err(Error::halt(
            "the replication slot exists, but the commits topic does not: what was published is lost, or in \
             another Kafka cluster",
            format!("set kafka.brokers to the cluster that has the topic, or {NEW_PIPELINE}"),
        ));
    }
    // The publication is made before the slot: a slot without one means that it was dropped.
    if !found.publication && (found.entries || found.slot) {
        return Err(Error::halt(
            "the publication is gone: changes since it was dropped were not sent",
            NEW_PIPELINE,
        ));
    }
    Ok(Missing {
        publication: !found.publication,
        slot: !found.slot,
    })
}

/// What was there when it was asked for.
pub(super) struct Found {
    pub(super) slot: Option<SlotState>,
    pub(super) publication: Option<Publication>,
    pub(super) topics: BTreeMap<String, TopicState>,
}

impl Found {
    fn partitions(&self, topic: &String) -> Option<i32> {
        self.topics.get(topic).map(|state| state.partitions)
    }
}

/// Where preparation looks and makes things.
pub(super) struct Places<'a> {
    pub(super) context: &'a CaptureContext,
    pub(super) topics: &'a Topics,
    pub(super) producer: &'a EpochProducer,
    pub(super) client: &'a Client,
    pub(super) admin: TopicAdmin,
    pub(super) database: &'a str,
}

impl Places<'_> {
    /// Looks at slot, publication and topics, and reads the log on.
    pub(super) async fn look(&self, tables: &[CatalogTable], log: &mut OwnLog) -> Result<Found> {
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
        let commits = self.producer.log_slot(&self.topics.commits());
        log.read_on(self.producer, commits).await?;
        Ok(())
    }

    /// What has to be made; nothing that was lost.
    pub(super) fn judge(
        &self,
        found: &Found,
        log: &OwnLog,
        tables: &[CatalogTable],
    ) -> Result<Missing> {
        let missing = decide(
            Existing {
                topic: found.topics.contains_key(&self.topics.commits()),
                entries: log.has_entries(),
                publication: found.publication.is_some(),
                slot: found.slot.is_some(),
            },
            self.context.source.manage_publication,
        )
        .map_err(|error| {
            let (slot, publication) = (&self.context.source.slot, &self.context.source.publication);
            error.at(format!("slot {slot}, publication {publication}"))
        })?;
        if log.has_entries() {
            let mut needed = vec![self.topics.schemas()];
            needed.extend(log.ledger().captured().keys().filter_map(|table| {
                let still = tables.iter().any(|other| other.schema.table == *table);
                still.then(|| self.topics.table(table))
            }));
            if let Some(gone) = needed.iter().find(|name| !found.topics.contains_key(*name)) {
                return Err(Error::halt(
                    format!("topic {gone} is gone, with the changes that followers may still need"),
                    NEW_PIPELINE,
                ));
            }
        }
        Ok(missing)
    }

    /// Checks that this is the server that the log was written from: another one has neither slot nor
    /// publication, and nothing is lost then.
    pub(super) async fn same_system(&self, log: &OwnLog) -> Result<()> {
        let name = format!("walferry_{}", self.context.pipeline);
        let postgres = &self.context.source.postgres;
        let mut connection = ReplicationConnection::open(postgres, &name, &[]).await?;
        let found = connection.identify_system().await?;
        takeover::same_system(&log.end(), &found.system_id)
    }

    /// Makes the topics that are missing, and tells the tables their number of partitions.
    pub(super) async fn make_topics(
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

    pub(super) async fn create_slot(&self) -> Result<()> {
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

/// The longest that any of the tables' topics keeps records; those not there yet are made as the
/// settings say. None: for ever, or not known.
pub(super) fn kept_for(
    set: Duration,
    topics: &Topics,
    tables: &[CatalogTable],
    found: &BTreeMap<String, TopicState>,
) -> Option<Duration> {
    names_of(topics, tables)
        .map(|name| found.get(&name))
        .try_fold(set, |longest, state| {
            let Some(state) = state else {
                return Some(longest);
            };
            Some(longest.max(state.retention()?))
        })
}

/// The shortest that any of the tables' topics keeps records; none: for ever, or there are none yet.
pub(super) fn shortest_kept(
    topics: &Topics,
    tables: &[CatalogTable],
    found: &BTreeMap<String, TopicState>,
) -> Option<Duration> {
    names_of(topics, tables)
        .filter_map(|name| found.get(&name)?.retention())
        .min()
}

/// The topics of tables: of their changes and of their copies.
fn names_of(topics: &Topics, tables: &[CatalogTable]) -> impl Iterator<Item = String> {
    tables.iter().flat_map(|table| {
        let table = &table.schema.table;
        [topics.table(table), topics.copy(table)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_kept_as_long_as_the_topic_that_keeps_longest() {
        let day = Duration::from_secs(86_400);
        let tables = ["a", "b"].map(|name| CatalogTable::bare(name, 1));
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
