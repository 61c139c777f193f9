//! Wrong settings: each gives one error that names the file, the line, the key and what would be
//! right, and never shows a secret.

use std::path::Path;
use std::time::Duration;

use walferry::config::{
    self, BuildIndexes, ClickHouseMode, Durability, Layout, LogFormat, SchemaChanges, Settings,
    StdoutFrom, StoreSettings, TakenIndexes, TlsMode, VerifySettings,
};
use walferry::error::{Class, Error};

const MAIN: &str = "pipeline = \"shop\"\n[kafka]\nbrokers = \"k1:9092\"\n";
const SOURCE: &str = "kind = \"postgres-source\"\nurl = \"postgres://u:p@leader/shop\"\n";
const SINK: &str = "kind = \"postgres\"\nurl = \"postgres://u:p@follower/shop\"\n";

/// Loads settings made of `walferry.toml` and connectors (file name, content).
fn load(main: &str, connectors: &[(&str, &str)]) -> Result<Settings, Error> {
    let root = tempfile::tempdir().unwrap();
    let config = root.path().join("config");
    let connectors_dir = root.path().join("connectors");
    std::fs::create_dir(&config).unwrap();
    std::fs::create_dir(&connectors_dir).unwrap();
    std::fs::write(config.join("walferry.toml"), main).unwrap();
    for (name, content) in connectors {
        std::fs::write(connectors_dir.join(name), content).unwrap();
    }
    config::load(&config, &connectors_dir)
}

/// Asserts that the error names all parts, and halts.
fn assert_error(case: &str, result: Result<Settings, Error>, parts: &[&str]) {
    let error = result.expect_err(case);
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{case}: `{part}` is not in: {text}");
    }
    assert_eq!(error.class(), Class::Halt, "{case}");
    assert!(error.remedy().is_some(), "{case}: no remedy: {text}");
}

#[test]
fn defaults_are_what_production_wants() {
    let settings = load(MAIN, &[("leader.toml", SOURCE), ("dw.toml", SINK)]).unwrap();
    assert_eq!(settings.pipeline, "shop");
    assert_eq!(settings.kafka.durability, Durability::Replicated);
    assert_eq!(settings.kafka.replication_factor, 3);
    assert_eq!(settings.kafka.retention, Duration::from_secs(7 * 86_400));
    assert_eq!(settings.http.listen.to_string(), "127.0.0.1:8642");
    assert!(settings.http.metrics_listen.is_none() && settings.http.token.is_none());
    assert_eq!(settings.log.level, "info");
    assert_eq!(settings.log.format, LogFormat::Auto);
    let source = settings.source.unwrap();
    assert_eq!(source.name, "leader");
    assert_eq!(source.slot, "walferry_shop");
    assert_eq!(source.publication, "walferry_shop");
    assert!(source.manage_publication && source.copy && !source.event_trigger);
    assert_eq!((source.partitions, source.copy_readers), (1, 2));
    assert_eq!(source.copy_group_max_bytes, 1 << 30);
    assert_eq!(
        (source.copy_every, source.copy_max_bytes_per_second),
        (None, None)
    );
    assert_eq!(source.include, ["*.*"]);
    assert_eq!(source.wal_sender_timeout, Duration::from_secs(10));
    assert_eq!(source.epoch_max, Duration::from_secs(86_400));
    assert_eq!(source.batch_max_bytes, 4 << 20);
    assert_eq!(source.queue_max_bytes, 32 << 20);
    assert_eq!(source.postgres.tls.mode, TlsMode::Prefer);
    let sink = &settings.sinks[0];
    assert_eq!(sink.name, "dw");
    assert_eq!(sink.batch_max_bytes, 8 << 20);
    assert_eq!(sink.fetch_max_bytes, 16 << 20);
    let StoreSettings::Postgres(store) = &sink.store else {
        panic!("{:?}", sink.store)
    };
    assert!(store.create_tables);
    assert_eq!(store.schema_changes, SchemaChanges::Follow);
    assert_eq!(store.statement_timeout, Duration::from_secs(300));
    assert_eq!(
        (store.indexes, store.build_indexes),
        (TakenIndexes::None, BuildIndexes::AfterRows)
    );
    assert_eq!(store.verify, VerifySettings::default());
    assert_eq!(store.postgres.connect_timeout, Duration::from_secs(10));
}

