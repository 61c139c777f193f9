//! The load: clients that write transactions of many kinds to the leader, live through its deaths,
//! and keep a book of what they know to be committed.
//!
//! Every transaction writes one row to `ledger` and to `journal` (which has no key, so that a change
//! applied twice shows) and counts in `totals`; a client's sequence numbers are never used twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::transaction::{self, ACCOUNTS, DOCUMENTS, WANDERERS};
use crate::world::World;

/// Sessions that write at once.
pub const CLIENTS: u32 = 4;

/// Tables of the load.
pub const TABLES: &str = "
CREATE TABLE branches (id int PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE accounts (id int PRIMARY KEY, branch int NOT NULL REFERENCES branches, balance bigint NOT NULL,
    place int NOT NULL UNIQUE, note text);
CREATE TABLE ledger (client int, seq bigint, source int NOT NULL REFERENCES accounts,
    target int NOT NULL REFERENCES accounts, amount bigint NOT NULL, PRIMARY KEY (client, seq));
CREATE TABLE journal (client int, seq bigint, kind text);
ALTER TABLE journal REPLICA IDENTITY FULL;
CREATE TABLE totals (client int PRIMARY KEY, transactions bigint NOT NULL);
CREATE TABLE documents (id int PRIMARY KEY, title text NOT NULL UNIQUE, revision int NOT NULL, body text NOT NULL);
CREATE TABLE remarks (id bigint PRIMARY KEY, document int NOT NULL REFERENCES documents ON UPDATE CASCADE, at timestamptz);
CREATE TABLE wanderers (id bigint PRIMARY KEY, hops int NOT NULL, body text NOT NULL);
CREATE TABLE bulk (id bigint PRIMARY KEY, load int NOT NULL, v text, n numeric);
CREATE TABLE bulk_loads (load int PRIMARY KEY, rows bigint NOT NULL);
CREATE TABLE scratch (id bigint PRIMARY KEY, v double precision);
CREATE TABLE scratch_parts (id bigint PRIMARY KEY, scratch bigint NOT NULL REFERENCES scratch);
CREATE TABLE scratch_total (id int PRIMARY KEY, rows bigint NOT NULL, parts bigint NOT NULL);
";

/// Their names.
pub const NAMES: [&str; 13] = [
    "branches",
    "accounts",
    "ledger",
    "journal",
    "totals",
    "documents",
    "remarks",
    "wanderers",
    "bulk",
    "bulk_loads",
    "scratch",
    "scratch_parts",
    "scratch_total",
];

/// What an account begins with.
pub const OPENING_BALANCE: i64 = 1_000;
/// Branches; account i belongs to branch i % BRANCHES.
pub const BRANCHES: i64 = 5;

/// Tables and the rows that a first copy finds.
pub fn tables_with_rows() -> String {
    let per_branch = i64::from(ACCOUNTS) / BRANCHES * OPENING_BALANCE;
    format!(
        "{TABLES}
         INSERT INTO branches SELECT i, {per_branch} FROM generate_series(0, {BRANCHES} - 1) i;
         INSERT INTO accounts SELECT i, i % {BRANCHES}, {OPENING_BALANCE}, i, NULL FROM generate_series(1, {ACCOUNTS}) i;
         INSERT INTO totals SELECT i, 0 FROM generate_series(0, {CLIENTS} - 1) i;
         INSERT INTO documents SELECT i, 'title ' || i, 0, (SELECT string_agg(md5((i * 1000 + j)::text), '') FROM generate_series(1, 300) j)
         FROM generate_series(1, {DOCUMENTS}) i;
         INSERT INTO remarks SELECT i, i, now() FROM generate_series(1, {DOCUMENTS}) i;
         INSERT INTO wanderers SELECT i, 0, (SELECT string_agg(md5((i * 1000 + j)::text), '') FROM generate_series(1, 200) j)
         FROM generate_series(1, {WANDERERS}) i;
         INSERT INTO bulk SELECT i, 0, 'first ' || i, i / 7.0 FROM generate_series(1, 5000) i;
         INSERT INTO bulk_loads VALUES (0, 5000);
         INSERT INTO scratch_total VALUES (1, 0, 0);"
    )
}

/// What one client knows of its transactions.
#[derive(Clone, Debug, Default)]
pub struct Book {
    pub committed: BTreeSet<i64>,
    /// The connection broke before the answer to COMMIT: committed or not.
    pub unknown: BTreeSet<i64>,
    /// Rolled back, with or without having been asked to.
    pub aborted: u64,
}

/// Counts of all clients, as they go.
#[derive(Debug, Default)]
pub struct Counts {
    pub committed: AtomicU64,
    pub unknown: AtomicU64,
    pub aborted: AtomicU64,
}

/// Runs one client until told to stop.
pub async fn run(
    world: Arc<World>,
    seed: u64,
    client: u32,
    counts: Arc<Counts>,
    stop: CancellationToken,
) -> Book {
    let mut random = SmallRng::seed_from_u64(seed ^ (u64::from(client) << 32));
    let (mut book, mut seq) = (Book::default(), 0);
    while !stop.is_cancelled() {
        let Ok(session) = world.leader.client().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        while !stop.is_cancelled() {
            seq += 1;
            let alive = one(&session, &mut random, client, seq, &mut book, &counts).await;
            if !alive {
                break;
            }
            let pause = random.random_range(20..150);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }
    book
}

/// One transaction; returns whether the session still works.
async fn one(
    session: &Client,
    random: &mut SmallRng,
    client: u32,
    seq: i64,
    book: &mut Book,
    counts: &Counts,
) -> bool {
    let planned = transaction::plan(random, client, seq);
    let body = session
        .batch_execute(&format!("BEGIN; {}", planned.body))
        .await;
    let ended = match &body {
        Ok(()) if planned.commit => session.batch_execute("COMMIT").await,
        Ok(()) | Err(_) => {
            book.aborted += 1;
            counts.aborted.fetch_add(1, Ordering::Relaxed);
            // A lost session is the end of its transaction too.
            return session.batch_execute("ROLLBACK").await.is_ok();
        }
    };
    match ended {
        Ok(()) => {
            book.committed.insert(seq);
            counts.committed.fetch_add(1, Ordering::Relaxed);
            true
        }
        Err(_) => {
            book.unknown.insert(seq);
            counts.unknown.fetch_add(1, Ordering::Relaxed);
            false
        }
    }
}
