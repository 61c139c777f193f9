//! Any bytes as the three kinds of settings files: never a panic, every error has a remedy, and no
//! secret is in it. A byte 0xFF stands between two files.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use walferry_fuzz::config::load;

const SECRET: &str = "hunter2-is-a-secret";

/// Directories of this process, emptied of nothing: every run writes the same three files.
static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    let root = tempfile::tempdir_in(base).expect("a directory").keep();
    for directory in ["config", "connectors"] {
        std::fs::create_dir(root.join(directory)).expect("a directory");
    }
    std::fs::write(root.join("secret"), SECRET).expect("a file");
    // Safe: fuzzing has one thread and reads it later.
    unsafe { std::env::set_var("WALFERRY_FUZZ_SECRET", SECRET) };
    root
});

fuzz_target!(|bytes: &[u8]| {
    let mut texts = bytes.split(|byte| *byte == 0xFF);
    for file in [
        "config/walferry.toml",
        "connectors/one.toml",
        "connectors/two.toml",
    ] {
        let text = texts.next().unwrap_or_default();
        std::fs::write(ROOT.join(file), text).expect("a file");
    }
    match load(&ROOT.join("config"), &ROOT.join("connectors")) {
        Ok(settings) => assert!(!format!("{settings:?}").contains(SECRET)),
        Err(error) => {
            assert!(error.remedy().is_some(), "{error}");
            assert!(!format!("{error} {error:?}").contains(SECRET));
        }
    }
});
