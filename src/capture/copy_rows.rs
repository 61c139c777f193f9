//! The rows of a copy: parallel readers → records in the copy topics.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::capture::CaptureContext;
use crate::capture::copy_throttle::Throttle;
use crate::capture::encode_tx::recycled;
use crate::capture::outbox::{Outbox, Outgoing};
use crate::capture::tables::CapturedTable;
use crate::error::{Error, Result};
use crate::killpoint::{self, Point};
use crate::log::codec::{Field, Origin};
use crate::log::header::{
    COPY_HEADER, CopyHeader, PART_HEADER, PartHeader, RECORD_HEADER, RecordHeader,
};
use crate::log::producer::{BatchId, EpochProducer, Header, PartitionSlot, Sent};
use crate::model::{Epoch, Lsn, Op, Position, TableSchema};
use crate::postgres::classify;
use crate::source::catalog::{CatalogTable, Leaf};
use crate::source::copy::{Chunk, RowParser, Snapshot, plan_chunks, statement};

/// Rows after which progress is shown.
const ROWS_A_REPORT: u64 = 4096;
/// How long readers wait for the stream's records to drain before they look again.
const YIELD_INTERVAL: Duration = Duration::from_millis(2);

/// A table as it is in a snapshot, on the server that is read.
#[derive(Debug)]
pub struct SnapshotTable {
    /// The leader's schema version that its rows are of.
    pub schema: TableSchema,
    /// Where the rows lie.
    pub leaves: Vec<Leaf>,
    /// The version's columns, in its order, by their names there.
    pub columns: Vec<String>,
    /// The rows that are read; none: all.
    pub row_filter: Option<String>,
}

impl SnapshotTable {
    /// A table of the leader.
    pub fn of_leader(table: CatalogTable) -> Self {
        let columns = table.schema.columns.iter();
        SnapshotTable {
            columns: columns.map(|column| column.name.clone()).collect(),
            schema: table.schema,
            leaves: table.leaves,
            row_filter: table.limits.row_filter,
        }
    }
}

/// A table of the copy.
pub struct CopiedTable {
    table: CapturedTable,
    /// The next sequence number of each partition. Held while a row is sent, so that numbers
    /// increase in the partition and pieces of a row stay together.
    sequences: Vec<Mutex<i64>>,
    rows: AtomicU64,
}

impl CopiedTable {
    /// No row sent yet.
    pub fn new(table: CapturedTable) -> Self {
        CopiedTable {
            sequences: table.slots.iter().map(|_| Mutex::new(0)).collect(),
            table,
            rows: AtomicU64::new(0),
        }
    }
}

/// Sends rows; shared by all readers.
pub struct RowWriter {
    /// The worker's context.
    pub context: CaptureContext,
    /// The epoch's producer.
    pub producer: Arc<EpochProducer>,
    /// The epoch.
    pub epoch: Epoch,
    /// The copy's id.
    pub copy: i64,
    /// The copy's point.
    pub point: Lsn,
    /// Acknowledged together.
    pub batch: BatchId,
    /// Tables, as in chunks.
    pub tables: Vec<CopiedTable>,
    /// How fast rows may be read.
    pub throttle: Throttle,
}

/// Reads all rows of the tables, chunk by chunk, on all sessions of the snapshot.
///
/// # Errors
/// The first reader's error; the others are stopped and send nothing more.
pub async fn read_all(
    snapshot: Snapshot,
    tables: Arc<Vec<SnapshotTable>>,
    writer: &Arc<RowWriter>,
) -> Result<()> {
    let leaves: Vec<_> = tables
        .iter()
        .enumerate()
        .flat_map(|(index, table)| table.leaves.iter().map(move |leaf| (index, leaf)))
        .collect();
    let oids: Vec<_> = leaves.iter().map(|(_, leaf)| leaf.relation).collect();
    let blocks = snapshot.blocks(&oids).await?;
    let leaves: Vec<_> = leaves
        .into_iter()
        .zip(blocks)
        .map(|((index, leaf), blocks)| (index, leaf.table.clone(), blocks))
        .collect();
    let chunks = Arc::new(std::sync::Mutex::new(plan_chunks(&leaves)));
    let mut readers = JoinSet::new();
    for session in snapshot.readers {
        let reader = Reader {
            session,
            writer: writer.clone(),
            tables: tables.clone(),
            chunks: chunks.clone(),
        };
        readers.spawn(reader.run());
    }
    let joined = join_all(&mut readers).await;
    // Whoever is told of the end may rely on nothing more being sent.
    readers.shutdown().await;
    drop(joined?);
    for index in 0..writer.tables.len() {
        writer.show(index);
    }
    Ok(())
}

/// Waits for all readers. The first session holds the tables' locks: sessions end together, when all
/// are done.
async fn join_all(readers: &mut JoinSet<Result<Client>>) -> Result<Vec<Client>> {
    let mut sessions = Vec::new();
    while let Some(joined) = readers.join_next().await {
        let session = joined
            .map_err(|error| Error::transient("a reader of the copy ended").caused_by(error))??;
        sessions.push(session);
    }
    Ok(sessions)
}

struct Reader {
    session: Client,
    writer: Arc<RowWriter>,
    tables: Arc<Vec<SnapshotTable>>,
    chunks: Arc<std::sync::Mutex<VecDeque<Chunk>>>,
}

impl Reader {
    async fn run(self) -> Result<Client> {
        let mut row = RowEncoder::default();
        loop {
            let chunk = {
                let mut chunks = self
                    .chunks
                    .lock()
                    .map_err(|_| Error::transient("another reader of the copy ended"))?;
                chunks.pop_front()
            };
            let Some(chunk) = chunk else {
                return Ok(self.session);
            };
            self.chunk(&chunk, &mut row).await.map_err(|error| {
                error.at(format!("copying {} from block {}", chunk.leaf, chunk.from))
            })?;
            killpoint::pass(Point::CopyChunk);
        }
    }

