//! Applying a table's plan, set-based: deletes, updates and moves, then inserts, several statements a packet.
//!
//! Few rows are found by their keys one by one, many by a join with a table made of the statement's own literals,
//! its side of the join always first. A swap of values under a unique index collides row by row although the whole
//! does not. Where that can happen the updates run under a savepoint; on a collision, and for moves whose new keys
//! are other moves' old ones, rows are replaced: the old rows go into a temporary table, all of them leave the
//! table, and the final images come in, with what they do not say from the temporary table.

use std::collections::HashSet;

use super::encode::Form;
use super::load;
use super::statements::{Columns, Failed, Scope, Work, is_conflict, one};
use super::wire::Expected;
use crate::model::batch::Step;
use crate::model::{Cell, Change, NetChange, Op, RowRef, UpdateGroup};

/// Up to this many rows are updated or deleted one by one.
const ONE_BY_ONE: usize = 8;
/// Up to this many keys are changed one by one.
const MOVES_ONE_BY_ONE: usize = 64;

/// Holds old rows while they are replaced.
const OLD_ROWS: &str = "walferry_old_rows";
/// Its number of a row; no column of the leader's ends in a blank sign like this.
const OLD_NUMBER: &str = "`walferry n\u{a0}`";

/// Applies one step.
pub(super) async fn apply_step(
    work: &mut Work<'_>,
    scope: Scope<'_>,
    step: &Step,
) -> Result<(), Failed> {
    match step {
        Step::Truncate => truncate(work, scope).await,
        Step::Net(net) => apply_net(work, scope, net).await,
        Step::Ordered(changes) => apply_ordered(work, scope, changes).await,
    }
}

/// Empties the table: TRUNCATE would commit the transaction.
async fn truncate(work: &mut Work<'_>, scope: Scope<'_>) -> Result<(), Failed> {
    let sql = format!("DELETE FROM {}", scope.table.quoted);
    work.push(scope.label("truncating"), &sql, Expected::Any)
        .await?;
    Ok(())
}

async fn apply_net(work: &mut Work<'_>, scope: Scope<'_>, net: &NetChange) -> Result<(), Failed> {
    delete(work, scope, &net.deletes, "deleting").await?;
    if !moves_are_plain(scope, net) {
        replace(work, scope, net).await?;
    } else if may_collide(scope, net) {
        update_or_replace(work, scope, net).await?;
    } else {
        update(work, scope, net).await?;
    }
    insert(work, scope, &net.inserts).await
}

/// Whether the new key of no move is the old one of another.
fn moves_are_plain(scope: Scope<'_>, net: &NetChange) -> bool {
    if net.moves.len() > MOVES_ONE_BY_ONE {
        return false;
    }
    let key = |row: RowRef| -> Vec<Option<&[u8]>> {
        let cells = scope.rows.row(row);
        let key = scope.table.schema.key.iter();
        key.map(|&column| scope.rows.text(cells[column])).collect()
    };
    let old: HashSet<_> = net.moves.iter().map(|&(from, _)| key(from)).collect();
    net.moves.len() <= 1 || net.moves.iter().all(|&(_, to)| !old.contains(&key(to)))
}

/// Whether updates can meet one another under another unique index. One row alone cannot: deletes are done by then,
/// and inserts come after.
fn may_collide(scope: Scope<'_>, net: &NetChange) -> bool {
    let updated: usize = net.updates.iter().map(|group| group.rows.len()).sum();
    if updated + net.moves.len() <= 1 {
        return false;
    }
    let contested = |&column: &usize| scope.table.columns[column].contested;
    let mut columns = net.updates.iter().flat_map(|group| &group.columns);
    columns.any(contested) || (!net.moves.is_empty() && scope.table.is_contested())
}

async fn update(work: &mut Work<'_>, scope: Scope<'_>, net: &NetChange) -> Result<(), Failed> {
    for group in &net.updates {
        update_group(work, scope, group).await?;
    }
    for &(from, to) in &net.moves {
        let cells = scope.rows.row(to);
        let written = scope.table.written.iter().copied();
        let set: Vec<usize> = written.filter(|&n| cells[n] != Cell::Absent).collect();
        let label = scope.label("changing a key");
        one(work, label, Expected::Exactly(1), |sql| {
            sql.extend_from_slice(format!("UPDATE {} SET ", scope.table.quoted).as_bytes());
            scope.put_set(to, &set, sql)?;
            sql.extend_from_slice(b" WHERE ");
            scope.put_key(from, sql)
        })
        .await?;
    }
    Ok(())
}

