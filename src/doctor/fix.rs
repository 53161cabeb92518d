//! `--fix`: finding by finding, worst first: show the change, ask, make it, prove it, look again.
//!
//! Refuses to know: how evidence was gathered, which remedies there are. Invariants: nothing is changed that was not
//! shown and consented to; under break-in signs nothing is changed and nothing saved; `stop-writes-on-bgsave-error`
//! is touched only for a finding that says so, and only after a save was proved in this run.

use std::collections::HashSet;
use std::io::{BufRead as _, Write as _};
use std::time::Duration;

use serde::Serialize;

use super::apply;
use super::bounds::{forbidden, hopeless};
use super::gather::{Blind, Ward};
use super::report;
use super::{prove, words};
use crate::cli::paint::clean;
use crate::guard::dialogue::KNOB;
use crate::guard::evidence::{Evidence, ServerFacts};
use crate::guard::finding::{Found, Kind, diagnose};
use crate::guard::remedy::{Consent, Plan, Proof, Remedy, Step, cli, remedies};

/// Something that was tried.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Fixed {
    /// For which finding; `null`: for the failed save alone.
    pub(super) finding: Option<&'static str>,
    pub(super) does: &'static str,
    pub(super) changes: Vec<Changed>,
    /// `null`: nothing to prove, or never made.
    pub(super) proved: Option<bool>,
    /// Why it was not made, or not proved.
    pub(super) failed: Option<String>,
    /// What takes it back.
    pub(super) undo: Vec<String>,
}

/// One step that was made.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Changed {
    pub(super) command: String,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
}

/// What came of it all.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) fixed: Vec<Fixed>,
    /// The newest proof that was tried.
    pub(super) proved: Option<bool>,
    /// Why nothing may be touched.
    pub(super) forbidden: Option<&'static str>,
}

/// Where the talk goes, and who answers.
pub(super) struct Teller {
    /// Standard output belongs to the JSON.
    pub(super) json: bool,
    /// Everything is consented to.
    pub(super) yes: bool,
}

impl Teller {
    /// One line.
    pub(super) fn line(&self, text: &str) {
        self.write(&format!("{}\n", clean(text)));
    }

    fn write(&self, text: &str) {
        // A reader that left is no error.
        let _ = match self.json {
            true => std::io::stderr().write_all(text.as_bytes()),
            false => std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()),
        };
    }

    /// Anything but a yes is a no.
    fn ask(&self, question: &str) -> bool {
        if self.yes {
            return true;
        }
        self.write(&format!("      {question} [y/N] "));
        let mut answer = String::new();
        let heard = std::io::stdin().lock().read_line(&mut answer);
        heard.is_ok() && ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str())
    }
}

/// Findings that may be just what the operator wants of a cache: `--yes` to everything is no yes to these.
const OF_INTENT: [&str; 2] = ["maxmemory-high", "save-points-missing"];

/// See the module's page.
pub(super) async fn fix(
    ward: &mut Ward,
    mut e: Evidence,
    only: &[String],
    limit: Duration,
    teller: &Teller,
) -> Result<Outcome, Blind> {
    let wanted = |found: &Found| is_wanted(found.check.id, only, teller.yes);
    for id in diagnose(&e).iter().map(|found| found.check.id).filter(|id| OF_INTENT.contains(id)) {
        if !is_wanted(id, only, teller.yes) && only.is_empty() {
            teller.line(&format!("left  {id}: it may be meant so; agree to it by --only {id}"));
        }
    }
    let mut run = Outcome::default();
    let mut tried = HashSet::new();
    let mut settled = HashSet::new();
    // Once, when the causes that can be cured are, and before what is merely advice.
    let mut saved_alone = false;
    loop {
        let mut found = diagnose(&e);
        run.forbidden = forbidden(&e, &found);
        if let Some(why) = run.forbidden {
            teller.line(&format!("stop  {why}"));
            return Ok(run);
        }
        let hopeless = hopeless(&e, &found);
        found.retain(wanted);
        let next = next(&e, &found, &tried, &settled);
        let cause_left = next.as_ref().is_some_and(|(finding, ..)| finding.kind() == Kind::Cause);
        if !cause_left && !std::mem::replace(&mut saved_alone, true) && e.look.save_ok.is(false) {
            if only.is_empty() || found.iter().any(|found| found.kind() == Kind::Cause) {
                bare_save(ward, &e, &found, hopeless, &mut run, limit, teller).await;
            }
            e = ward.look().await?;
            continue;
        }
        let Some((finding, remedy, steps)) = next else { return Ok(run) };
        tried.insert((finding.check.id, remedy.does));
        if !offer(ward, &e, finding, remedy, &steps, teller).await {
            continue;
        }
        let proved = run.proved == Some(true);
        let fixed = cure(ward, &e, (finding, remedy, &steps), proved, limit, teller).await;
        if fixed.proved.is_some() {
            run.proved = fixed.proved;
        }
        if fixed.failed.is_none() {
            settled.insert(finding.check.id);
        }
        run.fixed.push(fixed);
        e = ward.look().await?;
    }
}

