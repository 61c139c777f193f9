//! A source that streams: batches, entries, what is confirmed; with the real `Batches` and
//! `Confirmations`.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use walferry::capture::batches::{Closed, HEARTBEAT_INTERVAL};
use walferry::log::commit_log::{BatchEntry, Entry, Extent, Extents, LastCommit, Sample};
use walferry::log::confirm::Decision;
use walferry::log::header::RecordHeader;
use walferry::model::Lsn;

use crate::kafka::{Stored, position};
use crate::leader::{TABLES, name, table_of, version};
use crate::mutants::Mutant;
use crate::source::{Frame, Order, Phase};
use crate::world::{Walk, World, violation};

impl World {
    /// The walsender sends to whoever holds the slot.
    pub fn walsender(&mut self) {
        let Some(at) = self.leader.slot.holder else {
            return;
        };
        let source = &mut self.sources[at];
        if source.phase == Phase::Slot || source.frames.len() > 3 {
            return;
        }
        let frame = match self.leader.txns.get(source.stream_at) {
            Some(txn) => {
                source.stream_at += 1;
                Frame::Txn(Rc::clone(txn))
            }
            None => Frame::Keepalive(Lsn(self.leader.wal_end)),
        };
        source.frames.push_back(frame);
    }

    /// Handles what was received, and closes batches.
    pub fn consume(&mut self, at: usize) {
        let idle = self.is(Mutant::ConfirmsIdleEnd);
        let kafka = self.kafka.borrow();
        let source = &mut self.sources[at];
        // Where instances with other settings meet, this can be a table that the next epoch has: the
        // watch on the captured set finds that, which is no part of the model.
        let wanted = TABLES.iter().filter(|table| self.wanted.contains(table));
        let wanted: BTreeSet<_> = wanted.map(|table| self.leader.oid_now(*table)).collect();
        for oid in std::mem::take(&mut source.leaving).difference(&wanted) {
            self.leader.publication.remove(oid);
        }
        if source.joins_publication && self.random.chance(20) {
            source.joins_publication = false;
            let joined = source.captured.iter().map(|c| c.relation);
            self.leader.publication.extend(joined);
        }
        let mut batches = source.batches.take().expect("streaming");
        let closes = batches.can_close() && batches.closes(source.ordered - source.done);
        if !closes {
            match source.frames.pop_front() {
                Some(Frame::Keepalive(end)) => {
                    batches.idle_end(end);
                    source.received = source.received.max(Some(end));
                    if idle {
                        source.confirmed = source.confirmed.max(Some(end));
                    }
                }
                Some(Frame::Txn(txn)) => {
                    batches.begin();
                    let skipped = txn.commit < source.resume;
                    let wanted = |oid| !skipped && source.captures(oid);
                    let drafts = txn.drafts.iter().filter(|d| d.published && wanted(d.oid));
                    let drafts: Vec<_> = drafts.collect();
                    for (ordinal, draft) in drafts.into_iter().enumerate() {
                        let topic = self.terms.topics.table(&name(table_of(draft.oid)));
                        let record = Stored {
                            header: RecordHeader {
                                epoch: source.epoch(),
                                position: position(txn.commit, ordinal),
                                version: version(draft.oid),
                            },
                            copy: None,
                            value: draft.value.clone(),
                            new_key: draft.new_key.clone(),
                            old_key: draft.old_key.clone(),
                        };
                        let open = source.open;
                        source.send_record(kafka.find(&topic, draft.partition), record, open);
                        batches.sent(100);
                    }
                    let commit = LastCommit {
                        lsn: txn.commit,
                        xid: 1,
                        time_us: 0,
                    };
                    batches.commit(txn.end, commit);
                    source.received = source.received.max(Some(txn.end));
                }
                None => {}
            }
        }
        let in_flight = source.ordered - source.done;
        source.now += Duration::from_millis(100);
        if batches.closes(in_flight) {
            let open = source.open_batch();
            let closed = batches.close(source.now);
            let batch = std::mem::replace(&mut source.open, open);
            source.orders.push_back(Order::Batch(closed, Some(batch)));
            source.ordered += 1;
        } else if self.random.chance(30) {
            // A second passes now and then.
            source.now += HEARTBEAT_INTERVAL;
            if let Some(closed) = batches.heartbeat(in_flight, source.now) {
                source.orders.push_back(Order::Batch(closed, None));
                source.ordered += 1;
            }
        }
        source.batches = Some(batches);
    }