async fn update_group(
    work: &mut Work<'_>,
    scope: Scope<'_>,
    group: &UpdateGroup,
) -> Result<(), Failed> {
    let table = scope.table;
    let mut set = group.columns.clone();
    set.retain(|&column| table.writes(column));
    if set.is_empty() {
        return Ok(());
    }
    if group.rows.len() <= ONE_BY_ONE {
        for &row in &group.rows {
            let label = scope.label("updating");
            one(work, label, Expected::Exactly(1), |sql| {
                sql.extend_from_slice(format!("UPDATE {} SET ", table.quoted).as_bytes());
                scope.put_set(row, &set, sql)?;
                sql.extend_from_slice(b" WHERE ");
                scope.put_key(row, sql)
            })
            .await?;
        }
        return Ok(());
    }
    let mut columns = key_columns(scope);
    let mut names = key_names(scope);
    columns.extend(set.iter().map(|&column| (column, Form::Assigned)));
    names.extend((0..set.len()).map(|n| format!("c{n}")));
    let assigned: Vec<String> = set
        .iter()
        .enumerate()
        .map(|(n, &column)| format!("t.{} = s.c{n}", table.columns[column].quoted))
        .collect();
    let (made, each, behind) = scope.made_table(&names);
    let head = format!("UPDATE {made}");
    let tail = format!(
        "{behind} STRAIGHT_JOIN {} ON {} SET {}",
        scope.by_key(),
        scope.joined(),
        assigned.join(", ")
    );
    let columns = Columns {
        all: &columns,
        numbered: false,
    };
    let rows = numbered(&group.rows);
    scope
        .list(
            work,
            "updating",
            (&head, each, &tail),
            &columns,
            &rows,
            Expected::Exactly,
        )
        .await
}

fn key_columns(scope: Scope<'_>) -> Vec<(usize, Form)> {
    let key = scope.table.schema.key.iter();
    key.map(|&column| (column, Form::Joined)).collect()
}

fn key_names(scope: Scope<'_>) -> Vec<String> {
    (0..scope.table.schema.key.len())
        .map(|n| format!("k{n}"))
        .collect()
}

fn numbered(rows: &[RowRef]) -> Vec<(usize, RowRef)> {
    rows.iter().copied().enumerate().collect()
}

async fn delete(
    work: &mut Work<'_>,
    scope: Scope<'_>,
    rows: &[RowRef],
    doing: &'static str,
) -> Result<(), Failed> {
    if rows.len() <= ONE_BY_ONE {
        for &row in rows {
            one(work, scope.label(doing), Expected::Rows(1), |sql| {
                sql.extend_from_slice(
                    format!("DELETE FROM {} WHERE ", scope.table.quoted).as_bytes(),
                );
                scope.put_key(row, sql)
            })
            .await?;
        }
        return Ok(());
    }
    let (made, each, behind) = scope.made_table(&key_names(scope));
    let head = format!("DELETE t FROM {made}");
    let tail = format!(
        "{behind} STRAIGHT_JOIN {} ON {}",
        scope.by_key(),
        scope.joined()
    );
    let columns = Columns {
        all: &key_columns(scope),
        numbered: false,
    };
    let rows = numbered(rows);
    scope
        .list(
            work,
            doing,
            (&head, each, &tail),
            &columns,
            &rows,
            Expected::Rows,
        )
        .await
}

/// Inserts whole rows, many of them by LOAD DATA.
pub(super) async fn insert(
    work: &mut Work<'_>,
    scope: Scope<'_>,
    rows: &[RowRef],
) -> Result<(), Failed> {
    if load::is_good_for(work, rows) && load::load(work, scope, rows).await? {
        return Ok(());
    }
    let table = scope.table;
    let names = scope.names(&table.written).join(",");
    let head = format!("INSERT INTO {} ({names}) VALUES ", table.quoted);
    let columns: Vec<(usize, Form)> = table.written.iter().map(|&n| (n, Form::Assigned)).collect();
    let columns = Columns {
        all: &columns,
        numbered: false,
    };
    let rows = numbered(rows);
    scope
        .list(
            work,
            "inserting",
            (&head, "", ""),
            &columns,
            &rows,
            Expected::Exactly,
        )
        .await
}

