//! When is a save proved, and when may one be tried? Watches looks, counts failures (ours and the
//! server's own), waits between tries.
//!
//! Refuses to know: phases, postures, the switch. Invariants: a save is proved only as
//! [`Saver::look`] says; never two tries of ours closer than the back-off after a failure, whoever
//! failed; `+Background saving started` proves nothing.

use std::time::Duration;

use super::evidence::Look;
use super::incident::Now;
use super::policy::{CHILD_POLL, LOOK_EVERY, RETRY_FIRST, RETRY_MOST, retry_after};

/// What the server said to BGSAVE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BgsaveReply {
    /// `+Background saving started`: a child was forked, no more.
    Started,
    /// `+Background saving scheduled`: one will be, within seconds.
    Scheduled,
    /// Somebody's child runs; perhaps a diskless one, whose end proves nothing.
    InProgress,
    /// An AOF rewrite or a module's child runs: only SCHEDULE is accepted.
    OtherChild,
    /// A bare `-ERR`: fork failed, and the status is `err` now (`rdb.c:rdbSaveBackground`).
    ForkFailed,
    /// Not allowed or not known: only the server's own retry can help.
    Denied(String),
    /// Anything else, in the server's words.
    Failed(String),
}

/// What a look means for the save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A save that ended after the mark is on disk.
    Proved,
    /// A child runs; look again then.
    Running(Duration),
    /// Nothing to do before then.
    Wait(Duration),
    /// Send BGSAVE now (`SCHEDULE` when true).
    Try(bool),
}

/// See the module's page.
#[derive(Clone, Debug, Default)]
pub struct Saver {
    mark: Option<Mark>,
    /// A child of ours was started and its end was not seen yet.
    ours: bool,
    /// Somebody's child was seen and its end was not.
    theirs: bool,
    /// The counter of started saves when we last looked.
    saves: Option<u64>,
    /// Failed saves in a row since the mark, whoever started them.
    failures: u32,
    /// BGSAVEs we sent since the mark.
    tries: u32,
    not_before: Duration,
    poll: Duration,
    running_since: Duration,
    denied: bool,
    schedule: bool,
    fork_failed: bool,
    /// The back-off ended for a remedy's sake already.
    hoped: bool,
    /// When we sent our newest BGSAVE.
    tried_at: Duration,
    /// The child that runs began before the newest remedy.
    older: bool,
    /// The server's place for a child is lent to a copy (true), or was and may not be free again yet: such a child
    /// is no save, and its end no failure.
    lent: Option<bool>,
}

#[cfg(test)]
impl Saver {
    /// For the model: everything that decides, relative to now and to the server's counters.
    pub(super) fn print(&self, now: Duration, last_save: u64, saves: u64) -> impl std::hash::Hash + use<> {
        let left = |at: Duration| at.saturating_sub(now);
        let age = |at: Duration, most: u64| now.saturating_sub(at).min(Duration::from_millis(most));
        let mark = self.mark.as_ref();
        let mark = mark.map(|m| (m.run_id.clone(), last_save.wrapping_sub(m.last_save), age(m.mono, 1001)));
        let child =
            (self.ours, self.theirs, self.older, self.schedule, self.denied, self.fork_failed, self.lent);
        let tries = (self.saves.map(|n| saves.wrapping_sub(n)), self.failures, self.tries > 0, self.hoped);
        let running = (self.ours || self.theirs).then_some((self.poll, age(self.running_since, 60_001)));
        (mark, child, tries, left(self.not_before), running)
    }
}

/// What must be surpassed. Made by the first look after the last remedy: a save that ends later
/// and advances `last_save` wrote the data of then or newer.
#[derive(Clone, Debug)]
struct Mark {
    run_id: String,
    last_save: u64,
    /// Ours, when it was made.
    mono: Duration,
}

impl Saver {
    /// Failed saves in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// BGSAVEs we sent.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// May we send BGSAVE at all?
    pub fn denied(&self) -> bool {
        self.denied
    }

    /// The newest try was answered by a bare `-ERR`: the server could not fork.
    pub fn fork_failed(&self) -> bool {
        self.fork_failed
    }

    /// A remedy was applied: there is a new reason to hope. Only a save that begins after it proves anything,
    /// and for the first remedy's sake the back-off ends; later ones wait for Redis's own pace since the
    /// newest try.
    pub fn remedied(&mut self) {
        let again = std::mem::replace(&mut self.hoped, true);
        self.not_before = if again { self.tried_at + RETRY_FIRST } else { Duration::ZERO };
        self.mark = None;
        self.older = self.ours || self.theirs;
    }

