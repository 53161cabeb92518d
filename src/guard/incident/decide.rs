//! The course of an incident, by the table [`COURSES`](crate::guard::policy::COURSES), and its first step.
//!
//! Refuses to know: how any step is carried out. Invariant: a course that waits says what for.

use super::{Guard, Now};
use crate::guard::dialogue::Talk;
use crate::guard::policy::{Course, course};
use crate::guard::record::Phase;
use crate::posture::Posture;

impl Guard {
    /// Chooses the course of an incident by the table, and takes its first step.
    pub(super) fn decide(&mut self, now: Now) {
        if self.follows() {
            // The switch is down by another's hand: only PONG is waited for.
            self.talk(Talk::Probe);
            return;
        }
        let row = course(&self.facts(now));
        if row.course == Course::Look {
            self.talk(Talk::Look);
            return;
        }
        if row.course == Course::Shelter {
            return self.shelter(now, row.why);
        }
        if row.course == Course::HandOver {
            return self.hand_over(now, row.why);
        }
        if row.course == Course::Ask {
            return self.ask_who_watches(now);
        }
        if row.course == Course::Lower {
            self.set_posture(Posture::Hold);
            self.lower_in_turn(now);
            return;
        }
        self.course = Some(row.why);
        self.several.claim = Default::default();
        // Watch the server closely at first: its own retry may end the matter.
        self.due = now.mono;
        match row.course {
            Course::Observe => self.only_watch(now),
            Course::Freeze => self.freeze(now),
            Course::Refuse => {
                self.set_posture(Posture::Refuse);
                self.enter(now, Phase::Exposed, "refusals are delivered", row.why.into());
            }
            Course::ParkAof | Course::Park => {
                self.set_posture(Posture::Hold);
                self.enter(now, Phase::Holding, "writes parked", row.why.into());
                if !self.facts(now).config && row.course == Course::Park {
                    let why = self.rights.blocked().unwrap_or_else(|| row.why.into());
                    self.find("config-blocked", "warn", why, self.remedy_config());
                }
            }
            Course::Shun => self.shun(now, row.why),
            Course::Look | Course::Ask | Course::Shelter | Course::HandOver | Course::Lower => {}
        }
    }
}
