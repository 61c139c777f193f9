//! Messages of pgoutput, protocol version 1 (Postgres docs, "Logical Replication Message Formats").

use super::reader::Reader;
use super::tuple::Tuple;
use crate::model::{Lsn, Oid};

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction begins.
    Begin(Begin),
    /// A transaction ends.
    Commit(Commit),
    /// The transaction came from another node.
    Origin {
        /// Commit LSN on the origin.
        commit: Lsn,
        /// Name of the origin.
        name: &'a [u8],
    },
    /// The shape of a table, before its first change and after each change of shape.
    Relation(Relation<'a>),
    /// A user-made type.
    Type {
        /// Its OID.
        oid: Oid,
        /// Its schema; `pg_catalog` when sent empty.
        schema: &'a str,
        /// Its name.
        name: &'a str,
    },
    /// A row was inserted.
    Insert {
        /// The table.
        relation: Oid,
        /// The new row.
        new: Tuple<'a>,
    },
    /// A row was updated.
    Update {
        /// The table.
        relation: Oid,
        /// What was sent of the old row: the key when it changed, or the whole row under FULL.
        old: Option<Old<'a>>,
        /// The new row.
        new: Tuple<'a>,
    },
    /// A row was deleted.
    Delete {
        /// The table.
        relation: Oid,
        /// What was sent of the old row.
        old: Old<'a>,
    },
    /// Tables were truncated.
    Truncate {
        /// The tables.
        relations: Vec<Oid>,
        /// CASCADE.
        cascade: bool,
        /// RESTART IDENTITY.
        restart_identity: bool,
    },
    /// `pg_logical_emit_message`.
    Logical {
        /// Whether it belongs to the transaction.
        transactional: bool,
        /// Its LSN.
        lsn: Lsn,
        /// Prefix.
        prefix: &'a [u8],
        /// Content.
        content: &'a [u8],
    },
}

/// `B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// LSN of the commit record: the commit LSN of all positions in the transaction.
    pub commit: Lsn,
    /// Commit time, microseconds since 2000-01-01 UTC.
    pub time_us: i64,
    /// Transaction id.
    pub xid: u32,
}

/// `C`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// LSN of the commit record.
    pub commit: Lsn,
    /// End of the commit record: the boundary behind the transaction.
    pub end: Lsn,
    /// Commit time.
    pub time_us: i64,
}

/// What an update or delete says of the old row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old<'a> {
    /// `K`: key columns set, all others NULL.
    Key(Tuple<'a>),
    /// `O`: the whole row, never with unchanged columns.
    Full(Tuple<'a>),
}

/// `R`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    /// OID of the table.
    pub oid: Oid,
    /// Schema; `pg_catalog` when sent empty.
    pub schema: &'a str,
    /// Name.
    pub name: &'a str,
    /// `relreplident`: b'd', b'n', b'f' or b'i'.
    pub identity: u8,
    /// Columns in order.
    pub columns: Vec<RelationColumn<'a>>,
}

/// A column of a relation message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// Part of the replica identity.
    pub key: bool,
    /// Name.
    pub name: &'a str,
    /// Type.
    pub type_oid: Oid,
    /// `atttypmod`.
    pub type_modifier: i32,
}

/// The bytes are not a message of protocol version 1.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("malformed pgoutput message `{tag}` at byte {offset}: {what}")]
pub struct Malformed {
    /// The message's tag, printable.
    pub tag: char,
    /// Where.
    pub offset: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// Decodes one message of protocol version 1. Everything in the answer points into `bytes`.
///
/// # Errors
/// When the bytes are cut off, have more than the message, hold lengths that do not fit, or a tag
/// that version 1 does not have.
#[inline]
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let (tag, mut reader) = Reader::new(bytes)?;
    let reader = &mut reader;
    let message = match tag {
        b'I' => insert(reader)?,
        b'U' => update(reader)?,
        b'D' => delete(reader)?,
        b'B' => Message::Begin(Begin {
            commit: lsn(reader)?,
            time_us: reader.i64("the commit time is cut off")?,
            xid: reader.u32("the transaction id is cut off")?,
        }),
        b'C' => commit(reader)?,
        b'O' => Message::Origin {
            commit: lsn(reader)?,
            name: reader.c_bytes("the origin's name is cut off")?,
        },
        b'R' => Message::Relation(relation(reader)?),
        b'Y' => Message::Type {
            oid: oid(reader)?,
            schema: schema(reader)?,
            name: reader.c_str("the type's name is cut off")?,
        },
        b'T' => truncate(reader)?,
        b'M' => logical(reader)?,
        0..b'B' | b'E'..b'I' | b'J'..b'M' | b'N' | b'P' | b'Q' | b'S' | b'V'..b'Y' | b'Z'.. => {
            return Err(reader.malformed("protocol version 1 has no message with this tag"));
        }
    };
    reader.end()?;
    Ok(message)
}

#[inline]
fn insert<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, Malformed> {
    let relation = oid(reader)?;
    match tuple_kind(reader)? {
        b'N' => Ok(Message::Insert {
            relation,
            new: Tuple::read(reader)?,
        }),
        0..b'N' | b'O'.. => Err(reader.malformed("an insert's tuple is not marked N")),
    }
}

