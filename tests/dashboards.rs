//! Dashboards cannot rot: every query in them is asked of a real Prometheus that scrapes a real walferry under
//! load, and must return series; every metric that they name is one of walferry's. Rules for Prometheus are asked of it too.

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::{Pipeline, Postgres, directory, http, until, wait_caught_up, yaml};
use walferry::metrics::{self, Kind};

/// Dashboards by file name.
fn dashboards() -> Vec<(String, Value)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana/dashboards");
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap());
    let mut found: Vec<_> = files
        .map(|file| {
            let text = std::fs::read_to_string(file.path()).unwrap();
            let name = file.file_name().to_string_lossy().into_owned();
            (name, serde_json::from_str(&text).unwrap())
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Panels with queries.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    panels.filter(|panel| panel["type"] != "row")
}

/// The queries of a panel.
fn queries(panel: &Value) -> impl Iterator<Item = &str> {
    let targets = panel["targets"].as_array().expect("targets").iter();
    targets.map(|target| target["expr"].as_str().expect("a target has a query"))
}

/// Names of metrics in a query, those of a histogram's series without their ending.
fn named(query: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = query.split(|c: char| !is_part(c));
    let ours = words.filter(|word| word.starts_with("walferry_") || word.starts_with("process_"));
    let histogram = |word: &str| {
        let ends = ["_bucket", "_sum", "_count"].iter();
        let mut bases = ends.filter_map(|end| word.strip_suffix(end));
        bases
            .find(|base| {
                let of = metrics::ALL.iter().find(|metric| metric.name == *base);
                of.is_some_and(|metric| metric.kind == Kind::Histogram)
            })
            .map(str::to_owned)
    };
    ours.map(|word| histogram(word).unwrap_or_else(|| word.to_owned()))
        .collect()
}

#[test]
fn dashboards_name_metrics_that_there_are_and_say_what_each_panel_shows() {
    let dashboards = dashboards();
    let names: Vec<&str> = dashboards.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["overview.json", "pipeline.json", "sink.json"]);
    for (file, dashboard) in &dashboards {
        let mut ids = BTreeSet::new();
        for panel in panels(dashboard) {
            let title = panel["title"].as_str().unwrap_or_default();
            assert!(!title.is_empty(), "{file}: a panel without a title");
            let description = panel["description"].as_str().unwrap_or_default();
            assert!(!description.is_empty(), "{file}, {title}: no description");
            assert!(
                ids.insert(panel["id"].as_u64()),
                "{file}, {title}: its id is another's"
            );
            assert_eq!(
                panel["datasource"]["uid"], "${datasource}",
                "{file}, {title}"
            );
            for query in queries(panel) {
                for name in named(query) {
                    let known = metrics::ALL.iter().any(|metric| metric.name == name);
                    assert!(known, "{file}, {title}: {name}");
                }
            }
        }
    }
}

/// Names that the recording rules give.
fn recorded() -> Vec<String> {
    let rules = yaml("grafana/prometheus/recording.yml");
    let rules = rules["groups"][0]["rules"].as_array().expect("rules");
    let names = rules
        .iter()
        .map(|rule| rule["record"].as_str().expect("a name"));
    names.map(str::to_owned).collect()
}

/// A Prometheus that scrapes one walferry each second.
struct Prometheus {
    child: Child,
    port: u16,
}

impl Prometheus {
    fn start(scraped: u16) -> Self {
        let program = std::env::var_os("WALFERRY_PROMETHEUS").map(PathBuf::from).expect(
            "WALFERRY_PROMETHEUS names no prometheus: run the tests by `./dev test`, which fetches it",
        );
        let dir = directory("prometheus");
        let port = support::walferry::free_port();
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana/prometheus");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: ['{0}/alerts.yml', '{0}/recording.yml']\n\
             scrape_configs: [{{job_name: walferry, static_configs: [{{targets: ['127.0.0.1:{scraped}']}}]}}]\n",
            rules.display()
        );
        std::fs::write(dir.join("prometheus.yml"), config).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let child = Command::new(program)
            .arg(format!(
                "--config.file={}",
                dir.join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Prometheus { child, port }
    }

    /// What `/api/v1/query` answers: the series.
    async fn query(&self, query: &str) -> Result<Vec<Value>, String> {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/api/v1/query?query={escaped}");
        let (_status, body) = http::get_from(self.port, &path).await?;
        let body: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        let series = body["data"]["result"].as_array().cloned();
        series.ok_or_else(|| body.to_string())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_every_dashboard_returns_series_under_load() {
    let leader = Postgres::start_with("leader", &["max_slot_wal_keep_size=1GB"]);
    let follower = Postgres::start("follower");
    leader
        .sql("CREATE TABLE t (id serial PRIMARY KEY, v text)")
        .await;
    let pipeline = Pipeline::with(&leader, &[&follower], "", "verify_every = \"1s\"");
    let (from, to) = (leader.client().await, follower.client().await);
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let prometheus = Prometheus::start(pipeline.http_port);
    let mut asked = 0;
    for (file, dashboard) in &dashboards() {
        for panel in panels(dashboard) {
            for query in queries(panel) {
                let all = query.replace("$pipeline", ".*").replace("$sink", ".*");
                assert!(
                    !all.contains('$'),
                    "{file}: a variable that the test does not know: {all}"
                );
                until(&format!("{file}, {}: {query}", panel["title"]), || async {
                    // Load.
                    from.batch_execute(
                        "INSERT INTO t (v) SELECT 'x' FROM generate_series(1, 10);
                         UPDATE t SET v = 'y' WHERE id = (SELECT max(id) FROM t);
                         DELETE FROM t WHERE id = (SELECT min(id) FROM t)",
                    )
                    .await
                    .unwrap();
                    let series = prometheus.query(&all).await?;
                    (!series.is_empty())
                        .then_some(())
                        .ok_or("no series".to_owned())
                })
                .await;
                asked += 1;
            }
        }
    }
    assert!(asked > 40, "only {asked} queries were found");
    assert_recorded(&prometheus).await;
    until("a comparison with the leader", || async {
        let series = prometheus
            .query("walferry_sink_verified_differing_rows")
            .await?;
        (!series.is_empty())
            .then_some(())
            .ok_or("no series".to_owned())
    })
    .await;
    assert_pint_agrees(&prometheus).await;
}

/// What recording rules give is there.
async fn assert_recorded(prometheus: &Prometheus) {
    // The lag of every sink is known.
    let recorded = recorded();
    let recorded = recorded.iter().filter(|name| !name.contains("_unknown:"));
    for name in recorded {
        until(name, || async {
            let series = prometheus.query(name).await?;
            (!series.is_empty())
                .then_some(())
                .ok_or("no series".to_owned())
        })
        .await;
    }
}

/// pint asks Prometheus whether it has the series, labels and kinds of metrics that rules name. Where there is no pint
/// `./dev test` says so, and in CI fails.
async fn assert_pint_agrees(prometheus: &Prometheus) {
    let Some(pint) = std::env::var_os("WALFERRY_PINT") else {
        return;
    };
    let config = directory("pint").join("pint.hcl");
    let server = format!(
        "prometheus \"test\" {{\n  uri = \"http://127.0.0.1:{}\"\n  timeout = \"60s\"\n}}\n",
        prometheus.port
    );
    std::fs::write(&config, server).unwrap();
    let output = tokio::process::Command::new(pint)
        .args(["--no-color", "--config"])
        .arg(config)
        .args(["lint", "--fail-on=warning"])
        .args(["alerts.yml", "recording.yml"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana/prometheus"))
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("online=true"), "{said}");
}
