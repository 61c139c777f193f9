//! `walferry rebuild`, `walferry resync`, `walferry replay --into`: order a follower to be built anew from Kafka,
//! or to be moved on to a boundary, and watch it.
//!
//! The order is written into the follower; the sink does it, wherever it runs. What is watched is the
//! follower's checkpoint, so the one who watches may go away and come back.

use std::collections::{BTreeMap, BTreeSet};

use super::reach::Log;
use super::tables::chosen;
use super::target::{Target, resolve};
use super::watch::{Process, Watch};
use super::{Failure, beside, sink_of};
use crate::apply::follow::Terms;
use crate::apply::orders;
use crate::config::{Settings, SinkSettings};
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Lsn, TableName};
use crate::sink::{self, StoredCheckpoint};

/// What is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    /// The sink.
    pub sink: String,
    /// What is to be done to it.
    pub what: What,
    /// Where to stop; none: the present.
    pub target: Option<Target>,
    /// Order it, and do not watch.
    pub detach: bool,
}

/// What is to be done to a follower.
#[derive(Debug)]
pub(super) enum What {
    /// All of it is built anew.
    Rebuild,
    /// Some tables are copied anew while the others go on.
    Resync {
        /// The tables.
        tables: Tables,
        /// No copy that is there by now is used: the source makes another one.
        fresh: bool,
    },
    /// It goes on from where it stands to the target, and stays.
    Replay {
        /// Where it is thought to stand.
        from: Option<Lsn>,
    },
}

/// Some tables of a sink.
#[derive(Debug)]
pub(super) enum Tables {
    /// Those that these patterns name.
    Named(Vec<String>),
    /// These.
    These(BTreeSet<TableName>),
}

/// How a follower is to be rebuilt.
#[derive(Debug)]
pub(super) struct Rebuild {
    /// Where to stop; none: the present.
    pub target: Option<Target>,
    /// Patterns of tables; all if there are none.
    pub tables: Vec<String>,
    /// A database to build the follower in, while the one that there is goes on.
    pub beside: Option<String>,
    /// Whether that may lack what somebody has made in the old one.
    pub leave_behind: bool,
    /// Order it, and do not watch.
    pub detach: bool,
}

impl Rebuild {
    /// Refuses what does not go together.
    fn is_possible(&self) -> Result<()> {
        let tables = !self.tables.is_empty();
        let (what, why) = match &self.beside {
            None if self.leave_behind => (
                "--leave-behind goes with --beside only",
                "leave it out: a follower that is rebuilt in its place keeps what else there is",
            ),
            None if tables && self.target.is_some() => (
                "some tables cannot be rebuilt to a position of their own: a follower shows one boundary",
                "leave --tables out, or rebuild another follower to that position and look there",
            ),
            Some(_) if tables => (
                "some tables cannot be built beside a follower: a database is, with all of them",
                "leave out --tables or --beside",
            ),
            Some(_) if self.target.is_some() => (
                "a follower that is built beside the old one takes its place when it shows as much",
                "leave out --beside to stop at a position",
            ),
            Some(_) if self.detach => (
                "what is built beside a follower is built by the command itself",
                "leave out --detach, and keep the command running",
            ),
            None | Some(_) => return Ok(()),
        };
        Err(Error::halt(what, why))
    }
}

/// Rebuilds a follower; what is to be said of it then.
pub(super) async fn rebuild(
    settings: &Settings,
    sink: String,
    how: Rebuild,
) -> Result<Option<String>, Failure> {
    how.is_possible().map_err(Failure::Usage)?;
    if let Some(database) = &how.beside {
        let built = beside::run(settings, &sink, database, how.leave_behind).await;
        return built.map(Some);
    }
    let what = match how.tables.is_empty() {
        true => What::Rebuild,
        false => What::Resync {
            tables: Tables::Named(how.tables),
            fresh: false,
        },
    };
    let asked = Asked {
        sink,
        what,
        target: how.target,
        detach: how.detach,
    };
    run(settings, asked).await
}

/// Writes the order, and watches until it is carried out. What is to be said of the follower then; none where
/// nobody watches.
pub(super) async fn run(settings: &Settings, asked: Asked) -> Result<Option<String>, Failure> {
    let sink = sink_of(settings, &asked.sink)?;
    let terms = Terms::of(&settings.pipeline, sink, true);
    let mut target = match asked.target {
        Some(target) => Some(
            resolve(&settings.kafka, &terms, target)
                .await
                .map_err(Failure::of)?,
        ),
        None => None,
    };
    let mut log = Log::open(settings, &terms, target)
        .await
        .map_err(Failure::of)?;
    if let (What::Replay { .. }, None) = (&asked.what, target) {
        target = Some(log.stop_at_end());
    }
    let mut follower = sink::checkpoint(&settings.pipeline, sink)
        .await
        .map_err(Failure::of)?;
    let ordered = write(follower.as_mut(), &asked, &log, &terms)
        .await
        .map_err(Failure::of)?;
    eprintln!("{}", ordered.said);
    let process = Process::of(settings, &sink.name)?;
    process.wake().await;
    if asked.detach {
        return Ok(None);
    }
    let mut watch = Watch {
        settings,
        sink,
        follower,
        process: Some(&process),
        terms: &terms,
        tables: ordered.tables,
        is_whole: !matches!(asked.what, What::Resync { .. }),
        from: ordered.from,
        target,
    };
    watch.until_done(&mut log).await.map(Some)
}

