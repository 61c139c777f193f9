//! One settings file: its text, where each key stands, secrets put in, and errors that name
//! file, line and key. Never echoes a value that came out of `${…}`, nor one whose key is secret.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Result};

/// A settings file that has been read.
pub(super) struct Document {
    path: PathBuf,
    text: String,
}

impl Document {
    /// Reads the file.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let remedy = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "create it (docs/configuration.md has one to start from), or name its directory with --config"
                }
                std::io::ErrorKind::InvalidData => "save it as UTF-8 text",
                _other => "make it readable for the user that walferry runs as",
            };
            Error::halt(format!("{}: cannot be read: {error}", path.display()), remedy)
        })?;
        Ok(Document {
            path: path.to_owned(),
            text,
        })
    }

    /// The directory that relative paths in the file start from.
    pub(super) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// The file as `T`, with `${env:NAME}` and `${file:PATH}` put in.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        // Twice: the first pass knows where everything stands, the second has the secrets. Only
        // the content of strings changes between them, so what passed once passes again.
        let _shape: T = toml::from_str(&self.text).map_err(|error| self.malformed(&error))?;
        let mut table: toml::Table =
            toml::from_str(&self.text).map_err(|error| self.malformed(&error))?;
        self.expand_table(&mut table, "")?;
        table
            .try_into()
            .map_err(|error: toml::de::Error| self.malformed(&error))
    }

    /// The string under a top-level key, as written, before anything else of the file is judged.
    pub(super) fn top_level_string(&self, key: &str) -> Result<Option<String>> {
        let table: toml::Table =
            toml::from_str(&self.text).map_err(|error| self.malformed(&error))?;
        Ok(table.get(key).and_then(|v| v.as_str()).map(str::to_owned))
    }

    /// An error about a key; an empty key means the file as a whole.
    pub(super) fn error(
        &self,
        key: &str,
        what: impl AsRef<str>,
        remedy: impl Into<String>,
    ) -> Error {
        let place = self.place(key, self.line_of_key(key));
        Error::halt(format!("{place}{}", what.as_ref()), remedy)
    }

    /// The value of a key as the file has it, in backquotes, for an error text; a value with a
    /// reference in it is not looked into.
    pub(super) fn written(&self, key: &str) -> String {
        let mut found = None;
        self.visit(&mut |name, _, value| {
            if name == key {
                found = value.as_str().map(|text| format!("`{text}`"));
            }
        });
        found.unwrap_or_else(|| "it".to_owned())
    }

    /// As [`Document::written`], for an item of a list.
    pub(super) fn written_item(&self, key: &str, index: usize) -> String {
        let mut found = None;
        self.visit(&mut |name, _, value| {
            if name == key {
                let item = value.as_array().and_then(|items| items.get(index));
                found = item.and_then(|item| item.get_ref().as_str().map(|t| format!("`{t}`")));
            }
        });
        found.unwrap_or_else(|| "it".to_owned())
    }

    fn place(&self, key: &str, line: Option<usize>) -> String {
        let mut place = self.path.display().to_string();
        if let Some(line) = line {
            place.push_str(&format!(":{line}"));
        }
        place.push_str(": ");
        if !key.is_empty() {
            place.push_str(&format!("{key}: "));
        }
        place
    }

    fn line_of_key(&self, key: &str) -> Option<usize> {
        let mut at = None;
        self.visit(&mut |name, span, _| {
            if name == key {
                at = Some(span.start);
            }
        });
        at.map(|offset| self.line_at(offset))
    }

    fn line_at(&self, offset: usize) -> usize {
        1 + self
            .text
            .bytes()
            .take(offset)
            .filter(|b| *b == b'\n')
            .count()
    }

    /// Calls `each` with (dotted key, span of the key, value) for every key of the file.
    fn visit(&self, each: &mut dyn FnMut(&str, Range<usize>, &DeValue<'_>)) {
        if let Ok(table) = DeTable::parse(&self.text) {
            visit_table(table.get_ref(), "", each);
        }
    }

    /// An error of the TOML parser or of serde in our words. Their own text is not used where it
    /// would quote a value.
    fn malformed(&self, error: &toml::de::Error) -> Error {
        let offset = error.span().map(|span| span.start);
        let line = offset.map(|offset| self.line_at(offset));
        let message = error.message();
        if let Some(rest) = message.strip_prefix("unknown field ") {
            return self.unknown_key(rest, offset, line);
        }
        let key = offset.and_then(|o| self.key_at(o)).unwrap_or_default();
        if let Some(expected) = message
            .strip_prefix("invalid ")
            .and_then(|rest| rest.rsplit_once(", expected "))
            .map(|(_, expected)| expected)
        {
            let place = self.place(&key, line);
            return Error::halt(
                format!("{place}has a value of the wrong kind"),
                format!("write {}", in_words(expected)),
            );
        }
        Error::halt(
            format!("{}is not valid TOML: {message}", self.place(&key, line)),
            "correct that line; strings stand in double quotes, lists in [ ], and a key is given once",
        )
    }

    fn unknown_key(&self, rest: &str, offset: Option<usize>, line: Option<usize>) -> Error {
        let mut quoted = rest.split('`').skip(1).step_by(2);
        let unknown = quoted.next().unwrap_or_default();
        let known: Vec<&str> = quoted.collect();
        let key = offset
            .and_then(|o| self.key_at(o))
            .unwrap_or_else(|| unknown.to_owned());
        let place = self.place(&key, line);
        let remedy = match nearest(unknown, &known) {
            Some(near) => format!("did you mean `{near}`? Known here: {}", known.join(", ")),
            None if known.is_empty() => "remove it: nothing can be set here".to_owned(),
            None => format!("remove it, or use one of: {}", known.join(", ")),
        };
        Error::halt(format!("{place}there is no such setting"), remedy)
    }

    fn key_at(&self, offset: usize) -> Option<String> {
        let mut found = None;
        let Ok(table) = DeTable::parse(&self.text) else {
            return None;
        };
        key_containing(table.get_ref(), "", offset, &mut found);
        found
    }

    fn expand_table(&self, table: &mut toml::Table, prefix: &str) -> Result<()> {
        for (name, value) in table.iter_mut() {
            self.expand_value(value, &join(prefix, name))?;
        }
        Ok(())
    }

    fn expand_value(&self, value: &mut toml::Value, key: &str) -> Result<()> {
        match value {
            toml::Value::String(text) => {
                if text.contains("${") {
                    *text = self.expand_text(text, key)?;
                }
                Ok(())
            }
            toml::Value::Array(items) => items
                .iter_mut()
                .try_for_each(|item| self.expand_value(item, key)),
            toml::Value::Table(table) => self.expand_table(table, key),
            toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_) => Ok(()),
        }
    }

    fn expand_text(&self, text: &str, key: &str) -> Result<String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            out.push_str(before);
            let Some((reference, tail)) = after.split_once('}') else {
                return Err(self.error(
                    key,
                    "has `${` without a closing `}`",
                    "write ${env:NAME} or ${file:/path}",
                ));
            };
            out.push_str(&self.resolve(reference, key)?);
            rest = tail;
        }
        out.push_str(rest);
        Ok(out)
    }

    fn resolve(&self, reference: &str, key: &str) -> Result<String> {
        if let Some(name) = reference.strip_prefix("env:") {
            return std::env::var(name).map_err(|error| {
                let why = match error {
                    std::env::VarError::NotPresent => "is not set",
                    std::env::VarError::NotUnicode(_) => "is not UTF-8",
                };
                self.error(
                    key,
                    format!("the environment variable {name} {why}"),
                    format!("set {name} in walferry's environment, or use ${{file:/path}}"),
                )
            });
        }
        if let Some(path) = reference.strip_prefix("file:") {
            let path = self.directory().join(path);
            let text = std::fs::read_to_string(&path).map_err(|error| {
                self.error(
                    key,
                    format!("the file {} cannot be read: {error}", path.display()),
                    "create it, readable for the user that walferry runs as",
                )
            })?;
            return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
        }
        Err(self.error(
            key,
            "has a reference that is neither ${env:…} nor ${file:…}",
            "write ${env:NAME} for an environment variable or ${file:/path} for a file's content",
        ))
    }
}

