//! Who may depend on whom: `docs/architecture.md`, "Modules".

use std::collections::BTreeMap;
use std::path::Path;

/// A module and the modules it may name.
const ALLOWED: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("model", &[]),
    ("config", &["error", "model", "postgres"]),
    ("status", &["error", "model"]),
    ("postgres", &["error", "model", "config"]),
    ("pgoutput", &["error", "model"]),
    (
        "source",
        &["error", "model", "config", "postgres", "pgoutput"],
    ),
    ("log", &["error", "model", "config"]),
    ("trace", &["error", "model", "config"]),
    (
        "capture",
        &[
            "error", "model", "config", "status", "postgres", "pgoutput", "source", "log", "sink",
            "trace",
        ],
    ),
    ("history", &["error", "model", "config", "log"]),
    ("sink", &["error", "model", "config", "postgres"]),
    (
        "apply",
        &["error", "model", "config", "status", "log", "sink", "trace"],
    ),
];

fn visit(dir: &Path, found: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.insert(
                path.to_string_lossy().into_owned(),
                std::fs::read_to_string(&path).unwrap(),
            );
        }
    }
}

/// Modules that a file names by `crate::module`, single or in braces.
fn named(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let group = rest.strip_prefix('{').and_then(|r| r.split('}').next());
        for path in group.map_or(vec![rest], |g| g.split(',').collect()) {
            let name: String = path
                .trim()
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                .collect();
            names.push(name);
        }
    }
    names
}

/// `killpoint` marks places anywhere and is nothing in a release build.
#[test]
fn modules_depend_only_downwards() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = BTreeMap::new();
    visit(&src, &mut files);
    let mut checked = 0;
    for (file, text) in &files {
        let inside = Path::new(file).strip_prefix(&src).unwrap();
        let first = inside
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_string_lossy()
            .into_owned();
        let module = first.trim_end_matches(".rs");
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == module) else {
            continue;
        };
        for name in named(text).into_iter().filter(|name| name != "killpoint") {
            checked += 1;
            assert!(
                name.is_empty() || name == module || allowed.contains(&name.as_str()),
                "{}: `{module}` must not depend on `{name}`",
                inside.display()
            );
        }
    }
    assert!(
        checked > 50,
        "the test found only {checked} uses of modules: it looks in the wrong place"
    );
}