    /// Writes the next entry, or learns what an acknowledged one allows.
    pub fn publish(&mut self, at: usize) -> Walk {
        if let Some(offset) = self.sources[at].entries_acked.pop_front() {
            return self.entry_acknowledged(at, offset);
        }
        let unnumbered = self.is(Mutant::CopiesUnnumbered);
        let source = &mut self.sources[at];
        if source.writing.len() >= source.window {
            return Ok(());
        }
        let ready = source.orders.front().is_some_and(|order| match order {
            Order::Batch(_, Some(batch)) => source.acks[batch].complete(),
            Order::Batch(_, None) | Order::CopyBegin(_) | Order::CopyEnd(_) => true,
        });
        if !ready {
            return Ok(());
        }
        let entry = match source.orders.pop_front().expect("looked at above") {
            Order::Batch(closed, batch) => {
                let entry = self.batch_entry(at, &closed, batch);
                let early = self.is(Mutant::ConfirmsWhenSent);
                let source = &mut self.sources[at];
                source.published_to = Some(closed.to);
                if early {
                    source.confirmed = source.confirmed.max(Some(closed.to));
                }
                entry
            }
            Order::CopyBegin(mut begin) => {
                let kafka = self.kafka.borrow();
                for table in &begin.tables {
                    let topic = self.terms.topics.table(table);
                    for part in kafka.of_topic(&topic) {
                        let bound = source.lower_bounds.get(&part).copied().unwrap_or(0);
                        let number = kafka.partitions[part].number;
                        let bounds = begin.offsets.entry(topic.clone()).or_default();
                        bounds.insert(number, bound);
                    }
                }
                begin.at = source.published_to;
                source.copies_begun += 1;
                begin.number = if unnumbered { 0 } else { source.copies_begun };
                Entry::CopyBegin(begin)
            }
            Order::CopyEnd(entry) => entry,
        };
        let source = &mut self.sources[at];
        let confirmations = source.confirmations.as_mut().expect("streaming");
        confirmations.sent(entry.clone());
        source.writing.push_back(entry.clone());
        source.send_entry(entry);
        Ok(())
    }

    pub fn batch_entry(&mut self, at: usize, closed: &Closed, batch: Option<u64>) -> Entry {
        let (guessed, from_last) = (
            self.is(Mutant::LastIsGuessed),
            self.is(Mutant::BoundsFromLast),
        );
        let source = &mut self.sources[at];
        let acks = batch.and_then(|batch| source.acks.remove(&batch));
        let mut offsets = Extents::new();
        let kafka = self.kafka.borrow();
        for (part, acked) in acks.unwrap_or_default().parts {
            let partition = &kafka.partitions[part];
            let named = acked.last.or(acked.largest_named.filter(|_| guessed));
            // Read after the acknowledgement, so the record lies below it.
            let last = named.unwrap_or(partition.high() - 1);
            let count = acked.count;
            let extents = offsets.entry(partition.topic.clone()).or_default();
            extents.insert(partition.number, Extent { last, count });
            let bound = source.lower_bounds.entry(part).or_insert(0);
            let named = acked.largest_named.map_or(0, |named| named + 1);
            *bound = (*bound).max(if from_last { last + 1 } else { named });
        }
        Entry::Batch(BatchEntry {
            bytes: 0,
            epoch: source.epoch(),
            from: closed.from,
            to: closed.to,
            last_commit: closed.last_commit,
            transactions: closed.transactions,
            changes: 0,
            offsets,
            // The leader's clock goes as its WAL does.
            sample: Some(Sample {
                flush: Lsn(self.leader.wal_end),
                clock_us: self.leader.wal_end.cast_signed(),
            }),
        })
    }

    pub fn entry_acknowledged(&mut self, at: usize, offset: Option<i64>) -> Walk {
        let bare = self.is(Mutant::BareAck);
        let halts = |error| violation("false halt", format!("source {at}: {error}"));
        let kafka = self.kafka.borrow();
        let source = &mut self.sources[at];
        let entry = source.writing.pop_front().expect("written before");
        let confirmations = source.confirmations.as_mut().expect("streaming");
        let mut decision = confirmations.acked(offset).map_err(halts)?;
        if let Decision::ReadGap { from, to: _ } = decision {
            let entries = kafka.log_from(from);
            decision = confirmations.read(&entries).map_err(halts)?;
        }
        source.begun.extend(confirmations.take_begun());
        if let Entry::Batch(batch) = &entry {
            source.done += 1;
            if bare {
                decision = Decision::Confirm(Some(batch.to));
            }
        }
        drop(kafka);
        match decision {
            Decision::Confirm(to) => {
                let source = &mut self.sources[at];
                source.confirmed = source.confirmed.max(to);
                self.copy_entry_known(at, &entry, offset);
                Ok(())
            }
            Decision::Superseded => {
                self.say(|| format!("S{at} is superseded"));
                self.end_source(at);
                Ok(())
            }
            Decision::ReadGap { .. } => Err(violation("stuck", "a gap was read and is there")),
        }
    }

    /// Feedback: what is confirmed must be in the valid log.
    pub fn report(&mut self, at: usize) -> Walk {
        if self.leader.slot.holder != Some(at) {
            return Ok(());
        }
        let confirmed = self.sources[at].confirmed.unwrap_or(Lsn::ZERO);
        if confirmed <= self.leader.slot.confirmed {
            return Ok(());
        }
        self.leader.slot.confirmed = confirmed;
        self.say(|| format!("S{at} confirms {confirmed}"));
        self.confirmed_is_held()
    }
}