#[inline]
fn update<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, Malformed> {
    let relation = oid(reader)?;
    let old = match tuple_kind(reader)? {
        b'N' => {
            let new = Tuple::read(reader)?;
            return Ok(Message::Update {
                relation,
                old: None,
                new,
            });
        }
        kind => old_tuple(kind, reader)?,
    };
    match tuple_kind(reader)? {
        b'N' => Ok(Message::Update {
            relation,
            old: Some(old),
            new: Tuple::read(reader)?,
        }),
        0..b'N' | b'O'.. => Err(reader.malformed("an update's new tuple is not marked N")),
    }
}

#[inline]
fn delete<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, Malformed> {
    let relation = oid(reader)?;
    let kind = tuple_kind(reader)?;
    Ok(Message::Delete {
        relation,
        old: old_tuple(kind, reader)?,
    })
}

fn old_tuple<'a>(kind: u8, reader: &mut Reader<'a>) -> Result<Old<'a>, Malformed> {
    match kind {
        b'K' => Tuple::read(reader).map(Old::Key),
        b'O' => Tuple::read(reader).map(Old::Full),
        0..b'K' | b'L'..b'O' | b'P'.. => Err(reader.malformed("an old tuple is not marked K or O")),
    }
}

fn commit<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, Malformed> {
    match reader.u8("the flags are cut off")? {
        0 => {}
        1.. => return Err(reader.malformed("a commit has flags that version 1 does not have")),
    }
    Ok(Message::Commit(Commit {
        commit: lsn(reader)?,
        end: lsn(reader)?,
        time_us: reader.i64("the commit time is cut off")?,
    }))
}

fn relation<'a>(reader: &mut Reader<'a>) -> Result<Relation<'a>, Malformed> {
    let oid = oid(reader)?;
    let schema = schema(reader)?;
    let name = reader.c_str("the table's name is cut off")?;
    let identity = match reader.u8("the replica identity is cut off")? {
        identity @ (b'd' | b'n' | b'f' | b'i') => identity,
        0..b'd' | b'e' | b'g' | b'h' | b'j'..b'n' | b'o'.. => {
            return Err(reader.malformed("the replica identity is not d, n, f or i"));
        }
    };
    let count = reader.i16("the column count is cut off")?;
    let count =
        usize::try_from(count).map_err(|_| reader.malformed("the column count is negative"))?;
    // A column takes at least ten bytes, so a lie about the count cannot reserve more than the message.
    let mut columns = Vec::with_capacity(count.min(reader.rest().len() / 10));
    for _ in 0..count {
        columns.push(relation_column(reader)?);
    }
    Ok(Relation {
        oid,
        schema,
        name,
        identity,
        columns,
    })
}

fn relation_column<'a>(reader: &mut Reader<'a>) -> Result<RelationColumn<'a>, Malformed> {
    let key = match reader.u8("a column is cut off")? {
        0 => false,
        1 => true,
        2.. => return Err(reader.malformed("a column has flags that version 1 does not have")),
    };
    Ok(RelationColumn {
        key,
        name: reader.c_str("a column's name is cut off")?,
        type_oid: Oid(reader.u32("a column's type is cut off")?),
        type_modifier: reader.i32("a column's type modifier is cut off")?,
    })
}

fn truncate<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, Malformed> {
    const CASCADE: u8 = 1;
    const RESTART_IDENTITY: u8 = 2;
    let count = reader.i32("the table count is cut off")?;
    let count =
        usize::try_from(count).map_err(|_| reader.malformed("the table count is negative"))?;
    let options = reader.u8("the options are cut off")?;
    if options & !(CASCADE | RESTART_IDENTITY) != 0 {
        return Err(reader.malformed("a truncate has options that version 1 does not have"));
    }
    let mut relations = Vec::with_capacity(count.min(reader.rest().len() / 4));
    for _ in 0..count {
        relations.push(oid(reader)?);
    }
    Ok(Message::Truncate {
        relations,
        cascade: options & CASCADE != 0,
        restart_identity: options & RESTART_IDENTITY != 0,
    })
}

fn logical<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, Malformed> {
    let transactional = match reader.u8("the flags are cut off")? {
        0 => false,
        1 => true,
        2.. => {
            return Err(
                reader.malformed("a logical message has flags that version 1 does not have")
            );
        }
    };
    let lsn = lsn(reader)?;
    let prefix = reader.c_bytes("the prefix is cut off")?;
    let length = reader.i32("the content's length is cut off")?;
    let length = usize::try_from(length)
        .map_err(|_| reader.malformed("the content's length is negative"))?;
    Ok(Message::Logical {
        transactional,
        lsn,
        prefix,
        content: reader.bytes(length, "the content is cut off")?,
    })
}

#[inline]
fn lsn(reader: &mut Reader<'_>) -> Result<Lsn, Malformed> {
    reader.u64("an LSN is cut off").map(Lsn)
}

#[inline]
fn oid(reader: &mut Reader<'_>) -> Result<Oid, Malformed> {
    reader.u32("an OID is cut off").map(Oid)
}

#[inline]
fn tuple_kind(reader: &mut Reader<'_>) -> Result<u8, Malformed> {
    reader.u8("the tuple's kind is cut off")
}

/// A schema's name; `logicalrep_write_namespace` sends `pg_catalog` as the empty string.
fn schema<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Malformed> {
    match reader.c_str("the schema's name is cut off")? {
        "" => Ok("pg_catalog"),
        name => Ok(name),
    }
}
