//! CONFIG REWRITE while the switch is down: whose it was, who is told, and what is done about it.

use super::scenarios::{found, outcomes};
use super::*;
use crate::guard::record::Held;

const TOLD: &str = "configuration file has our no";
const STILL: &str = "configuration file still has our no";

fn consenting() -> Settings {
    Settings { repair_rewrite: true, ..settings() }
}

/// The switch is down from 2010 on; somebody rewrites the file at 4000.
fn rewritten(settings: Settings) -> World {
    let mut world = World::new(1, settings);
    world.run(4500, &[(2000, DISK), (2010, Hand::Bgsave), (4000, Hand::RewriteConfig)]);
    assert!(!world.fake.knob, "{}", world.story);
    world
}

fn finding(world: &World, id: &str) -> Option<crate::guard::record::Finding> {
    let status = world.guard.status(world.clock(), Held::default());
    status.findings.into_iter().find(|finding| finding.id == id)
}

#[test]
fn one_from_elsewhere_is_told_at_once_and_again_when_the_switch_is_back() {
    let mut world = rewritten(settings());
    assert!(!world.fake.file_knob());
    world.run(5100, &[]);
    assert!(found(&world, "rewrite-persisted-no"), "{}", world.story);
    assert_eq!(world.warnings, [TOLD], "{}", world.story);
    world.run(120_000, &[(6000, WELL)]);
    world.converged();
    assert_eq!(world.warnings, [TOLD, STILL], "{}", world.story);
    assert!(!world.fake.file_knob(), "nobody consented");
    let finding = finding(&world, "rewrite-persisted-no").expect("it stands until the file is written again");
    assert!(finding.evidence.contains("ran 1 times from elsewhere"), "{finding:?}");
    assert_eq!(finding.severity, "crit");
    // An operator types the command.
    world.run(200_000, &[(121_000, Hand::RewriteConfig)]);
    assert_eq!(super::rewrites::finding(&world, "rewrite-persisted-no"), None, "{}", world.story);
    assert_eq!(world.warnings.len(), 2);
}

#[test]
fn with_consent_the_file_is_written_again_while_the_switch_is_still_down() {
    let mut world = rewritten(consenting());
    world.run(5300, &[]);
    assert!(world.fake.file_knob() && !world.fake.knob, "{}", world.story);
    assert_eq!(world.fake.rewrites, 2);
    world.run(120_000, &[(6000, WELL)]);
    world.converged();
    assert_eq!((world.fake.rewrites, world.warnings.as_slice()), (2, &[TOLD][..]), "{}", world.story);
    assert_eq!(outcomes(&world), [Outcome::Rearmed]);
    assert_eq!(finding(&world, "rewrite-persisted-no"), None);
}

#[test]
fn a_repair_that_fails_is_told_with_the_command_and_not_tried_again() {
    let mut world = World::new(1, consenting());
    let plan = [(2000, DISK), (2010, Hand::Bgsave), (4000, Hand::RewriteConfig), (4001, Hand::LoseFile)];
    world.run(30_000, &plan);
    assert_eq!(world.warnings, [TOLD, "configuration file not written"], "{}", world.story);
    world.run(120_000, &[(30_001, WELL)]);
    world.converged();
    assert!(finding(&world, "rewrite-persisted-no").is_some(), "{}", world.story);
}

#[test]
fn a_rewrite_in_peace_is_nobodys_business() {
    let plan = [
        (1000, Hand::RewriteConfig),
        (2000, DISK),
        (2010, Hand::Bgsave),
        (4000, WELL),
        (60_000, Hand::RewriteConfig),
    ];
    let mut world = World::new(1, settings());
    world.run(100_000, &plan);
    world.converged();
    assert!(world.warnings.is_empty() && world.fake.file_knob(), "{:?}\n{}", world.warnings, world.story);
    assert!(!world.closed[0].findings.iter().any(|f| f.id == "rewrite-persisted-no"), "{}", world.story);
}

#[test]
fn a_server_that_does_not_count_is_said_to_be_one() {
    let mut world = World::new(1, settings());
    world.fake.counts_subcommands = false;
    world.run(30_000, &[(2000, DISK), (2010, Hand::Bgsave), (4000, Hand::RewriteConfig), (6000, WELL)]);
    world.converged();
    assert!(world.warnings.is_empty(), "nothing is known, and nothing is guessed: {:?}", world.warnings);
    let said = world.closed[0].timeline.iter().filter(|entry| entry.event == "rewrites not counted");
    assert_eq!(said.count(), 1, "{}", world.story);
}

#[test]
fn a_server_that_comes_back_with_our_no_from_its_file_is_told_of() {
    for seen in [true, false] {
        let mut world = World::new(1, settings());
        world.fake.counts_subcommands = seen;
        let plan = [(2000, DISK), (2010, Hand::Bgsave), (4000, Hand::RewriteConfig), (7000, Hand::Restart)];
        world.run(40_000, &plan);
        assert!(!world.fake.knob && world.page == debt_blank(), "{}", world.story);
        assert!(world.warnings.contains(&"switch left off"), "{:?}\n{}", world.warnings, world.story);
        let finding = finding(&world, "switch-left-off").expect("it stands");
        let why = if seen { "ran 1 times from elsewhere" } else { "it was yes before bgsafe lowered it" };
        assert!(finding.evidence.contains(why) && finding.severity == "crit", "{finding:?}");
        // Whoever sets it has chosen.
        world.fake.execute(
            world.now,
            9,
            &["CONFIG", "SET", "stop-writes-on-bgsave-error", "yes"].map(|w| w.into()),
        );
        world.run(80_000, &[]);
        assert_eq!(super::rewrites::finding(&world, "switch-left-off"), None, "{}", world.story);
    }
}

#[test]
fn whatever_breaks_meanwhile_the_file_ends_as_the_operator_wants_it() {
    for seed in 0..60 {
        for crash in [None, Some(20 + seed)] {
            let mut world = World::new(seed, consenting());
            (world.chaos, world.crash_at) = (true, crash);
            let rng = &mut world.rng;
            let mut at: Vec<u64> = (0..3).map(|_| 2100 + rng.below(8000)).collect();
            at.sort_unstable();
            let mut plan = vec![(2000, DISK), (2010, Hand::Bgsave)];
            plan.extend(at.iter().map(|at| (*at, Hand::RewriteConfig)));
            plan.push((10_500, WELL));
            world.run(90_000, &plan);
            world.chaos = false;
            world.run(200_000, &[]);
            world.converged();
            // A life that died may have seen what the next cannot know: then nothing is claimed.
            if world.lives == 1 && world.story.contains(TOLD) && !world.story.contains("not written") {
                assert!(world.fake.file_knob(), "seed {seed}\n{}", world.story);
            }
        }
    }
}
