//! The transactions of the load, as SQL. Pure: a client's transactions follow from its random numbers.
//!
//! Rows that several clients want are locked in one order (accounts by id, then documents, then
//! `scratch_total`), so that deadlocks are rare; one that happens is an abort like any other.

use rand::RngExt;
use rand::rngs::SmallRng;

/// Accounts, numbered from 1.
pub const ACCOUNTS: i32 = 60;
/// Documents, numbered from 1: between transactions every number is there.
pub const DOCUMENTS: i32 = 40;
/// Rows whose primary key moves on by 1000 again and again.
pub const WANDERERS: i32 = 30;
/// Loads of bulk rows that a client keeps.
const LOADS: u32 = 2;

/// A transaction without its BEGIN and end.
pub struct Planned {
    pub body: String,
    /// Whether to commit it.
    pub commit: bool,
}

/// The next transaction of a client.
pub fn plan(random: &mut SmallRng, client: u32, seq: i64) -> Planned {
    let (from, to) = (account(random), account(random));
    let amount = random.random_range(1..100);
    let (kind, more) = match random.random_range(0..100) {
        0..35 => ("transfer", String::new()),
        35..45 => ("swap", swap_places(random)),
        45..55 => ("document", revise(random)),
        55..63 => ("titles", swap_titles(random)),
        63..70 => ("move", move_documents(random)),
        70..78 => ("wander", wander(random)),
        78..84 => ("savepoint", savepoints(random, client, seq)),
        84..94 => ("scratch", scratch(random, client, seq)),
        94..96 => ("truncate", truncate(random)),
        96..97 => ("bulk", bulk(random, client, seq)),
        97..98 => ("huge", huge_value(random)),
        _ => ("transfer", String::new()),
    };
    let body = format!(
        "{}; INSERT INTO ledger VALUES ({client}, {seq}, {from}, {to}, {amount});
         INSERT INTO journal VALUES ({client}, {seq}, '{kind}');
         UPDATE totals SET transactions = transactions + 1 WHERE client = {client}; {more}",
        transfer(from, to, amount)
    );
    Planned {
        body,
        commit: random.random_range(0..25) != 0,
    }
}

fn account(random: &mut SmallRng) -> i32 {
    random.random_range(1..=ACCOUNTS)
}

fn document(random: &mut SmallRng) -> i32 {
    random.random_range(1..=DOCUMENTS)
}

/// Money moves between accounts and between their branches.
fn transfer(from: i32, to: i32, amount: i32) -> String {
    format!(
        "SELECT FROM accounts WHERE id IN ({from}, {to}) ORDER BY id FOR UPDATE;
         SELECT FROM branches WHERE id IN (SELECT branch FROM accounts WHERE id IN ({from}, {to})) ORDER BY id FOR UPDATE;
         UPDATE accounts SET balance = balance - {amount} WHERE id = {from};
         UPDATE branches SET balance = balance - {amount} WHERE id = (SELECT branch FROM accounts WHERE id = {from});
         UPDATE accounts SET balance = balance + {amount} WHERE id = {to};
         UPDATE branches SET balance = balance + {amount} WHERE id = (SELECT branch FROM accounts WHERE id = {to})"
    )
}

/// Two accounts change their places, which are unique.
fn swap_places(random: &mut SmallRng) -> String {
    let (a, b) = (account(random), account(random));
    let (a, b) = (a.min(b), a.max(b));
    format!(
        "SELECT FROM accounts WHERE id IN ({a}, {b}) ORDER BY id FOR UPDATE;
         CREATE TEMP TABLE old ON COMMIT DROP AS SELECT id, place FROM accounts WHERE id IN ({a}, {b});
         UPDATE accounts SET place = -place WHERE id = {a};
         UPDATE accounts SET place = (SELECT place FROM old WHERE id = {a}) WHERE id = {b} AND id <> {a};
         UPDATE accounts SET place = (SELECT place FROM old WHERE id = {b}), note = 'swapped' WHERE id = {a}"
    )
}

/// A small column changes beside a large one that does not.
fn revise(random: &mut SmallRng) -> String {
    let d = document(random);
    let mut sql = format!("UPDATE documents SET revision = revision + 1 WHERE id = {d}");
    if random.random_range(0..4) == 0 {
        let n: u32 = random.random();
        sql += &format!(
            "; UPDATE documents SET body = (SELECT string_agg(md5((i * {n}::bigint)::text), '') FROM generate_series(1, 300) i) WHERE id = {d};
             UPDATE remarks SET at = clock_timestamp() WHERE document = {d}"
        );
    }
    sql
}

/// Two documents change their titles, which are unique.
fn swap_titles(random: &mut SmallRng) -> String {
    let (a, b) = two_documents(random);
    format!(
        "SELECT FROM documents WHERE id IN ({a}, {b}) ORDER BY id FOR UPDATE;
         CREATE TEMP TABLE old ON COMMIT DROP AS SELECT id, title FROM documents WHERE id IN ({a}, {b});
         UPDATE documents SET title = 'between ' || title WHERE id = {a};
         UPDATE documents SET title = (SELECT title FROM old WHERE id = {a}) WHERE id = {b};
         UPDATE documents SET title = (SELECT title FROM old WHERE id = {b}) WHERE id = {a}"
    )
}

fn two_documents(random: &mut SmallRng) -> (i32, i32) {
    let a = random.random_range(1..DOCUMENTS);
    (a, random.random_range(a + 1..=DOCUMENTS))
}

