//! A source's take-over, step by step, with the real rules (`judge`, `epoch_fate`, `may_lead`,
//! `may_resume`).

use std::collections::BTreeSet;

use walferry::capture::batches::Batches;
use walferry::log::commit_log::{Captured, Entry, EpochEntry, Verdict, judge};
use walferry::log::confirm::Confirmations;
use walferry::log::copies::CopyLedger;
use walferry::log::takeover::{EpochFate, FoundLeader, LogEnd, epoch_fate, may_lead, may_resume};
use walferry::log::trim::TrimPoints;
use walferry::model::checkpoint::LogPlace;
use walferry::model::{Epoch, Limits, Lsn};

use crate::leader::{TABLES, name};
use crate::mutants::Mutant;
use crate::source::Phase;
use crate::world::{Walk, World, violation};

impl World {
    /// Reads on to the log's end; a log trimmed beyond the reader is read anew from its low end.
    pub fn read_on(&mut self, at: usize) -> Walk<i64> {
        let kafka = self.kafka.borrow();
        let source = &mut self.sources[at];
        let place = match &mut source.place {
            Some(place) if place.next_offset >= kafka.log_low => place,
            stale_or_none => {
                source.ledger = CopyLedger::at_low_end(kafka.log_low);
                source.points = Some(TrimPoints::default());
                source.leader = None;
                stale_or_none.insert(LogPlace::at_low_end(kafka.log_low))
            }
        };
        for (offset, entry) in kafka.log_from(place.next_offset) {
            let verdict = judge(place, offset, &entry)
                .map_err(|error| violation("false halt", format!("source {at}: {error}")))?;
            if let Some(points) = &mut source.points {
                points.judged(offset, &entry, verdict);
            }
            if verdict == Verdict::Valid {
                source.ledger.valid(offset, &entry);
                if let Entry::Epoch(epoch) = entry {
                    source.leader = Some((epoch.system_id, epoch.timeline));
                }
            }
        }
        Ok(kafka.log_high())
    }

    /// Publication first, then the epoch entry, for tables that join.
    pub fn prepare(&mut self, at: usize) -> Walk {
        self.read_on(at)?;
        let wanted = TABLES.iter().filter(|table| self.wanted.contains(table));
        let captured: Vec<Captured> = wanted
            .map(|table| Captured {
                table: name(*table),
                relation: self.leader.oid_now(*table),
                limits: Limits::default(),
            })
            .collect();
        let late = self.is(Mutant::PublicationAfterEpoch);
        if self.is(Mutant::LeavesPublicationFirst) {
            let stays: BTreeSet<_> = captured.iter().map(|c| c.relation).collect();
            self.leader.publication.retain(|oid| stays.contains(oid));
        }
        if !late {
            let joined = captured.iter().map(|c| c.relation);
            self.leader.publication.extend(joined);
        }
        let stays: BTreeSet<_> = captured.iter().map(|c| c.relation).collect();
        let source = &mut self.sources[at];
        source.leaving = self
            .leader
            .publication
            .difference(&stays)
            .copied()
            .collect();
        source.joins_publication = late;
        source.captured = captured;
        source.prepared_for = source.place.as_ref().and_then(|place| place.epoch);
        source.phase = Phase::Read;
        Ok(())
    }

    pub fn read_log(&mut self, at: usize) -> Walk {
        let end = self.read_on(at)?;
        let early = self.is(Mutant::EpochBeforeSlot);
        let source = &mut self.sources[at];
        let place = source.place.as_ref().expect("read above");
        if place.epoch != source.prepared_for {
            source.phase = Phase::Prepare;
            return Ok(());
        }
        source.after = end;
        source.end = LogEnd {
            to: place.to,
            leader: source.leader.clone(),
        };
        source.phase = if early { Phase::Epoch } else { Phase::Slot };
        Ok(())
    }

    pub fn start_replication(&mut self, at: usize) -> Walk {
        let early = self.is(Mutant::EpochBeforeSlot);
        if self.leader.slot.holder.is_some() {
            // Busy: back off, and read again.
            if !early {
                self.sources[at].phase = Phase::Read;
            }
            return Ok(());
        }
        self.leader.slot.holder = Some(at);
        let source = &mut self.sources[at];
        source.connected = Some(self.leader.timeline);
        let from = source
            .end
            .to
            .unwrap_or(Lsn::ZERO)
            .max(self.leader.slot.confirmed);
        let before = self.leader.txns.iter().filter(|txn| txn.commit < from);
        source.stream_at = before.count();
        source.phase = Phase::Found;
        let to = source.end.to;
        self.say(|| format!("S{at} holds the slot, streams from {from}, log's to {to:?}"));
        Ok(())
    }

