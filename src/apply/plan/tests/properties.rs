//! Random histories of a leader against a store that applies their plan.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// An operation on the leader, to be made valid where it is played.
#[derive(Clone, Debug)]
enum Doing {
    Insert(Key),
    Update(Key, [u8; 2]),
    Delete(Key),
    Rekey(Key, Key, [u8; 2]),
    Swap(Key, Key),
    Truncate,
}

fn doing() -> impl Strategy<Value = Doing> {
    let key = 0..6u32;
    let how = prop::array::uniform2(0..4u8);
    prop_oneof![
        6 => key.clone().prop_map(Doing::Insert),
        8 => (key.clone(), how.clone()).prop_map(|(key, how)| Doing::Update(key, how)),
        5 => key.clone().prop_map(Doing::Delete),
        6 => (key.clone(), key.clone(), how).prop_map(|(a, b, how)| Doing::Rekey(a, b, how)),
        3 => (key.clone(), key).prop_map(|(a, b)| Doing::Swap(a, b)),
        1 => Just(Doing::Truncate),
    ]
}

/// The leader: plays operations one by one and logs them.
struct Leader {
    table: Table,
    log: Log,
    clock: u32,
}

impl Leader {
    fn fresh(&mut self) -> String {
        self.clock += 1;
        format!("v{}", self.clock)
    }

    /// Changes the values of a row by `how`, and says what the stream carries: a new text, NULL,
    /// the old value, or nothing where it is unchanged.
    fn change(&mut self, old: &Values, how: [u8; 2]) -> (Values, [Part; 2]) {
        let mut new = old.clone();
        let parts = [0, 1].map(|place| match how[place] {
            0 => Part::Absent,
            1 => match &old[place] {
                Some(text) => Part::Set(text.clone()),
                None => Part::Null,
            },
            2 => {
                new[place] = None;
                Part::Null
            }
            _ => {
                let text = self.fresh();
                new[place] = Some(text.clone());
                Part::Set(text)
            }
        });
        (new, parts)
    }

    fn rekey(&mut self, from: Key, to: Key, how: [u8; 2]) {
        if self.table.contains_key(&to) {
            return;
        }
        let Some(old) = self.table.remove(&from) else {
            return;
        };
        let (new, parts) = self.change(&old, how);
        self.log.rekey(from, to, &parts);
        self.table.insert(to, new);
    }

    fn play(&mut self, doing: &Doing) {
        match doing {
            Doing::Insert(key) if !self.table.contains_key(key) => {
                let (new, parts) = self.change(&[None, None], [3, 1]);
                self.log.insert(*key, &parts);
                self.table.insert(*key, new);
            }
            Doing::Update(key, how) if self.table.contains_key(key) => {
                let (new, parts) = self.change(&self.table[key].clone(), *how);
                self.log.update(*key, &parts);
                self.table.insert(*key, new);
            }
            Doing::Delete(key) if self.table.remove(key).is_some() => self.log.delete(*key),
            Doing::Insert(_) | Doing::Update(..) | Doing::Delete(_) => {}
            Doing::Rekey(from, to, how) => self.rekey(*from, *to, *how),
            Doing::Swap(a, b) => {
                self.rekey(*a, 99, [0, 3]);
                self.rekey(*b, *a, [3, 0]);
                self.rekey(99, *b, [0, 0]);
            }
            Doing::Truncate => {
                self.log.truncate();
                self.table.clear();
            }
        }
    }
}

/// Plays operations on a table with the keys of `start`; the table before and the leader after.
fn play(start: &[Key], doings: &[Doing]) -> (Table, Leader) {
    let row = |key: &Key| (*key, values(&format!("a{key}"), &format!("b{key}")));
    let table: Table = start.iter().map(row).collect();
    let mut leader = Leader {
        table: table.clone(),
        log: Log::new(),
        clock: 0,
    };
    doings.iter().for_each(|doing| leader.play(doing));
    (table, leader)
}

