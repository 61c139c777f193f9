//! The leader is another one, or was restored from a backup.

use std::path::PathBuf;
use std::process::Command;

use crate::operator::{NEW_PIPELINE, Operator};
use crate::support::Postgres;

/// Runs a command that must succeed.
fn command(name: &str, arguments: &[&PathBuf]) {
    let status = Command::new(name).args(arguments).status().unwrap();
    assert!(status.success(), "{name} {arguments:?}: {status}");
}

/// A copy of a stopped server's data beside it, owners and rights included.
fn copy_data(server: &Postgres, name: &str) -> PathBuf {
    let (data, copy) = (server.dir.join("data"), server.dir.join(name));
    let status = Command::new("cp").arg("-a").args([&data, &copy]).status();
    assert!(status.unwrap().success());
    copy
}

/// Starts the leader on other data in place of its own, which is kept under a name, and walferry.
fn run_on(operator: &mut Operator, copy: &PathBuf, kept: &str) {
    operator.leader.stop();
    let data = operator.leader.dir.join("data");
    command("mv", &[&data, &operator.leader.dir.join(kept)]);
    command("mv", &[copy, &data]);
    operator.leader.start_again();
    operator.run();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_restored_from_a_backup_halts_the_source_until_the_old_one_or_a_new_pipeline_comes()
 {
    let mut operator = Operator::begin(1).await;
    operator.stop(0);
    operator.leader.stop();
    let backup = copy_data(&operator.leader, "backup");
    operator.leader.start_again();
    operator.run();
    operator.is_well().await;

    operator.stop(0);
    run_on(&mut operator, &backup, "original");
    let wanted = format!("bring back the leader that has this WAL, or {NEW_PIPELINE}");
    let parts = ["the leader's WAL ends at", "a restored backup"];
    operator
        .halted("leader")
        .await
        .names(&parts)
        .advises(&wanted);
    operator.streams("a").await;

    operator.stop(3);
    let original = operator.leader.dir.join("original");
    run_on(&mut operator, &original, "backup");
    operator.is_well().await;

    // The old leader is gone for good.
    operator.stop(0);
    run_on(&mut operator, &backup, "original");
    operator
        .halted("leader")
        .await
        .names(&parts)
        .advises(&wanted);
    operator.begin_new_pipeline().await;
    operator.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_of_another_server_or_database_halts_the_source_and_changes_nothing_until_it_is_put_right()
 {
    let mut operator = Operator::begin(1).await;
    let other = Postgres::start("other");
    other
        .sql("CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL)")
        .await;
    operator.stop(0);
    operator.write().await;
    let file = "connectors/leader.toml";
    let (right, wrong) = (operator.leader.url("postgres"), other.url("postgres"));
    operator.edit(file, &right, &wrong);
    operator.run();
    let wanted = format!("point the source's url back at the leader it had, or {NEW_PIPELINE}");
    operator
        .halted("leader")
        .await
        .names(&["system identifier"])
        .advises(&wanted);
    operator.streams("a").await;
    let made = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)";
    let made: i64 = other
        .client()
        .await
        .query_one(made, &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(made, 0, "slots and publications on the other server");
    operator.stop(3);

    // Another database of the right server.
    operator.leader.sql("CREATE DATABASE reports").await;
    let reports = operator.leader.url("reports");
    operator.edit(file, &wrong, &reports);
    operator.run();
    operator
        .halted("leader")
        .await
        .names(&[&operator.slot(), "of database reports"])
        .advises(
            "point the source's url at the database that the slot belongs to, or set `slot` in the source's \
             file to another name",
        );
    operator.stop(3);
    operator.edit(file, &reports, &right);
    operator.run();
    operator.is_well().await;
}
