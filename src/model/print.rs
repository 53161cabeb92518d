//! A world as a number: equal prints, equal futures. Times are relative to now, counters to the server's.

use std::hash::{DefaultHasher, Hash, Hasher};

use redis_protocol::resp2::types::BytesFrame;

use super::world::{EPOCH, World};
use crate::guard::incident::print::Counters;

impl World {
    /// Equal prints, equal futures (but for the budget).
    pub fn print(&self) -> u64 {
        let h = &mut DefaultHasher::new();
        self.fake.print(EPOCH + self.now, h);
        let (last_save, saves, misconf) = self.fake.counters();
        let sightings = self.gate.sightings;
        let rewrites = self.fake.rewrites;
        self.guard.print(self.clock(), Counters { sightings, last_save, saves, misconf, rewrites }, h);
        self.page.as_ref().map(|debt| (&debt.run_id, &debt.owed)).hash(h);
        (self.gate.posture, self.up, self.wanted, self.in_doubt, self.unfound).hash(h);
        self.lowered_at.map(|before| before == self.fake.good_saves).hash(h);
        self.pulling.as_ref().map(|order| &order.run_id).hash(h);
        self.copy.as_ref().map(|copy| &copy.run_id).hash(h);
        self.storing.as_ref().map(|job| job.as_ref().map(|debt| &debt.run_id)).hash(h);
        if let Some(asked) = &self.asked {
            format!("{:?}", asked.batch).hash(h);
            sightings.wrapping_sub(asked.sightings).hash(h);
            if let Some(replies) = &asked.replies {
                replies.len().hash(h);
                self.print_replies(replies, h);
            }
        }
        self.sessions.iter().for_each(|session| session.print(self, h));
        h.finish()
    }

    /// An INFO on its way tells of clocks and counters: those are compared like the others.
    fn print_replies(&self, replies: &[BytesFrame], h: &mut impl Hasher) {
        let (last_save, saves, misconf) = self.fake.counters();
        let rewrites = self.fake.rewrites;
        for reply in replies {
            let BytesFrame::BulkString(info) = reply else {
                format!("{reply:?}").hash(h);
                continue;
            };
            for line in String::from_utf8_lossy(info).lines() {
                let Some((key, value)) = line.split_once(':') else { continue };
                let number = |of: u64| of.wrapping_sub(value.parse().unwrap_or(0));
                match key {
                    "server_time_usec" => number((EPOCH + self.now) * 1000).hash(h),
                    "rdb_last_save_time" => number(last_save).hash(h),
                    "rdb_saves" => number(saves).hash(h),
                    "errorstat_MISCONF" => {
                        let told = value.strip_prefix("count=").and_then(|n| n.parse::<u64>().ok());
                        misconf.wrapping_sub(told.unwrap_or(0)).hash(h);
                    }
                    "cmdstat_config|rewrite" => {
                        let told =
                            value.strip_prefix("calls=").and_then(|n| n.split(',').next()?.parse().ok());
                        rewrites.wrapping_sub(told.unwrap_or(0u64)).hash(h);
                    }
                    "rdb_changes_since_last_save" | "total_error_replies" => {}
                    _ => line.hash(h),
                }
            }
        }
    }
}
