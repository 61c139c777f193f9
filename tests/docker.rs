//! `docker/` fits the rest of the repository. Nothing is built or started here: files that are mounted are there,
//! names of the environment are those that settings ask for, and addresses lead to a service and its port.

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::yaml;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn compose() -> Value {
    yaml("docker/docker-compose.yml")
}

/// Services by name.
fn services(compose: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let services = compose["services"].as_object().expect("services");
    services
        .iter()
        .map(|(name, service)| (name.as_str(), service))
}

/// The texts of a list; none where there is no list.
fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().into_iter().flatten();
    list.map(|item| item.as_str().expect("a text")).collect()
}

/// Names that files below a directory ask the environment for, between `open` and `}`.
fn asked(dir: &str, open: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let text = text(&path);
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            for line in lines {
                let names = line.split(open).skip(1);
                found.extend(names.map(|rest| rest.split('}').next().unwrap().to_owned()));
            }
        }
    }
    found
}

/// Names of a service's environment that begin with one of these.
fn given(service: &Value, prefixes: &[&str]) -> BTreeSet<String> {
    let names = service["environment"]
        .as_object()
        .expect("environment")
        .keys();
    let ours = names.filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    ours.cloned().collect()
}

/// What the file's own lines name: `from` and what follows it up to white space.
fn word_after<'a>(text: &'a str, from: &str) -> &'a str {
    let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("no {from}"));
    rest.split_whitespace().next().unwrap()
}

#[test]
fn what_is_mounted_or_built_from_is_there() {
    let compose = compose();
    let named: BTreeSet<&str> = compose["volumes"]
        .as_object()
        .expect("volumes")
        .keys()
        .map(String::as_str)
        .collect();
    let mut used = BTreeSet::new();
    let mut mounted = 0;
    for (name, service) in services(&compose) {
        for volume in texts(&service["volumes"]) {
            let (source, target) = volume.split_once(':').expect("source:target");
            assert!(target.starts_with('/'), "{name}: {volume}");
            if source.starts_with('.') {
                let path = root().join("docker").join(source);
                assert!(path.exists(), "{name}: {}", path.display());
                assert!(target.ends_with(":ro"), "{name}: {volume} may be written");
                mounted += 1;
            } else {
                used.insert(source);
            }
        }
        if let Some(build) = service["build"].as_object() {
            let context = root()
                .join("docker")
                .join(build["context"].as_str().unwrap());
            let file = context.join(build["dockerfile"].as_str().unwrap());
            assert!(file.exists(), "{name}: {}", file.display());
        } else {
            let image = service["image"].as_str().expect("an image or a build");
            let (_, version) = image.rsplit_once(':').expect("a version");
            assert_ne!(version, "latest", "{name}");
        }
        for other in service["depends_on"].as_object().into_iter().flatten() {
            assert!(
                compose["services"][other.0].is_object(),
                "{name}: {}",
                other.0
            );
        }
    }
    assert_eq!(used, named);
    assert!(mounted >= 7, "only {mounted} mounts were found");
}

#[test]
fn settings_find_in_the_environment_exactly_what_they_ask_for() {
    let compose = compose();
    let mut settings = asked("config", "${env:");
    settings.append(&mut asked("connectors", "${env:"));
    assert!(settings.len() > 3, "{settings:?}");
    let walferry = &compose["services"]["walferry"];
    assert_eq!(given(walferry, &["WALFERRY_"]), settings);
    let provisioning = asked("grafana/provisioning", "${");
    assert!(provisioning.len() > 1, "{provisioning:?}");
    let grafana = &compose["services"]["grafana"];
    assert_eq!(given(grafana, &["PROMETHEUS_", "WALFERRY_"]), provisioning);
}

/// The port on which a service listens, by what starts it here or by its makers' word.
fn port(service: &str, walferry: &str) -> String {
    let known = match service {
        "leader" | "follower" => "5432",
        "kafka" => "9092",
        "prometheus" => "9090",
        "grafana" => "3000",
        "walferry" => walferry,
        other => panic!("a service that the test does not know: {other}"),
    };
    known.to_owned()
}