/// All plans with one row of one list left out.
fn mutants(plan: &TablePlan) -> Vec<TablePlan> {
    let mut mutants = Vec::new();
    let mut leave_out = |step: usize, remove: &dyn Fn(&mut NetChange)| {
        let mut mutant = plan.clone();
        if let Step::Net(net) = &mut mutant.steps[step] {
            remove(net);
        }
        mutants.push(mutant);
    };
    for (index, step) in plan.steps.iter().enumerate() {
        let Step::Net(net) = step else { continue };
        for row in 0..net.deletes.len() {
            leave_out(index, &|net| _ = net.deletes.remove(row));
        }
        for row in 0..net.inserts.len() {
            leave_out(index, &|net| _ = net.inserts.remove(row));
        }
        for row in 0..net.moves.len() {
            leave_out(index, &|net| _ = net.moves.remove(row));
        }
        for (group, updates) in net.updates.iter().enumerate() {
            for row in 0..updates.rows.len() {
                leave_out(index, &|net| _ = net.updates[group].rows.remove(row));
            }
        }
    }
    mutants
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_net_change_does_what_its_changes_do_one_by_one(
        start in prop::collection::btree_set(0..6u32, 0..6),
        doings in prop::collection::vec(doing(), 0..30),
    ) {
        let start: Vec<Key> = start.into_iter().collect();
        let (before, leader) = play(&start, &doings);
        let count = leader.log.changes.len() as u64;
        let plan = plan(leader.log.table(&KEY)).unwrap();
        prop_assert_eq!(plan.changes, count);
        prop_assert_eq!(apply(&plan, before), Ok(leader.table));
    }

    /// A store without transactions gives each of them a version, and so ends with the same rows whatever a former
    /// attempt, at fewer of these changes, has left.
    #[test]
    fn every_key_that_changes_touch_is_somewhere_in_the_plan(
        start in prop::collection::btree_set(0..6u32, 0..6),
        doings in prop::collection::vec(doing(), 0..30),
    ) {
        let start: Vec<Key> = start.into_iter().collect();
        let (_, leader) = play(&start, &doings);
        let (rows, changes) = (leader.log.rows.clone(), leader.log.changes.clone());
        let truncate = changes.iter().rposition(|change| change.op == Op::Truncate);
        let rest = &changes[truncate.map_or(0, |index| index + 1)..];
        let touched: BTreeSet<Key> = rest
            .iter()
            .filter_map(|change| change.after.or(change.before))
            .map(|row| key_of(&rows, row))
            .collect();
        let plan = plan(leader.log.table(&KEY)).unwrap();
        let mut planned = BTreeSet::new();
        for step in &plan.steps {
            let Step::Net(net) = step else { continue };
            let updates = net.updates.iter().flat_map(|group| &group.rows);
            let moves = net.moves.iter().flat_map(|(old, row)| [old, row]);
            let rows = net.deletes.iter().chain(&net.vanished).chain(&net.inserts);
            for row in rows.chain(&net.same).chain(updates).chain(moves) {
                planned.insert(key_of(&plan.rows, *row));
            }
        }
        prop_assert_eq!(planned, touched);
    }

    #[test]
    fn a_plan_has_nothing_that_could_be_left_out(
        start in prop::collection::btree_set(0..6u32, 0..6),
        doings in prop::collection::vec(doing(), 0..20),
    ) {
        let start: Vec<Key> = start.into_iter().collect();
        // Every update sets new values, so that none is without effect.
        let doings: Vec<Doing> = doings
            .into_iter()
            .map(|doing| match doing {
                Doing::Update(key, how) => Doing::Update(key, [3, how[1]]),
                Doing::Rekey(from, to, how) => Doing::Rekey(from, to, [3, how[1]]),
                other => other,
            })
            .collect();
        let (before, leader) = play(&start, &doings);
        let plan = plan(leader.log.table(&KEY)).unwrap();
        for mutant in mutants(&plan) {
            let result = apply(&mutant, before.clone());
            prop_assert_ne!(result, Ok(leader.table.clone()));
        }
    }
}