/// `--only` says which; a yes to everything leaves out what may be meant so.
fn is_wanted(id: &str, only: &[String], yes: bool) -> bool {
    match only.is_empty() {
        true => !(yes && OF_INTENT.contains(&id)),
        false => only.iter().any(|named| named == id),
    }
}

type Next<'a> = (&'a Found, &'static Remedy, Vec<Step>);

/// The first remedy of the worst finding that was not offered yet.
fn next<'a>(
    e: &Evidence,
    found: &'a [Found],
    tried: &HashSet<(&str, &str)>,
    settled: &HashSet<&str>,
) -> Option<Next<'a>> {
    found.iter().filter(|f| !settled.contains(f.check.id)).find_map(|finding| {
        remedies(finding.check.id)
            .filter(|row| row.consent != Consent::Never && !tried.contains(&(finding.check.id, row.does)))
            .find_map(|row| match (row.plan)(e) {
                // A save alone comes last, once for all findings.
                Plan::Steps(steps) if steps.iter().any(|step| !is_save(step)) => Some((finding, row, steps)),
                Plan::Steps(_) | Plan::ByHand(_) | Plan::NotHere => None,
            })
    })
}

fn is_save(step: &Step) -> bool {
    matches!(step, Step::Command(words) if **words == ["BGSAVE"])
}

fn is_switch(step: &Step) -> bool {
    matches!(step, Step::Config { name, .. } if *name == KNOB)
}

/// Is it proved by a save?
fn saves(finding: &Found, remedy: &Remedy, steps: &[Step]) -> bool {
    finding.kind() == Kind::Cause && remedy.proof != Proof::Aof || steps.iter().any(is_save)
}

fn same_option(one: &Step, other: &Step) -> bool {
    match (one, other) {
        (Step::Config { name: one, .. }, Step::Config { name: other, .. }) => one == other,
        _ => false,
    }
}

/// Shows the change and asks.
async fn offer(
    ward: &mut Ward,
    e: &Evidence,
    finding: &Found,
    remedy: &Remedy,
    steps: &[Step],
    teller: &Teller,
) -> bool {
    let (id, reach) = (finding.check.id, words::reach(remedy.reach));
    teller.line(&format!("fix   {id}: {} (reaches {reach}; to undo: {})", remedy.does, remedy.undo));
    for (at, step) in steps.iter().enumerate() {
        let (thing, mut before, after) = apply::preview(step, e, ward).await;
        // An option that is set twice starts the second time where the first leaves it.
        let earlier = steps[..at].iter().rev().find(|earlier| same_option(earlier, step));
        if let Some(Step::Config { value, .. }) = earlier {
            before = Some(value.clone());
        }
        if !thing.is_empty() {
            let before = before.unwrap_or_else(|| "not known".into());
            teller.line(&format!("      {thing}: {before} \u{2192} {after}"));
        }
        teller.line(&format!("      $ {}", step.command(e)));
    }
    if saves(finding, remedy, steps) || steps.iter().any(is_switch) {
        teller.line("      and a BGSAVE, to prove it");
    }
    // Whoever thinks about it may take longer than the server's patience with an idle connection.
    if !teller.yes {
        ward.hang_up();
    }
    teller.ask("apply?")
}

/// Makes the steps and proves them.
async fn cure(
    ward: &mut Ward,
    e: &Evidence,
    (finding, remedy, steps): (&Found, &Remedy, &[Step]),
    proved: bool,
    limit: Duration,
    teller: &Teller,
) -> Fixed {
    let mut fixed = Fixed { finding: Some(finding.check.id), does: remedy.does, ..Fixed::default() };
    if steps.iter().any(is_switch)
        && let Err(why) = switch_may_move(ward, e, proved, limit, teller, &mut fixed).await
    {
        not_made(&mut fixed, why, teller);
        return fixed;
    }
    for (at, step) in steps.iter().enumerate().filter(|(_, step)| !is_save(step)) {
        match apply::apply(ward, e, step).await {
            Ok(made) => {
                let words = |side: &Option<String>| side.clone().unwrap_or_else(|| "?".into());
                let (before, after) = (words(&made.changed.before), words(&made.changed.after));
                teller.line(&format!("      done: {before} \u{2192} {after}"));
                fixed.changes.push(made.changed);
                // Of an option that is set twice, what was before the first time is what it goes back to.
                let again = steps[..at].iter().any(|earlier| same_option(earlier, step));
                fixed.undo.extend(made.undo.filter(|_| !again));
            }
            Err(why) => {
                not_made(&mut fixed, why, teller);
                return fixed;
            }
        }
    }
    if saves(finding, remedy, steps) && fixed.proved.is_none() {
        prove_by_save(ward, e, limit, teller, &mut fixed).await;
    }
    if remedy.proof == Proof::Aof {
        let result = prove::aof(ward, limit, teller).await;
        judged(&mut fixed, result, "the append-only file writes, syncs and rewrites", teller);
    }
    fixed
}