    async fn chunk(&self, chunk: &Chunk, row: &mut RowEncoder) -> Result<()> {
        let table = &self.writer.tables[chunk.table];
        let read = &self.tables[chunk.table];
        let sql = statement(&read.columns, read.row_filter.as_deref(), chunk);
        let doing = "reading rows";
        let stream = self
            .session
            .copy_out(&sql)
            .await
            .map_err(|error| classify(&error, doing))?;
        let mut stream = pin!(stream);
        // Postgres sends a line a message; nothing promises it, so the rest of one is kept.
        let mut rest: Vec<u8> = Vec::new();
        let mut rows = 0;
        while let Some(data) = stream
            .try_next()
            .await
            .map_err(|error| classify(&error, doing))?
        {
            self.writer.throttle.read(data.len()).await;
            self.writer.yield_to_stream().await;
            let mut data = &data[..];
            while let Some(end) = memchr::memchr(b'\n', data) {
                if rest.is_empty() {
                    self.writer.row(chunk.table, &data[..end], row).await?;
                } else {
                    rest.extend_from_slice(&data[..end]);
                    self.writer.row(chunk.table, &rest, row).await?;
                    rest.clear();
                }
                rows += 1;
                data = &data[end + 1..];
            }
            rest.extend_from_slice(data);
            if rows >= ROWS_A_REPORT {
                table
                    .rows
                    .fetch_add(std::mem::take(&mut rows), Ordering::Relaxed);
                self.writer.show(chunk.table);
            }
        }
        table.rows.fetch_add(rows, Ordering::Relaxed);
        self.writer.show(chunk.table);
        if rest.is_empty() {
            Ok(())
        } else {
            Err(Error::transient("COPY ended in the middle of a line"))
        }
    }
}

/// Memory of one reader, used again for each row.
#[derive(Default)]
struct RowEncoder {
    parser: RowParser,
    fields: Vec<Field<'static>>,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl RowWriter {
    /// The stream comes first: rows use only half of the producer's queue.
    async fn yield_to_stream(&self) {
        while self.producer.unacknowledged_bytes() > self.context.source.queue_max_bytes / 2 {
            self.producer.push();
            tokio::time::sleep(YIELD_INTERVAL).await;
        }
    }

    fn show(&self, index: usize) {
        let table = &self.tables[index];
        let rows = table.rows.load(Ordering::Relaxed);
        let name = table.table.schema().table.to_string();
        self.context.status.update(|view| {
            if let Some(copy) = view.copies.iter_mut().find(|copy| copy.table == name) {
                copy.rows = rows;
            }
        });
    }

    async fn row(&self, index: usize, line: &[u8], row: &mut RowEncoder) -> Result<()> {
        let copied = &self.tables[index];
        let table = &copied.table;
        row.key.clear();
        row.value.clear();
        row.parser.parse(line, table.schema().columns.len())?;
        let mut fields = recycled(std::mem::take(&mut row.fields));
        fields.extend(
            row.parser
                .values()
                .map(|value| value.map_or(Field::Null, Field::Text)),
        );
        let origin = Origin {
            commit_time_us: 0,
            xid: 0,
            lsn: self.point,
        };
        table.encoder.key(&fields, &mut row.key)?;
        table
            .encoder
            .value(Op::Read, None, Some(&fields), &origin, &mut row.value)?;
        row.fields = recycled(fields);
        let key = table.schema().has_key().then_some(&row.key[..]);
        let partition = key.map_or(0, |key| table.encoder.partition(key));
        let partition = usize::try_from(partition)
            .ok()
            .filter(|&partition| partition < table.slots.len())
            .expect("the encoder's partitions are the topic's");
        self.send(copied, partition, key, &row.value).await
    }

    async fn send(
        &self,
        copied: &CopiedTable,
        partition: usize,
        key: Option<&[u8]>,
        value: &[u8],
    ) -> Result<()> {
        let slot = copied.table.slots[partition];
        let whole = Outgoing {
            slot,
            key: key.map(|key| 0..key.len()),
            value: Some(0..value.len()),
            header: None,
            moved: None,
            part: None,
        };
        let count = Outbox::pieces(&whole, self.producer.record_max_bytes())
            .map_err(|error| error.at(&copied.table.schema().table))?;
        let mut sequence = copied.sequences[partition].lock().await;
        for index in 0..count {
            let piece = &value[Outbox::piece(&(0..value.len()), index, count)];
            let part = (count > 1).then_some(PartHeader { index, count });
            while self.try_send(copied, slot, key, piece, part, *sequence)? == Sent::Full {
                self.producer.room().await?;
            }
            *sequence += 1;
        }
        Ok(())
    }

    fn try_send(
        &self,
        copied: &CopiedTable,
        slot: PartitionSlot,
        key: Option<&[u8]>,
        value: &[u8],
        part: Option<PartHeader>,
        sequence: i64,
    ) -> Result<Sent> {
        let own = RecordHeader {
            epoch: self.epoch,
            position: Position {
                commit: self.point,
                ordinal: 0,
            },
            version: copied.table.version,
        }
        .to_bytes();
        let copy = CopyHeader {
            copy: self.copy,
            sequence,
        }
        .to_bytes();
        let piece = part.map(PartHeader::to_bytes).unwrap_or_default();
        let headers: [Header<'_>; 3] = [
            (RECORD_HEADER, &own),
            (COPY_HEADER, &copy),
            (PART_HEADER, &piece),
        ];
        let count = if part.is_some() { 3 } else { 2 };
        self.producer
            .send(self.batch, slot, key, Some(value), &headers[..count])
    }
}
