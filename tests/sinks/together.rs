//! Followers of different stores at once.

use tokio_postgres::Client;

use crate::clickhouse::ClickHouse;
use crate::conformance::world::World;
use crate::mariadb::MariaDb;
use crate::postgres::Postgres;
use crate::store::{Store, leaders_rows, table};
use crate::support::http::{comes_into, metric};
use crate::support::until;

/// Names of the sinks; the first one is the world's own.
const SINKS: [&str; 3] = [crate::conformance::world::SINK, "clickhouse", "mysql"];

async fn assert_equal<S: Store>(from: &Client, store: &S) {
    let table = table(from, "t", &[]).await;
    let mut rows = store.rows(&table, "").await.expect("the follower is read");
    rows.sort();
    assert_eq!(rows, leaders_rows::<S>(from, &table).await);
}

/// Waits until a sink's lag is known and as `fits` says.
async fn lags(world: &World<Postgres>, sink: &str, fits: impl Fn(f64) -> bool) {
    until("a lag", || async {
        let lag = metric(&world.pipeline, "walferry_sink_lag_bytes", Some(sink)).await;
        match lag.filter(|bytes| fits(*bytes)) {
            Some(_) => Ok(()),
            None => Err(format!("{sink}: {lag:?}")),
        }
    })
    .await;
}

/// While `stopped` is down, the others come to all that is committed, and only it lags.
async fn the_others_go_on(world: &World<Postgres>, stopped: &str) {
    for n in 0..30 {
        world
            .sql(&format!(
                "UPDATE t SET v = '{stopped} {n}' WHERE id % 30 = {n};
                 INSERT INTO t SELECT i, 'more' FROM generate_series((SELECT max(id) + 1 FROM t), (SELECT max(id) + 50 FROM t)) i"
            ))
            .await;
    }
    for sink in SINKS.into_iter().filter(|sink| *sink != stopped) {
        world.has_caught_up(sink).await;
        lags(world, sink, |bytes| bytes == 0.0).await;
    }
    lags(world, stopped, |bytes| bytes > 0.0).await;
    comes_into(&world.pipeline, stopped, "retrying").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_down_holds_no_other_up() {
    let tables = "CREATE TABLE t (id bigint PRIMARY KEY, v text);
         INSERT INTO t SELECT i, 'first' FROM generate_series(1, 500) i";
    let mut world = World::<Postgres>::new(tables).await;
    let (mut clickhouse, mut mariadb) = (ClickHouse::start().await, MariaDb::start().await);
    for (name, file) in [
        (SINKS[1], clickhouse.connector()),
        (SINKS[2], mariadb.connector()),
    ] {
        world
            .pipeline
            .write(&format!("connectors/{name}.toml"), &file);
    }
    world.run();
    for sink in SINKS {
        world.has_caught_up(sink).await;
    }
    // A server that somebody else runs stays up.
    if clickhouse.0.is_own() {
        clickhouse.0.kill();
        the_others_go_on(&world, SINKS[1]).await;
        clickhouse.0.start_again();
        world.has_caught_up(SINKS[1]).await;
    }
    mariadb.0.kill();
    the_others_go_on(&world, SINKS[2]).await;
    mariadb.0.start_again();
    for sink in SINKS {
        world.has_caught_up(sink).await;
        lags(&world, sink, |bytes| bytes == 0.0).await;
    }
    assert_equal(&world.from, &world.store).await;
    assert_equal(&world.from, &clickhouse).await;
    assert_equal(&world.from, &mariadb).await;
    world.stop();
}