fn not_made(fixed: &mut Fixed, why: String, teller: &Teller) {
    teller.line(&format!("      NOT done: {why}"));
    undo(fixed, teller);
    fixed.failed = Some(why);
}

fn undo(fixed: &Fixed, teller: &Teller) {
    for command in fixed.undo.iter().rev() {
        teller.line(&format!("      to take back what was done: {command}"));
    }
}

fn judged(fixed: &mut Fixed, result: Result<(), String>, good: &str, teller: &Teller) {
    fixed.proved = Some(result.is_ok());
    match result {
        Ok(()) => teller.line(&format!("      PROVED: {good}")),
        Err(why) => {
            teller.line(&format!("      NOT proved: {why}"));
            undo(fixed, teller);
            fixed.failed = Some(why);
        }
    }
}

async fn prove_by_save(ward: &mut Ward, e: &Evidence, limit: Duration, teller: &Teller, fixed: &mut Fixed) {
    teller.line("      saving");
    let result = prove::save(ward, limit, teller).await;
    judged(fixed, result, "a save has ended well", teller);
    let mut after = ServerFacts::default();
    if let Ok(info) = ward.info("all").await {
        after.read_info(&info);
    }
    let fork = |facts: &ServerFacts| {
        let known = facts.latest_fork_usec.get().zip(facts.used_memory_rss.get());
        known.map_or_else(|| "not known".into(), |(usec, rss)| report::fork(usec, rss))
    };
    teller.line(&format!("      fork: {} \u{2192} {}", fork(&e.server), fork(&after)));
}

/// The switch goes back only when nobody else owes it, and a save was proved just now.
async fn switch_may_move(
    ward: &mut Ward,
    e: &Evidence,
    proved: bool,
    limit: Duration,
    teller: &Teller,
    fixed: &mut Fixed,
) -> Result<(), String> {
    if e.server.other_guards.is_and(|n| *n > 0) {
        return Err("a running bgsafe is connected to this server and puts the switch back itself: see \
                    `bgsafe status`"
            .into());
    }
    if proved {
        return Ok(());
    }
    prove_by_save(ward, e, limit, teller, fixed).await;
    match fixed.proved {
        Some(true) => Ok(()),
        Some(false) | None => Err(format!("{KNOB} stays as it is until a save is proved")),
    }
}

/// The last save failed, and perhaps nothing is wrong any more: one BGSAVE tells, and is the whole cure.
async fn bare_save(
    ward: &mut Ward,
    e: &Evidence,
    found: &[Found],
    hopeless: Option<String>,
    run: &mut Outcome,
    limit: Duration,
    teller: &Teller,
) {
    // A save was tried after the newest change already, and would only fail again.
    if run.proved == Some(false) {
        return;
    }
    let cause = found.iter().find(|f| f.kind() == Kind::Cause);
    let does = "save now: the last save failed, and only a good one opens writes again";
    let mut fixed = Fixed { finding: cause.map(|f| f.check.id), does, ..Fixed::default() };
    let id = fixed.finding.unwrap_or("the failed save");
    teller.line(&format!("fix   {id}: {does}"));
    if let Some(why) = hopeless {
        not_made(&mut fixed, format!("no save is tried: {why}"), teller);
        run.proved = Some(false);
        run.fixed.push(fixed);
        return;
    }
    let command = format!("{} BGSAVE", cli(&e.address));
    teller.line(&format!("      $ {command}"));
    if !teller.yes {
        ward.hang_up();
    }
    if teller.ask("apply?") {
        fixed.changes.push(Changed { command, before: None, after: None });
        prove_by_save(ward, e, limit, teller, &mut fixed).await;
        run.proved = fixed.proved;
        run.fixed.push(fixed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_plan_that_only_saves_is_left_for_the_end_and_the_switch_is_known_by_name() {
        assert!(is_save(&Step::Command(&["BGSAVE"])) && !is_save(&Step::Command(&["BGREWRITEAOF"])));
        assert!(is_switch(&Step::Config { name: KNOB, value: "yes".into() }));
        assert!(!is_switch(&Step::Config { name: "save", value: "3600 1".into() }));
    }
}
