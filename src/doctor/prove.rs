//! Proof that a cure worked: a BGSAVE as [`Saver`] judges it, or the signs of the append-only file (all of them:
//! its write status alone reads `ok` while nothing is persisted, `aof.c:startAppendOnly`).
//!
//! Refuses to know: what was cured. Invariants: one BGSAVE of ours a proof, never a second after it failed; every
//! wait is bounded; no save goes where only an intruder sends it; `+Background saving started` proves nothing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep, sleep_until};

use super::fix::Teller;
use super::gather::Ward;
use crate::cli::paint;
use crate::guard::aof::{Sign, sign};
use crate::guard::dialogue::{Answer, Talk};
use crate::guard::evidence::{Look, ServerFacts, Target};
use crate::guard::incident::Now;
use crate::guard::remedy::cli;
use crate::guard::saver::{BgsaveReply, Saver, Verdict};

/// Between lines about a save that takes long.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
const RECONNECT_EVERY: Duration = Duration::from_secs(1);
/// Between looks at the append-only file.
const AOF_EVERY: Duration = Duration::from_millis(500);
/// The signs must hold for so many looks: fsync comes once a second.
const AOF_LOOKS: u32 = 4;
/// A sign that is bad for so long will not turn good by waiting.
const AOF_PATIENCE: Duration = Duration::from_secs(15);

/// Milliseconds since 1970.
pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Has a save made now, and watches it to its end. The error says why it proves nothing.
pub(super) async fn save(ward: &mut Ward, limit: Duration, teller: &Teller) -> Result<(), String> {
    let start = Instant::now();
    let mut saver = Saver::default();
    let mut run_id = None;
    // Failures when our BGSAVE was accepted: one more is its own.
    let mut sent: Option<u32> = None;
    let mut progress = start + PROGRESS_EVERY;
    loop {
        if start.elapsed() >= limit {
            let ask = format!("{} INFO persistence", cli(&ward.address()));
            return Err(format!("no save was proved within {limit:?} (--timeout); it may still run: {ask}"));
        }
        let look = match ward.talk(Talk::Look).await {
            Ok(Answer::Looked(look)) => *look,
            Ok(_) => Look::default(),
            Err(why) => {
                saver.lost();
                teller.line(&format!("      {why}; connecting again"));
                sleep(RECONNECT_EVERY).await;
                continue;
            }
        };
        let Some(seen) = look.run_id.known().filter(|_| look.last_save.known().is_some()) else {
            return Err("INFO does not tell when the last save was, so no save can be proved".into());
        };
        if run_id.get_or_insert_with(|| seen.clone()) != seen {
            return Err("the server was restarted while it saved".into());
        }
        let now = Now { mono: start.elapsed(), unix_ms: unix_ms() };
        let verdict = saver.look(now, &look);
        if verdict != Verdict::Proved && sent.is_some_and(|before| saver.failures() > before) {
            return Err("the save failed".into());
        }
        match verdict {
            Verdict::Proved => return Ok(()),
            Verdict::Running(next) => {
                if Instant::now() >= progress {
                    progress = Instant::now() + PROGRESS_EVERY;
                    tell_progress(ward, start.elapsed(), teller).await;
                }
                sleep_until(start + next).await;
            }
            Verdict::Wait(next) => sleep_until(start + next).await,
            Verdict::Try(schedule) => {
                // Whoever was asked may have taken his time: the target is looked at again, just before.
                if Target::of(&look).is_some_and(|target| target.is_break_in(None)) {
                    return Err("the snapshot's target was moved to where only an intruder sends it".into());
                }
                let Ok(Answer::Bgsave(reply)) = ward.talk(Talk::Bgsave { schedule }).await else {
                    // It may have been heard: the next look tells, by the server's own counters.
                    saver.lost();
                    sent.get_or_insert(saver.failures());
                    continue;
                };
                saver.said(now, &reply);
                match reply {
                    BgsaveReply::Started | BgsaveReply::Scheduled => sent = Some(saver.failures()),
                    BgsaveReply::InProgress | BgsaveReply::OtherChild => {}
                    BgsaveReply::ForkFailed => {
                        return Err("the server could not fork (BGSAVE answered a bare ERR)".into());
                    }
                    BgsaveReply::Denied(why) => return Err(format!("BGSAVE is not allowed: {why}")),
                    BgsaveReply::Failed(why) => return Err(format!("BGSAVE answered {why}")),
                }
            }
        }
    }
}

async fn tell_progress(ward: &mut Ward, so_far: Duration, teller: &Teller) {
    let mut facts = ServerFacts::default();
    if let Ok(info) = ward.info("persistence").await {
        facts.read_info(&info);
    }
    let keys = match (facts.save_keys_done.get(), facts.save_keys_total.get()) {
        (Some(done), Some(total)) if total > 0 => {
            format!(", {done} of {total} keys ({} %)", done.saturating_mul(100) / total)
        }
        _ => String::new(),
    };
    teller.line(&format!("      saving for {}{keys}", paint::seconds(so_far.as_secs())));
}

/// Waits until every sign of a sound append-only file has held for a while.
pub(super) async fn aof(ward: &mut Ward, limit: Duration, teller: &Teller) -> Result<(), String> {
    let start = Instant::now();
    let (mut held, mut bad_since) = (0, None);
    loop {
        let info = ward.info("persistence").await.map_err(|why| why.to_string())?;
        let mut look = Look::default();
        look.read_info(&info);
        match sign(&look) {
            Sign::Good => {
                bad_since = None;
                held += 1;
                if held >= AOF_LOOKS {
                    return Ok(());
                }
            }
            Sign::Busy { .. } => (held, bad_since) = (0, None),
            bad @ (Sign::Bad(_) | Sign::Off | Sign::Untold) => {
                held = 0;
                let since = *bad_since.get_or_insert_with(Instant::now);
                if since.elapsed() > AOF_PATIENCE {
                    return Err(bad.words().into());
                }
            }
        }
        if start.elapsed() >= limit {
            return Err(format!("the append-only file was not proved within {limit:?} (--timeout)"));
        }
        if held == 0 && start.elapsed().as_millis() % 4000 < AOF_EVERY.as_millis() {
            teller.line("      waiting for the append-only file");
        }
        sleep(AOF_EVERY).await;
    }
}