/// What was ordered.
struct Ordered {
    /// The tables concerned.
    tables: BTreeSet<TableName>,
    /// Where the follower goes on from, if it keeps what it has.
    from: Option<Lsn>,
    said: String,
}

/// Changes the follower's checkpoint.
async fn write(
    follower: &mut dyn StoredCheckpoint,
    asked: &Asked,
    log: &Log,
    terms: &Terms,
) -> Result<Ordered> {
    let captured = log.now.ledger.captured().keys();
    let all: BTreeSet<TableName> = captured
        .filter(|table| terms.selection.takes(table))
        .cloned()
        .collect();
    let (sink, target) = (&asked.sink, log.then.target);
    match &asked.what {
        What::Rebuild => {
            log.reaches_target(&BTreeSet::new())?;
            let make = |version| orders::rebuilt(version, target);
            follower.replace(Box::new(make)).await?;
            let until = target.map(|target| format!(", up to {target}"));
            let until = until.unwrap_or_default();
            Ok(Ordered {
                said: format!("{sink}: all {} tables are built anew{until}", all.len()),
                tables: all,
                from: None,
            })
        }
        What::Resync { tables, fresh } => {
            let tables = named(tables, &all)?;
            let refused: BTreeMap<TableName, BTreeSet<i64>> = tables
                .iter()
                .filter(|_| *fresh)
                .map(|table| (table.clone(), log.now.ledger.of(table)))
                .collect();
            let revised = follower.revise(Box::new(|known| {
                let known = known.ok_or_else(|| without_checkpoint(sink))?;
                orders::resynced(known, &tables, &refused, terms)
            }));
            revised.await?;
            let what = match tables.len() {
                1 => "one table is".to_owned(),
                number => format!("{number} tables are"),
            };
            Ok(Ordered {
                tables,
                from: None,
                said: format!("{sink}: {what} copied anew; the others go on"),
            })
        }
        What::Replay { from } => {
            let to = target.unwrap_or(Lsn::ZERO);
            let mut begins = Lsn::ZERO;
            let revised = follower.revise(Box::new(|known| {
                let known = known.ok_or_else(|| without_checkpoint(sink))?;
                log.reaches_target(&known.in_effect)?;
                begins = known.boundary();
                orders::moved(known, (*from, to), sink, terms)
            }));
            revised.await?;
            Ok(Ordered {
                tables: all,
                from: Some(begins),
                said: format!("{sink}: goes on from {begins} to {to}, and stays there"),
            })
        }
    }
}

fn named(tables: &Tables, all: &BTreeSet<TableName>) -> Result<BTreeSet<TableName>> {
    match tables {
        Tables::Named(patterns) => {
            let all: Vec<&TableName> = all.iter().collect();
            Ok(chosen(&all, patterns)?.into_iter().collect())
        }
        Tables::These(tables) => Ok(tables.clone()),
    }
}

fn without_checkpoint(sink: &str) -> Error {
    Error::halt(
        format!("sink {sink} has no checkpoint on its follower yet"),
        "start it with walferry run: it copies every table",
    )
}

/// Lets a follower that was to stop at a position follow again; `false` when it was not, or cannot be asked.
pub(super) async fn resume(settings: &Settings, name: &str) -> Result<bool, Failure> {
    let named = |sink: &&SinkSettings| sink.name == name && sink.is_follower();
    let Some(sink) = settings.sinks.iter().find(named) else {
        return Ok(false);
    };
    let Ok(mut follower) = sink::checkpoint(&settings.pipeline, sink).await else {
        return Ok(false);
    };
    let is_to_stop =
        |known: &Option<Checkpoint>| known.as_ref().is_some_and(|k| k.stops_at().is_some());
    if !is_to_stop(&follower.look().await.map_err(Failure::of)?) {
        return Ok(false);
    }
    let revised = follower.revise(Box::new(|known| {
        known.and_then(orders::resumed).ok_or_else(|| {
            Error::transient("the follower was resumed by somebody else this moment")
        })
    }));
    revised.await.map_err(Failure::of)?;
    // It may have halted on its way there.
    Process::of(settings, &sink.name)?.wake().await;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_go_together_is_refused_with_a_reason() {
        let plain = || Rebuild {
            target: None,
            tables: Vec::new(),
            beside: None,
            leave_behind: false,
            detach: false,
        };
        let tables = || vec!["t".to_owned()];
        let beside = || Rebuild {
            beside: Some("new".to_owned()),
            ..plain()
        };
        let target = Some(Target::Lsn(Lsn(1)));
        for (how, part) in [
            (
                Rebuild {
                    leave_behind: true,
                    ..plain()
                },
                "--leave-behind",
            ),
            (
                Rebuild {
                    tables: tables(),
                    target,
                    ..plain()
                },
                "one boundary",
            ),
            (
                Rebuild {
                    tables: tables(),
                    ..beside()
                },
                "with all of them",
            ),
            (Rebuild { target, ..beside() }, "shows as much"),
            (
                Rebuild {
                    detach: true,
                    ..beside()
                },
                "by the command itself",
            ),
        ] {
            let error = how.is_possible().unwrap_err();
            assert!(error.what().contains(part), "{error}");
        }
        for how in [
            plain(),
            Rebuild { target, ..plain() },
            Rebuild {
                tables: tables(),
                detach: true,
                ..plain()
            },
            Rebuild {
                leave_behind: true,
                ..beside()
            },
        ] {
            assert!(how.is_possible().is_ok(), "{how:?}");
        }
    }
}
