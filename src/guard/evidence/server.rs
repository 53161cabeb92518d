//! What the server tells of itself for a diagnosis: INFO, and the CONFIG values of [`ASKED`].
//! Field names and their first versions: `server.c:genRedisInfoString` and its successors.
//!
//! Refuses to know: how it was asked. Invariant: `CONFIG GET *` is never asked: it would show secrets.

use super::Rights;
use super::fact::{Fact, Reason, flag, garbled, number, yes_no};
use crate::guard::peers;

/// The CONFIG values a diagnosis wants, beside those of a look. One CONFIG GET each: several names in
/// one are understood from 7.0 on only.
pub const ASKED: [&str; 14] = [
    "appendonly",
    "appendfsync",
    "aof-load-truncated",
    "auto-aof-rewrite-percentage",
    "auto-aof-rewrite-min-size",
    "logfile",
    "maxmemory",
    "maxmemory-policy",
    "maxclients",
    "rdbcompression",
    "oom-score-adj",
    "disable-thp",
    "repl-diskless-sync",
    "enable-protected-configs",
];

/// See the module's page.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServerFacts {
    /// As the server's own namespace counts it.
    pub process_id: Fact<u64>,
    /// Since its start.
    pub uptime_secs: Fact<u64>,
    /// 0 when it listens on a unix socket only.
    pub tcp_port: Fact<u16>,
    /// Empty when it was started without one: then CONFIG REWRITE is impossible.
    pub config_file: Fact<String>,
    /// As the server guesses; from 7.0 it may be wrong.
    pub executable: Fact<String>,
    /// Bytes its allocator gave out.
    pub used_memory: Fact<u64>,
    /// Of it, the data set.
    pub used_memory_dataset: Fact<u64>,
    /// Bytes resident.
    pub used_memory_rss: Fact<u64>,
    /// Of the host, not of the container.
    pub total_system_memory: Fact<u64>,
    /// 0 is no limit.
    pub maxmemory: Fact<u64>,
    /// `noeviction` and its kin.
    pub maxmemory_policy: Fact<String>,
    /// Of the newest fork.
    pub latest_fork_usec: Fact<u64>,
    /// The slowest fork the latency monitor has seen, milliseconds; only where it is on (LATENCY LATEST).
    pub slowest_fork_ms: Fact<u64>,
    /// Bytes copied on write during the newest save.
    pub last_cow_bytes: Fact<u64>,
    /// … during the newest AOF rewrite.
    pub aof_last_cow_bytes: Fact<u64>,
    /// How long the newest save took.
    pub last_save_secs: Fact<u64>,
    /// How long the running one has taken; unknown when none runs.
    pub current_save_secs: Fact<u64>,
    /// Keys it has saved, of [`ServerFacts::save_keys_total`] (6.2+).
    pub save_keys_done: Fact<u64>,
    /// Keys it has to save.
    pub save_keys_total: Fact<u64>,
    /// Bytes of the AOF now; only while it is on.
    pub aof_size: Fact<u64>,
    /// … after the newest rewrite.
    pub aof_base_size: Fact<u64>,
    /// Replicas attached.
    pub replicas: Fact<u64>,
    /// Clients connected.
    pub clients: Fact<u64>,
    /// CONFIG REWRITEs ever carried out (7.0+).
    pub config_rewrites: Fact<u64>,
    /// PINGs ever answered, ours included.
    pub pings: Fact<u64>,
    /// PINGs ever refused (6.2+).
    pub pings_refused: Fact<u64>,
    /// Input, bytes a second, now.
    pub input_bytes_per_sec: Fact<u64>,
    /// Cluster mode is on.
    pub cluster: Fact<bool>,
    /// Connections named by a Sentinel: it watches this server (`sentinel.c:sentinelSetClientName`).
    pub sentinels: Fact<u64>,
    /// Other connections named `bgsafe:…`.
    pub other_guards: Fact<u64>,
    /// Who we are to the server (ACL WHOAMI).
    pub whoami: Fact<String>,
    /// What we may do.
    pub rights: Rights,

    /// `appendonly`.
    pub appendonly: Fact<bool>,
    /// `always`, `everysec`, `no`.
    pub appendfsync: Fact<String>,
    /// `aof-load-truncated`.
    pub aof_load_truncated: Fact<bool>,
    /// `auto-aof-rewrite-percentage`; 0 is never.
    pub aof_rewrite_percentage: Fact<u64>,
    /// `auto-aof-rewrite-min-size`, bytes.
    pub aof_rewrite_min_size: Fact<u64>,
    /// Empty: standard output.
    pub logfile: Fact<String>,
    /// `maxclients`.
    pub maxclients: Fact<u64>,
    /// `rdbcompression`.
    pub rdbcompression: Fact<bool>,
    /// `no`, `yes`, `relative`, `absolute` (6.0.7+).
    pub oom_score_adj: Fact<String>,
    /// The server shields itself from transparent huge pages (6.2+).
    pub disable_thp: Fact<bool>,
    /// `repl-diskless-sync`.
    pub diskless_sync: Fact<bool>,
    /// `no`, `local`, `yes` (7.0+): may CONFIG SET change `dir`?
    pub protected_configs: Fact<String>,
}

