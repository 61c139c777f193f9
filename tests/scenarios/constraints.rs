//! 003 triggers and foreign keys of the follower, 100 triggers and indexes with functions.

use crate::scenario::Scenario;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_keys_of_the_follower_are_not_enforced_against_the_leaders_rows() {
    let mut s = Scenario::new().await;
    s.leader(
        "CREATE TABLE parent (a int PRIMARY KEY); CREATE TABLE child (a int PRIMARY KEY, p int)",
    )
    .await;
    s.follower(
        "CREATE TABLE parent (a int PRIMARY KEY);
         CREATE TABLE child (a int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE)",
    )
    .await;
    s.start();
    s.leader("INSERT INTO child VALUES (1, 1), (2, 2); INSERT INTO parent VALUES (2)")
        .await;
    s.equal(&["parent", "child"]).await;
    s.leader("DELETE FROM parent; UPDATE child SET p = 7 WHERE a = 1")
        .await;
    s.equal(&["parent", "child"]).await;
    s.end().await;
}

/// A log of what triggers did, and triggers of each kind that write to it.
const TRIGGERS: &str = "CREATE TABLE seen (what text);
    CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
      'BEGIN INSERT INTO public.seen VALUES (TG_NAME || '' '' || TG_OP || '' '' || NEW.a); RETURN NEW; END';
    CREATE TRIGGER ordinary AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION see();
    CREATE TRIGGER always AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION see();
    CREATE TRIGGER of_b BEFORE UPDATE OF b ON t FOR EACH ROW EXECUTE FUNCTION see();
    CREATE TRIGGER of_c BEFORE UPDATE OF c ON t FOR EACH ROW EXECUTE FUNCTION see();
    ALTER TABLE t ENABLE ALWAYS TRIGGER always, ENABLE REPLICA TRIGGER of_b, ENABLE REPLICA TRIGGER of_c;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_triggers_for_replicas_fire_on_the_follower() {
    let table = "CREATE TABLE t (a int PRIMARY KEY, b text, c text);";
    let mut s = Scenario::with("[tables]\ninclude = [\"public.t\"]", "").await;
    s.both(table).await;
    s.follower(TRIGGERS).await;
    s.start();
    s.leader("INSERT INTO t VALUES (1, 'b', 'c')").await;
    s.equal(&["t"]).await;
    s.leader("UPDATE t SET b = 'new'").await;
    s.equal(&["t"]).await;
    // Postgres sends whole rows, and native replication sets all columns too: both fire.
    let wanted = [
        "(\"always INSERT 1\")",
        "(\"of_b UPDATE 1\")",
        "(\"of_c UPDATE 1\")",
    ];
    s.follower_has("seen", &wanted).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_trigger_that_drops_rows_is_said_and_not_taken_for_success() {
    let mut s = Scenario::new().await;
    s.both("CREATE TABLE t (a int PRIMARY KEY, b text)").await;
    s.follower(
        "CREATE FUNCTION drop_it() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN IF NEW.a < 10 THEN RETURN NEW; ELSE RETURN NULL; END IF; END';
         CREATE TRIGGER filter BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION drop_it();
         ALTER TABLE t ENABLE REPLICA TRIGGER filter",
    )
    .await;
    s.start();
    s.leader("INSERT INTO t VALUES (1, 'x')").await;
    s.equal(&["t"]).await;
    s.leader("INSERT INTO t VALUES (10, 'y')").await;
    s.halts(&["public.t", "diverged"]).await;
    s.stop_halted();
    s.follower("ALTER TABLE t DISABLE TRIGGER filter").await;
    s.start();
    s.equal(&["t"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_and_checks_of_the_follower_may_call_functions_with_queries() {
    let mut s = Scenario::new().await;
    s.both("CREATE TABLE t (a int PRIMARY KEY, b int)").await;
    s.follower(
        "CREATE TABLE lookup (k int); INSERT INTO lookup VALUES (1);
         CREATE FUNCTION looked_up(v int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT max(k) + v FROM public.lookup';
         CREATE FUNCTION planned(v int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
           'DECLARE n int; BEGIN SELECT count(*) INTO n FROM public.lookup; RETURN n = 1; END';
         CREATE INDEX ON t (looked_up(b)); ALTER TABLE t ADD CHECK (planned(b))",
    )
    .await;
    s.start();
    s.leader("INSERT INTO t SELECT i, i FROM generate_series(1, 100) i; UPDATE t SET b = -b; DELETE FROM t WHERE a = 5")
        .await;
    s.equal(&["t"]).await;
    s.end().await;
}
