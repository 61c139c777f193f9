//! Indexes of followers: built behind the rows of a copy, and taken over from the leader through Kafka.

use tokio_postgres::Client;

use crate::support::content::rows;
use crate::support::{Pipeline, Postgres, Walferry, assert_equal, until, wait_caught_up};

/// More than a copy must have for its indexes to be set aside.
const ROWS: i32 = 12_000;

/// Indexes that can go while rows come.
const CAN_GO: &[&str] = &[
    "items_n",
    "items_hash",
    "items_tags",
    "items_brin",
    "items_lower",
    "items_some",
    "items_wide",
    "Items \"odd\"",
    "events_tags",
];
/// Indexes of `FOLLOWERS_OWN` that stay.
const STAY: &[&str] = &[
    "items_unique",
    "items_clustered",
    "items_statistics",
    "items_excluded",
    "events_number",
];

const LEADERS_TABLES: &str = "
    CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL, note text NOT NULL, tags int[] NOT NULL);
    CREATE TABLE events (number int NOT NULL, tags int[] NOT NULL);
    ALTER TABLE events REPLICA IDENTITY FULL;";

/// A follower's own, of every kind.
const FOLLOWERS_OWN: &str = "
    CREATE INDEX items_n ON items (n DESC NULLS LAST) WITH (fillfactor = 70);
    COMMENT ON INDEX items_n IS 'the report''s';
    CREATE INDEX items_hash ON items USING hash (note);
    CREATE INDEX items_tags ON items USING gin (tags) WITH (fastupdate = off);
    CREATE INDEX items_brin ON items USING brin (id) WITH (pages_per_range = 16);
    CREATE INDEX items_lower ON items (lower(note) COLLATE \"C\" text_pattern_ops);
    CREATE INDEX items_some ON items (n) WHERE n > 10 AND note LIKE 'x%';
    CREATE INDEX items_wide ON items (note, n) INCLUDE (tags);
    CREATE INDEX \"Items \"\"odd\"\"\" ON items (n, id) TABLESPACE elsewhere;
    CREATE UNIQUE INDEX items_unique ON items (note, id);
    CREATE INDEX items_clustered ON items (n, note);
    ALTER TABLE items CLUSTER ON items_clustered;
    CREATE INDEX items_statistics ON items ((n % 7));
    ALTER INDEX items_statistics ALTER COLUMN 1 SET STATISTICS 500;
    ALTER TABLE items ADD CONSTRAINT items_excluded EXCLUDE USING btree (id WITH =);
    CREATE INDEX events_number ON events (number);
    CREATE INDEX events_tags ON events USING gin (tags);";

async fn leader() -> Postgres {
    let leader = Postgres::start("leader");
    leader.sql(LEADERS_TABLES).await;
    leader
        .sql(&format!(
            "INSERT INTO items SELECT i, i % 100, 'x' || i, ARRAY[i, i % 10] FROM generate_series(1, {ROWS}) i;
             INSERT INTO events SELECT i, ARRAY[i] FROM generate_series(1, {ROWS}) i"
        ))
        .await;
    leader
}

/// A follower with tables and indexes of its own, one of them in another tablespace.
async fn own_follower() -> Postgres {
    let follower = Postgres::start_with("follower", &["allow_in_place_tablespaces=on"]);
    follower
        .sql("CREATE TABLESPACE elsewhere LOCATION ''")
        .await;
    follower.sql(LEADERS_TABLES).await;
    follower.sql(FOLLOWERS_OWN).await;
    follower
}

/// All that can be said of a database's indexes and constraints, foreign keys aside.
async fn shape(client: &Client) -> Vec<String> {
    let query = "SELECT concat_ws(' | ', pg_get_indexdef(i.indexrelid), spcname, obj_description(x.oid, 'pg_class'),
            indisprimary, indisclustered, indisvalid, (SELECT string_agg(attstattarget::text, ',')
                FROM pg_attribute WHERE attrelid = x.oid AND attstattarget >= 0))
        FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
        LEFT JOIN pg_tablespace s ON s.oid = x.reltablespace
        WHERE x.relnamespace = 'public'::regnamespace
        UNION ALL SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'u', 'c', 'x') ORDER BY 1";
    let rows = client.query(query, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn noted(client: &Client) -> Vec<String> {
    let query = "SELECT name FROM walferry.indexes ORDER BY name";
    let rows = client.query(query, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// How often each of these was built.
fn built<'a>(walferry: &Walferry, names: &[&'a str]) -> Vec<(&'a str, usize)> {
    let output = walferry.output();
    let built = |name: &str| {
        let lines = output
            .lines()
            .filter(|line| line.contains("built an index behind the rows"));
        let escaped = format!("index={:?}", name);
        let plain = format!("index={name} ");
        lines
            .filter(|line| line.contains(&escaped) || line.contains(&plain))
            .count()
    };
    names.iter().map(|name| (*name, built(name))).collect()
}

fn times<'a>(names: &[&'a str], times: usize) -> Vec<(&'a str, usize)> {
    names.iter().map(|name| (*name, times)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_has_the_very_same_indexes_after_a_copy_a_resync_and_a_rebuild() {
    let (leader, follower) = (leader().await, own_follower().await);
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let before = shape(&to).await;
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(shape(&to).await, before);
    assert_eq!(
        built(&walferry, CAN_GO),
        times(CAN_GO, 1),
        "{}",
        walferry.output()
    );
    assert_eq!(built(&walferry, STAY), times(STAY, 0));

    pipeline.do_it(&["resync", "a", "items"]);
    assert_eq!(shape(&to).await, before);
    pipeline.do_it(&["rebuild", "a"]);
    assert_eq!(shape(&to).await, before);
    assert_eq!(built(&walferry, &["items_n"]), [("items_n", 3)]);
    assert!(noted(&to).await.is_empty());
    from.batch_execute(
        "UPDATE items SET n = n + 1 WHERE id % 3 = 0; DELETE FROM events WHERE number % 5 = 0",
    )
    .await
    .unwrap();
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["items", "events"]).await;
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_rows_no_index_is_taken_away() {
    let (leader, follower) = (leader().await, own_follower().await);
    let pipeline = Pipeline::with(&leader, &[&follower], "", "build_indexes = \"with-rows\"");
    let (from, to) = (leader.client().await, follower.client().await);
    let before = shape(&to).await;
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(shape(&to).await, before);
    assert!(
        !walferry.output().contains("set aside"),
        "{}",
        walferry.output()
    );
    assert_equal(&from, &to, &["items", "events"]).await;
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_before_or_amid_a_build_leaves_notes_and_the_next_one_finishes() {
    let (leader, follower) = (leader().await, own_follower().await);
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let before = shape(&to).await;
    for (point, left) in [
        ("BeforeIndex", CAN_GO.len()),
        ("IndexBuilt:3", CAN_GO.len() - 2),
    ] {
        pipeline.run_until(point).dies().await;
        // The server process of the one that died may still be at its statement.
        until("the rest is noted", || async {
            let notes = noted(&to).await;
            if notes.len() == left {
                Ok(())
            } else {
                Err(format!("{notes:?}"))
            }
        })
        .await;
        let shown = shape(&to).await.len();
        assert_eq!(shown, before.len() - left, "an index is there or noted");
    }
    // What somebody makes by hand meanwhile is left alone.
    let by_hand = noted(&to)
        .await
        .into_iter()
        .find(|name| name == "items_wide")
        .expect("noted");
    let definition: String = to
        .query_one(
            "SELECT statement FROM walferry.indexes WHERE name = $1",
            &[&by_hand],
        )
        .await
        .unwrap()
        .get(0);
    to.batch_execute(&definition).await.unwrap();
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(shape(&to).await, before);
    assert!(noted(&to).await.is_empty());
    walferry
        .says("something of this name is there by now")
        .await;
    assert_equal(&from, &to, &["items", "events"]).await;
    assert_eq!(walferry.terminate(), 0);
}

/// A function whose index is not built while somebody holds [`HOLD`].
const SLOW: &str = "CREATE FUNCTION slow(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(41); RETURN n; END'";
const HOLD: &str = "SELECT pg_advisory_lock(41)";
const LET_GO: &str = "SELECT pg_advisory_unlock(41)";

/// The sessions that build the slow index.
async fn builders(follower: &Client) -> Vec<i32> {
    let builds = "SELECT pid FROM pg_stat_activity
        WHERE query LIKE '%CREATE INDEX items_slow%' AND state = 'active' AND pid <> pg_backend_pid()";
    let found = follower.query(builds, &[]).await.unwrap();
    found.iter().map(|row| row.get(0)).collect()
}

/// Waits until one session builds it, another than this one: its number.
async fn builder(follower: &Client, other_than: Option<i32>) -> i32 {
    until("the slow index is being built", async || {
        match builders(follower).await[..] {
            [one] if Some(one) != other_than => Ok(one),
            ref found => Err(format!("by {found:?}")),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_in_effect_go_on_while_an_index_is_built_and_another_worker_takes_the_build_over() {
    let (leader, follower) = (leader().await, own_follower().await);
    leader.sql("CREATE TABLE live (id int PRIMARY KEY)").await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    to.batch_execute(&format!(
        "{SLOW}; CREATE INDEX items_slow ON items (slow(n))"
    ))
    .await
    .unwrap();
    let before = shape(&to).await;
    let holder = follower.client().await;
    holder.batch_execute(HOLD).await.unwrap();
    pipeline.do_it(&["resync", "a", "items", "--detach"]);
    let first = builder(&to, None).await;
    // Both tables change meanwhile, and the one in effect shows it.
    from.batch_execute(
        "INSERT INTO live SELECT generate_series(1, 50); UPDATE items SET n = -n WHERE id < 100;
         INSERT INTO items VALUES (0, 0, 'new', '{}'); DELETE FROM items WHERE id = 1",
    )
    .await
    .unwrap();
    until("the live table goes on", || async {
        let live = rows(&to, "live").await.len();
        if live == 50 {
            Ok(())
        } else {
            Err(format!("{live} rows"))
        }
    })
    .await;
    assert_eq!(builders(&to).await, [first]);

    walferry.kill();
    let walferry = pipeline.run();
    builder(&to, Some(first)).await;
    holder.batch_execute(LET_GO).await.unwrap();
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(shape(&to).await, before);
    assert!(noted(&to).await.is_empty());
    assert_equal(&from, &to, &["items", "events", "live"]).await;
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_is_no_longer_wanted_ends() {
    let (leader, follower) = (leader().await, own_follower().await);
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    to.batch_execute(&format!(
        "{SLOW}; CREATE INDEX items_slow ON items (slow(n) DESC, slow(-n))"
    ))
    .await
    .unwrap();
    let before = shape(&to).await;
    let holder = follower.client().await;
    holder.batch_execute(HOLD).await.unwrap();
    let walferry = pipeline.run();
    builder(&to, None).await;
    // The copy is void: the table has left and returned under another OID.
    from.batch_execute("DROP TABLE items; CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL, note text NOT NULL, tags int[] NOT NULL)")
        .await
        .unwrap();
    from.batch_execute("INSERT INTO items VALUES (1, 1, 'other', '{}')")
        .await
        .unwrap();
    assert_eq!(walferry.terminate(), 0);
    until("nothing is built", async || {
        let found = builders(&to).await;
        let is_none = found.is_empty();
        is_none.then_some(()).ok_or(format!("by {found:?}"))
    })
    .await;
    holder.batch_execute(LET_GO).await.unwrap();
    let walferry = pipeline.run();
    until("the other table is there", || async {
        let shown = rows(&to, "items").await;
        if shown.len() == 1 {
            Ok(())
        } else {
            Err(format!("{} rows", shown.len()))
        }
    })
    .await;
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(shape(&to).await, before);
    assert_equal(&from, &to, &["items", "events"]).await;
    assert_eq!(walferry.terminate(), 0);
}

/// What a leader has beside keys, of every kind that is offered, and of some that are not.
const LEADERS_OWN: &str = "
    CREATE FUNCTION here(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT n';
    ALTER TABLE items ADD COLUMN code text NOT NULL DEFAULT 'c';
    UPDATE items SET code = 'c' || id;
    CREATE INDEX items_n ON items (n DESC);
    CREATE INDEX items_tags ON items USING gin (tags);
    CREATE INDEX items_here ON items (here(n));
    CREATE UNIQUE INDEX items_some ON items (note) WHERE n > 10;
    ALTER TABLE items ADD CONSTRAINT items_code UNIQUE (code) DEFERRABLE INITIALLY DEFERRED;
    ALTER TABLE items ADD CONSTRAINT items_positive CHECK (id > 0);
    ALTER TABLE items ADD CONSTRAINT items_later CHECK (n < 50) NOT VALID;
    ALTER TABLE items ADD CONSTRAINT items_excluded EXCLUDE USING hash (code WITH =);
    CREATE TABLE named (code text NOT NULL, item int REFERENCES items, n int);
    CREATE UNIQUE INDEX named_identity ON named (code);
    ALTER TABLE named REPLICA IDENTITY USING INDEX named_identity;
    CREATE INDEX named_n ON named (n);
    INSERT INTO named SELECT 'k' || i, i, i FROM generate_series(1, 100) i;
    CREATE TABLE parts (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
    CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200);
    CREATE INDEX parts_n ON parts (n);
    INSERT INTO parts SELECT i, i FROM generate_series(1, 150) i;";

/// Lines of a shape that name one of these.
fn naming<'a>(shape: &'a [String], names: &[&str]) -> Vec<&'a str> {
    let names_one = |line: &&str| names.iter().any(|name| line.contains(name));
    shape.iter().map(String::as_str).filter(names_one).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_follower_gets_the_leaders_indexes_from_kafka_alone() {
    let mut leader = leader().await;
    leader.sql(LEADERS_OWN).await;
    let followers = [
        Postgres::start("follower"),
        Postgres::start("follower"),
        Postgres::start("follower"),
    ];
    let [none, unique, all] = &followers;
    let pipeline = Pipeline::new(&leader, &[none, unique, all]);
    for (name, follower, indexes) in [("b", unique, "unique"), ("c", all, "all")] {
        let url = follower.url("postgres");
        pipeline.write(
            &format!("connectors/{name}.toml"),
            &format!("kind = \"postgres\"\nurl = \"{url}\"\nindexes = \"{indexes}\"\n"),
        );
    }
    let from = leader.client().await;
    let walferry = pipeline.run_only(&["leader", "a"]);
    wait_caught_up(&from, &none.client().await, "a").await;
    assert_eq!(walferry.terminate(), 0);
    let (leaders, items) = (shape(&from).await, rows(&from, "items").await);
    drop(from);
    leader.stop();

    let walferry = pipeline.run_only(&["b", "c"]);
    for (name, follower) in [("b", unique), ("c", all)] {
        let to = follower.client().await;
        until(&format!("{name} shows the leader"), || async {
            let query = "SELECT NOT copying FROM walferry.checkpoint WHERE sink = $1";
            let row = to
                .query_opt(query, &[&name])
                .await
                .map_err(|e| format!("{e:?}"))?;
            row.filter(|row| row.get(0))
                .map(|_| ())
                .ok_or("it copies".to_owned())
        })
        .await;
        assert_eq!(rows(&to, "items").await, items);
        assert!(noted(&to).await.is_empty());
    }
    let taken = ["items_some", "items_code"];
    let more = [
        "items_n ",
        "items_tags",
        "items_positive",
        "items_excluded",
        "named_n ",
        "parts_n ",
    ];
    let every = [taken.as_slice(), more.as_slice()].concat();
    let of_a = shape(&none.client().await).await;
    assert!(naming(&of_a, &every).is_empty(), "{of_a:?}");
    let of_b = shape(&unique.client().await).await;
    assert_eq!(naming(&of_b, &taken), naming(&leaders, &taken));
    assert!(naming(&of_b, &more).is_empty(), "{of_b:?}");
    let of_c = shape(&all.client().await).await;
    let as_ordinary: Vec<String> = leaders
        .iter()
        .map(|line| line.replace(" ON ONLY ", " ON "))
        .collect();
    assert_eq!(naming(&of_c, &every), naming(&as_ordinary, &every));
    // The identity's index is there under a name of its own, and what is not validated binds no follower.
    assert_eq!(
        naming(&of_c, &["ON public.named USING btree (code)"]).len(),
        1,
        "{of_c:?}"
    );
    assert!(
        naming(&of_c, &["items_later", "items_here"]).is_empty(),
        "{of_c:?}"
    );
    let said = walferry.says("cannot be made on the follower").await;
    assert!(said.contains("items_here"), "{said}");

    // Later changes meet the leader's constraints.
    leader.start_again();
    let source = pipeline.twin().run_only(&["leader"]);
    let from = leader.client().await;
    from.batch_execute(
        "BEGIN; UPDATE items SET code = 'swap' WHERE id = 1; UPDATE items SET code = 'c1' WHERE id = 2;
         UPDATE items SET code = 'c2' WHERE id = 1; COMMIT;
         INSERT INTO items SELECT i, i % 50, 'x' || i, '{}', 'c' || i FROM generate_series(20001, 20100) i;
         DELETE FROM named WHERE n < 50",
    )
    .await
    .unwrap();
    for (name, follower) in [("b", unique), ("c", all)] {
        let to = follower.client().await;
        wait_caught_up(&from, &to, name).await;
        assert_equal(&from, &to, &["items", "events", "named", "parts"]).await;
    }
    assert_eq!(source.terminate(), 0);
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_the_leaders_unique_index_does_not_allow_halt_the_sink() {
    let (leader, follower) = (leader().await, Postgres::start("follower"));
    let same = "CREATE FUNCTION folded(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT n'";
    leader.sql(same).await;
    leader
        .sql("CREATE UNIQUE INDEX items_folded ON items (folded(id))")
        .await;
    follower
        .sql(&same.replace("SELECT n", "SELECT n / 2"))
        .await;
    let pipeline = Pipeline::with(&leader, &[&follower], "", "indexes = \"unique\"");
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    let said = walferry.says("does not allow").await;
    assert!(said.contains("items_folded"), "{said}");
    until("the sink has halted", || async {
        let (_code, said) = pipeline.say(&["status"]);
        if said.contains("halted") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
    // The remedy, word for word.
    to.batch_execute(
        "DELETE FROM walferry.indexes WHERE table_schema = 'public' AND table_name = 'items' AND name = 'items_folded'",
    )
    .await
    .unwrap();
    pipeline.do_it(&["sink", "resume", "a"]);
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["items", "events"]).await;
    assert_eq!(walferry.terminate(), 0);
}