    pub fn look_at_leader(&mut self, at: usize) -> Walk {
        let early = self.is(Mutant::EpochBeforeSlot);
        let judged_early = self.is(Mutant::SlotJudgedEarly);
        let judged_late = self.is(Mutant::LeaderJudgedLate);
        if self.sources[at].connected != Some(self.leader.timeline) {
            // Its connections are to a leader that is gone.
            self.end_source(at);
            return Ok(());
        }
        let source = &mut self.sources[at];
        source.found = Some(FoundLeader {
            system_id: "7".to_owned(),
            timeline: self.leader.timeline,
            history: Some(self.leader.history.clone()),
            flush: Lsn(self.leader.wal_end),
            slot_confirmed: self.leader.slot.confirmed,
        });
        source.phase = if early { Phase::Judge } else { Phase::Epoch };
        let found = source.found.as_ref().expect("set above");
        let judged = match (judged_early, judged_late) {
            (true, _) => may_resume(&source.end, found).map(|_| ()),
            (false, true) => Ok(()),
            (false, false) => may_lead(&source.end, found),
        };
        match judged {
            Ok(()) => Ok(()),
            Err(error) => self.source_halts(at, &error.what()),
        }
    }

    /// Halts because of the leader: right only if a promoted one lacks what was published, or has
    /// never followed the timeline that the log was written from.
    pub fn source_halts(&mut self, at: usize, why: &str) -> Walk {
        let end = &self.sources[at].end;
        let lacks = self
            .lacks_behind
            .is_some_and(|switch| end.to > Some(switch));
        let known = end.leader.as_ref().map(|(_, timeline)| *timeline);
        if !lacks && known.is_none_or(|timeline| self.leader.follows(timeline)) {
            return Err(violation("false halt", format!("source {at}: {why}")));
        }
        self.say(|| format!("S{at} halts: {why}"));
        self.halted = true;
        self.end_source(at);
        Ok(())
    }

    pub fn append_epoch(&mut self, at: usize) {
        let after = if self.is(Mutant::NoAfter) {
            i64::MAX
        } else {
            self.sources[at].after
        };
        self.instances += 1;
        let found = self.sources[at].found.as_ref();
        let own = EpochEntry {
            after,
            instance: format!("S{at}/{}", self.instances),
            system_id: "7".to_owned(),
            timeline: found.map_or(self.leader.timeline, |found| found.timeline),
            captured: self.sources[at].captured.clone(),
            dropped: Vec::new(),
        };
        let source = &mut self.sources[at];
        source.send_entry(Entry::Epoch(own.clone()));
        source.own = Some(own);
        source.phase = Phase::Fate;
    }

    pub fn learn_fate(&mut self, at: usize) -> Walk {
        let (early, bare) = (self.is(Mutant::EpochBeforeSlot), self.is(Mutant::BareEpoch));
        let kafka = self.kafka.borrow();
        let source = &mut self.sources[at];
        let Some(offset) = source.epoch_acked else {
            return Ok(());
        };
        let own = source.own.clone().expect("sent before it was acknowledged");
        let between = match offset {
            Some(offset) if offset == source.after => vec![(offset, Entry::Epoch(own.clone()))],
            Some(_) | None => kafka.log_from(source.after),
        };
        let place = source.place.as_mut().expect("read before");
        let mut fate = epoch_fate(place, &between, &own)
            .map_err(|error| violation("false halt", format!("source {at}: {error}")))?;
        if let (true, Some(offset)) = (bare, offset) {
            let epoch = Epoch(offset.cast_unsigned());
            place.epoch = Some(epoch);
            fate = EpochFate::Current(epoch);
        }
        drop(kafka);
        match fate {
            EpochFate::Current(epoch) => {
                let offset = epoch.0.cast_signed();
                source.ledger.valid(offset, &Entry::Epoch(own));
                source.phase = if early { Phase::Slot } else { Phase::Judge };
                self.say(|| format!("S{at} knows its epoch {epoch} valid"));
                Ok(())
            }
            EpochFate::Void => {
                self.say(|| format!("S{at} finds its epoch entry void"));
                self.end_source(at);
                Ok(())
            }
            // It was trimmed away: that happens only behind a later epoch.
            EpochFate::NotSeen if self.kafka.borrow().log_low > self.sources[at].after => {
                self.end_source(at);
                Ok(())
            }
            EpochFate::NotSeen => Err(violation("lost", format!("source {at}: no epoch entry"))),
        }
    }

    pub fn judge_leader(&mut self, at: usize) -> Walk {
        let (found, end) = (&self.sources[at].found, &self.sources[at].end);
        let resume = match may_resume(end, found.as_ref().expect("looked at")) {
            Ok(resume) => resume,
            Err(error) => return self.source_halts(at, &error.what()),
        };
        self.resumed(at)?;
        let bounds = {
            let kafka = self.kafka.borrow();
            let parts = 0..kafka.partitions.len();
            parts.map(|part| (part, kafka.high(part))).collect()
        };
        let bytes_max = [1, 300, 1000][self.random.below(3)];
        let source = &mut self.sources[at];
        source.lower_bounds = bounds;
        source.resume = resume;
        let place = source.place.clone().expect("read before");
        source.confirmations = Some(Confirmations::new(place));
        source.batches = Some(Batches::new(resume, bytes_max, source.now));
        source.published_to = source.end.to;
        source.confirmed = source.end.to;
        source.open = source.open_batch();
        source.phase = Phase::Stream;
        Ok(())
    }
}
