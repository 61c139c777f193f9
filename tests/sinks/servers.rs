//! The servers that the tests of stores run on are what those tests take them for.

use crate::support::{self, ClickHouse, MariaDb};

const TABLE: &str = "CREATE TABLE shop.orders (id UInt64, note String, _version UInt128, _deleted UInt8) \
     ENGINE = ReplacingMergeTree(_version, _deleted) ORDER BY id";

/// A row of that table as RowBinary has it.
fn order(id: u64, note: &str, version: u128, deleted: u8) -> Vec<u8> {
    let mut row = id.to_le_bytes().to_vec();
    row.push(u8::try_from(note.len()).expect("a short text"));
    row.extend_from_slice(note.as_bytes());
    row.extend_from_slice(&version.to_le_bytes());
    row.push(deleted);
    row
}

#[tokio::test]
async fn clickhouse_replaces_and_deletes_rows_by_version_and_keeps_them_when_killed() {
    let mut server = ClickHouse::start("clickhouse-rows");
    server.sql("CREATE DATABASE IF NOT EXISTS shop").await;
    server.sql("DROP TABLE IF EXISTS shop.orders").await;
    server.sql(TABLE).await;
    let insert = "INSERT INTO shop.orders FORMAT RowBinary";
    let first: Vec<u8> = [order(1, "a", 1, 0), order(2, "b", 1, 0)].concat();
    server.insert(insert, &first).await;
    let above = u128::from(u64::MAX) + 7;
    let second: Vec<u8> = [order(1, "c", above, 0), order(2, "", above, 1)].concat();
    server.insert(insert, &second).await;
    // A version that is lower comes too late.
    server.insert(insert, &order(1, "old", 2, 0)).await;

    let rows = "SELECT id, note, _version FROM shop.orders FINAL";
    let expected = format!("1\tc\t{above}\n");
    assert_eq!(server.query(rows).await, expected);
    if server.is_own() {
        server.crash_and_restart();
        assert_eq!(server.query(rows).await, expected);
        server.stop();
        server.start_again();
        assert_eq!(server.query(rows).await, expected);
    }
}

#[tokio::test]
async fn clickhouse_writes_nothing_of_an_insert_that_is_cut_off() {
    let server = ClickHouse::start("clickhouse-cut-off");
    server.sql("CREATE DATABASE IF NOT EXISTS shop").await;
    server.sql("DROP TABLE IF EXISTS shop.cut").await;
    server
        .sql("CREATE TABLE shop.cut (id UInt64) ENGINE = MergeTree ORDER BY id")
        .await;
    let data: Vec<u8> = (0..50_000_u64).flat_map(u64::to_le_bytes).collect();
    let insert = "INSERT INTO shop.cut FORMAT RowBinary";
    let connection = server.begin_insert(insert, &data).await;
    let run = async |wanted: &str| {
        let running =
            "SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO shop.cut%'";
        support::until(&format!("{wanted} inserts run"), async || {
            match server.query(running).await {
                count if count.trim() == wanted => Ok(()),
                count => Err(count),
            }
        })
        .await;
    };
    run("1").await;
    drop(connection);
    run("0").await;
    let count = "SELECT count() FROM shop.cut";
    assert_eq!(server.query(count).await, "0\n");
    server.insert(insert, &data).await;
    assert_eq!(server.query(count).await, "50000\n");
}

#[tokio::test]
async fn clickhouse_takes_parameters_and_settings_and_tells_an_errors_code() {
    let server = ClickHouse::start("clickhouse-errors");
    let query = b"SELECT {name:String}, {n:UInt8} + 1, getSetting('max_threads')";
    let parameters = [
        ("param_name", "it's"),
        ("param_n", "4"),
        ("max_threads", "3"),
    ];
    let answer = server.ask(&parameters, query).await;
    assert_eq!(answer.text, "it\\'s\t5\t3\n", "{answer:?}");

    for (query, status, code, name) in [
        ("SELECT * FROM missing", 404, 60, "UNKNOWN_TABLE"),
        ("SELEC 1", 400, 62, "SYNTAX_ERROR"),
        (
            "SELECT throwIf(1)",
            500,
            395,
            "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO",
        ),
        ("INSERT INTO missing FORMAT TSV 1", 404, 60, "UNKNOWN_TABLE"),
    ] {
        let answer = server.ask(&[], query.as_bytes()).await;
        assert_eq!(
            (answer.status, answer.code),
            (status, Some(code)),
            "{answer:?}"
        );
        let text = &answer.text;
        assert!(text.starts_with(&format!("Code: {code}. DB::Exception: ")) && text.contains(name));
    }
    let answer = server.ask(&[("database", "missing")], b"SELECT 1").await;
    assert_eq!((answer.status, answer.code), (404, Some(81)), "{answer:?}");
}

#[tokio::test]
async fn clickhouse_lets_nobody_in_without_the_password() {
    let server = ClickHouse::start_secured("clickhouse-login", "ferry", "secret");
    assert_eq!(server.query("SELECT 1").await, "1\n");
    for (user, password) in [("ferry", "wrong"), ("stranger-to-it", "")] {
        let answer = server.ask_as(user, password, &[], b"SELECT 1").await;
        assert_eq!((answer.status, answer.code), (403, Some(516)), "{answer:?}");
        assert!(answer.text.contains("Authentication failed"), "{answer:?}");
    }
    if server.is_own() {
        let url = server.secure_url("default");
        assert!(url.starts_with("https://ferry:secret@127.0.0.1:"), "{url}");
        let authority = std::fs::read_to_string(server.authority()).unwrap();
        assert!(authority.contains("BEGIN CERTIFICATE"));
    }
}

/// A row is kept through a kill and a stop.
fn mariadb_keeps_rows(version: &str) {
    let mut server = MariaDb::start_version("mariadb", version, &["--set", "wait_timeout=777"]);
    let told = server.query("SELECT version(), @@wait_timeout, current_user()");
    assert!(told.starts_with(version), "{told}");
    assert!(told.ends_with("\t777\twalferry@%\n"), "{told}");
    server.sql(
        "CREATE DATABASE shop; CREATE TABLE shop.orders (id BIGINT PRIMARY KEY, note TEXT, at DATETIME(6));
         INSERT INTO shop.orders VALUES (1, 'ä☃𝄞', '2024-02-29 12:00:00.000001'), (2, NULL, NULL);",
    );
    let rows = "SELECT * FROM shop.orders ORDER BY id";
    let expected = "1\tä☃𝄞\t2024-02-29 12:00:00.000001\n2\tNULL\tNULL\n";
    assert_eq!(server.query(rows), expected);
    server.crash_and_restart();
    assert_eq!(server.query(rows), expected);
    server.stop();
    server.start_again();
    assert_eq!(server.query(rows), expected);
    let error = server.try_query("SELECT * FROM shop.missing").unwrap_err();
    assert!(error.starts_with("ERROR 1146 (42S02)"), "{error}");
}

#[test]
fn mariadb_10_keeps_what_was_committed_when_it_is_killed() {
    mariadb_keeps_rows("10.11");
}

#[test]
fn mariadb_11_keeps_what_was_committed_when_it_is_killed() {
    mariadb_keeps_rows("11.4");
}

#[test]
fn mariadb_speaks_tls_with_a_certificate_of_its_own_authority() {
    let server = MariaDb::start_secured("mariadb-tls");
    let cipher = server.query("SHOW STATUS LIKE 'Ssl_cipher'");
    assert!(cipher.len() > "Ssl_cipher\t\n".len(), "{cipher}");
    assert!(server.authority().exists());
}
