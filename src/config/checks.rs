//! One value at a time: needed, one of, within bounds; errors through the document it stands in.

use std::time::Duration;

use super::document::{Document, nearest};
use super::values::{parse_duration, parse_size};
use super::{defaults, raw};
use crate::error::Result;

pub(super) fn required(
    document: &Document,
    key: &str,
    value: Option<String>,
    example: &str,
) -> Result<String> {
    match value {
        Some(text) if !text.trim().is_empty() => Ok(text),
        Some(_empty) => Err(document.error(key, "is empty", format!("write {example}"))),
        None => Err(document.error(key, "is missing", format!("add {example}"))),
    }
}

pub(super) fn choice<T: Copy>(
    document: &Document,
    key: &str,
    text: Option<String>,
    default: T,
    known: &[(&str, T)],
) -> Result<T> {
    let Some(text) = text else {
        return Ok(default);
    };
    if let Some((_, value)) = known.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    let mut remedy = format!("write one of: {}", names.join(", "));
    if let Some(near) = nearest(&text, &names) {
        remedy = format!("did you mean \"{near}\"? {remedy}");
    }
    Err(document.error(
        key,
        format!("{} is not known here", document.written(key)),
        remedy,
    ))
}

pub(super) fn number(
    document: &Document,
    key: &str,
    value: Option<u32>,
    default: u32,
    least: u32,
    most: u32,
) -> Result<u32> {
    let value = value.unwrap_or(default);
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    let mut remedy = format!("write a number from {least} to {most}");
    if key == "kafka.replication_factor" && value < least {
        remedy.push_str(
            ", or set kafka.durability = \"single-broker\" if losing that broker may lose data",
        );
    }
    Err(document.error(key, format!("{value} is out of bounds"), remedy))
}

pub(super) fn size(
    document: &Document,
    key: &str,
    value: Option<raw::Size>,
    default: usize,
) -> Result<usize> {
    Ok(optional_size(document, key, value)?.unwrap_or(default))
}

/// A size that may be left out.
pub(super) fn optional_size(
    document: &Document,
    key: &str,
    value: Option<raw::Size>,
) -> Result<Option<usize>> {
    let Some(raw::Size(text)) = value else {
        return Ok(None);
    };
    let Some(bytes) = parse_size(&text) else {
        return Err(document.error(
            key,
            format!("{} is not a size", document.written(key)),
            "write a whole number with a unit, such as \"16MiB\", \"64kB\" or \"512B\" (units: B, kB, MB, GB, KiB, MiB, GiB)",
        ));
    };
    match usize::try_from(bytes) {
        Ok(bytes) if (defaults::LEAST_SIZE..=defaults::LARGEST_SIZE).contains(&bytes) => {
            Ok(Some(bytes))
        }
        Ok(_) | Err(_) => Err(document.error(
            key,
            format!("{} is out of bounds", document.written(key)),
            "write a size from \"64KiB\" to \"2GiB\"",
        )),
    }
}

pub(super) fn duration(
    document: &Document,
    key: &str,
    value: Option<raw::Span>,
    default: Duration,
    bounds: (Duration, Duration),
) -> Result<Duration> {
    Ok(optional_duration(document, key, value, bounds)?.unwrap_or(default))
}

/// A duration that may be left out.
pub(super) fn optional_duration(
    document: &Document,
    key: &str,
    value: Option<raw::Span>,
    bounds: (Duration, Duration),
) -> Result<Option<Duration>> {
    let Some(raw::Span(text)) = value else {
        return Ok(None);
    };
    let Some(time) = parse_duration(&text) else {
        return Err(document.error(
            key,
            format!("{} is not a duration", document.written(key)),
            "write a number with a unit, such as \"500ms\", \"30s\", \"5min\", \"12h\" or \"7d\"",
        ));
    };
    if (bounds.0..=bounds.1).contains(&time) {
        return Ok(Some(time));
    }
    Err(document.error(
        key,
        format!("{} is out of bounds", document.written(key)),
        format!(
            "write a time from {} to {}",
            humantime::format_duration(bounds.0),
            humantime::format_duration(bounds.1)
        ),
    ))
}