#[test]
fn every_setting_is_taken() {
    let main = r#"
        pipeline = "p_1"
        [kafka]
        brokers = "k1:9092, k2:9093"
        durability = "single-broker"
        replication_factor = 2
        retention = "36h"
        [kafka.properties]
        security.protocol = "SASL_SSL"
        "sasl.username" = "walferry"
        metadata.max.age.ms = 3000
        [http]
        listen = "0.0.0.0:0"
        metrics_listen = "[::]:9100"
        token = "s3cret"
        [otlp]
        endpoint = "http://collector:4318"
        [log]
        level = "info,walferry=debug"
        format = "json"
    "#;
    let source = r#"
        kind = "postgres-source"
        url = "host=leader user=u dbname=shop"
        slot = "s1"
        publication = "My Publication"
        manage_publication = false
        partitions = 4
        wal_sender_timeout = "30s"
        epoch_max = "6h"
        connect_timeout = "500ms"
        batch_max_bytes = "1MiB"
        queue_max_bytes = "128MB"
        [tls]
        mode = "verify-full"
        root_cert = "root.pem"
        [tables]
        include = ["public.*", "shop.order?"]
        exclude = ["public.tmp_*"]
        [copy]
        enabled = false
        readers = 8
        group_max_bytes = "256MiB"
        max_bytes_per_second = "20MB"
    "#;
    let stdout = "kind = \"stdout\"\nfrom = \"earliest\"\n";
    let settings = load(
        main,
        &[("a.toml", source), ("b.toml", stdout), ("root.pem", "")],
    )
    .unwrap();
    assert_eq!(settings.kafka.replication_factor, 2);
    assert_eq!(settings.kafka.retention, Duration::from_secs(36 * 3600));
    let property = |name: &str| settings.kafka.properties[name].reveal().to_owned();
    assert_eq!(property("security.protocol"), "SASL_SSL");
    assert_eq!(property("sasl.username"), "walferry");
    assert_eq!(property("metadata.max.age.ms"), "3000");
    assert_eq!(settings.log.format, LogFormat::Json);
    let http = &settings.http;
    assert_eq!(http.metrics_listen, Some("[::]:9100".parse().unwrap()));
    assert_eq!(http.token.as_ref().unwrap().reveal(), "s3cret");
    assert!(!format!("{settings:?}").contains("s3cret"));
    let otlp = settings.otlp.as_ref().unwrap();
    assert_eq!(
        (otlp.address.as_str(), otlp.path.as_str()),
        ("collector:4318", "/v1/traces")
    );
    let source = settings.source.unwrap();
    assert_eq!(source.epoch_max, Duration::from_secs(6 * 3600));
    assert_eq!(source.publication, "My Publication");
    assert_eq!(source.postgres.tls.mode, TlsMode::VerifyFull);
    assert!(source.postgres.tls.root_cert.unwrap().ends_with("root.pem"));
    assert_eq!(source.postgres.connect_timeout, Duration::from_millis(500));
    assert_eq!(source.queue_max_bytes, 128_000_000);
    assert!(!source.copy && !source.manage_publication);
    assert_eq!(source.copy_readers, 8);
    assert_eq!(source.copy_group_max_bytes, 256 << 20);
    assert_eq!(source.copy_max_bytes_per_second, Some(20_000_000));
    assert_eq!(source.exclude, ["public.tmp_*"]);
    let StoreSettings::Stdout(store) = &settings.sinks[0].store else {
        panic!("{:?}", settings.sinks[0].store)
    };
    assert_eq!(store.from, StdoutFrom::Earliest);
}