async fn update_or_replace(
    work: &mut Work<'_>,
    scope: Scope<'_>,
    net: &NetChange,
) -> Result<(), Failed> {
    // Whatever fails from here on is under the savepoint.
    work.send().await?;
    let label = || scope.label("setting a savepoint");
    work.push(label(), "SAVEPOINT walferry", Expected::Any)
        .await?;
    let mut updated = update(work, scope, net).await;
    if updated.is_ok() {
        updated = work.send().await.map_err(Failed::from);
    }
    match updated {
        Ok(()) => {
            work.push(label(), "RELEASE SAVEPOINT walferry", Expected::Any)
                .await?;
            Ok(())
        }
        Err(failed) if is_conflict(&failed) => {
            work.discard();
            work.push(label(), "ROLLBACK TO SAVEPOINT walferry", Expected::Any)
                .await?;
            replace(work, scope, net).await
        }
        Err(failed) => Err(failed),
    }
}

/// Updates and moves at once: all old rows go before the first new one comes.
async fn replace(work: &mut Work<'_>, scope: Scope<'_>, net: &NetChange) -> Result<(), Failed> {
    let table = scope.table;
    let updated = || net.updates.iter().flat_map(|group| &group.rows).copied();
    let old: Vec<RowRef> = updated().chain(net.moves.iter().map(|m| m.0)).collect();
    let last: Vec<RowRef> = updated().chain(net.moves.iter().map(|m| m.1)).collect();
    let label = || scope.label("replacing");
    let mut kept: Vec<&str> = scope.names(&table.written);
    kept.extend(table.extras.iter().map(String::as_str));
    let of_table: Vec<String> = kept.iter().map(|name| format!("t.{name}")).collect();
    let of_table = of_table.join(",");
    for sql in [
        format!("DROP TEMPORARY TABLE IF EXISTS {OLD_ROWS}"),
        format!(
            "CREATE TEMPORARY TABLE {OLD_ROWS} ({OLD_NUMBER} BIGINT NOT NULL PRIMARY KEY) ENGINE=InnoDB AS \
             SELECT 0 AS {OLD_NUMBER},{of_table} FROM {} AS t LIMIT 0",
            table.quoted
        ),
    ] {
        work.push(label(), &sql, Expected::Any).await?;
    }
    let mut names = vec!["n".to_owned()];
    names.extend(key_names(scope));
    let (made, each, behind) = scope.made_table(&names);
    let head = format!(
        "INSERT INTO {OLD_ROWS} ({OLD_NUMBER},{}) SELECT s.n,{of_table} FROM {made}",
        kept.join(",")
    );
    let tail = format!(
        "{behind} STRAIGHT_JOIN {} ON {}",
        scope.by_key(),
        scope.joined()
    );
    let columns = Columns {
        all: &key_columns(scope),
        numbered: true,
    };
    scope
        .list(
            work,
            "replacing",
            (&head, each, &tail),
            &columns,
            &numbered(&old),
            Expected::Rows,
        )
        .await?;
    delete(work, scope, &old, "replacing").await?;
    for (present, rows) in by_presence(scope, &last) {
        replaced(work, scope, &present, &rows).await?;
    }
    let drop = format!("DROP TEMPORARY TABLE {OLD_ROWS}");
    work.push(label(), &drop, Expected::Any).await?;
    Ok(())
}

/// Columns that are known, and the rows that have just these, each with a number.
type Present = (Vec<usize>, Vec<(usize, RowRef)>);

/// Final images by the columns that they have, each with the number of its old row.
fn by_presence(scope: Scope<'_>, last: &[RowRef]) -> Vec<Present> {
    let mut groups: Vec<Present> = Vec::new();
    for (n, &row) in last.iter().enumerate() {
        let cells = scope.rows.row(row);
        let written = scope.table.written.iter().copied();
        let present: Vec<usize> = written.filter(|&n| cells[n] != Cell::Absent).collect();
        match groups.iter_mut().find(|group| group.0 == present) {
            Some(group) => group.1.push((n, row)),
            None => groups.push((present, vec![(n, row)])),
        }
    }
    groups
}

