//! Whether the captured set is still what the leader's catalog says. It is fixed for an epoch, so a
//! table that joins, leaves, or of which a publication leaves other rows or columns, needs a new one.
//!
//! What is left out on purpose is no difference: the catalog is read through the same refusals as
//! before an epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::Client;

use crate::capture::CaptureContext;
use crate::capture::prepare::{self, not_joined_refusal, refused};
use crate::capture::tables::captured_set;
use crate::error::{Error, Result};
use crate::log::commit_log::Captured;
use crate::model::{Oid, Selection, TableName};
use crate::postgres::connect;
use crate::source::catalog;
use crate::source::refusals::{self, Refusal};
use crate::source::{publication, published};
use crate::status::LastError;

/// Time between two looks at the catalog.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long one look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// The watch on an epoch's captured set.
pub struct Watch {
    /// The worker's context.
    pub context: CaptureContext,
    /// The captured set.
    pub captured: Vec<Captured>,
    /// Why tables that are selected are not captured.
    pub left_out: Vec<Refusal>,
    /// Whether a copy is under way.
    pub copying: watch::Receiver<bool>,
}

/// What the catalog says of the captured set now.
struct Seen {
    difference: Option<Difference>,
    left_out: Vec<Refusal>,
    /// The members of a managed publication.
    members: Option<BTreeSet<TableName>>,
    client: Client,
}

/// How the catalog differs from the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Difference {
    /// Captured tables are not published: their changes are being lost.
    Unpublished(Vec<TableName>),
    /// The publication leaves other rows or columns of captured tables: changes that followers need
    /// may be missing from now on.
    Limits(Vec<TableName>),
    /// Tables join, leave, or are others under the same name.
    Set {
        joining: Vec<TableName>,
        leaving: Vec<TableName>,
    },
}

/// Compares the captured set with the tables `now`, and those with a managed publication's.
fn difference(
    captured: &[Captured],
    now: &[Captured],
    published: Option<&BTreeSet<TableName>>,
) -> Option<Difference> {
    let before: BTreeMap<Oid, &Captured> = by_relation(captured);
    let current: BTreeMap<Oid, &Captured> = by_relation(now);
    let named = |tables: &[Captured], is: &dyn Fn(&Captured) -> bool| {
        let named = tables.iter().filter(|table| is(table));
        named.map(|table| table.table.clone()).collect::<Vec<_>>()
    };
    // By the names of now: the publication keeps a table that was renamed.
    let unpublished = named(now, &|table| {
        before.contains_key(&table.relation)
            && published.is_some_and(|published| !published.contains(&table.table))
    });
    if !unpublished.is_empty() {
        return Some(Difference::Unpublished(unpublished));
    }
    let limited = named(now, &|table| {
        let before = before.get(&table.relation);
        before.is_some_and(|before| before.limits != table.limits)
    });
    if !limited.is_empty() {
        return Some(Difference::Limits(limited));
    }
    let without = |some: &[Captured], others: &BTreeMap<Oid, &Captured>| {
        named(some, &|table| {
            let other = others.get(&table.relation);
            other.is_none_or(|other| other.table != table.table)
        })
    };
    let (joining, leaving) = (without(now, &before), without(captured, &current));
    (!joining.is_empty() || !leaving.is_empty()).then_some(Difference::Set { joining, leaving })
}

fn by_relation(tables: &[Captured]) -> BTreeMap<Oid, &Captured> {
    tables.iter().map(|table| (table.relation, table)).collect()
}

/// Whether the epoch ends for it. A new epoch voids a running copy, and a table may be made and
/// dropped at once: what joins or leaves waits until it is seen twice, or once where somebody has
/// `asked`, and no copy runs.
fn ends_epoch(found: &Difference, before: Option<&Difference>, copying: bool, asked: bool) -> bool {
    match found {
        Difference::Unpublished(_) | Difference::Limits(_) => true,
        Difference::Set { .. } => (asked || before == Some(found)) && !copying,
    }
}