#[test]
fn every_setting_of_other_stores_is_taken() {
    let clickhouse = r#"
        kind = "clickhouse"
        url = "https://me%40x:p%3Aw@ch.example/analytics"
        connect_timeout = "3s"
        statement_timeout = "1h"
        mode = "history"
        create_tables = false
        schema_changes = "compatible"
        verify_every = "1d"
        batch_max_bytes = "64MiB"
        batch_max_age = "2500ms"
        fetch_max_bytes = "32MiB"
        [tls]
        mode = "verify-ca"
        root_cert = "root.pem"
        [databases]
        sales = "shop_sales"
        [columns]
        "public.orders.total" = "Decimal(38, 4)"
        [layout."public.orders"]
        order_by = ["customer_id", "id"]
        partition_by = "toYYYYMM(created_at)"
        [tables]
        include = ["public.*"]
    "#;
    let mysql = r#"
        kind = "mysql"
        url = "mysql://u:p@[::1]/shop"
        connect_timeout = "3s"
        statement_timeout = "2min"
        create_tables = false
        schema_changes = "halt"
        verify_every = "1h"
        batch_max_bytes = "1MiB"
        fetch_max_bytes = "2MiB"
        [tls]
        mode = "require"
        [databases]
        sales = "shop_sales"
        [columns]
        "public.orders.note" = "varchar(500)"
        [tables]
        exclude = ["public.tmp_*"]
    "#;
    let connectors = [("a.toml", clickhouse), ("b.toml", mysql), ("root.pem", "")];
    let settings = load(MAIN, &connectors).unwrap();
    assert!(!format!("{settings:?}").contains("p:w"), "{settings:?}");
    let [a, b] = &settings.sinks[..] else {
        panic!("{:?}", settings.sinks)
    };
    let names = |pairs: &[(&str, &str)]| {
        let pairs = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        pairs.collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!((a.batch_max_bytes, a.fetch_max_bytes), (64 << 20, 32 << 20));
    assert_eq!(a.batch_max_age, Duration::from_millis(2_500));
    assert_eq!(a.include, ["public.*"]);
    let StoreSettings::ClickHouse(store) = &a.store else {
        panic!("{:?}", a.store)
    };
    let url = &store.server.url;
    assert_eq!((url.host.as_str(), url.port), ("ch.example", 8443));
    assert_eq!(url.user.as_deref(), Some("me@x"));
    assert_eq!(url.password.as_ref().unwrap().reveal(), "p:w");
    assert_eq!(url.database, "analytics");
    assert_eq!(store.server.tls.mode, TlsMode::VerifyCa);
    let root_cert = store.server.tls.root_cert.as_ref().unwrap();
    assert!(root_cert.ends_with("root.pem"));
    assert_eq!(store.server.connect_timeout, Duration::from_secs(3));
    assert_eq!(store.statement_timeout, Duration::from_secs(3600));
    assert_eq!(store.mode, ClickHouseMode::History);
    assert!(!store.create_tables);
    assert_eq!(store.schema_changes, SchemaChanges::Compatible);
    assert_eq!(store.databases, names(&[("sales", "shop_sales")]));
    let columns = names(&[("public.orders.total", "Decimal(38, 4)")]);
    assert_eq!(store.columns, columns);
    let layout = Layout {
        order_by: Some(vec!["customer_id".to_owned(), "id".to_owned()]),
        partition_by: Some("toYYYYMM(created_at)".to_owned()),
    };
    assert_eq!(store.layout["public.orders"], layout);
    assert_eq!(store.verify.every, Some(Duration::from_secs(86_400)));

    assert_eq!((b.batch_max_bytes, b.fetch_max_bytes), (1 << 20, 2 << 20));
    assert_eq!(b.exclude, ["public.tmp_*"]);
    let StoreSettings::MySql(store) = &b.store else {
        panic!("{:?}", b.store)
    };
    let url = &store.server.url;
    assert_eq!((url.host.as_str(), url.port), ("::1", 3306));
    assert_eq!(url.database, "shop");
    assert_eq!(store.server.tls.mode, TlsMode::Require);
    assert_eq!(store.server.connect_timeout, Duration::from_secs(3));
    assert_eq!(store.statement_timeout, Duration::from_secs(120));
    assert!(!store.create_tables);
    assert_eq!(store.schema_changes, SchemaChanges::Halt);
    assert_eq!(store.databases, names(&[("sales", "shop_sales")]));
    assert_eq!(
        store.columns,
        names(&[("public.orders.note", "varchar(500)")])
    );
    assert_eq!(store.verify.every, Some(Duration::from_secs(3600)));
}

#[test]
fn what_other_stores_are_without_being_told() {
    let clickhouse = "kind = \"clickhouse\"\nurl = \"http://ch/shop\"\n";
    let mysql = "kind = \"mysql\"\nurl = \"mysql://u@db/shop\"\n";
    let settings = load(MAIN, &[("a.toml", clickhouse), ("b.toml", mysql)]).unwrap();
    let [a, b] = &settings.sinks[..] else {
        panic!("{:?}", settings.sinks)
    };
    let StoreSettings::ClickHouse(store) = &a.store else {
        panic!("{:?}", a.store)
    };
    assert_eq!(store.server.url.port, 8123);
    assert_eq!(store.server.tls.mode, TlsMode::Disable);
    assert_eq!(store.mode, ClickHouseMode::Current);
    assert!(store.create_tables && store.layout.is_empty());
    assert_eq!(a.batch_max_age, Duration::from_secs(1));
    let StoreSettings::MySql(store) = &b.store else {
        panic!("{:?}", b.store)
    };
    assert_eq!(store.server.url.port, 3306);
    assert_eq!(store.server.tls.mode, TlsMode::Prefer);
    assert!(store.create_tables);
    assert_eq!(b.batch_max_age, Duration::ZERO);
}

#[test]
fn each_wrong_setting_of_other_stores_gives_one_clear_error() {
    let secret = "topsecret";
    let clickhouse = |more: &str| {
        let url = format!("url = \"http://u:{secret}@ch/shop\"");
        format!("kind = \"clickhouse\"\n{url}\n{more}\n")
    };
    let mysql = |more: &str| {
        let url = format!("url = \"mysql://u:{secret}@db/shop\"");
        format!("kind = \"mysql\"\n{url}\n{more}\n")
    };
    let of_url = |kind: &str, url: &str| format!("kind = \"{kind}\"\nurl = \"{url}\"\n");
    let cases: Vec<(&str, String, Vec<&str>)> = vec![
        (
            "no url",
            "kind = \"clickhouse\"".into(),
            vec!["c.toml", "url", "is missing", "https://"],
        ),
        (
            "the native port's scheme",
            of_url("clickhouse", "clickhouse://u:topsecret@ch:9000/shop"),
            vec!["c.toml:2", "url", "https:// or http://", "percent-encoded"],
        ),
        (
            "Postgres' scheme",
            of_url("mysql", "postgres://u:topsecret@db/shop"),
            vec!["c.toml:2", "url", "does not begin with mysql://"],
        ),
        (
            "no database",
            of_url("mysql", "mysql://u:topsecret@db:3306"),
            vec!["c.toml:2", "url", "names no database", "/database"],
        ),
        (
            "parameters",
            of_url("mysql", "mysql://u:topsecret@db/shop?ssl-mode=REQUIRED"),
            vec!["c.toml:2", "url", "behind ? or #"],
        ),
        (
            "port",
            of_url("clickhouse", "http://u:topsecret@ch:eight/shop"),
            vec!["c.toml:2", "url", "port", "65535"],
        ),
        (
            "a password with a slash",
            of_url("mysql", "mysql://u:topsecret/x@db/shop"),
            vec!["c.toml:2", "url", "percent-encoded"],
        ),
        (
            "mode",
            clickhouse("mode = \"curent\""),
            vec!["c.toml:3", "mode", "did you mean \"current\"", "history"],
        ),
        (
            "ORDER BY nothing",
            clickhouse("layout.\"public.t\".order_by = []"),
            vec!["c.toml:3", "layout.public.t.order_by", "names no column"],
        ),
        (
            "PARTITION BY nothing",
            clickhouse("[layout.\"public.t\"]\npartition_by = \" \""),
            vec!["c.toml:4", "layout.public.t.partition_by", "is empty"],
        ),
        (
            "a layout's key",
            clickhouse("[layout.\"public.t\"]\nprimary_key = \"id\""),
            vec!["c.toml:4", "primary_key", "no such setting"],
        ),
        (
            "TLS without TLS",
            clickhouse("[tls]\nmode = \"require\""),
            vec!["c.toml:4", "tls.mode", "http://", "write https://"],
        ),
        (
            "age",
            clickhouse("batch_max_age = \"2h\""),
            vec!["c.toml:3", "batch_max_age", "out of bounds"],
        ),
        (
            "a Postgres follower's key",
            clickhouse("verify_max_rows_per_second = 10"),
            vec!["c.toml:3", "verify_max_rows_per_second", "no such setting"],
        ),
        (
            "a ClickHouse follower's key",
            mysql("batch_max_age = \"1s\""),
            vec!["c.toml:3", "batch_max_age", "no such setting"],
        ),
        (
            "schema changes",
            mysql("schema_changes = \"folow\""),
            vec!["c.toml:3", "schema_changes", "did you mean \"follow\""],
        ),
        (
            "types",
            mysql("columns = [\"public.t.a\"]"),
            vec!["c.toml:3", "columns", "wrong kind"],
        ),
        (
            "TLS mode",
            mysql("[tls]\nmode = \"REQUIRED\""),
            vec!["c.toml:4", "tls.mode", "require, verify-ca"],
        ),
    ];
    for (case, connector, parts) in cases {
        let loaded = load(MAIN, &[("c.toml", &connector)]);
        let text = loaded.as_ref().map_err(Error::to_string).err();
        assert!(!text.is_some_and(|text| text.contains(secret)), "{case}");
        assert_error(case, loaded, &parts);
    }
    for one in [clickhouse(""), mysql("")] {
        assert_error(
            "one follower twice",
            load(MAIN, &[("a.toml", &one), ("b.toml", &one)]),
            &["b.toml", "same url", "a.toml"],
        );
    }
}

#[test]
fn each_wrong_main_setting_gives_one_clear_error() {
    let kafka = |more: &str| format!("{MAIN}{more}\n");
    let cases: Vec<(&str, String, Vec<&str>)> = vec![
        (
            "nothing in it",
            String::new(),
            vec![
                "walferry.toml",
                "pipeline",
                "is missing",
                "pipeline = \"shop\"",
            ],
        ),
        (
            "no brokers",
            "pipeline = \"a\"".into(),
            vec!["kafka.brokers", "is missing"],
        ),
        (
            "empty brokers",
            "pipeline = \"a\"\n[kafka]\nbrokers = \"\"".into(),
            vec!["walferry.toml:3", "kafka.brokers", "is empty"],
        ),
        (
            "brokers without port",
            "pipeline = \"a\"\n[kafka]\nbrokers = \"k1\"".into(),
            vec!["walferry.toml:3", "`k1`", "host:port"],
        ),
        (
            "bad pipeline name",
            "pipeline = \"My.Shop\"".into(),
            vec!["walferry.toml:1", "pipeline", "`My.Shop`", "lower-case"],
        ),
        (
            "pipeline of wrong type",
            "pipeline = 5".into(),
            vec!["walferry.toml:1", "pipeline", "wrong kind", "double quotes"],
        ),
        (
            "not TOML",
            "pipeline = shop".into(),
            vec!["walferry.toml:1", "not valid TOML"],
        ),
        (
            "key twice",
            "pipeline = \"a\"\npipeline = \"b\"".into(),
            vec!["walferry.toml:2", "not valid TOML"],
        ),
        (
            "unknown key",
            kafka("retentoin = \"7d\""),
            vec![
                "walferry.toml:4",
                "kafka.retentoin",
                "no such setting",
                "did you mean `retention`",
            ],
        ),
        (
            "unknown section",
            kafka("[https]\nlisten = \"x\""),
            vec!["https", "did you mean `http`"],
        ),
        (
            "far from any key",
            kafka("xyzzyxyzzy = 1"),
            vec!["kafka.xyzzyxyzzy", "one of: brokers"],
        ),
        (
            "duration without unit",
            kafka("retention = \"7\""),
            vec!["walferry.toml:4", "kafka.retention", "`7`", "\"7d\""],
        ),
        (
            "duration as number",
            kafka("retention = 7"),
            vec![
                "walferry.toml:4",
                "kafka.retention",
                "wrong kind",
                "duration",
            ],
        ),
        (
            "duration with wrong unit",
            kafka("retention = \"7 lightyears\""),
            vec!["kafka.retention", "not a duration"],
        ),
        (
            "duration too short",
            kafka("retention = \"1ms\""),
            vec!["kafka.retention", "out of bounds"],
        ),
        (
            "durability",
            kafka("durability = \"replicatd\""),
            vec![
                "walferry.toml:4",
                "kafka.durability",
                "did you mean \"replicated\"",
                "single-broker",
            ],
        ),
        (
            "replication factor",
            kafka("replication_factor = 1"),
            vec![
                "walferry.toml:4",
                "kafka.replication_factor",
                "1 is out of bounds",
                "single-broker",
            ],
        ),
        (
            "negative number",
            kafka("replication_factor = -1"),
            vec!["kafka.replication_factor", "whole number"],
        ),
        (
            "acks",
            kafka("[kafka.properties]\nacks = \"1\""),
            vec![
                "walferry.toml:5",
                "kafka.properties.acks",
                "sets this itself",
                "remove it",
            ],
        ),
        (
            "dotted property",
            kafka("[kafka.properties]\nenable.idempotence = false"),
            vec!["walferry.toml:5", "enable.idempotence"],
        ),
        (
            "linger",
            kafka("[kafka.properties]\nlinger.ms = 5"),
            vec!["walferry.toml:5", "linger.ms", "goes by the load"],
        ),
        (
            "quoted property",
            kafka("[kafka.properties]\n\"group.id\" = \"x\""),
            vec!["walferry.toml:5", "group.id"],
        ),
        (
            "property list",
            kafka("[kafka.properties]\nx = [1]"),
            vec!["kafka.properties.x", "wrong kind"],
        ),
        (
            "listen",
            kafka("[http]\nlisten = \"localhost\""),
            vec![
                "walferry.toml:5",
                "http.listen",
                "`localhost`",
                "127.0.0.1:8642",
            ],
        ),
        (
            "collector",
            kafka("[otlp]\nendpoint = \"https://collector:4318\""),
            vec![
                "walferry.toml:5",
                "otlp.endpoint",
                "`https://",
                "write http://host:port",
            ],
        ),
        (
            "metrics_listen",
            kafka("[http]\nmetrics_listen = \"9100\""),
            vec!["walferry.toml:5", "http.metrics_listen", "`9100`"],
        ),
        (
            "token",
            kafka("[http]\ntoken = \"two words\""),
            vec!["walferry.toml:5", "http.token", "header", "openssl rand"],
        ),
        (
            "log level",
            kafka("[log]\nlevel = \"==\""),
            vec!["log.level", "info"],
        ),
        (
            "log format",
            kafka("[log]\nformat = \"xml\""),
            vec!["log.format", "`xml`", "auto, human, json"],
        ),
    ];
    for (case, main, parts) in cases {
        assert_error(case, load(&main, &[("leader.toml", SOURCE)]), &parts);
    }
}

#[test]
fn each_wrong_connector_gives_one_clear_error() {
    let source = |more: &str| format!("{SOURCE}{more}\n");
    let sink = |more: &str| format!("{SINK}{more}\n");
    let cases: Vec<(&str, String, Vec<&str>)> = vec![
        (
            "no kind",
            "url = \"x\"".into(),
            vec!["c.toml", "kind is missing", "postgres-source"],
        ),
        (
            "unknown kind",
            "kind = \"postgress\"".into(),
            vec!["c.toml:1", "`postgress`", "did you mean \"postgres\""],
        ),
        (
            "no url",
            "kind = \"postgres\"".into(),
            vec!["c.toml", "url", "is missing"],
        ),
        (
            "url of a web page",
            "kind = \"postgres\"\nurl = \"http://x\"".into(),
            vec!["c.toml:2", "url", "connection string"],
        ),
        (
            "slot",
            source("slot = \"My-Slot\""),
            vec!["c.toml:3", "slot", "`My-Slot`"],
        ),
        (
            "publication",
            source("publication = \"\""),
            vec!["c.toml:3", "publication"],
        ),
        (
            "size without unit",
            source("batch_max_bytes = \"1024\""),
            vec!["c.toml:3", "batch_max_bytes", "`1024`", "16MiB"],
        ),
        (
            "size as number",
            source("batch_max_bytes = 1024"),
            vec!["c.toml:3", "batch_max_bytes", "size in double quotes"],
        ),
        (
            "size of nothing",
            source("batch_max_bytes = \"1B\""),
            vec!["batch_max_bytes", "64KiB"],
        ),
        (
            "queue below batch",
            source("batch_max_bytes = \"1GiB\""),
            vec!["queue_max_bytes", "1.0GiB"],
        ),
        (
            "copies that expire",
            source("copy.every = \"4d\""),
            vec!["c.toml:3", "copy.every", "half of kafka.retention", "3days 12h"],
        ),
        (
            "copies by the clock without copies",
            source("copy.every = \"1d\"\ncopy.enabled = false"),
            vec!["c.toml:3", "copy.every", "copy.enabled = false"],
        ),
        (
            "throttle",
            source("copy.max_bytes_per_second = \"10B\""),
            vec!["c.toml:3", "copy.max_bytes_per_second", "64KiB"],
        ),
        (
            "partitions",
            source("partitions = 0"),
            vec!["c.toml:3", "partitions", "from 1"],
        ),
        (
            "pattern",
            source("[tables]\ninclude = [\"orders\"]"),
            vec!["c.toml:4", "tables.include", "`orders`", "public.*"],
        ),
        (
            "exclude",
            source("[tables]\nexclude = [\".x\"]"),
            vec!["c.toml:4", "tables.exclude"],
        ),
        (
            "nothing included",
            source("[tables]\ninclude = []"),
            vec!["tables.include", "no table"],
        ),
        (
            "include of wrong type",
            source("[tables]\ninclude = \"public.*\""),
            vec!["c.toml:4", "tables.include", "a list"],
        ),
        (
            "a sink's key in a source",
            source("create_tables = true"),
            vec!["c.toml:3", "create_tables", "no such setting"],
        ),
        (
            "a source's key in a sink",
            sink("slot = \"x\""),
            vec!["c.toml:3", "slot", "no such setting"],
        ),
        (
            "readers",
            source("[copy]\nreaders = 100"),
            vec!["copy.readers", "from 1 to 32"],
        ),
        (
            "boolean in quotes",
            source("[copy]\nenabled = \"yes\""),
            vec!["c.toml:4", "copy.enabled", "true or false"],
        ),
        (
            "tls mode",
            sink("[tls]\nmode = \"verify_full\""),
            vec!["c.toml:4", "tls.mode", "did you mean \"verify-full\""],
        ),
        (
            "missing certificate",
            sink("[tls]\nroot_cert = \"/no/such.pem\""),
            vec!["c.toml:4", "tls.root_cert", "/no/such.pem"],
        ),
        (
            "certificate without key",
            sink("[tls]\ncert = \"/x.pem\""),
            vec!["c.toml:4", "tls.cert", "tls.key"],
        ),
        (
            "indexes",
            sink("indexes = \"uniqe\""),
            vec!["c.toml:3", "indexes", "did you mean \"unique\"", "all"],
        ),
        (
            "when indexes are built",
            sink("build_indexes = \"after\""),
            vec!["c.toml:3", "build_indexes", "after-rows, with-rows"],
        ),
        (
            "statement timeout",
            sink("verify_every = \"10ms\""),
            vec!["c.toml:3", "verify_every", "from 1s"],
        ),
        (
            "rows a second",
            sink("verify_max_rows_per_second = 0"),
            vec!["c.toml:3", "verify_max_rows_per_second", "from 1 to"],
        ),
        (
            "statement timeout",
            sink("statement_timeout = \"5 minuts\""),
            vec!["c.toml:3", "statement_timeout", "5min"],
        ),
        (
            "tls said twice",
            "kind = \"postgres\"\nurl = \"postgres://u@h/d?sslmode=require\"\n[tls]\nmode = \"prefer\"".into(),
            vec!["c.toml:4", "tls.mode", "sslmode", "one of the two"],
        ),
        (
            "sslmode of nowhere",
            "kind = \"postgres\"\nurl = \"postgres://u@h/d?sslmode=maybe\"".into(),
            vec!["c.toml:2", "url", "sslmode", "verify-full"],
        ),
        (
            "no user",
            "kind = \"postgres\"\nurl = \"postgres://h/d\"".into(),
            vec!["c.toml:2", "url", "names no user"],
        ),
        (
            "unset variable",
            sink("connect_timeout = \"${env:WALFERRY_UNSET_1}\""),
            vec![
                "c.toml:3",
                "connect_timeout",
                "WALFERRY_UNSET_1",
                "is not set",
            ],
        ),
        (
            "missing secret file",
            sink("connect_timeout = \"${file:/no/such}\""),
            vec!["c.toml:3", "connect_timeout", "/no/such"],
        ),
        (
            "open reference",
            sink("connect_timeout = \"${env:X\""),
            vec!["connect_timeout", "closing"],
        ),
        (
            "other reference",
            sink("connect_timeout = \"${vault:X}\""),
            vec!["connect_timeout", "${env:"],
        ),
        (
            "from",
            "kind = \"stdout\"\nfrom = \"begin\"".into(),
            vec!["c.toml:2", "from", "now, earliest"],
        ),
    ];
    for (case, connector, parts) in cases {
        assert_error(case, load(MAIN, &[("c.toml", &connector)]), &parts);
    }
}

#[test]
fn files_and_names_are_checked_together() {
    assert_error(
        "two sources",
        load(MAIN, &[("a.toml", SOURCE), ("b.toml", SOURCE)]),
        &["b.toml:1", "second source", "a.toml"],
    );
    assert_error(
        "one follower twice",
        load(MAIN, &[("a.toml", SINK), ("b.toml", SINK)]),
        &["b.toml", "same url", "a.toml"],
    );
    assert_error(
        "no connector",
        load(MAIN, &[]),
        &["connectors", "no connector"],
    );
    assert_error(
        "bad connector name",
        load(MAIN, &[("My Sink.toml", SINK)]),
        &["My Sink.toml", "lower-case"],
    );
    let nowhere = Path::new("/no/such/directory");
    assert_error(
        "no directory",
        config::load(nowhere, nowhere),
        &["/no/such/directory/walferry.toml"],
    );
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("walferry.toml"), MAIN).unwrap();
    assert_error(
        "no connectors directory",
        config::load(root.path(), nowhere),
        &["/no/such/directory", "--connectors"],
    );
    // What is no connector is left alone.
    let settings = load(
        MAIN,
        &[("a.toml", SINK), ("b.toml.off", "x"), ("README.md", "x")],
    );
    assert_eq!(settings.unwrap().sinks.len(), 1);
}