/// Primary keys change: a swap, or a chain of three; the remarks' foreign keys follow.
fn move_documents(random: &mut SmallRng) -> String {
    let (a, b) = two_documents(random);
    let lock = format!("SELECT FROM documents WHERE id IN ({a}, {b}) ORDER BY id FOR UPDATE;");
    if random.random() {
        format!(
            "{lock} UPDATE documents SET id = -{a} WHERE id = {a}; UPDATE documents SET id = {a} WHERE id = {b};
             UPDATE documents SET id = {b}, revision = revision + 1 WHERE id = -{a}"
        )
    } else {
        format!(
            "{lock} UPDATE documents SET id = -{a} WHERE id = {a}; UPDATE documents SET id = -1000 - {a} WHERE id = -{a};
             UPDATE documents SET id = {a} WHERE id = -1000 - {a}; UPDATE documents SET revision = revision + 1 WHERE id = {a}"
        )
    }
}

/// A row moves to a key that no row had, sometimes in two steps, sometimes deleted and inserted anew. Its lock is not the
/// row's: a statement that waits for a row which is then deleted finds none, not the one inserted instead.
fn wander(random: &mut SmallRng) -> String {
    let w = random.random_range(0..WANDERERS);
    let row = format!("id % 1000 = {w} + 1");
    let moves = match random.random_range(0..3) {
        0 => format!("UPDATE wanderers SET id = id + 1000, hops = hops + 1 WHERE {row}"),
        1 => format!(
            "UPDATE wanderers SET id = id + 1000 WHERE {row}; UPDATE wanderers SET id = id + 1000, hops = hops + 2 WHERE {row};
             UPDATE wanderers SET hops = hops + 0 WHERE {row}"
        ),
        _ => format!(
            "UPDATE wanderers SET hops = hops + 1 WHERE {row};
             WITH old AS (DELETE FROM wanderers WHERE {row} RETURNING *) INSERT INTO wanderers SELECT id + 1000, hops, body FROM old"
        ),
    };
    format!("SELECT pg_advisory_xact_lock({w}); {moves}")
}

/// Work that is undone, with work around it that is not.
fn savepoints(random: &mut SmallRng, client: u32, seq: i64) -> String {
    let d = document(random);
    format!(
        "SAVEPOINT one; DELETE FROM ledger WHERE client = {client}; UPDATE accounts SET balance = 0 WHERE id % 7 = 0 AND false;
         DELETE FROM journal WHERE client = {client} AND seq > {seq} - 5; ROLLBACK TO one;
         UPDATE documents SET revision = revision + 1 WHERE id = {d};
         SAVEPOINT two; INSERT INTO bulk SELECT -i - 1000000000, -1, 'never seen', 1 FROM generate_series(1, 500) i; SAVEPOINT three;
         UPDATE bulk SET load = -2 WHERE id < 0; ROLLBACK TO two; RELEASE two;
         SAVEPOINT four; UPDATE documents SET revision = revision + 1 WHERE id = {d}; RELEASE four"
    )
}

/// Rows come and go; their numbers stand in `scratch_total`.
fn scratch(random: &mut SmallRng, client: u32, seq: i64) -> String {
    let rows = random.random_range(1..20);
    let base = i64::from(client) * 1_000_000_000_000 + seq * 100;
    format!(
        "UPDATE scratch_total SET rows = rows + {rows}, parts = parts + {rows};
         INSERT INTO scratch SELECT {base} + i, i / 3.0::double precision FROM generate_series(1, {rows}) i;
         INSERT INTO scratch_parts SELECT {base} + i, {base} + i FROM generate_series(1, {rows}) i;
         UPDATE scratch SET v = v * 2 WHERE id > {base} AND id <= {base} + {rows} / 2"
    )
}

/// All of it goes, or the parts only; sometimes new rows come in the same transaction.
fn truncate(random: &mut SmallRng) -> String {
    match random.random_range(0..3) {
        0 => "UPDATE scratch_total SET rows = 0, parts = 0; TRUNCATE scratch CASCADE".to_owned(),
        1 => "UPDATE scratch_total SET parts = 0; TRUNCATE scratch_parts".to_owned(),
        _ => "UPDATE scratch_total SET rows = 1, parts = 1; INSERT INTO scratch VALUES (-1, 0) ON CONFLICT DO NOTHING;
              TRUNCATE scratch, scratch_parts; INSERT INTO scratch VALUES (-1, 'NaN'); INSERT INTO scratch_parts VALUES (-1, -1)"
            .to_owned(),
    }
}

/// A value larger than a Kafka record may be, on one document; it is small again later.
fn huge_value(random: &mut SmallRng) -> String {
    let (d, n): (_, u16) = (document(random), random.random());
    format!(
        "UPDATE documents SET body = (SELECT string_agg(md5((i * {n})::text), '') FROM generate_series(1, 40000) i) WHERE id = {d}"
    )
}

/// A large transaction: rows come, change or go by thousands.
fn bulk(random: &mut SmallRng, client: u32, seq: i64) -> String {
    let load = (client + 1) * 10 + random.random_range(0..LOADS);
    let rows = random.random_range(500..3_000);
    let base = i64::from(client + 1) * 1_000_000_000_000 + seq * 10_000;
    match random.random_range(0..4) {
        0 | 1 => format!(
            "DELETE FROM bulk WHERE load = {load}; DELETE FROM bulk_loads WHERE load = {load};
             INSERT INTO bulk SELECT {base} + i, {load}, 'row ' || i, i / 7.0 FROM generate_series(1, {rows}) i;
             INSERT INTO bulk_loads VALUES ({load}, {rows})"
        ),
        2 => format!("UPDATE bulk SET v = v || '!', n = n + 0.000000001 WHERE load = {load}"),
        _ => format!("DELETE FROM bulk WHERE load = {load}; DELETE FROM bulk_loads WHERE load = {load}"),
    }
}