impl Watch {
    /// Looks at the catalog now and then, and when it is asked to, for as long as the epoch lasts.
    ///
    /// # Errors
    /// Transient when the captured set is another one now.
    pub async fn run(mut self) -> Result<()> {
        let (mut before, mut asked) = (None, false);
        loop {
            asked |= self.next_look(asked).await;
            let looked = tokio::time::timeout(LOOK_TIMEOUT, self.look())
                .await
                .unwrap_or_else(|_elapsed| {
                    Err(Error::transient("the leader's catalog does not answer"))
                });
            let mut seen = match looked {
                Ok(seen) => seen,
                Err(error) => {
                    asked = false;
                    tracing::warn!(%error, "whether the captured set has changed is not known; trying again");
                    continue;
                }
            };
            let copying = *self.copying.borrow();
            let ending = seen
                .difference
                .as_ref()
                .is_some_and(|found| ends_epoch(found, before.as_ref(), copying, asked));
            let blocked = if ending {
                self.join(&mut seen).await
            } else {
                false
            };
            self.say_left_out(seen.left_out);
            if let Some(found) = &seen.difference
                && ending
                && !blocked
            {
                return Err(Error::transient(format!(
                    "the captured set changed: {}; beginning a new epoch",
                    described(found)
                )));
            }
            // What a copy holds up is looked at again when that is through.
            asked = asked && copying && seen.difference.is_some();
            before = seen.difference;
        }
    }

    /// Waits until it is time for a look; whether somebody asks for it. With `held_up` the end of the
    /// copy under way is waited for too.
    async fn next_look(&mut self, held_up: bool) -> bool {
        let copied = async {
            // An error means that the epoch is over.
            if self.copying.wait_for(|copying| !copying).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.context.look.notified() => true,
            () = copied, if held_up => true,
            () = tokio::time::sleep(INTERVAL) => false,
        }
    }

    /// Adds what joins to a managed publication already now, while the stream goes on: it may have to
    /// wait for locks. Whether no table has joined or left, so that a new epoch would change nothing.
    async fn join(&self, seen: &mut Seen) -> bool {
        let (Some(members), Some(Difference::Set { joining, leaving })) =
            (&seen.members, &seen.difference)
        else {
            return false;
        };
        let missing: Vec<&TableName> = joining
            .iter()
            .filter(|table| !members.contains(*table))
            .collect();
        let publication = &self.context.source.publication;
        let not_joined = prepare::join(&seen.client, publication, &missing).await;
        let blocked = leaving.is_empty() && not_joined.len() == joining.len();
        seen.left_out.extend(
            not_joined
                .into_iter()
                .map(|(table, error)| not_joined_refusal(table, &error)),
        );
        blocked
    }

    async fn look(&self) -> Result<Seen> {
        let source = &self.context.source;
        let name = format!("walferry_{}_catalog", self.context.pipeline);
        let client = connect(&source.postgres, &name).await?;
        catalog::prepare_session(&client).await?;
        let mut tables = if source.manage_publication {
            let selection = Selection::new(&source.include, &source.exclude);
            catalog::selected(&client, &selection).await?
        } else {
            published::tables(&client, &source.publication).await?
        };
        let captured = self.captured.iter().map(|table| table.relation).collect();
        let left_out = refusals::leave_out(&mut tables, &captured);
        let now = captured_set(&tables);
        // Of a publication that is used as it is, the tables above are the members.
        let members = match source.manage_publication {
            true => {
                let found = publication::read(&client, &source.publication).await?;
                Some(found.map(|found| found.tables).unwrap_or_default())
            }
            false => None,
        };
        Ok(Seen {
            difference: difference(&self.captured, &now, members.as_ref()),
            left_out,
            members,
            client,
        })
    }

    /// Says which tables are left out when they have become others.
    fn say_left_out(&mut self, now: Vec<Refusal>) {
        if now == self.left_out {
            return;
        }
        if let Some(error) = refused(&now) {
            tracing::warn!(%error, "tables are left out");
            self.context
                .status
                .update(|view| view.last_error = Some(LastError::now(&error)));
        }
        self.left_out = now;
    }
}