impl ServerFacts {
    /// Reads the text of INFO. Unknown lines are skipped, missing ones leave what was there.
    pub fn read_info(&mut self, info: &str) {
        for line in info.lines() {
            if let Some((key, value)) = line.trim_end().split_once(':') {
                self.read_field(key, value);
            }
        }
    }

    fn read_field(&mut self, key: &str, value: &str) {
        match key {
            "process_id" => self.process_id = number(value),
            "uptime_in_seconds" => self.uptime_secs = number(value),
            "tcp_port" => self.tcp_port = number(value),
            "config_file" => self.config_file = Fact::Known(value.into()),
            "executable" => self.executable = Fact::Known(value.into()),
            "used_memory" => self.used_memory = number(value),
            "used_memory_dataset" => self.used_memory_dataset = number(value),
            "used_memory_rss" => self.used_memory_rss = number(value),
            "total_system_memory" => self.total_system_memory = number(value),
            "latest_fork_usec" => self.latest_fork_usec = number(value),
            "rdb_last_cow_size" => self.last_cow_bytes = number(value),
            "aof_last_cow_size" => self.aof_last_cow_bytes = number(value),
            // -1: none was made, or none runs.
            "rdb_last_bgsave_time_sec" => self.last_save_secs = unless_minus_one(value),
            "rdb_current_bgsave_time_sec" => self.current_save_secs = unless_minus_one(value),
            "current_save_keys_processed" => self.save_keys_done = number(value),
            "current_save_keys_total" => self.save_keys_total = number(value),
            "aof_current_size" => self.aof_size = number(value),
            "aof_base_size" => self.aof_base_size = number(value),
            "connected_slaves" => self.replicas = number(value),
            "connected_clients" => self.clients = number(value),
            "cmdstat_config|rewrite" => self.config_rewrites = carried_out(value),
            "cmdstat_ping" => {
                self.pings = counted(value, "calls=");
                self.pings_refused = counted(value, "rejected_calls=");
            }
            "instantaneous_input_kbps" => {
                let rate = value.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate >= 0.0);
                self.input_bytes_per_sec = rate.map(|kb| (kb * 1024.0) as u64).into();
            }
            "cluster_enabled" => self.cluster = flag(value),
            _ => {}
        }
    }

    /// Reads one CONFIG value of [`ASKED`], or why there is none.
    pub fn read_config(&mut self, name: &str, value: Result<&str, Reason>) {
        match name {
            "appendonly" => self.appendonly = read(value, yes_no),
            "appendfsync" => self.appendfsync = read(value, word),
            "aof-load-truncated" => self.aof_load_truncated = read(value, yes_no),
            "auto-aof-rewrite-percentage" => self.aof_rewrite_percentage = read(value, number),
            "auto-aof-rewrite-min-size" => self.aof_rewrite_min_size = read(value, number),
            "logfile" => self.logfile = read(value, word),
            "maxmemory" => self.maxmemory = read(value, number),
            "maxmemory-policy" => self.maxmemory_policy = read(value, word),
            "maxclients" => self.maxclients = read(value, number),
            "rdbcompression" => self.rdbcompression = read(value, yes_no),
            "oom-score-adj" => self.oom_score_adj = read(value, word),
            "disable-thp" => self.disable_thp = read(value, yes_no),
            "repl-diskless-sync" => self.diskless_sync = read(value, yes_no),
            "enable-protected-configs" => self.protected_configs = read(value, word),
            _ => {}
        }
    }

    /// Reads CLIENT LIST: who else is connected that matters.
    pub fn read_clients(&mut self, list: &str, own_name: &str) {
        let names = || list.lines().filter_map(|line| line.split(' ').find_map(|w| w.strip_prefix("name=")));
        let sentinel = |name: &&str| name.starts_with("sentinel-") && name.ends_with("-cmd");
        self.sentinels = Fact::Known(names().filter(sentinel).count() as u64);
        self.other_guards = Fact::Known(peers::read(list, own_name).len() as u64);
    }
}