/// Brings final images in: columns that they have from them, others from the old rows.
async fn replaced(
    work: &mut Work<'_>,
    scope: Scope<'_>,
    present: &[usize],
    rows: &[(usize, RowRef)],
) -> Result<(), Failed> {
    let table = scope.table;
    let mut names = vec!["n".to_owned()];
    names.extend((0..present.len()).map(|n| format!("c{n}")));
    let mut into: Vec<&str> = scope.names(&table.written);
    let mut from: Vec<String> = Vec::with_capacity(into.len());
    for &column in &table.written {
        from.push(match present.iter().position(|n| *n == column) {
            Some(n) => format!("s.c{n}"),
            None => format!("o.{}", table.columns[column].quoted),
        });
    }
    into.extend(table.extras.iter().map(String::as_str));
    from.extend(table.extras.iter().map(|extra| format!("o.{extra}")));
    let (made, each, behind) = scope.made_table(&names);
    let head = format!(
        "INSERT INTO {} ({}) SELECT {} FROM {made}",
        table.quoted,
        into.join(","),
        from.join(",")
    );
    let tail = format!("{behind} STRAIGHT_JOIN {OLD_ROWS} AS o ON o.{OLD_NUMBER} = s.n");
    let columns: Vec<(usize, Form)> = present.iter().map(|&n| (n, Form::Assigned)).collect();
    let columns = Columns {
        all: &columns,
        numbered: true,
    };
    scope
        .list(
            work,
            "replacing",
            (&head, each, &tail),
            &columns,
            rows,
            Expected::Exactly,
        )
        .await
}

/// Tables without a key: one change after the other, each delete and update on exactly one of possibly several
/// equal rows, found by the whole of their old content. Runs of inserts go together.
async fn apply_ordered(
    work: &mut Work<'_>,
    scope: Scope<'_>,
    changes: &[Change],
) -> Result<(), Failed> {
    let mut inserts: Vec<RowRef> = Vec::new();
    for change in changes {
        if let (Op::Insert | Op::Read, Some(row)) = (change.op, change.after) {
            inserts.push(row);
            continue;
        }
        insert(work, scope, &std::mem::take(&mut inserts)).await?;
        match change.op {
            Op::Insert | Op::Read => {
                unreachable!("an insert has a new row: {}", change.position)
            }
            Op::Truncate => truncate(work, scope).await?,
            Op::Delete => {
                let label = scope.label("deleting one row without a key");
                one(work, label, Expected::Rows(1), |sql| {
                    sql.extend_from_slice(format!("DELETE FROM {}", scope.table.quoted).as_bytes());
                    put_content(scope, old_row(change), sql)
                })
                .await?;
            }
            Op::Update => {
                let new = change
                    .after
                    .unwrap_or_else(|| panic!("an update has a new row: {}", change.position));
                update_one(work, scope, old_row(change), new).await?;
            }
        }
    }
    insert(work, scope, &inserts).await
}

/// Without a key the replica identity is FULL, or no update and no delete can be published.
fn old_row(change: &Change) -> RowRef {
    change
        .before
        .unwrap_or_else(|| panic!("a table without a key has old rows: {}", change.position))
}

async fn update_one(
    work: &mut Work<'_>,
    scope: Scope<'_>,
    old: RowRef,
    new: RowRef,
) -> Result<(), Failed> {
    let set = present(scope, new);
    if set.is_empty() {
        return Ok(());
    }
    let label = scope.label("updating one row without a key");
    one(work, label, Expected::Exactly(1), |sql| {
        sql.extend_from_slice(format!("UPDATE {} SET ", scope.table.quoted).as_bytes());
        scope.put_set(new, &set, sql)?;
        put_content(scope, old, sql)
    })
    .await
}

/// Columns that are known here and are the leader's on the follower too.
fn present(scope: Scope<'_>, row: RowRef) -> Vec<usize> {
    let cells = scope.rows.row(row);
    let written = scope.table.written.iter().copied();
    written.filter(|&n| cells[n] != Cell::Absent).collect()
}

/// Appends ` WHERE a <=> 1 AND … LIMIT 1`.
fn put_content(scope: Scope<'_>, row: RowRef, sql: &mut Vec<u8>) -> Result<(), Failed> {
    for (n, &column) in present(scope, row).iter().enumerate() {
        let and: &[u8] = if n == 0 { b" WHERE " } else { b" AND " };
        sql.extend_from_slice(and);
        sql.extend_from_slice(scope.table.columns[column].quoted.as_bytes());
        sql.extend_from_slice(b"<=>");
        scope.put(row, (column, Form::Compared), sql)?;
    }
    sql.extend_from_slice(b" LIMIT 1");
    Ok(())
}
