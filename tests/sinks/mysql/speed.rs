//! Time a row, of server and sink together; run with `--ignored --nocapture`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use walferry::model::batch::Step;
use walferry::model::{NetChange, Op, Rows, TableChanges, TablePlan, UpdateGroup};
use walferry::sink::{Sink, Work};

use super::harness::{A, Follower, V, VERSIONS, add, change, position, schema};

const ROWS: usize = 200_000;

fn say(version: &str, what: &str, rows: usize, took: Duration) {
    println!(
        "{version} {what}: {:.2} us a row",
        took.as_secs_f64() * 1e6 / rows as f64
    );
}

#[tokio::test]
#[ignore = "a measurement, not a check"]
async fn time_a_row() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "speed").await;
        let columns = [
            ("id", "bigint"),
            ("a", "integer"),
            ("b", "text"),
            ("c", "numeric(12,2)"),
            ("d", "timestamp with time zone"),
        ];
        let t = Arc::new(schema("t", &columns, &[0]));
        f.prepare(&t).await;
        let row = |rows: &mut Rows, id: usize, a: &str| {
            let (id, b) = (id.to_string(), format!("some text of row {id}"));
            let at = "2024-05-06 07:08:09.123456+00";
            add(rows, &[V(&id), V(a), V(&b), V("1234.50"), V(at)])
        };
        let mut rows = Rows::new(5);
        let changes = (0..ROWS).map(|id| change(Op::Read, None, Some(row(&mut rows, id, "1"))));
        let changes = changes.collect();
        let changes = TableChanges {
            schema: Arc::clone(&t),
            rows,
            changes,
            times_ms: vec![],
        };
        let began = Instant::now();
        f.sink.begin(f.at.as_ref()).await.unwrap();
        f.sink.load(&changes, 0).await.unwrap();
        f.commit().await.unwrap();
        say(version, "load", ROWS, began.elapsed());

        // Spread over the table, in no order of the key.
        let ids: Vec<usize> = (0..ROWS / 4).map(|n| n * 7919 % ROWS).collect();
        let plan = |rows: Rows, net: NetChange| TablePlan {
            schema: Arc::clone(&t),
            rows,
            steps: vec![Step::Net(net)],
            changes: ids.len() as u64,
            first: position(1),
            last: position(2),
        };
        let mut rows = Rows::new(5);
        let updated = ids.iter().map(|id| row(&mut rows, *id, "2")).collect();
        let net = NetChange {
            updates: vec![UpdateGroup {
                columns: vec![1, 2, 3, 4],
                rows: updated,
            }],
            ..NetChange::default()
        };
        let began = Instant::now();
        f.apply(vec![plan(rows, net)]).await.unwrap();
        say(version, "update", ids.len(), began.elapsed());

        let mut rows = Rows::new(5);
        let deletes = ids
            .iter()
            .map(|id| add(&mut rows, &[V(&id.to_string()), A, A, A, A]));
        let deletes = deletes.collect();
        let net = NetChange {
            deletes,
            ..NetChange::default()
        };
        let began = Instant::now();
        f.apply(vec![plan(rows, net)]).await.unwrap();
        say(version, "delete", ids.len(), began.elapsed());

        let began = Instant::now();
        for n in 0..200 {
            let mut rows = Rows::new(5);
            let inserts = vec![row(&mut rows, 10_000_000 + n, "3")];
            let net = NetChange {
                inserts,
                ..NetChange::default()
            };
            f.sink.begin(f.at.as_ref()).await.unwrap();
            f.sink
                .apply(Work::Net(vec![plan(rows, net)]), false)
                .await
                .unwrap();
            f.commit().await.unwrap();
        }
        say(version, "a transaction of one insert", 200, began.elapsed());
    }
}