#[test]
fn secrets_come_from_files_and_the_environment_and_are_never_shown() {
    let secret = "topsecret";
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("password");
    std::fs::write(&file, format!("{secret}\n")).unwrap();
    let reference = format!("${{file:{}}}", file.display());
    let sink = format!("kind = \"postgres\"\nurl = \"postgres://u:{reference}@h/d\"\n");
    let settings = load(MAIN, &[("a.toml", &sink)]).unwrap();
    let StoreSettings::Postgres(store) = &settings.sinks[0].store else {
        panic!("{:?}", settings.sinks[0].store)
    };
    assert_eq!(store.postgres.url.reveal(), "postgres://u:topsecret@h/d");
    assert!(!format!("{settings:?}").contains(secret));

    // PATH is set wherever tests run.
    let with_env = "kind = \"postgres\"\nurl = \"host=h user=u application_name='${env:PATH}'\"\n";
    let settings = load(MAIN, &[("a.toml", with_env)]).unwrap();
    let StoreSettings::Postgres(store) = &settings.sinks[0].store else {
        panic!("{:?}", settings.sinks[0].store)
    };
    assert!(
        store
            .postgres
            .url
            .reveal()
            .contains(&std::env::var("PATH").unwrap())
    );

    for (case, main, connector) in [
        (
            "in a wrong place",
            MAIN.to_owned(),
            format!("{SINK}connect_timeout = \"{reference}\"\n"),
        ),
        (
            "in a wrong url",
            MAIN.to_owned(),
            format!("kind = \"postgres\"\nurl = \"x {reference} y\"\n"),
        ),
        (
            "in a wrong choice",
            MAIN.to_owned(),
            format!("{SINK}[tls]\nmode = \"{reference}\"\n"),
        ),
        (
            "as a refused property",
            format!("{MAIN}[kafka.properties]\nacks = \"{reference}\"\n"),
            SINK.to_owned(),
        ),
        (
            "as a pattern",
            MAIN.to_owned(),
            format!("{SINK}[tables]\ninclude = [\"{reference}\"]\n"),
        ),
        (
            "as an unquoted number",
            format!("{MAIN}[kafka]\nretention = \"{secret}\"\n"),
            SINK.to_owned(),
        ),
    ] {
        let error = load(&main, &[("a.toml", &connector)]).expect_err(case);
        assert!(!error.to_string().contains(secret), "{case}: {error}");
    }
}

#[test]
fn tls_may_be_said_in_the_url_as_libpq_does() {
    let sink = "kind = \"postgres\"\nurl = \"postgres://u@h/d?sslmode=verify-full&sslrootcert=root.pem\"\n";
    let settings = load(MAIN, &[("a.toml", sink), ("root.pem", "")]).unwrap();
    let StoreSettings::Postgres(store) = &settings.sinks[0].store else {
        panic!("{:?}", settings.sinks[0].store)
    };
    assert_eq!(store.postgres.url.reveal(), "postgres://u@h/d");
    assert_eq!(store.postgres.tls.mode, TlsMode::VerifyFull);
    assert!(
        store
            .postgres
            .tls
            .root_cert
            .as_ref()
            .unwrap()
            .ends_with("root.pem")
    );
}
