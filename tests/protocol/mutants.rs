//! The protocol with one rule left out, a mutant each: the walks must find every one of them.

use crate::walks::{Kind, first_failure};

/// A rule that is broken where the world calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// An acknowledged entry is confirmed to the slot.
    BareAck,
    /// An acknowledged epoch entry is taken for a valid one.
    BareEpoch,
    /// Epoch entries do not say what their writer saw of the log.
    NoAfter,
    /// The epoch entry is appended before the slot is held.
    EpochBeforeSlot,
    /// The slot's position is judged before the epoch entry is known to count.
    SlotJudgedEarly,
    /// The leader is judged only after the epoch entry is known to count, as the first design had it.
    LeaderJudgedLate,
    /// An entry is confirmed when it is sent.
    ConfirmsWhenSent,
    /// The leader's idle WAL end is confirmed while something is in flight.
    ConfirmsIdleEnd,
    /// An acknowledgement without offset leaves `last` at the largest offset named.
    LastIsGuessed,
    /// Records of other epochs are taken.
    NoEpochFilter,
    /// Records outside of the entry are taken.
    NoPositionFilter,
    /// Records are taken that do not increase in position.
    NoOrderInPartition,
    /// Counts are not looked at, of entries and of copies.
    NoCount,
    /// Void entries move cursors.
    VoidMovesCursors,
    /// Follower transactions are not guarded.
    NoGuard,
    /// The guard compares boundary and log offset, not the version.
    GuardWithoutVersion,
    /// The log is trimmed to any entry.
    TrimsAnywhere,
    /// The log is trimmed to a valid epoch entry that no valid batch follows.
    TrimsToBareEpoch,
    /// The source remembers copies that it has trimmed away.
    TrimmedCopiesRemembered,
    /// The log is trimmed above what sinks need.
    TrimsAboveCheckpoints,
    /// The copy's point is taken before its begin entry is valid.
    PointBeforeBegin,
    /// The point does not wait for transactions that are open.
    PointWithoutWaiting,
    /// The copy's connection is to another leader than the stream's.
    PointOfAnotherLeader,
    /// A table is published only some time after the epoch entry names it.
    PublicationAfterEpoch,
    /// A table leaves the publication before an epoch entry leaves it out.
    LeavesPublicationFirst,
    /// `copy_begin` names bounds from entries' `last`.
    BoundsFromLast,
    /// The end entry does not wait for the log to reach the point, and sinks do not either.
    EndsEarlyAndTakesEffectAtOnce,
    /// Changes below the copy's point are applied to its rows.
    NoPointFilter,
    /// Rows are taken without regard to their sequence.
    NoSequence,
    /// Tables come into effect away from the main reader's log offset.
    JoinsAwayFromMain,
    /// The rows of a copy given up stay in the staging.
    HalfLoadedStagingKept,
    /// A source goes on with a begin entry that is only acknowledged, and sinks take it.
    BareCopyBegin,
    /// Sinks take a zombie's `copy_begin`.
    VoidCopyBegin,
    /// Sinks take a zombie's `copy_end`.
    VoidCopyEnd,
    /// Copies of an epoch have no number, so a repeat beside the first entry counts.
    CopiesUnnumbered,
    /// A new epoch leaves unfinished copies.
    UnfinishedCopyKept,
    /// A later copy of a table leaves the unfinished one.
    OlderCopyKept,
    /// A table that left keeps its copies.
    CopyOfLeftTableKept,
}

/// Walks that a mutant is given at most.
const SEEDS: u64 = 300;

/// Finds a walk that the mutants fail in one of these ways, always the same one. `first`: where to
/// begin, as rare ones are met only every few hundred walks.
fn is_caught(mutants: &'static [Mutant], kind: Kind, first: u64, ways: &[&str]) {
    match first_failure(kind, first..first + SEEDS, mutants, ways) {
        Some((seed, violation)) => println!("{mutants:?}: {kind:?} seed {seed}: {violation}"),
        None => panic!("{mutants:?} passes {SEEDS} walks of {kind:?} from seed {first} on"),
    }
}

/// A test a mutant: where it is caught, and as what.
macro_rules! caught {
    ($($test:ident: [$($mutant:ident),+] in $kind:ident from $first:literal as [$($way:literal),+];)+) => {
        /// All of them.
        const ALL: &[&[Mutant]] = &[$(&[$(Mutant::$mutant),+]),+];

        $(
            #[test]
            fn $test() {
                is_caught(&[$(Mutant::$mutant),+], Kind::$kind, $first, &[$($way),+]);
            }
        )+
    };
}