    /// A copy is being fetched: the child that runs is its.
    pub fn lend(&mut self) {
        self.lent = Some(true);
    }

    /// It is here, or given up: its child ends about now.
    pub fn returned(&mut self) {
        self.lent = self.lent.map(|_| false);
    }

    /// Judges `look`; the first one that knows enough makes the mark.
    pub fn look(&mut self, now: Now, look: &Look) -> Verdict {
        let (Some(run_id), Some(&last_save)) = (look.run_id.known(), look.last_save.known()) else {
            return self.blind(now);
        };
        if self.older && !look.saving.is(false) {
            return Verdict::Running(self.next_poll(now));
        }
        // One that began before the remedy has ended, well or not: the mark is made now.
        let outlived = std::mem::take(&mut self.older);
        if outlived {
            (self.ours, self.theirs) = (false, false);
            self.saves = look.saves.known().copied().or(self.saves);
        }
        let mark =
            self.mark.get_or_insert_with(|| Mark { run_id: run_id.clone(), last_save, mono: now.mono });
        let (same, advanced) = (mark.run_id == *run_id, last_save > mark.last_save);
        let marked = mark.mono;
        let started = look.saves.known().copied();
        let unseen = matches!((self.saves, started), (Some(before), Some(after)) if after > before);
        self.saves = started.or(self.saves);
        if self.ours && mutant!(BelievesStarted) {
            return Verdict::Proved;
        }
        if !look.saving.is(false) {
            self.theirs = !self.ours && self.lent.is_none();
            return Verdict::Running(self.next_poll(now));
        }
        self.lent = self.lent.filter(|lent| *lent);
        self.poll = CHILD_POLL.0;
        // After the mark: no child, status ok, LASTSAVE advanced, same process. A diskless child
        // moves neither status nor LASTSAVE, SIGUSR1 leaves the status, a restart changes the
        // run id: no single one of the four would do (rdb.c:backgroundSaveDoneHandlerDisk).
        if same && look.save_ok.is(true) && (advanced || mutant!(RearmsOnStatusOk)) {
            return Verdict::Proved;
        }
        let ended = std::mem::take(&mut self.ours);
        let others = std::mem::take(&mut self.theirs) || (unseen && !ended);
        if ended || (others && look.save_ok.is(false)) {
            self.fail(now);
        }
        self.when(now, look, last_save, marked)
    }

    /// What was said to our BGSAVE.
    pub fn said(&mut self, now: Now, reply: &BgsaveReply) {
        self.tries += 1;
        self.tried_at = now.mono;
        self.poll = CHILD_POLL.0;
        self.running_since = now.mono;
        self.schedule = false;
        self.fork_failed = *reply == BgsaveReply::ForkFailed;
        match reply {
            BgsaveReply::Started => {
                self.ours = true;
                self.saves = self.saves.map(|n| n + 1);
            }
            // The server starts it within its own retry delay; a failure shows as its own.
            BgsaveReply::Scheduled => self.not_before = now.mono + retry_after(1),
            BgsaveReply::InProgress => {
                self.theirs = true;
                self.not_before = now.mono + CHILD_POLL.1;
            }
            BgsaveReply::OtherChild => {
                self.schedule = true;
                self.not_before = now.mono + CHILD_POLL.1;
            }
            // Counted by the server before it forks (`rdb.c:rdbSaveBackground`): the next look must not take
            // our own failure for another of the server's.
            BgsaveReply::ForkFailed => {
                self.saves = self.saves.map(|n| n + 1);
                self.fail(now);
            }
            BgsaveReply::Failed(_) => self.fail(now),
            BgsaveReply::Denied(_) => self.denied = true,
        }
    }

    /// The connection broke: a child of ours may have ended unseen. Its failure, if it was one, is
    /// counted by the next look as the server's own.
    pub fn lost(&mut self) {
        self.theirs |= std::mem::take(&mut self.ours);
    }

