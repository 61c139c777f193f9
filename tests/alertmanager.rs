//! The example for Alertmanager, asked of a real one: who is told of an alert, and which alerts others keep back.

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use support::{directory, http, until, yaml};

/// Labels of an alert.
type Labels = BTreeMap<String, String>;

/// Alerts of the rules with their severity.
fn rules() -> BTreeMap<String, String> {
    let file = yaml("grafana/prometheus/alerts.yml");
    let rules = file["groups"][0]["rules"].as_array().expect("rules");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    rules
        .iter()
        .map(|rule| (text(&rule["alert"]), text(&rule["labels"]["severity"])))
        .collect()
}

/// An alert as its rule makes it: `of` is what it is about, such as `pipeline=shop,sink=dw`.
fn alert(name: &str, of: &str) -> Labels {
    let severity = rules().remove(name).unwrap_or_else(|| panic!("no {name}"));
    let own = [("alertname", name), ("severity", &severity)];
    let of = of.split(',').filter_map(|pair| pair.split_once('='));
    own.into_iter()
        .chain(of)
        .map(|(label, value)| (label.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn the_example_names_alerts_that_there_are() {
    let file = yaml("grafana/prometheus/alertmanager.yml");
    let rules = rules();
    let words = file.to_string();
    let words = words.split(|c: char| !c.is_ascii_alphanumeric());
    let named: Vec<&str> = words
        .filter(|word| word.starts_with("Walferry") && word.len() > 8)
        .collect();
    assert!(named.len() > 10, "{named:?}");
    for name in named {
        assert!(rules.contains_key(name), "{name}");
    }
}

/// An Alertmanager with the example.
struct Alertmanager {
    child: Child,
    port: u16,
}

impl Alertmanager {
    /// None where the machine has none, which CI does not accept.
    fn start() -> Option<Self> {
        let Some(program) = std::env::var_os("WALFERRY_ALERTMANAGER") else {
            assert!(
                std::env::var_os("CI").is_none(),
                "WALFERRY_ALERTMANAGER names no alertmanager: run the tests by `./dev test`, which fetches it"
            );
            return None;
        };
        let dir = directory("alertmanager");
        let port = support::walferry::free_port();
        let config =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana/prometheus/alertmanager.yml");
        let child = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--cluster.listen-address=")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.join("log")).unwrap())
            .spawn()
            .unwrap();
        Some(Alertmanager { child, port })
    }

    /// Says that these alerts fire.
    async fn fire(&self, alerts: &[Labels]) {
        let alerts: Vec<Value> = alerts
            .iter()
            .map(|labels| json!({ "labels": labels }))
            .collect();
        until("Alertmanager takes alerts", || async {
            let body = json!(alerts);
            let (status, answer) = http::post(self.port, "/api/v2/alerts", &body).await?;
            (status == 200).then_some(()).ok_or(answer)
        })
        .await;
    }

    /// Receivers and whether it is kept back, of each alert.
    async fn alerts(&self) -> Result<BTreeMap<Labels, (Vec<String>, bool)>, String> {
        let (_status, body) = http::get_from(self.port, "/api/v2/alerts").await?;
        let alerts: Vec<Value> = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        let read = |alert: &Value| {
            let labels = serde_json::from_value(alert["labels"].clone()).unwrap();
            let receivers = alert["receivers"].as_array().unwrap().iter();
            let receivers = receivers.map(|receiver| receiver["name"].as_str().unwrap().to_owned());
            let inhibited = alert["status"]["inhibitedBy"].as_array().unwrap();
            (labels, (receivers.collect(), !inhibited.is_empty()))
        };
        Ok(alerts.iter().map(read).collect())
    }

    /// Waits until of all alerts just these are kept back.
    async fn kept_back(&self, expected: &[&Labels]) {
        until("the alerts that are kept back", || async {
            let alerts = self.alerts().await?;
            let kept: Vec<&Labels> = alerts
                .iter()
                .filter_map(|(labels, (_, kept))| kept.then_some(labels))
                .collect();
            let mut expected = expected.to_vec();
            expected.sort();
            (kept == expected)
                .then_some(())
                .ok_or_else(|| format!("{kept:#?}"))
        })
        .await;
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn critical_alerts_page_and_others_become_tickets() {
    let Some(alertmanager) = Alertmanager::start() else {
        return;
    };
    let all: Vec<Labels> = rules()
        .keys()
        .map(|name| alert(name, "pipeline=shop"))
        .collect();
    alertmanager.fire(&all).await;
    let told = alertmanager.alerts().await.unwrap();
    assert_eq!(told.len(), all.len());
    for (labels, (receivers, _)) in told {
        let expected = match labels["severity"].as_str() {
            "critical" => "pager",
            "warning" => "tickets",
            other => panic!("a severity that nobody hears of: {other}"),
        };
        assert_eq!(receivers, [expected], "{labels:?}");
    }
}

#[tokio::test]
async fn an_alert_keeps_back_what_follows_from_it_and_nothing_else() {
    let Some(alertmanager) = Alertmanager::start() else {
        return;
    };
    // A source that is down: its pipeline falls behind, and no other one.
    let down = [
        alert("WalferrySourceDown", "pipeline=down,source=leader"),
        alert("WalferryWalRetained", "pipeline=down,source=leader"),
        alert("WalferrySinkStuck", "pipeline=down,sink=stuck"),
        alert("WalferryLagHigh", "pipeline=well,sink=dw"),
        alert("WalferrySlotInactive", "pipeline=well,source=leader"),
    ];
    let by_source = [
        alert("WalferryLagHigh", "pipeline=down,sink=dw"),
        alert("WalferryLagCritical", "pipeline=down,sink=dw"),
        alert("WalferryStale", "pipeline=down,sink=dw"),
        alert("WalferryLagUnknown", "pipeline=down,sink=reports"),
        alert("WalferrySlotInactive", "pipeline=down,source=leader"),
    ];
    // A sink that is halted: its own warnings, and not those of its neighbour or its source.
    let halted = [
        alert("WalferrySinkHalted", "pipeline=halted,sink=dw"),
        alert("WalferryRowsSkipped", "pipeline=halted,sink=dw"),
        alert("WalferryRetentionHeadroomLow", "pipeline=halted,sink=dw"),
        alert("WalferrySinkDown", "pipeline=halted,sink=reports"),
        alert("WalferryClockOffset", "pipeline=halted,source=leader"),
    ];
    let by_sink = [
        alert("WalferrySinkDown", "pipeline=halted,sink=dw"),
        alert("WalferryLagHigh", "pipeline=halted,sink=dw"),
        alert("WalferryLagCritical", "pipeline=halted,sink=dw"),
        alert("WalferrySinkStuck", "pipeline=halted,sink=dw"),
    ];
    // A source that is halted, with its slot lost: critical too, and neither has a sink.
    let lost = [
        alert("WalferrySourceHalted", "pipeline=lost,source=leader"),
        alert("WalferrySlotLost", "pipeline=lost,source=leader"),
        alert("WalferryWalRetained", "pipeline=lost,source=leader"),
    ];
    let by_halt = [
        alert("WalferrySourceDown", "pipeline=lost,source=leader"),
        alert("WalferrySlotAboutToBeLost", "pipeline=lost,source=leader"),
        alert("WalferrySlotInactive", "pipeline=lost,source=leader"),
    ];
    let all = [&down[..], &by_source, &halted, &by_sink, &lost, &by_halt].concat();
    alertmanager.fire(&all).await;
    let mut kept: Vec<&Labels> = by_source.iter().chain(&by_sink).chain(&by_halt).collect();
    alertmanager.kept_back(&kept).await;

    // Without any walferry nobody knows lag, of whichever pipeline.
    alertmanager.fire(&[alert("WalferryAbsent", "")]).await;
    kept.extend([&down[2], &down[3]]);
    alertmanager.kept_back(&kept).await;
}
