//! The replication client and ordinary connections against a real Postgres: authentication, TLS,
//! slots, and a stream with every kind of message.
//!
//! Servers are started by `./dev server` (`WALFERRY_DEV` names another copy of it) in the major that
//! `PG_VERSION` names, the newest by default.

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use support::{dev, postgres_settings};
use tokio_postgres::Client;
use walferry::config::{PostgresSettings, TlsMode, TlsSettings};
use walferry::error::{Class, Error, Result};
use walferry::model::Lsn;
use walferry::pgoutput::{Datum, Message, Old, decode};
use walferry::postgres;
use walferry::source::connection::{ReplicationConnection, StartOutcome};
use walferry::source::stream::{Feedback, Frame, ReplicationStream};

/// A server of its own in a directory of its own, stopped and removed at the end.
struct Server {
    directory: tempfile::TempDir,
    port: u16,
}

impl Server {
    fn start() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new(dev());
        command.args(["server", "postgres", "start"]);
        command.arg(directory.path().join("pg"));
        let sockets = directory.path().join("pg/data");
        command.arg("--set");
        command.arg(format!("unix_socket_directories={}", sockets.display()));
        if let Some(major) = std::env::var_os("PG_VERSION") {
            command.arg("--major").arg(major);
        }
        let output = command.output().expect("./dev is there");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{output:?}");
        let port = text
            .split_whitespace()
            .find_map(|word| word.strip_prefix("port="))
            .unwrap();
        Server {
            port: port.parse().unwrap(),
            directory,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn settings(&self, user: &str) -> PostgresSettings {
        self.settings_at("127.0.0.1", user, "postgres")
    }

    fn settings_at(&self, host: &str, user: &str, database: &str) -> PostgresSettings {
        let port = self.port;
        postgres_settings(&format!("postgres://{user}@{host}:{port}/{database}"))
    }

    async fn admin(&self) -> Client {
        postgres::connect(&self.settings("postgres"), "test")
            .await
            .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = Command::new(dev())
            .args(["server", "postgres", "stop"])
            .arg(self.directory.path().join("pg"))
            .args(["--mode", "immediate"])
            .output();
        if let Err(error) = stopped {
            eprintln!("stopping the server: {error}");
        }
    }
}

/// Runs statements one by one, each a transaction of its own unless it says BEGIN.
async fn run(admin: &Client, statements: &[&str]) {
    for statement in statements {
        let ran = admin.batch_execute(statement).await;
        ran.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

async fn open(settings: &PostgresSettings) -> Result<ReplicationConnection> {
    ReplicationConnection::open(settings, "walferry-test", &[]).await
}

/// Both kinds of connection, which must agree.
async fn both(settings: &PostgresSettings) -> Result<()> {
    let replication = open(settings).await.map(drop);
    let ordinary = postgres::connect(settings, "walferry-test").await.map(drop);
    match (&replication, &ordinary) {
        (Ok(()), Ok(())) => {}
        (Err(one), Err(other)) => assert_eq!(one.class(), other.class(), "{one} | {other}"),
        (one, other) => panic!("replication: {one:?}, ordinary: {other:?}"),
    }
    replication
}

fn halt(outcome: Result<()>, what: &str) {
    let error = outcome.expect_err(what);
    assert_eq!(error.class(), Class::Halt, "{error}");
    assert!(error.remedy().is_some_and(|r| !r.is_empty()), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
}

/// Replaces pg_hba.conf; the superuser stays trusted.
async fn set_hba(admin: &Client, lines: &[&str]) {
    let text = format!(
        "host all postgres 127.0.0.1/32 trust\n{}\n",
        lines.join("\n")
    );
    let directory: String = admin
        .query_one("SHOW data_directory", &[])
        .await
        .unwrap()
        .get(0);
    // COPY's text format: newlines inside the one value would be escaped, so a row a line.
    let rows: Vec<String> = text.lines().map(|l| format!("('{l}')")).collect();
    admin
        .batch_execute(&format!(
            "COPY (VALUES {}) TO '{directory}/pg_hba.conf'; SELECT pg_reload_conf()",
            rows.join(",")
        ))
        .await
        .unwrap();
}

/// Waits until the reloaded configuration is in force for new sessions: the server rereads it
/// asynchronously.
async fn until<F: AsyncFn() -> bool>(what: &str, holds: F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}

/// Runs a shell command as the server's user in its data directory.
async fn in_data_directory(admin: &Client, shell: &str) {
    admin
        .batch_execute(&format!("COPY (SELECT 1) TO PROGRAM $sh${shell}$sh$"))
        .await
        .unwrap();
}

#[tokio::test]
async fn every_password_method_lets_in_the_right_password_only() {
    let server = Server::start();
    let admin = server.admin().await;
    admin
        .batch_execute(
            "SET password_encryption = 'md5';
             CREATE ROLE hashed LOGIN REPLICATION PASSWORD 'secret';
             SET password_encryption = 'scram-sha-256';
             CREATE ROLE scrammer LOGIN REPLICATION PASSWORD 'secret';
             CREATE ROLE trusted LOGIN REPLICATION;
             CREATE ROLE unable LOGIN PASSWORD 'secret';",
        )
        .await
        .unwrap();
    set_hba(
        &admin,
        &[
            "host all trusted 127.0.0.1/32 trust",
            "host all hashed 127.0.0.1/32 md5",
            "host postgres scrammer 127.0.0.1/32 scram-sha-256",
            "host template1 scrammer 127.0.0.1/32 password",
            "host all unable 127.0.0.1/32 scram-sha-256",
        ],
    )
    .await;
    until("pg_hba.conf is read", async || {
        open(&server.settings("scrammer:wrong")).await.is_err()
    })
    .await;

    both(&server.settings("trusted")).await.unwrap();
    for user in ["hashed", "scrammer"] {
        both(&server.settings(&format!("{user}:secret")))
            .await
            .unwrap();
        halt(
            both(&server.settings(&format!("{user}:secret2"))).await,
            user,
        );
        halt(both(&server.settings(user)).await, user);
    }
    let clear = |user: &str| server.settings_at("127.0.0.1", user, "template1");
    both(&clear("scrammer:secret")).await.unwrap();
    halt(both(&clear("scrammer:secret2")).await, "cleartext");
    halt(
        both(&server.settings("nobody:secret")).await,
        "no pg_hba line",
    );
    halt(
        both(&server.settings_at("127.0.0.1", "trusted", "nowhere")).await,
        "no database",
    );
    halt(
        open(&server.settings("unable:secret")).await.map(drop),
        "no REPLICATION",
    );
    let closed = postgres_settings("postgres://u@127.0.0.1:1/d");
    assert_eq!(both(&closed).await.unwrap_err().class(), Class::Transient);
}

/// A certificate authority, a server certificate for `localhost` by it, a self-signed one with only a
/// common name, and a client certificate for the role `certified`.
const CERTIFICATES: &str = "
    exec 2>&1 >/dev/null; set -e
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt
    openssl req -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr
    printf subjectAltName=DNS:localhost >server.ext
    openssl x509 -req -sha384 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext -out server.crt
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout self.key -out self.crt
    openssl req -newkey rsa:2048 -nodes -subj /CN=certified -keyout client.key -out client.csr
    printf extendedKeyUsage=clientAuth >client.ext
    openssl x509 -req -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile client.ext -out client.crt
    chmod 600 *.key";

async fn fetch_files(server: &Server, admin: &Client, names: &[&str]) {
    for name in names {
        let text: String = admin
            .query_one("SELECT pg_read_file($1)", &[name])
            .await
            .unwrap()
            .get(0);
        std::fs::write(server.file(name), text).unwrap();
    }
}

async fn serve_tls(server: &Server, admin: &Client, certificate: &str) {
    for setting in [
        "ssl = on".to_owned(),
        format!("ssl_cert_file = '{certificate}.crt'"),
        format!("ssl_key_file = '{certificate}.key'"),
        "ssl_ca_file = 'ca.crt'".to_owned(),
    ] {
        admin
            .batch_execute(&format!("ALTER SYSTEM SET {setting}"))
            .await
            .unwrap();
    }
    admin
        .batch_execute("SELECT pg_reload_conf()")
        .await
        .unwrap();
    let mut probe = server.settings_at("localhost", "scrammer:secret", "postgres");
    probe.tls.mode = TlsMode::VerifyFull;
    probe.tls.root_cert = Some(server.file(&format!(
        "{}.crt",
        if certificate == "self" { "self" } else { "ca" }
    )));
    until("the certificate is served", async || {
        open(&probe).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn tls_verifies_what_its_mode_says() {
    let server = Server::start();
    let admin = server.admin().await;
    admin
        .batch_execute(
            "CREATE ROLE scrammer LOGIN REPLICATION PASSWORD 'secret';
             CREATE ROLE certified LOGIN REPLICATION;
             CREATE ROLE in_clear LOGIN REPLICATION PASSWORD 'secret';",
        )
        .await
        .unwrap();
    set_hba(
        &admin,
        &[
            "hostssl all scrammer 127.0.0.1/32 scram-sha-256",
            "hostssl all certified 127.0.0.1/32 cert",
            "hostnossl all in_clear 127.0.0.1/32 scram-sha-256",
        ],
    )
    .await;
    // Without TLS at the server.
    let mut plain = server.settings("in_clear:secret");
    until("pg_hba.conf is read", async || open(&plain).await.is_ok()).await;
    both(&plain).await.unwrap();
    plain.tls.mode = TlsMode::Require;
    halt(both(&plain).await, "no TLS to require");

    in_data_directory(&admin, CERTIFICATES).await;
    let files = ["ca.crt", "self.crt", "client.crt", "client.key"];
    fetch_files(&server, &admin, &files).await;
    serve_tls(&server, &admin, "server").await;

    let with = |host: &str, mode: TlsMode, root: Option<&str>| {
        let mut settings = server.settings_at(host, "scrammer:secret", "postgres");
        settings.tls.mode = mode;
        settings.tls.root_cert = root.map(|root| server.file(root));
        settings
    };
    use TlsMode::{Disable, Prefer, Require, VerifyCa, VerifyFull};
    for (host, mode, root) in [
        ("localhost", Prefer, None),
        ("localhost", Require, None),
        ("127.0.0.1", Require, Some("ca.crt")),
        ("127.0.0.1", VerifyCa, Some("ca.crt")),
        ("localhost", VerifyFull, Some("ca.crt")),
    ] {
        let outcome = both(&with(host, mode, root)).await;
        outcome.unwrap_or_else(|error| panic!("{host} {mode:?} {root:?}: {error}"));
    }
    for (host, mode, root) in [
        ("localhost", Disable, None),                // no hostnossl line
        ("127.0.0.1", VerifyFull, Some("ca.crt")),   // another name
        ("localhost", VerifyFull, Some("self.crt")), // another root
        ("localhost", Require, Some("self.crt")),
        ("localhost", VerifyCa, None), // the system's roots
    ] {
        halt(
            both(&with(host, mode, root)).await,
            &format!("{host} {mode:?} {root:?}"),
        );
    }
    // Prefer falls back where pg_hba.conf has only a line without TLS.
    both(&server.settings("in_clear:secret")).await.unwrap();

    let mut certified = server.settings_at("localhost", "certified", "postgres");
    certified.tls = TlsSettings {
        mode: VerifyFull,
        root_cert: Some(server.file("ca.crt")),
        cert: Some(server.file("client.crt")),
        key: Some(server.file("client.key")),
    };
    both(&certified).await.unwrap();
    certified.tls.cert = None;
    certified.tls.key = None;
    halt(both(&certified).await, "without client certificate");

    serve_tls(&server, &admin, "self").await;
    both(&with("localhost", VerifyFull, Some("self.crt")))
        .await
        .unwrap();
    halt(
        both(&with("127.0.0.1", VerifyFull, Some("self.crt"))).await,
        "common name of another host",
    );
    halt(
        both(&with("localhost", VerifyFull, Some("ca.crt"))).await,
        "another root",
    );
}

#[tokio::test]
async fn scram_binds_to_the_tls_channel() {
    let server = Server::start();
    let admin = server.admin().await;
    admin
        .batch_execute("CREATE ROLE scrammer LOGIN REPLICATION PASSWORD 'secret'")
        .await
        .unwrap();
    set_hba(&admin, &["host all scrammer 127.0.0.1/32 scram-sha-256"]).await;
    in_data_directory(&admin, CERTIFICATES).await;
    fetch_files(&server, &admin, &["ca.crt", "self.crt"]).await;
    let bound = |mode| {
        let mut settings = server.settings_at(
            "localhost",
            "scrammer:secret",
            "postgres?channel_binding=require",
        );
        settings.tls.mode = mode;
        settings
    };
    until("pg_hba.conf is read", async || {
        open(&server.settings("scrammer:secret2")).await.is_err()
    })
    .await;
    halt(both(&bound(TlsMode::Disable)).await, "nothing to bind to");
    // SHA-384 and SHA-256 signatures.
    for certificate in ["server", "self"] {
        serve_tls(&server, &admin, certificate).await;
        both(&bound(TlsMode::Require)).await.unwrap();
        both(&bound(TlsMode::Prefer)).await.unwrap();
    }
}

#[tokio::test]
async fn a_unix_socket_is_taken_without_tls_whatever_the_mode() {
    let server = Server::start();
    let directory = server.file("pg/data");
    let (directory, port) = (directory.display(), server.port);
    let mut socket = postgres_settings(&format!("host={directory} port={port} user=postgres"));
    socket.tls.mode = TlsMode::VerifyFull;
    both(&socket).await.unwrap();
}

/// What a stream said, in short, up to a message; without empty transactions, which Postgres 14 sends.
async fn collect(stream: &mut ReplicationStream, last: &str) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    while said.last().is_none_or(|message| message != last) {
        let next = tokio::time::timeout(Duration::from_secs(20), stream.next());
        match next
            .await
            .expect("frames in time")
            .unwrap_or_else(|error| panic!("{error} after {said:?}"))
        {
            Frame::Data { data, .. } => {
                let message = in_short(&decode(&data).unwrap());
                if message == "commit" && said.last().is_some_and(|before| before == "begin") {
                    said.pop();
                } else {
                    said.push(message);
                }
            }
            Frame::Keepalive { .. } => {}
        }
    }
    said
}

fn in_short(message: &Message<'_>) -> String {
    fn row(tuple: &walferry::pgoutput::Tuple<'_>) -> String {
        let columns: Vec<String> = tuple
            .iter()
            .map(|datum| match datum {
                Datum::Null => "null".to_owned(),
                Datum::Unchanged => "unchanged".to_owned(),
                Datum::Text(text) if text.len() > 20 => format!("{} bytes", text.len()),
                Datum::Text(text) => String::from_utf8_lossy(text).into_owned(),
                Datum::Binary(_) => "binary".to_owned(),
            })
            .collect();
        columns.join(",")
    }
    fn old_row(old: &Old<'_>) -> String {
        match old {
            Old::Key(tuple) => format!("key {}", row(tuple)),
            Old::Full(tuple) => format!("full {}", row(tuple)),
        }
    }
    match message {
        Message::Begin(_) => "begin".to_owned(),
        Message::Commit(_) => "commit".to_owned(),
        Message::Origin { name, .. } => format!("origin {}", String::from_utf8_lossy(name)),
        Message::Relation(relation) => {
            let columns: Vec<&str> = relation.columns.iter().map(|c| c.name).collect();
            let (schema, name) = (relation.schema, relation.name);
            format!("relation {schema}.{name} {}", columns.join(","))
        }
        Message::Type { name, .. } => format!("type {name}"),
        Message::Insert { new, .. } => format!("insert {}", row(new)),
        Message::Update { old: None, new, .. } => format!("update {}", row(new)),
        Message::Update {
            old: Some(old),
            new,
            ..
        } => format!("update {} to {}", old_row(old), row(new)),
        Message::Delete { old, .. } => format!("delete {}", old_row(old)),
        Message::Truncate {
            relations,
            cascade,
            restart_identity,
        } => format!("truncate {} {cascade} {restart_identity}", relations.len()),
        Message::Logical {
            transactional,
            prefix,
            content,
            ..
        } => format!(
            "message {transactional} {} {}",
            String::from_utf8_lossy(prefix),
            String::from_utf8_lossy(content)
        ),
    }
}

async fn started(
    connection: ReplicationConnection,
    slot: &str,
    at: Lsn,
    publication: &str,
) -> ReplicationStream {
    match connection
        .start_replication(slot, at, &[publication.to_owned()])
        .await
        .unwrap()
    {
        StartOutcome::Started(stream) => stream,
        StartOutcome::Busy => panic!("the slot is busy"),
    }
}

#[tokio::test]
async fn a_stream_brings_every_kind_of_message_and_takes_feedback() {
    let server = Server::start();
    let admin = server.admin().await;
    admin
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('sad', 'ok');
             CREATE TABLE \"Odd \"\"t\" (id int PRIMARY KEY, m mood, note text);
             ALTER TABLE \"Odd \"\"t\" ALTER note SET STORAGE external;
             CREATE TABLE whole (a int, b regclass);
             ALTER TABLE whole REPLICA IDENTITY FULL;
             CREATE PUBLICATION \"it's \"\"p\" FOR ALL TABLES;",
        )
        .await
        .unwrap();
    let publication = "it's \"p";
    let timeouts = [("wal_sender_timeout", "10s".to_owned())];
    let settings = server.settings("postgres");
    let mut connection = ReplicationConnection::open(&settings, "walferry-test", &timeouts)
        .await
        .unwrap();
    let identity = connection.identify_system().await.unwrap();
    assert_eq!(identity.database, "postgres");
    assert_eq!(identity.timeline, 1);
    assert_eq!(connection.show("wal_sender_timeout").await.unwrap(), "10s");
    assert_eq!(connection.show("TimeZone").await.unwrap(), "UTC");
    assert_eq!(connection.parameter("server_encoding"), Some("UTF8"));
    let version = connection.show("server_version_num").await.unwrap();
    let major = version.parse::<u32>().unwrap() / 10_000;
    assert_eq!(connection.server_major(), major);
    let created = connection.create_slot("wire", false, true).await.unwrap();
    assert!(created.consistent_point >= identity.flush);
    let snapshot = created.snapshot.unwrap();
    admin
        .batch_execute(&format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{snapshot}'; COMMIT"
        ))
        .await
        .unwrap();

    admin
        .batch_execute(
            "BEGIN;
             INSERT INTO \"Odd \"\"t\" VALUES (1, 'ok', repeat('x', 1000000)), (2, NULL, 'é');
             UPDATE \"Odd \"\"t\" SET m = 'sad' WHERE id = 1;
             UPDATE \"Odd \"\"t\" SET id = 3 WHERE id = 2;
             DELETE FROM \"Odd \"\"t\" WHERE id = 3;
             COMMIT;
",
        )
        .await
        .unwrap();
    run(
        &admin,
        &[
            "BEGIN; INSERT INTO whole VALUES (7, 'whole'); DELETE FROM whole; COMMIT",
            "TRUNCATE whole, \"Odd \"\"t\" RESTART IDENTITY CASCADE",
            "SELECT pg_logical_emit_message(true, 'pre', 'content')",
            "SELECT pg_replication_origin_create('elsewhere')",
            "SELECT pg_replication_origin_session_setup('elsewhere')",
            "BEGIN",
            "SELECT pg_replication_origin_xact_setup('0/2A', now())",
            "INSERT INTO whole VALUES (NULL, NULL)",
            "COMMIT",
        ],
    )
    .await;
    let mut stream = started(connection, "wire", Lsn::ZERO, publication).await;
    let said = collect(&mut stream, "insert null,null").await;
    let expected = [
        "begin",
        "type mood",
        "relation public.Odd \"t id,m,note",
        "insert 1,ok,1000000 bytes",
        "insert 2,null,é",
        "update 1,sad,unchanged",
        "update key 2,null,null to 3,null,é",
        "delete key 3,null,null",
        "commit",
        "begin",
        "relation public.whole a,b",
        "insert 7,public.whole",
        "delete full 7,public.whole",
        "commit",
        "begin",
        "relation public.whole a,b",
        "type mood",
        "relation public.Odd \"t id,m,note",
        "truncate 2 true true",
        "commit",
        "begin",
        "message true pre content",
        "commit",
        "begin",
        "origin elsewhere",
        "relation public.whole a,b", // the truncate has made it new
        "insert null,null",
    ];
    assert_eq!(said, expected);

    let second = open(&settings).await.unwrap();
    match second
        .start_replication("wire", Lsn::ZERO, &[publication.to_owned()])
        .await
        .unwrap()
    {
        StartOutcome::Busy => {}
        StartOutcome::Started(_) => panic!("two streams of one slot"),
    }

    let end = admin
        .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
        .await
        .unwrap();
    let end: Lsn = end.get::<_, String>(0).parse().unwrap();
    let feedback = Feedback {
        write: end,
        flush: end,
        apply: end,
    };
    stream.feedback(feedback).await.unwrap();
    stream.close().await;
    // Closed in order, the slot is free at once and knows what was confirmed.
    let row = admin
        .query_one(
            "SELECT active, confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 'wire'",
            &[],
        )
        .await
        .unwrap();
    assert!(!row.get::<_, bool>(0));
    assert_eq!(row.get::<_, String>(1), end.to_string());
}

async fn start_error(server: &Server, slot: &str, publication: &str) -> Error {
    let connection = open(&server.settings("postgres")).await.unwrap();
    let started = connection
        .start_replication(slot, Lsn::ZERO, &[publication.to_owned()])
        .await;
    let mut stream = match started {
        Err(error) => return error,
        Ok(StartOutcome::Busy) => panic!("busy"),
        Ok(StartOutcome::Started(stream)) => stream,
    };
    loop {
        let next = tokio::time::timeout(Duration::from_secs(20), stream.next());
        match next.await.expect("an error in time") {
            Ok(_frame) => {}
            Err(error) => return error,
        }
    }
}

#[tokio::test]
async fn a_slot_or_publication_that_is_gone_halts_with_a_remedy() {
    let server = Server::start();
    let admin = server.admin().await;
    run(
        &admin,
        &[
            "CREATE TABLE t (id int PRIMARY KEY)",
            "CREATE PUBLICATION p FOR ALL TABLES",
            "SELECT pg_create_logical_replication_slot('wire', 'pgoutput')",
            "INSERT INTO t VALUES (1)",
            "CREATE PUBLICATION late FOR ALL TABLES",
        ],
    )
    .await;
    for (slot, publication, remedy) in [
        ("nothing", "p", "new pipeline"),
        ("wire", "nothing", "publication"),
        ("wire", "late", "publication"),
    ] {
        let error = start_error(&server, slot, publication).await;
        assert_eq!(error.class(), Class::Halt, "{slot} {publication}: {error}");
        assert!(error.remedy().unwrap().contains(remedy), "{error}");
    }
    run(
        &admin,
        &[
            "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'",
            "SELECT pg_reload_conf()",
        ],
    )
    .await;
    // The slot is dropped from the kept WAL only by a checkpoint some segments later.
    until("the slot is invalidated", async || {
        run(
            &admin,
            &[
                "INSERT INTO t SELECT max(id) + 1 FROM t",
                "SELECT pg_switch_wal()",
                "CHECKPOINT",
            ],
        )
        .await;
        admin
            .query_one(
                "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'wire'",
                &[],
            )
            .await
            .unwrap()
            .get::<_, String>(0)
            == "lost"
    })
    .await;
    let error = start_error(&server, "wire", "p").await;
    assert_eq!(error.class(), Class::Halt, "{error}");
    assert!(error.remedy().unwrap().contains("invalidated"), "{error}");
}

#[tokio::test]
async fn a_leader_that_stops_or_ends_the_session_is_transient() {
    let server = Server::start();
    let admin = server.admin().await;
    run(
        &admin,
        &[
            "CREATE PUBLICATION p FOR ALL TABLES",
            "SELECT pg_create_logical_replication_slot('wire', 'pgoutput')",
        ],
    )
    .await;
    let connection = open(&server.settings("postgres")).await.unwrap();
    let mut stream = started(connection, "wire", Lsn::ZERO, "p").await;
    admin
        .batch_execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'wire'",
        )
        .await
        .unwrap();
    let ended = async {
        loop {
            if let Err(error) = stream.next().await {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .unwrap();
    assert_eq!(error.class(), Class::Transient, "{error}");
}