fn visit_table(
    table: &DeTable<'_>,
    prefix: &str,
    each: &mut dyn FnMut(&str, Range<usize>, &DeValue<'_>),
) {
    for (name, value) in table.iter() {
        let key = join(prefix, name.get_ref());
        each(&key, name.span(), value.get_ref());
        if let Some(inner) = value.get_ref().as_table() {
            visit_table(inner, &key, each);
        }
    }
}

/// The deepest key whose own span or value contains the offset.
fn key_containing(table: &DeTable<'_>, prefix: &str, offset: usize, found: &mut Option<String>) {
    for (name, value) in table.iter() {
        let key = join(prefix, name.get_ref());
        if name.span().contains(&offset) || value.span().contains(&offset) {
            *found = Some(key.clone());
        }
        if let Some(inner) = value.get_ref().as_table() {
            key_containing(inner, &key, offset, found);
        }
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    }
}

/// What serde expected, as one would say it.
fn in_words(expected: &str) -> String {
    match expected {
        "a string" | "string" => "a text in double quotes".to_owned(),
        "a boolean" | "boolean" => "true or false, without quotes".to_owned(),
        "a sequence" => "a list such as [\"public.*\"]".to_owned(),
        "u32" | "i32" | "u64" | "usize" => {
            "a whole number, not negative, without quotes".to_owned()
        }
        "a map" => "a section with keys of its own".to_owned(),
        other if other.starts_with("struct ") => "a section with keys of its own".to_owned(),
        other => other.to_owned(),
    }
}

/// The candidate that is closest to `word`, if one is close.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let limit = 1 + word.chars().count() / 3;
    candidates
        .iter()
        .map(|candidate| (edit_distance(word, candidate), *candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance between two short words.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
