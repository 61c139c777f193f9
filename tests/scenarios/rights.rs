//! 027 roles that are no superusers, on both sides.

use crate::scenario::Scenario;

/// A role that may do what the documentation asks for, and no more; the pipeline then uses it.
async fn with_roles(s: &Scenario) -> String {
    let role = format!("r{}", s.database);
    let (leader, follower) = (&s.servers.leader, &s.servers.follower);
    let create = format!(
        "CREATE ROLE {role} LOGIN REPLICATION; GRANT CREATE ON DATABASE {} TO {role}",
        s.database
    );
    s.leader(&create).await;
    let create = format!(
        "CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {} TO {role};
         GRANT SET ON PARAMETER session_replication_role TO {role}",
        s.database
    );
    s.follower(&create).await;
    let url = |port| format!("postgres://{role}@127.0.0.1:{port}/{}", s.database);
    for (file, kind, port) in [
        ("leader", "postgres-source", leader.port),
        ("a", "postgres", follower.port),
    ] {
        let text = format!("kind = \"{kind}\"\nurl = \"{}\"\n", url(port));
        s.pipeline.write(&format!("connectors/{file}.toml"), &text);
    }
    role
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_with_the_documented_rights_are_enough_and_missing_ones_are_named() {
    let what = "the right to set session_replication_role without being superuser";
    let Some(mut s) = Scenario::since(15, what, "").await else {
        return;
    };
    let role = with_roles(&s).await;
    s.both("CREATE SCHEMA app; CREATE TABLE app.t (a int PRIMARY KEY, b text)")
        .await;
    s.leader(&format!(
        "INSERT INTO app.t VALUES (1, 'x'); GRANT USAGE ON SCHEMA app TO {role}; ALTER TABLE app.t OWNER TO {role}"
    ))
    .await;
    s.follower(&format!(
        "GRANT USAGE ON SCHEMA app TO {role}; GRANT SELECT, INSERT ON app.t TO {role}"
    ))
    .await;
    s.start();
    s.leader("INSERT INTO app.t VALUES (2, 'y')").await;
    s.equal(&["app.t"]).await;
    s.leader("UPDATE app.t SET b = 'z'; DELETE FROM app.t WHERE a = 1")
        .await;
    s.halts(&["app.t", "42501", "rights"]).await;
    s.stop_halted();
    s.follower(&format!(
        "GRANT TRUNCATE, UPDATE, DELETE ON app.t TO {role}"
    ))
    .await;
    s.start();
    s.equal(&["app.t"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_security_never_hides_rows_from_a_copy_and_never_leaves_out_changes() {
    let what = "the right to set session_replication_role without being superuser";
    let Some(mut s) = Scenario::since(15, what, "").await else {
        return;
    };
    let role = with_roles(&s).await;
    let policy = format!("CREATE POLICY few ON app.t TO {role} USING (a < 10)");
    let secure =
        format!("ALTER TABLE app.t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; {policy}");
    s.both("CREATE SCHEMA app; CREATE TABLE app.t (a int PRIMARY KEY, b text)")
        .await;
    s.leader(&format!(
        "INSERT INTO app.t VALUES (1, 'seen'), (20, 'hidden'); GRANT USAGE ON SCHEMA app TO {role};
         ALTER TABLE app.t OWNER TO {role}; {secure}"
    ))
    .await;
    s.follower(&format!(
        "GRANT USAGE ON SCHEMA app TO {role}; GRANT ALL ON app.t TO {role}"
    ))
    .await;
    s.start();
    // A copy that fails does not stop the source: the tables in effect go on. It is said.
    s.says("row-level security").await;
    let status = s.pipeline.command(&["status", "--json"]).output().unwrap();
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("row-level security"), "{status}");
    assert!(!s.output().contains("tables are in effect"));
    let check = s.pipeline.command(&["check"]).output().unwrap();
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.contains("lacks BYPASSRLS"), "{check}");
    s.stop();
    s.leader(&format!("ALTER ROLE {role} BYPASSRLS")).await;
    s.start();
    s.equal(&["app.t"]).await;
    s.follower(&secure).await;
    s.leader("INSERT INTO app.t VALUES (30, 'outside the policy'); UPDATE app.t SET b = 'x' WHERE a = 20")
        .await;
    s.halts(&["app.t", "42501"]).await;
    s.stop_halted();
    s.follower(&format!("ALTER ROLE {role} BYPASSRLS")).await;
    s.start();
    s.equal(&["app.t"]).await;
    s.end().await;
}