#[test]
fn addresses_lead_to_a_service_and_its_port() {
    let compose = compose();
    let http = compose["services"]["walferry"]["environment"]["WALFERRY_HTTP"]
        .as_str()
        .unwrap();
    let walferry = http.strip_prefix("0.0.0.0:").expect("any address");
    let environment = |service: &str, name: &str| {
        let value = &compose["services"][service]["environment"][name];
        value
            .as_str()
            .unwrap_or_else(|| panic!("{service}: {name}"))
            .to_owned()
    };
    let scraped = yaml("docker/prometheus.yml");
    let target = &scraped["scrape_configs"][0]["static_configs"][0]["targets"][0];
    let addresses = [
        environment("walferry", "WALFERRY_KAFKA"),
        environment("walferry", "WALFERRY_LEADER_URL"),
        environment("walferry", "WALFERRY_FOLLOWER_URL"),
        environment("grafana", "PROMETHEUS_URL"),
        environment("kafka", "KAFKA_ADVERTISED_LISTENERS"),
        target.as_str().unwrap().to_owned(),
    ];
    for address in addresses {
        let rest = address
            .rsplit_once("//")
            .map_or(address.as_str(), |(_, rest)| rest);
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        let (host, rest) = rest.split_once(':').expect("host:port");
        let found = rest.split('/').next().unwrap();
        assert!(compose["services"][host].is_object(), "{address}");
        assert_eq!(found, port(host, walferry), "{address}");
    }
    for (name, service) in services(&compose) {
        for published in texts(&service["ports"]) {
            let inside = published
                .strip_prefix("127.0.0.1:")
                .expect("not open to other machines");
            let (_, inside) = inside.split_once(':').unwrap();
            assert_eq!(inside, port(name, walferry), "{published}");
        }
    }
    let dockerfile = text("docker/Dockerfile");
    assert_eq!(word_after(&dockerfile, "EXPOSE "), walferry);
    assert!(dockerfile.contains(&format!("/dev/tcp/127.0.0.1/{walferry} ")));
    for name in ["leader", "follower"] {
        let url = environment("walferry", &format!("WALFERRY_{}_URL", name.to_uppercase()));
        let login = format!(":{}@{name}", environment(name, "POSTGRES_PASSWORD"));
        assert!(url.contains(&login), "{name}");
        let database = format!("/{}", environment(name, "POSTGRES_DB"));
        assert!(url.ends_with(&database), "{name}");
    }
    let leader = texts(&compose["services"]["leader"]["command"]);
    assert!(leader.contains(&"wal_level=logical"), "{leader:?}");
}

#[test]
fn versions_are_those_that_are_tested() {
    let compose = compose();
    let image = |service: &str| compose["services"][service]["image"].as_str().unwrap();
    let fetch = text("dev.d/fetch.sh");
    let kafka = fetch.split_once("KAFKA_VERSION:-").unwrap().1;
    let kafka = kafka.split('}').next().unwrap();
    assert_eq!(image("kafka"), format!("apache/kafka:{kafka}"));
    let postgres = word_after(&fetch, "PG_NEWEST=");
    for name in ["leader", "follower"] {
        assert_eq!(image(name), format!("postgres:{postgres}"));
    }
    let types: Value = serde_json::from_str(&text("grafana/check/package.json")).unwrap();
    let grafana = types["dependencies"]["@grafana/schema"].as_str().unwrap();
    assert_eq!(image("grafana"), format!("grafana/grafana:{grafana}"));
    let manifest = text("Cargo.toml");
    let rust = word_after(&manifest, "rust-version = ").trim_matches('"');
    let dockerfile = text("docker/Dockerfile");
    let stage = format!("FROM rust:{rust}-bookworm ");
    assert!(dockerfile.contains(&stage), "{stage}");
}

/// The paths that the image's program and Grafana are told are where compose mounts something.
#[test]
fn what_is_looked_for_in_a_container_is_mounted_there() {
    let compose = compose();
    let targets = |service: &str| -> BTreeSet<PathBuf> {
        let volumes = texts(&compose["services"][service]["volumes"]);
        let targets = volumes
            .iter()
            .map(|volume| volume.split(':').nth(1).unwrap());
        targets.map(PathBuf::from).collect()
    };
    let dockerfile = text("docker/Dockerfile");
    for name in ["WALFERRY_CONFIG=", "WALFERRY_CONNECTORS="] {
        let path = PathBuf::from(word_after(&dockerfile, name));
        assert!(targets("walferry").contains(&path), "{name}");
    }
    let dashboards = &compose["services"]["grafana"]["environment"]["WALFERRY_DASHBOARDS"];
    assert!(targets("grafana").contains(Path::new(dashboards.as_str().unwrap())));
    let config = texts(&compose["services"]["prometheus"]["command"])
        .into_iter()
        .find_map(|argument| argument.strip_prefix("--config.file="))
        .map(PathBuf::from)
        .expect("--config.file");
    assert!(targets("prometheus").contains(&config));
    // The configuration names rules by a path from where it stands: the same here and there.
    let top = config.parent().unwrap().parent().unwrap();
    for rule in texts(&yaml("docker/prometheus.yml")["rule_files"]) {
        let inside = rule.strip_prefix("../").expect("beside docker/");
        assert!(root().join(inside).exists(), "{rule}");
        let mounted = top.join(inside);
        let dir = mounted.parent().unwrap();
        assert!(targets("prometheus").contains(dir), "{rule}");
    }
}

#[test]
fn the_build_copies_files_that_are_there_and_in_its_context() {
    let dockerfile = text("docker/Dockerfile");
    let ignored = text("docker/Dockerfile.dockerignore");
    let kept: BTreeSet<&str> = ignored
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .collect();
    let copied: BTreeSet<&str> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter(|line| !line.starts_with("--from"))
        .flat_map(|line| line.split(' ').rev().skip(1))
        .collect();
    assert!(copied.contains("src"), "{copied:?}");
    for source in &copied {
        assert!(root().join(source).exists(), "{source}");
    }
    assert_eq!(copied, kept);
}

/// Compose itself reads the file where there is one: it needs no engine for that.
#[test]
fn compose_accepts_the_file_where_it_is_installed() {
    let there = Command::new("docker")
        .args(["compose", "version"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !there {
        return;
    }
    let output = Command::new("docker")
        .args(["compose", "-f", "docker/docker-compose.yml", "config", "-q"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
