//! Sizes, durations, names and patterns as they are written in settings.

use std::time::Duration;

/// Units of sizes, longest first, with their bytes.
const SIZE_UNITS: [(&str, u64); 10] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Bytes of `16MiB`, `64kB`, `512B`; `None` when it is not a whole number with one of the units.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = SIZE_UNITS
        .iter()
        .find(|(name, _)| *name == unit.trim_start())
        .map(|(_, factor)| *factor)?;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A size as a person reads it: `0 B`, `1.5 KiB`, `16.0 MiB`.
pub fn print_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// The time of `7d`, `30s`, `500ms`; `None` when it is not a number with a unit.
pub fn parse_duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text.trim()).ok()
}

/// Whether it may name a pipeline: it begins topics, slot and publication.
pub fn is_pipeline_name(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Whether it may name a connector: it stands in labels, logs and checkpoints.
pub fn is_connector_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

/// Whether it may name a replication slot (Postgres, `ReplicationSlotValidateName`).
pub fn is_slot_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Whether it is a `schema.table` pattern: two parts, neither empty.
pub fn is_table_pattern(pattern: &str) -> bool {
    pattern
        .split_once('.')
        .is_some_and(|(schema, table)| !schema.is_empty() && !table.is_empty())
        && !pattern.contains(['"', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_needs_its_unit() {
        for (text, bytes) in [
            ("16MiB", Some(16 << 20)),
            ("64kB", Some(64_000)),
            ("1 GiB", Some(1 << 30)),
            ("512B", Some(512)),
            ("512", None),
            ("", None),
            ("MiB", None),
            ("1.5MiB", None),
            ("-1B", None),
            ("16MIB", None),
            ("99999999999999TiB", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }

    #[test]
    fn sizes_print_in_binary_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (16 << 20, "16.0 MiB"),
        ] {
            assert_eq!(print_size(bytes), text);
        }
    }
}
