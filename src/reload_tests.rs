use super::*;
use std::path::Path;

/// Settings as they are read from files.
fn settings(dir: &Path, main: &str, connectors: &[(&str, &str)]) -> Settings {
    let of_connectors = dir.join("connectors");
    let _ = std::fs::remove_dir_all(&of_connectors);
    std::fs::create_dir_all(&of_connectors).unwrap();
    let main = format!("pipeline = \"p\"\n[kafka]\nbrokers = \"k:9092\"\n{main}");
    std::fs::write(dir.join("walferry.toml"), main).unwrap();
    for (name, text) in connectors {
        std::fs::write(of_connectors.join(format!("{name}.toml")), text).unwrap();
    }
    crate::config::load(dir, &of_connectors).unwrap()
}

fn directory(name: &str) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("walferry-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

const SOURCE: &str = "kind = \"postgres-source\"\nurl = \"postgres://u@leader/d\"\n";
const SINK: &str = "kind = \"postgres\"\nurl = \"postgres://u@one/d\"\n";
const OTHER: &str = "kind = \"postgres\"\nurl = \"postgres://u@two/d\"\n";

#[test]
fn only_connectors_that_differ_are_touched() {
    let dir = directory("reload");
    let before = settings(&dir, "", &[("leader", SOURCE), ("a", SINK), ("b", OTHER)]);
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let same = changes(&before, &before.clone()).unwrap();
    let all = names(&["a", "b", "leader"]);
    assert_eq!(
        same,
        Reloaded {
            unchanged: all,
            ..Reloaded::default()
        }
    );
    let narrow = format!("{SINK}tables.exclude = [\"x.*\"]\n");
    let printing = "kind = \"stdout\"\n";
    let now = [("leader", SOURCE), ("a", narrow.as_str()), ("c", printing)];
    let now = settings(&dir, "", &now);
    let expected = Reloaded {
        added: names(&["c"]),
        removed: names(&["b"]),
        restarted: names(&["a"]),
        unchanged: names(&["leader"]),
    };
    assert_eq!(changes(&before, &now).unwrap(), expected);
    // A name that becomes something else is stopped and started.
    let swapped = settings(&dir, "", &[("a", SOURCE), ("b", OTHER)]);
    let changed = changes(&before, &swapped).unwrap();
    assert_eq!(
        (changed.restarted, changed.removed),
        (names(&["a"]), names(&["leader"]))
    );
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn what_belongs_to_the_process_needs_a_restart_and_is_named() {
    let dir = directory("restart");
    let connectors = [("leader", SOURCE), ("a", SINK)];
    let before = settings(&dir, "", &connectors);
    for (main, name) in [
        ("retention = \"1d\"\n", "kafka"),
        ("[http]\ntoken = \"t\"\n", "http"),
        ("[log]\nlevel = \"warn\"\n", "log"),
        ("[otlp]\nendpoint = \"http://c:4318\"\n", "otlp"),
    ] {
        let now = settings(&dir, main, &connectors);
        let error = changes(&before, &now).unwrap_err();
        assert!(
            error.what().contains(&format!("another {name},")),
            "{error}"
        );
        assert!(error.remedy().is_some());
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn whoever_asks_is_told_and_a_process_on_its_way_out_says_so() {
    let (handle, mut asked) = channel();
    let serving = async {
        let request = asked.recv().await.unwrap();
        request.answer(Ok(Reloaded::default()));
        drop(asked);
    };
    let (answer, ()) = tokio::join!(handle.reload(), serving);
    assert_eq!(answer.unwrap(), Reloaded::default());
    let error = handle.reload().await.unwrap_err();
    assert!(error.what().contains("stopping"), "{error}");
}
