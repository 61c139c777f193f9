//! The words of the project as types. Depends on nothing else in the crate but `error`.
//!
//! What is mixed up once costs a follower: LSNs, positions, epochs and offsets are
//! newtypes, and a row's own WAL LSN appears nowhere, because it orders nothing.

pub mod batch;
pub mod checkpoint;
pub mod clock;
pub mod limits;
pub mod lsn;
pub mod moves;
pub mod offer;
pub mod position;
pub mod relation;
pub mod selection;
pub mod skip;
pub mod slot;
pub mod value;
pub mod widening;

pub use batch::{Change, Chunk, NetChange, Op, TableChanges, TablePlan, UpdateGroup};
pub use checkpoint::{Checkpoint, Cursors, Hold, Join, JoinRows};
pub use limits::Limits;
pub use lsn::Lsn;
pub use moves::Moves;
pub use offer::{Offer, OfferKind, TableOffers};
pub use position::{Epoch, Position, SchemaVersion};
pub use relation::{
    Column, ColumnKind, Fill, Oid, ReplicaIdentity, TableName, TableSchema, UserType,
    array_delimiter,
};
pub use selection::Selection;
pub use skip::{Skipped, Skips};
pub use slot::{SlotState, WalStatus};
pub use value::{Cell, RowRef, Rows};