    fn fail(&mut self, now: Now) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.mono + retry_after(self.failures);
    }

    fn when(&mut self, now: Now, look: &Look, last_save: u64, marked: Duration) -> Verdict {
        let tick = now.mono + LOOK_EVERY;
        if self.denied {
            return Verdict::Wait(tick);
        }
        if now.mono < self.not_before {
            return Verdict::Wait(self.not_before.min(tick));
        }
        // LASTSAVE counts whole seconds: a save that ends in the second of the mark's would prove
        // nothing, so wait until the server's clock can show it.
        if look.clock_secs(now.unix_ms) <= last_save {
            let clock = look.clock_usec.known();
            let into = clock.map_or(now.unix_ms % 1000, |usec| usec % 1_000_000 / 1000);
            let shown = now.mono + Duration::from_millis(1001 - into);
            // Up to 6.0 INFO does not tell the server's clock, and ours may be behind it by any amount. The
            // second of the mark had begun when it was made: a second later it has passed by every clock.
            let passed = marked + Duration::from_millis(1001);
            match clock {
                None if now.mono >= passed => {}
                None => return Verdict::Wait(shown.min(passed)),
                Some(_) => return Verdict::Wait(shown),
            }
        }
        Verdict::Try(self.schedule || look.other_child.is(true))
    }

    /// INFO tells nothing: try rarely, and let PING be the judge of it.
    fn blind(&mut self, now: Now) -> Verdict {
        if self.denied || now.mono < self.not_before {
            return Verdict::Wait(now.mono + LOOK_EVERY);
        }
        self.not_before = now.mono + if self.tries == 0 { retry_after(1) } else { RETRY_MOST };
        Verdict::Try(false)
    }

    fn next_poll(&mut self, now: Now) -> Duration {
        let (from, to, late) = CHILD_POLL;
        if self.poll <= from {
            self.running_since = now.mono;
        }
        let wait = self.poll.max(from);
        let most = if now.mono.saturating_sub(self.running_since) > RETRY_MOST { late } else { to };
        self.poll = (wait * 5 / 4).min(most);
        now.mono + wait
    }
}

#[cfg(test)]
mod tests {
    use super::super::evidence::Fact::{self, Known};
    use super::*;

    fn at(ms: u64) -> Now {
        Now { mono: Duration::from_millis(ms), unix_ms: 1_000_000 + ms }
    }

    fn look(ms: u64, saving: bool, ok: bool, last_save: u64) -> Look {
        Look {
            run_id: Known("r".into()),
            clock_usec: Known((1_000_000 + ms) * 1000),
            saving: Known(saving),
            save_ok: Known(ok),
            last_save: Known(last_save),
            ..Look::default()
        }
    }

    #[test]
    fn the_first_try_waits_only_for_the_second_to_pass() {
        let mut saver = Saver::default();
        assert_eq!(
            saver.look(at(300), &look(300, false, false, 1000)),
            Verdict::Wait(Duration::from_millis(1001))
        );
        assert_eq!(saver.look(at(1001), &look(1001, false, false, 1000)), Verdict::Try(false));
    }

    /// Redis 6.0 does not tell its clock; a clock of ours that is an hour behind must not cost an hour.
    #[test]
    fn without_the_servers_clock_a_second_of_ours_is_enough() {
        let blind =
            |ms: u64, ahead: u64| Look { clock_usec: Fact::UNKNOWN, ..look(ms, false, false, 1000 + ahead) };
        for ahead in [0, 3600] {
            let mut saver = Saver::default();
            let wait = Verdict::Wait(Duration::from_millis(1001));
            assert_eq!(saver.look(at(300), &blind(300, ahead)), wait, "{ahead} s ahead");
            assert_eq!(saver.look(at(1301), &blind(1301, ahead)), Verdict::Try(false), "{ahead} s ahead");
        }
    }

    #[test]
    fn nothing_less_than_all_four_signs_proves_a_save() {
        let base = |saver: &mut Saver| saver.look(at(5000), &look(5000, false, false, 900));
        for (saving, ok, last_save, run, proved) in [
            (false, true, 1006, "r", true),
            (true, true, 1006, "r", false),
            (false, false, 1006, "r", false),
            (false, true, 900, "r", false),
            (false, true, 1006, "other", false),
        ] {
            let mut saver = Saver::default();
            assert_eq!(base(&mut saver), Verdict::Try(false));
            saver.said(at(5001), &BgsaveReply::Started);
            let seen = Look { run_id: Known(run.into()), ..look(6500, saving, ok, last_save) };
            assert_eq!(saver.look(at(6500), &seen) == Verdict::Proved, proved, "{seen:?}");
        }
    }