caught! {
    // Where the slot is held before the epoch entry is sent, a bare ack of a batch loses nothing by
    // itself: who is superseded no longer has the slot.
    a_bare_ack_confirms: [BareAck, EpochBeforeSlot] in Log from 0 as ["loss"];
    a_bare_ack_is_an_epoch: [BareEpoch] in Log from 0 as ["loss", "hole"];
    epoch_entries_without_after: [NoAfter] in Log from 0 as ["hole", "false halt"];
    the_epoch_before_the_slot: [EpochBeforeSlot] in Log from 0 as ["deposed"];
    the_slot_judged_early: [SlotJudgedEarly] in Log from 300 as ["false halt"];
    the_leader_judged_late: [LeaderJudgedLate] in FailOver from 0 as ["loss"];
    confirmed_when_sent: [ConfirmsWhenSent] in Log from 0 as ["loss"];
    the_idle_end_confirmed: [ConfirmsIdleEnd] in Log from 0 as ["loss"];
    last_is_guessed: [LastIsGuessed] in Log from 0 as ["loss"];
    records_of_other_epochs: [NoEpochFilter] in Copies from 300 as ["diverged"];
    records_outside_of_the_entry: [NoPositionFilter] in Log from 0 as ["diverged"];
    records_out_of_order: [NoOrderInPartition] in Log from 0 as ["diverged"];
    counts_not_looked_at: [NoCount] in Retention from 0 as ["diverged"];
    counts_of_copies_not_looked_at: [NoCount] in Copies from 0 as ["diverged"];
    void_entries_move_cursors: [VoidMovesCursors] in Log from 0 as ["false halt"];
    no_guard: [NoGuard] in Log from 0 as ["step back", "diverged"];
    a_guard_without_version: [GuardWithoutVersion] in Copies from 0 as ["step back", "diverged"];
    trimming_anywhere: [TrimsAnywhere] in Copies from 0 as ["false halt", "hole", "diverged"];
    trimming_to_a_bare_epoch: [TrimsToBareEpoch] in Copies from 400 as ["false halt", "hole", "diverged"];
    trimmed_copies_remembered: [TrimmedCopiesRemembered] in Copies from 1000 as ["stuck"];
    trimming_above_checkpoints: [TrimsAboveCheckpoints] in Copies from 0 as ["false halt"];
    the_point_before_the_begin_entry: [PointBeforeBegin] in Copies from 0 as ["diverged"];
    the_point_without_waiting: [PointWithoutWaiting] in Copies from 100 as ["diverged"];
    the_point_of_another_leader: [PointOfAnotherLeader] in FailOver from 1400 as ["diverged"];
    the_publication_after_the_epoch: [PublicationAfterEpoch] in Copies from 1400 as ["diverged"];
    leaving_the_publication_first: [LeavesPublicationFirst] in Copies from 0 as ["diverged", "loss"];
    bounds_from_last: [BoundsFromLast] in Copies from 0 as ["false loss"];
    ended_early_and_in_effect_at_once: [EndsEarlyAndTakesEffectAtOnce] in Copies from 0 as ["diverged"];
    changes_below_the_point: [NoPointFilter] in Copies from 0 as ["diverged"];
    rows_without_sequence: [NoSequence] in Copies from 0 as ["diverged"];
    joined_away_from_the_main_reader: [JoinsAwayFromMain] in Copies from 0 as ["diverged"];
    half_loaded_staging: [HalfLoadedStagingKept] in Copies from 0 as ["diverged"];
    a_bare_copy_begin: [BareCopyBegin] in Copies from 950 as ["diverged", "stuck"];
    a_zombies_copy_begin: [VoidCopyBegin] in Copies from 950 as ["stuck"];
    a_zombies_copy_end: [VoidCopyEnd, UnfinishedCopyKept] in Copies from 0 as ["diverged"];
    copies_without_number: [CopiesUnnumbered] in Copies from 0 as ["stuck"];
    an_older_copy_kept: [OlderCopyKept] in Copies from 0 as ["stuck"];
    the_copy_of_a_table_that_left: [CopyOfLeftTableKept] in Copies from 600 as ["diverged"];
}

#[test]
fn the_reliability_page_lists_every_mutant() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reliability.md");
    let page = std::fs::read_to_string(path).expect("a page");
    for mutant in ALL.iter().copied().flatten() {
        assert!(page.contains(&format!("`{mutant:?}`")), "{mutant:?}");
    }
}
