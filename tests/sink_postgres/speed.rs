//! CPU time of the follower's backend a row; run with `--ignored --nocapture`.

use std::time::Duration;

use walferry::model::batch::Step;
use walferry::model::{NetChange, Op, Rows, TableChanges, TablePlan, UpdateGroup};
use walferry::sink::{Sink, Work};

use crate::harness::{A, Pair, V, add, change, position};

fn say(what: &str, rows: usize, took: Duration) {
    println!(
        "{what}: {:.2} us a row",
        took.as_secs_f64() * 1e6 / rows as f64
    );
}

#[tokio::test]
#[ignore = "a measurement, not a check"]
async fn time_a_row() {
    let mut pair = Pair::new("speed").await;
    let t = "CREATE TABLE t (id int8 PRIMARY KEY, a int4, b text, c numeric(12,2), d timestamptz)";
    let schema = pair.table(t, "t").await;
    let row = |rows: &mut Rows, id: usize, a: &str| {
        let (id, b) = (id.to_string(), format!("some text of row {id}"));
        add(
            rows,
            &[
                V(&id),
                V(a),
                V(&b),
                V("1234.50"),
                V("2024-05-06 07:08:09.123456+00"),
            ],
        )
    };
    let fill = |from: usize, to: usize| {
        let mut rows = Rows::new(5);
        let changes = (from..to).map(|id| change(Op::Read, None, Some(row(&mut rows, id, "1"))));
        let changes = changes.collect();
        TableChanges {
            schema: schema.clone(),
            rows,
            changes,
            times_ms: Vec::new(),
        }
    };
    let mut took = Duration::ZERO;
    for part in 0..10 {
        let changes = fill(part * 100_000, (part + 1) * 100_000);
        pair.sink.begin(pair.at.as_ref()).await.unwrap();
        let before = backend_cpu(&pair).await;
        pair.sink.load(&changes, 0).await.unwrap();
        pair.commit().await.unwrap();
        took += backend_cpu(&pair).await - before;
    }
    say("load", 1_000_000, took);

    let count = 50_000;
    // Spread over the table, in no order of the key.
    let id = |n: usize| (n * 7_919) % 1_000_000;
    for round in 0..2 {
        let mut rows = Rows::new(5);
        let updated = (0..count).map(|n| row(&mut rows, id(n), "2")).collect();
        let group = UpdateGroup {
            columns: vec![1, 2, 3, 4],
            rows: updated,
        };
        let net = NetChange {
            updates: vec![group],
            ..NetChange::default()
        };
        say(
            &format!("update of all, round {round}"),
            count,
            timed(&mut pair, &schema, rows, net).await,
        );
    }
    let mut rows = Rows::new(5);
    let updated = (0..count)
        .map(|n| add(&mut rows, &[V(&id(n).to_string()), V("3"), A, A, A]))
        .collect();
    let group = UpdateGroup {
        columns: vec![1],
        rows: updated,
    };
    let net = NetChange {
        updates: vec![group],
        ..NetChange::default()
    };
    say(
        "update of one column",
        count,
        timed(&mut pair, &schema, rows, net).await,
    );

    let mut rows = Rows::new(5);
    let deletes = (0..count)
        .map(|n| add(&mut rows, &[V(&id(n).to_string()), A, A, A, A]))
        .collect();
    let net = NetChange {
        deletes,
        ..NetChange::default()
    };
    say("delete", count, timed(&mut pair, &schema, rows, net).await);

    let mut took = Duration::ZERO;
    for n in 0..1_000 {
        let mut rows = Rows::new(5);
        let net = NetChange {
            deletes: vec![add(&mut rows, &[V(&id(count + n).to_string()), A, A, A, A])],
            updates: vec![UpdateGroup {
                columns: vec![1, 2, 3, 4],
                rows: vec![row(&mut rows, id(count + 5_000 + n), "5")],
            }],
            inserts: vec![row(&mut rows, 2_000_000 + n, "6")],
            ..NetChange::default()
        };
        took += timed(&mut pair, &schema, rows, net).await;
    }
    say("small batch of three rows (a batch)", 1_000, took);
}

async fn timed(
    pair: &mut Pair,
    schema: &std::sync::Arc<walferry::model::TableSchema>,
    rows: Rows,
    net: NetChange,
) -> Duration {
    let plan = TablePlan {
        schema: schema.clone(),
        rows,
        steps: vec![Step::Net(net)],
        changes: 1,
        first: position(0),
        last: position(1),
    };
    pair.sink.begin(pair.at.as_ref()).await.unwrap();
    let before = backend_cpu(pair).await;
    pair.sink.apply(Work::Net(vec![plan]), false).await.unwrap();
    pair.commit().await.unwrap();
    backend_cpu(pair).await - before
}

/// CPU time of the sink's backend so far: wall time would be that of a busy machine.
async fn backend_cpu(pair: &Pair) -> Duration {
    let row = pair
        .follower
        .query_one(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
             AND application_name LIKE 'walferry%'",
            &[],
        )
        .await
        .unwrap();
    let pid: i32 = row.get(0);
    // Nanoseconds on a CPU; see the kernel's Documentation/scheduler/sched-stats.rst.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}