fn described(difference: &Difference) -> String {
    let list = |tables: &[TableName]| {
        let names: Vec<String> = tables.iter().map(TableName::to_string).collect();
        names.join(", ")
    };
    match difference {
        Difference::Unpublished(tables) => {
            format!("the publication has lost {}", list(tables))
        }
        Difference::Limits(tables) => {
            format!(
                "the publication has other row filters or column lists for {}",
                list(tables)
            )
        }
        Difference::Set { joining, leaving } => {
            let parts = [("joining", joining), ("leaving", leaving)];
            let parts: Vec<String> = parts
                .into_iter()
                .filter(|(_, tables)| !tables.is_empty())
                .map(|(what, tables)| format!("{what}: {}", list(tables)))
                .collect();
            parts.join("; ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Limits;

    fn set(tables: &[(&str, u32)]) -> Vec<Captured> {
        let table = |&(name, oid): &(&str, u32)| Captured {
            table: TableName::new("public", name),
            relation: Oid(oid),
            limits: Limits::default(),
        };
        tables.iter().map(table).collect()
    }

    fn names(names: &[&str]) -> Vec<TableName> {
        let name = |name: &&str| TableName::new("public", *name);
        names.iter().map(name).collect()
    }

    #[test]
    fn tables_that_join_leave_or_are_new_under_an_old_name_are_a_difference() {
        let captured = set(&[("a", 1), ("b", 2)]);
        let published: BTreeSet<TableName> = names(&["a", "b", "c", "extra"]).into_iter().collect();
        let differs = |now: &[(&str, u32)], joining: &[&str], leaving: &[&str]| {
            let found = difference(&captured, &set(now), Some(&published));
            let wanted = Difference::Set {
                joining: names(joining),
                leaving: names(leaving),
            };
            assert_eq!(found, Some(wanted), "{now:?}");
        };
        assert_eq!(difference(&captured, &captured, Some(&published)), None);
        assert_eq!(difference(&captured, &captured, None), None);
        differs(&[("a", 1), ("b", 2), ("c", 3)], &["c"], &[]);
        differs(&[("a", 1)], &[], &["b"]);
        differs(&[("a", 1), ("b", 9)], &["b"], &["b"]);
        differs(&[("a", 1), ("c", 2)], &["c"], &["b"]);
    }

    #[test]
    fn other_limits_of_a_captured_table_end_the_epoch_at_once() {
        let captured = set(&[("a", 1), ("b", 2)]);
        let mut now = set(&[("a", 1), ("b", 2), ("c", 3)]);
        now[1].limits.row_filter = Some("(id > 1)".to_owned());
        let found = difference(&captured, &now, None).expect("a difference");
        assert_eq!(found, Difference::Limits(names(&["b"])));
        assert!(ends_epoch(&found, None, true, false));
        assert!(described(&found).contains("public.b"));
        assert_eq!(difference(&now, &now, None), None);
        now[1].relation = Oid(9);
        let found = difference(&captured, &now, None);
        assert!(
            matches!(found, Some(Difference::Set { .. })),
            "another table"
        );
    }

    #[test]
    fn a_captured_table_that_is_not_published_ends_the_epoch_at_once_and_others_wait() {
        let captured = set(&[("a", 1), ("b", 2)]);
        let published: BTreeSet<TableName> = names(&["a"]).into_iter().collect();
        let lost = difference(&captured, &captured, Some(&published)).expect("a difference");
        assert_eq!(lost, Difference::Unpublished(names(&["b"])));
        assert!(ends_epoch(&lost, None, true, false));
        assert!(described(&lost).contains("public.b"));

        let joins = difference(&captured, &set(&[("a", 1), ("b", 2), ("c", 3)]), None);
        let joins = joins.expect("a difference");
        let ends = |before, copying, asked| ends_epoch(&joins, before, copying, asked);
        assert!(!ends(None, false, false), "seen once");
        assert!(!ends(Some(&joins), true, false), "a copy runs");
        assert!(!ends(Some(&lost), false, false), "another one");
        assert!(ends(Some(&joins), false, false));
        assert!(ends(None, false, true), "asked");
        assert!(!ends(Some(&joins), true, true), "asked while a copy runs");
        assert_eq!(described(&joins), "joining: public.c");
    }
}
