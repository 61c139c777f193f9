//! The commit log, read and judged from `docs/event-format.md` alone.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::lsn;

/// By topic and partition.
pub type ByPartition<T> = BTreeMap<(String, i32), T>;

/// Where records of an entry lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub last: i64,
    pub count: u64,
}

/// A valid batch entry with records.
#[derive(Clone, Debug)]
pub struct Batch {
    pub epoch: u64,
    pub from: u64,
    pub to: u64,
    pub extents: ByPartition<Extent>,
}

/// A complete copy.
#[derive(Clone, Debug)]
pub struct Copy {
    pub id: u64,
    pub epoch: u64,
    pub tables: BTreeSet<String>,
    pub point: u64,
    pub rows: ByPartition<Extent>,
}

/// A copy that has begun.
struct Begun {
    epoch: u64,
    tables: BTreeSet<String>,
}

/// What the log says, judged entry by entry.
#[derive(Default)]
pub struct Log {
    pub batches: Vec<Batch>,
    pub copies: Vec<Copy>,
    pub entries: u64,
    pub void: u64,
    pub repeats: u64,
    pub epochs: u64,
    epoch: Option<u64>,
    /// The newest boundary.
    pub to: Option<u64>,
    last_valid: Option<u64>,
    running: BTreeMap<u64, Begun>,
}

impl Log {
    /// Takes the next entry.
    ///
    /// # Errors
    /// At a hole, and at an entry that is not as the page says.
    pub fn take(&mut self, offset: u64, text: &[u8]) -> anyhow::Result<()> {
        let entry: Value =
            serde_json::from_slice(text).with_context(|| format!("entry {offset}"))?;
        self.entries += 1;
        let kind = entry["kind"].as_str().context("an entry without a kind")?;
        if kind == "epoch" {
            return self.epoch(offset, &entry);
        }
        if self.epoch.is_none() || entry["epoch"].as_u64() != self.epoch {
            self.void += 1;
            return Ok(());
        }
        let valid = match kind {
            "batch" => self.batch(offset, &entry)?,
            "copy_begin" => self.copy_begin(offset, &entry)?,
            "copy_end" => self.copy_end(&entry)?,
            other => bail!("entry {offset} is of the unknown kind {other}"),
        };
        if valid {
            self.last_valid = Some(offset);
        } else {
            self.repeats += 1;
        }
        Ok(())
    }

    fn epoch(&mut self, offset: u64, entry: &Value) -> anyhow::Result<()> {
        let after = entry["after"]
            .as_u64()
            .context("an epoch entry without `after`")?;
        if self.last_valid.is_some_and(|valid| valid >= after) {
            self.void += 1;
            return Ok(());
        }
        self.epochs += 1;
        (self.epoch, self.last_valid) = (Some(offset), Some(offset));
        self.running.clear(); // unfinished copies of the epoch before are void
        Ok(())
    }

    fn batch(&mut self, offset: u64, entry: &Value) -> anyhow::Result<bool> {
        let (from, to) = (position(&entry["from"])?, position(&entry["to"])?);
        if let Some(known) = self.to {
            if to <= known {
                return Ok(false);
            }
            ensure!(
                from == known,
                "entry {offset} begins at {from:X}, the one before ended at {known:X}"
            );
        }
        self.to = Some(to);
        if entry["offsets"].is_object() {
            self.batches.push(Batch {
                epoch: self.epoch.context("judged above")?,
                from,
                to,
                extents: extents(&entry["offsets"])?,
            });
        }
        Ok(true)
    }

    fn copy_begin(&mut self, offset: u64, entry: &Value) -> anyhow::Result<bool> {
        let at = match &entry["at"] {
            Value::Null => None,
            text => Some(position(text)?),
        };
        if self.to.is_some() && at != self.to {
            return Ok(false);
        }
        self.to = at;
        let mut tables = BTreeSet::new();
        for table in entry["tables"]
            .as_array()
            .context("a copy without tables")?
        {
            ensure!(
                table["schema"] == "public",
                "a table that is not the load's: {table}"
            );
            tables.insert(
                table["name"]
                    .as_str()
                    .context("a table without a name")?
                    .to_owned(),
            );
        }
        for begun in self.running.values_mut() {
            begun.tables.retain(|table| !tables.contains(table));
        }
        let epoch = self.epoch.context("judged above")?;
        self.running.insert(offset, Begun { epoch, tables });
        Ok(true)
    }

    fn copy_end(&mut self, entry: &Value) -> anyhow::Result<bool> {
        let id = entry["copy"]
            .as_u64()
            .context("a copy_end without its copy")?;
        if let Some(begun) = self.running.remove(&id) {
            self.copies.push(Copy {
                id,
                epoch: begun.epoch,
                tables: begun.tables,
                point: position(&entry["point"])?,
                rows: extents(&entry["rows"])?,
            });
        }
        Ok(true)
    }
}

fn position(text: &Value) -> anyhow::Result<u64> {
    let text = text.as_str().context("an LSN that is no text")?;
    lsn::parse(text).map_err(anyhow::Error::msg)
}

fn extents(topics: &Value) -> anyhow::Result<ByPartition<Extent>> {
    let mut all = BTreeMap::new();
    for (topic, partitions) in topics.as_object().context("offsets by topic")? {
        for (partition, extent) in partitions.as_object().context("offsets by partition")? {
            let extent = Extent {
                last: extent["last"].as_i64().context("last")?,
                count: extent["count"].as_u64().context("count")?,
            };
            all.insert((topic.clone(), partition.parse()?), extent);
        }
    }
    Ok(all)
}
