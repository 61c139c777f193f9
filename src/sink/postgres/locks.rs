//! The order in which tables are locked that readers of the follower hold.
//!
//! TRUNCATE and ALTER TABLE wait for a table's readers, and keep new ones waiting until COMMIT. With two such
//! tables in one transaction, a reader that has one of them and waits for the other is a deadlock, and while
//! there are enough readers it is one at each attempt. So a table that could not be had is locked first the next
//! time, before anything else is: step by step the order becomes that of the readers. Pure.

use crate::model::TableName;

/// Tables that are locked at the beginning of a transaction.
#[derive(Debug, Default)]
pub(super) struct Locks {
    first: Vec<TableName>,
    has_learned: bool,
}

impl Locks {
    /// A deadlock has come of waiting for this table.
    pub(super) fn lost(&mut self, table: &TableName) {
        self.first.retain(|other| other != table);
        self.first.insert(0, table.clone());
        self.has_learned = true;
    }

    /// Tables to be locked, in this order.
    pub(super) fn first(&self) -> Vec<TableName> {
        self.first.clone()
    }

    /// Whether the next attempt locks in another order than the last one; asked once.
    pub(super) fn has_learned(&mut self) -> bool {
        std::mem::take(&mut self.has_learned)
    }

    /// Forgets it all: the transaction is committed.
    pub(super) fn committed(&mut self) {
        self.first.clear();
        self.has_learned = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attempts until a transaction gets its locks, with readers that lock in this order all the time, and
    /// that win against it whenever they can: it loses where it waits for a table while it holds one that
    /// stands behind that in their order.
    fn attempts(locks: &mut Locks, wanted: &[TableName], readers: &[TableName]) -> usize {
        let place = |table: &TableName| readers.iter().position(|other| other == table);
        'again: for attempt in 1.. {
            let mut held: Vec<TableName> = Vec::new();
            for table in locks.first().iter().chain(wanted) {
                if held.iter().any(|held| place(held) > place(table)) && !held.contains(table) {
                    locks.lost(table);
                    assert!(locks.has_learned());
                    continue 'again;
                }
                held.push(table.clone());
            }
            return attempt;
        }
        unreachable!("it has its locks, or tries again")
    }

    #[test]
    fn tables_come_to_be_locked_in_the_order_of_the_readers() {
        let names = ["a", "b", "c", "d"];
        let table = |name: &&str| TableName::new("public", *name);
        let wanted: Vec<TableName> = names.iter().map(table).collect();
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]] {
            let readers: Vec<TableName> = order.iter().map(|&n| wanted[n].clone()).collect();
            let mut locks = Locks::default();
            let needed = attempts(&mut locks, &wanted, &readers);
            assert!(needed <= 8, "{order:?}: {needed}");
            assert!(!locks.has_learned(), "nothing since");
            locks.committed();
            assert!(locks.first().is_empty());
        }
    }
}