fn read<T>(value: Result<&str, Reason>, parse: impl FnOnce(&str) -> Fact<T>) -> Fact<T> {
    value.map_or_else(Fact::Unknown, parse)
}

fn word(value: &str) -> Fact<String> {
    Fact::Known(value.to_string())
}

fn unless_minus_one(value: &str) -> Fact<u64> {
    if value == "-1" { Fact::UNKNOWN } else { number(value) }
}

/// CONFIG REWRITEs carried out, by INFO commandstats. Unknown where subcommands are not counted (before 7.0); a
/// command that was never called has no line (`server.c:genRedisInfoStringCommandStats`).
pub fn rewrites(info: &str) -> Fact<u64> {
    info.lines().filter_map(|line| line.trim_end().split_once(':')).fold(
        Fact::UNKNOWN,
        |told, (key, value)| {
            match key {
                "cmdstat_config|rewrite" => carried_out(value),
                // Our own CONFIG GET at the least is counted where subcommands are.
                key if told.known().is_none() && key.starts_with("cmdstat_config|") => Fact::Known(0),
                _ => told,
            }
        },
    )
}

/// Calls without those that failed: a file that could not be written is as it was.
fn carried_out(value: &str) -> Fact<u64> {
    let failed = counted(value, "failed_calls=").get().unwrap_or(0);
    counted(value, "calls=").get().map(|calls| calls.saturating_sub(failed)).into()
}

fn counted(value: &str, name: &str) -> Fact<u64> {
    match value.split(',').find_map(|pair| pair.strip_prefix(name)) {
        Some(count) => number(count),
        None => garbled(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_asked_for_is_read() {
        for name in ASKED {
            let (mut with, mut without) = (ServerFacts::default(), ServerFacts::default());
            with.read_config(name, Err(Reason::Denied("NOPERM".into())));
            without.read_config("nonsense", Ok("1"));
            assert_ne!(with, without, "{name}");
        }
    }

    #[test]
    fn absurd_info_leaves_unknowns() {
        let mut facts = ServerFacts::default();
        facts.read_info(
            "process_id:-3\r\ntcp_port:70000\r\nused_memory:many\r\nrdb_last_bgsave_time_sec:-1\r\n\
             instantaneous_input_kbps:nan\r\ncmdstat_ping:usec=1\r\naof_enabled:\r\n:\r\n\u{0}:x\r\n",
        );
        assert!(facts.process_id.known().is_none() && facts.tcp_port.known().is_none());
        assert!(facts.used_memory.known().is_none() && facts.pings.known().is_none());
        assert_eq!(facts.last_save_secs, Fact::UNKNOWN);
        assert_eq!(facts.input_bytes_per_sec, Fact::UNKNOWN);
    }

    #[test]
    fn clients_that_matter_are_counted_by_name() {
        let mut facts = ServerFacts::default();
        facts.read_clients(
            "id=1 addr=a name=sentinel-0f1e2d3c-cmd db=0\nid=2 name=sentinel-0f1e2d3c-pubsub\nid=3 name=bgsafe:1a\n\
             id=4 name=bgsafe:2b\nid=5 name=\n",
            "bgsafe:1a",
        );
        assert_eq!((facts.sentinels, facts.other_guards), (Fact::Known(1), Fact::Known(1)));
    }
}