    #[test]
    fn a_fork_that_failed_is_one_failure_though_the_server_counts_it_as_a_save() {
        let counted = |ms, saves| Look { saves: Known(saves), ..look(ms, false, false, 900) };
        let mut saver = Saver::default();
        assert_eq!(saver.look(at(5000), &counted(5000, 7)), Verdict::Try(false));
        saver.said(at(5000), &BgsaveReply::ForkFailed);
        assert!(matches!(saver.look(at(5100), &counted(5100, 8)), Verdict::Wait(_)));
        assert_eq!(saver.failures(), 1);
        assert_eq!(saver.look(at(11_000), &counted(11_000, 8)), Verdict::Try(false));
    }

    /// It is diskless: it neither proves nor disproves anything.
    #[test]
    fn the_child_of_a_copy_is_no_failed_save() {
        for lends in [true, false] {
            let mut saver = Saver::default();
            assert_eq!(saver.look(at(5000), &look(5000, false, false, 900)), Verdict::Try(false));
            if lends {
                saver.lend();
            }
            assert!(matches!(saver.look(at(6000), &look(6000, true, false, 900)), Verdict::Running(_)));
            // The copy is here before the server has noticed that its child ended.
            saver.returned();
            assert!(matches!(saver.look(at(6100), &look(6100, true, false, 900)), Verdict::Running(_)));
            saver.look(at(6200), &look(6200, false, false, 900));
            assert_eq!(saver.failures(), u32::from(!lends));
            // Another's is one again.
            saver.look(at(30_000), &look(30_000, true, false, 900));
            saver.look(at(30_100), &look(30_100, false, false, 900));
            assert_eq!(saver.failures(), 1 + u32::from(!lends));
        }
    }

    #[test]
    fn the_servers_own_failures_push_ours_back() {
        let mut saver = Saver::default();
        assert_eq!(saver.look(at(5000), &look(5000, false, false, 900)), Verdict::Try(false));
        saver.said(at(5000), &BgsaveReply::ForkFailed);
        assert!(matches!(saver.look(at(10_900), &look(10_900, true, false, 900)), Verdict::Running(_)));
        assert!(matches!(saver.look(at(11_100), &look(11_100, false, false, 900)), Verdict::Wait(_)));
        assert_eq!(saver.failures(), 2);
        assert!(matches!(saver.look(at(23_000), &look(23_000, false, false, 900)), Verdict::Wait(_)));
        assert_eq!(saver.look(at(23_100), &look(23_100, false, false, 900)), Verdict::Try(false));
    }

    /// The newest save may have begun before the remedy; and a row of remedies is no leave for a row of forks.
    #[test]
    fn a_remedy_ends_the_back_off_once_and_wants_a_save_of_its_own() {
        let mut saver = Saver::default();
        assert_eq!(saver.look(at(5000), &look(5000, false, false, 900)), Verdict::Try(false));
        saver.said(at(5000), &BgsaveReply::Started);
        assert!(matches!(saver.look(at(5100), &look(5100, false, false, 900)), Verdict::Wait(_)));
        saver.remedied();
        assert_eq!(saver.look(at(5200), &look(5200, false, false, 900)), Verdict::Try(false));
        saver.said(at(5200), &BgsaveReply::Started);
        assert!(matches!(saver.look(at(5300), &look(5300, true, false, 900)), Verdict::Running(_)));
        saver.remedied();
        assert!(matches!(saver.look(at(6400), &look(6400, true, false, 900)), Verdict::Running(_)));
        let older = saver.look(at(6500), &look(6500, false, true, 1006));
        assert!(matches!(older, Verdict::Wait(_)), "it began before the remedy: {older:?}");
        assert_eq!(saver.look(at(11_200), &look(11_200, false, true, 1006)), Verdict::Try(false));
        saver.said(at(11_200), &BgsaveReply::Started);
        assert_eq!(saver.look(at(12_100), &look(12_100, false, true, 1012)), Verdict::Proved);
    }

    #[test]
    fn an_unseen_start_counts_by_the_servers_own_counter() {
        let mut saver = Saver::default();
        let with = |ms, n| Look { saves: Known(n), ..look(ms, false, false, 900) };
        assert_eq!(saver.look(at(5000), &with(5000, 7)), Verdict::Try(false));
        saver.said(at(5000), &BgsaveReply::Started);
        saver.look(at(5100), &with(5100, 8));
        assert_eq!(saver.failures(), 1);
        saver.look(at(6100), &with(6100, 9));
        assert_eq!(saver.failures(), 2);
    }
}
