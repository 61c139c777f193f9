//! A ClickHouse that is reached by HTTPS, with a login.

use std::path::Path;

use crate::clickhouse::ClickHouse;
use crate::conformance::world::{SINK, World};
use crate::support;

const USER: &str = "walferry";
const PASSWORD: &str = "Right-horse-77";
const WRONG: &str = "Wrong-horse-78";

const STRANGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/strange-ca.pem");

/// The server; none where all tests use one that somebody else runs, as it has no authority to be asked for.
fn secured() -> Option<support::ClickHouse> {
    if std::env::var_os("WALFERRY_TEST_CLICKHOUSE").is_some() {
        eprintln!("not tested: HTTPS of a ClickHouse that WALFERRY_TEST_CLICKHOUSE names");
        return None;
    }
    Some(support::ClickHouse::start_secured(
        "secured", USER, PASSWORD,
    ))
}

fn tls(mode: &str, root_cert: Option<&Path>) -> String {
    let root = root_cert.map(|path| format!("root_cert = \"{}\"\n", path.display()));
    format!("[tls]\nmode = \"{mode}\"\n{}", root.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_is_as_strict_as_its_mode_and_replicates() {
    let Some(server) = secured() else { return };
    server.sql("CREATE DATABASE follower").await;
    let (url, own) = (server.secure_url("follower"), server.authority().to_owned());
    let mut world = World::over(
        ClickHouse(server),
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (0, 'copied')",
    )
    .await;
    let configure = |world: &World<ClickHouse>, url: &str, tls: &str| {
        let file =
            format!("kind = \"clickhouse\"\nurl = \"{url}\"\nbatch_max_age = \"50ms\"\n{tls}");
        world
            .pipeline
            .write(&format!("connectors/{SINK}.toml"), &file);
    };
    let wrong = url.replace(PASSWORD, WRONG);
    let plain = url.replace("https://", "http://");
    let (strange, own) = (Some(Path::new(STRANGE)), Some(own.as_path()));
    for (url, tls, said) in [
        // Without a word about TLS the certificate must verify.
        (&url, String::new(), &["certificate", "tls.root_cert"][..]),
        (
            &url,
            tls("verify-full", strange),
            &["certificate", "tls.mode"],
        ),
        (&url, tls("verify-ca", strange), &["certificate"]),
        (&url, tls("require", strange), &["certificate"]),
        (
            &wrong,
            tls("verify-full", own),
            &["AUTHENTICATION_FAILED", "user and password"],
        ),
        (
            &plain,
            String::new(),
            &["FAILED  s connection", "connection closed", "correct url"],
        ),
    ] {
        configure(&world, url, &tls);
        let (code, output) = world.pipeline.say(&["check"]);
        assert_ne!(code, 0, "{url} {tls}: {output}");
        for part in said {
            assert!(output.contains(part), "{part} is not in: {output}");
        }
        assert!(
            !output.contains(PASSWORD) && !output.contains(WRONG),
            "{output}"
        );
    }
    for tls in [
        tls("require", None),
        tls("require", own),
        tls("verify-ca", own),
        tls("verify-full", own),
    ] {
        configure(&world, &url, &tls);
        world.pipeline.do_it(&["check"]);
    }
    world.run();
    world.follows(&["t"]).await;
    for id in 1..20 {
        world
            .sql(&format!("INSERT INTO t VALUES ({id}, 'by TLS')"))
            .await;
    }
    world.follows(&["t"]).await;
    let compared = world.pipeline.do_it(&["verify", SINK]);
    assert!(compared.contains("EQUAL"), "{compared}");

    // A password that ends is said, without it.
    world.stop();
    configure(&world, &wrong, &tls("verify-full", own));
    world.run();
    let error = world.halted().await;
    assert!(
        error["what"].to_string().contains("AUTHENTICATION_FAILED"),
        "{error}"
    );
    let walferry = world.walferry.take().expect("walferry runs");
    assert!(!walferry.output().contains(WRONG));
    assert_eq!(walferry.terminate(), 3);
}
