//! A follower that somebody else wrote to, or that refuses what the leader has.

use crate::operator::{COPY_ANEW, Operator};

/// Stops walferry, which had a halted part, and starts it again.
fn restart(operator: &mut Operator) {
    operator.stop(3);
    operator.run();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_missing_halts_its_sink_until_it_is_put_back_or_everything_is_copied_anew() {
    let mut operator = Operator::begin(2).await;
    let wanted = format!(
        "find out who else writes to table public.t on the follower; then make its rows there what they \
         were on the leader before these changes and restart walferry, or {COPY_ANEW}"
    );
    for copies_anew in [false, true] {
        let row = operator.followers[1].client().await;
        let row = row.query_one("DELETE FROM t WHERE id = 7 RETURNING v", &[]);
        let value: i32 = row.await.unwrap().get(0);
        operator.write().await;
        operator
            .halted("b")
            .await
            .names(&["public.t", "diverged"])
            .advises(&wanted);
        operator.streams("leader").await;
        operator.has_caught_up(0).await;
        if copies_anew {
            operator.copy_anew(1);
        } else {
            let insert = format!("INSERT INTO t VALUES (7, {value})");
            operator.followers[1].sql(&insert).await;
            restart(&mut operator);
        }
        operator.is_well().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_the_follower_refuses_halts_its_sink_until_the_follower_takes_it() {
    let mut operator = Operator::begin(2).await;
    operator.followers[1]
        .sql("INSERT INTO t VALUES (1001, 0)")
        .await;
    operator.leader.sql("INSERT INTO t VALUES (1001, 1)").await;
    operator
        .halted("b")
        .await
        .names(&["public.t", "unique violation"])
        .advises(
            "delete the row that is in the way on the follower, or drop the follower's unique index if \
             the leader has none like it, and restart walferry",
        );
    operator.streams("leader").await;
    operator.has_caught_up(0).await;
    operator.followers[1]
        .sql("DELETE FROM t WHERE id = 1001")
        .await;
    restart(&mut operator);
    operator.is_well().await;

    operator.followers[1]
        .sql("ALTER TABLE t ADD CONSTRAINT small CHECK (v < 5000)")
        .await;
    operator
        .leader
        .sql("INSERT INTO t VALUES (1002, 5000)")
        .await;
    operator
        .halted("b")
        .await
        .names(&["public.t", "small", "check violation"])
        .advises(
            "make the follower's table accept the leader's rows (drop or widen its own constraint, column \
             or type that is in the way), and restart walferry",
        );
    operator.has_caught_up(0).await;
    operator.followers[1]
        .sql("ALTER TABLE t DROP CONSTRAINT small")
        .await;
    restart(&mut operator);
    operator.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_not_the_sinks_are_kept_until_somebody_says_that_they_may_go() {
    // A new pipeline of which the follower was not told.
    let mut operator = Operator::begin(1).await;
    operator.stop(0);
    let old = operator.rename();
    operator.run();
    let halt = operator.halted("a").await;
    halt.names(&[&format!("holds rows of sink a of pipeline {old}")])
        .advises(&format!(
            "exclude the table in the file of one of the two sinks, or, if sink a of pipeline {old} is gone \
             for good, delete its row from walferry.checkpoint on the follower; then restart walferry"
        ));
    operator.streams("leader").await;
    let delete = format!("DELETE FROM walferry.checkpoint WHERE pipeline = '{old}' AND sink = 'a'");
    operator.followers[0].sql(&delete).await;
    restart(&mut operator);
    operator.is_well().await;

    // A follower that has rows of its own.
    operator.stop(0);
    operator.followers[0]
        .sql("DROP SCHEMA walferry CASCADE")
        .await;
    operator.run();
    for _table in ["t", "notes"] {
        let halt = operator.halted("a").await;
        halt.names(&["holds rows that walferry has not put there"]);
        let truncate = halt
            .remedy
            .strip_prefix("if they may go: ")
            .and_then(|rest| rest.strip_suffix(" on the follower, and restart walferry"))
            .unwrap_or_else(|| panic!("{}", halt.remedy));
        operator.followers[0].sql(truncate).await;
        restart(&mut operator);
    }
    operator.is_well().await;
}
