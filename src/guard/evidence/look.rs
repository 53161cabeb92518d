//! One look at the server: what INFO and four CONFIG values say of saving, asked again every second
//! of an incident. Small on purpose: what a diagnosis wants besides is in [`super::server`].
//!
//! Refuses to know: how the look was made, what follows from it.

use super::aof::AofSigns;
use super::fact::{Fact, flag, number, status};
use super::peers::Peers;

/// What the server is to its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// ROLE says `master`.
    Primary,
    /// ROLE says `slave`.
    Replica,
    /// ROLE says `sentinel`, or something newer than we are.
    Other,
}

impl Role {
    /// From the first word of ROLE or `role:` of INFO (`replication.c:roleCommand`).
    pub fn from_word(word: &str) -> Role {
        match word {
            "master" | "primary" => Role::Primary,
            "slave" | "replica" => Role::Replica,
            _ => Role::Other,
        }
    }
}

/// One look at the server.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Look {
    /// `redis`, `valkey`, `redict`, `keydb`.
    pub server: Fact<String>,
    /// Of that product.
    pub version: Fact<String>,
    /// Changes with every start of the process.
    pub run_id: Fact<String>,
    /// From INFO replication.
    pub role: Fact<Role>,
    /// The server's own clock, microseconds since 1970.
    pub clock_usec: Fact<u64>,
    /// `stop-writes-on-bgsave-error`: `yes` or `no`.
    pub knob: Fact<String>,
    /// `save`: empty when no save point is configured.
    pub save: Fact<String>,
    /// `dir`: empty when the directory was deleted (`config.c:getConfigDirOption`, getcwd fails).
    pub dir: Fact<String>,
    /// `dbfilename`.
    pub dbfilename: Fact<String>,
    /// A child saves, to disk or (diskless) to replicas.
    pub saving: Fact<bool>,
    /// An AOF rewrite or a module's child blocks the fork of a save.
    pub other_child: Fact<bool>,
    /// The last save to disk worked (`rdb_last_bgsave_status`).
    pub save_ok: Fact<bool>,
    /// Unix seconds of the last good save to disk.
    pub last_save: Fact<u64>,
    /// Changes since that save.
    pub changes: Fact<u64>,
    /// Saves *started* since the process did (7.0+).
    pub saves: Fact<u64>,
    /// How long the newest fork took, microseconds.
    pub fork_usec: Fact<u64>,
    /// AOF writes and syncs work.
    pub aof_ok: Fact<bool>,
    /// How else the append-only file stands.
    pub aof: AofSigns,
    /// MISCONF errors ever replied (6.2+): the only trace of a refusal no client was shown.
    pub misconf: Fact<u64>,
    /// The data set is still being loaded.
    pub loading: Fact<bool>,
    /// `replica-ignore-disk-write-errors`: only servers whose replicas may end themselves have it (7.0+).
    pub ignores_errors: Fact<bool>,
    /// Whom it replicates to and from.
    pub peers: Peers,
}

impl Look {
    /// Reads the text of INFO. Unknown lines are skipped, missing ones leave Unknown.
    pub fn read_info(&mut self, info: &str) {
        for line in info.lines() {
            let Some((key, value)) = line.trim_end().split_once(':') else { continue };
            self.read_field(key, value);
        }
    }

    fn read_field(&mut self, key: &str, value: &str) {
        self.aof.read_field(key, value);
        // Field names and first versions: server.c:genRedisInfoString and its successors.
        match key {
            "redis_version" if self.server.known().is_none() => {
                self.server = Fact::Known("redis".into());
                self.version = Fact::Known(value.into());
            }
            "valkey_version" | "redict_version" => {
                self.server = Fact::Known(key.trim_end_matches("_version").into());
                self.version = Fact::Known(value.into());
            }
            "mvcc_depth" => self.server = Fact::Known("keydb".into()),
            "run_id" => self.run_id = Fact::from((!value.is_empty()).then(|| value.to_string())),
            "role" => self.role = Fact::Known(Role::from_word(value)),
            "server_time_usec" => self.clock_usec = number(value),
            "loading" => self.loading = flag(value),
            "rdb_changes_since_last_save" => self.changes = number(value),
            "rdb_bgsave_in_progress" => self.saving = flag(value),
            "aof_rewrite_in_progress" | "module_fork_in_progress" => {
                let earlier = self.other_child.is(true);
                self.other_child = if earlier { Fact::Known(true) } else { flag(value) };
            }
            "rdb_last_save_time" => self.last_save = number(value),
            "rdb_last_bgsave_status" => self.save_ok = status(value),
            "latest_fork_usec" => self.fork_usec = number(value),
            "rdb_saves" => self.saves = number(value),
            "aof_last_write_status" => self.aof_ok = status(value),
            "errorstat_MISCONF" => self.misconf = value.strip_prefix("count=").map_or(Fact::UNKNOWN, number),
            // Present since the section exists; without the line above nothing was ever refused.
            "total_error_replies" if self.misconf.known().is_none() => self.misconf = Fact::Known(0),
            _ => self.peers.read_field(key, value),
        }
    }

    /// Would a write be refused for the snapshot's sake? (`server.c:writeCommandsDeniedByDiskError`)
    pub fn refuses_for_rdb(&self) -> bool {
        self.save_ok.is(false)
            && self.knob.is("yes".to_string())
            && self.save.known().is_some_and(|s| !s.is_empty())
    }

    /// Would a replica like this end itself at its primary's next write, were a save of it to fail? Whether it has
    /// the option tells more than its version: who has it, panics (`server.c:processCommand`).
    pub fn aborts_on_errors(&self) -> bool {
        self.role.is(Role::Replica) && self.ignores_errors.is(false)
    }

    /// The server's clock in seconds; `own` when it did not say.
    pub fn clock_secs(&self, own_unix_ms: u64) -> u64 {
        self.clock_usec.known().map_or(own_unix_ms / 1000, |usec| usec / 1_000_000)
    }

    /// The evidence in one line, for a timeline. No key, no value, no secret.
    pub fn line(&self) -> String {
        fn word<T: ToString>(fact: &Fact<T>) -> String {
            fact.known().map_or_else(|| "unknown".into(), T::to_string)
        }
        format!(
            "save_ok={} saving={} last_save={} changes={} knob={}",
            word(&self.save_ok),
            word(&self.saving),
            word(&self.last_save),
            word(&self.changes),
            word(&self.knob),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_garbled_fields_stay_unknown() {
        let mut look = Look::default();
        look.read_info(
            "# Persistence\r\nrdb_bgsave_in_progress:x\r\nrdb_last_bgsave_status:\r\nrun_id:\r\nfoo\r\n",
        );
        assert!(
            look.saving.known().is_none() && look.save_ok.known().is_none() && look.run_id.known().is_none()
        );
        assert!(!look.refuses_for_rdb());
    }

    #[test]
    fn each_product_is_named() {
        for (info, server, version) in [
            ("redis_version:7.0.15\r\n", "redis", "7.0.15"),
            ("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n", "valkey", "8.0.1"),
            ("valkey_version:8.0.1\r\nredis_version:7.2.4\r\n", "valkey", "8.0.1"),
            ("redis_version:7.2.4\r\nredict_version:7.3.0\r\n", "redict", "7.3.0"),
            ("redis_version:6.3.4\r\nmvcc_depth:0\r\n", "keydb", "6.3.4"),
        ] {
            let mut look = Look::default();
            look.read_info(info);
            assert_eq!(
                (look.server, look.version),
                (Fact::Known(server.into()), Fact::Known(version.into()))
            );
        }
    }

    #[test]
    fn no_errorstat_line_means_none_only_where_errorstats_exist() {
        let mut old = Look::default();
        old.read_info("total_commands_processed:5\r\n");
        assert_eq!(old.misconf, Fact::UNKNOWN);
        let mut new = Look::default();
        new.read_info("total_error_replies:9\r\nerrorstat_ERR:count=9\r\n");
        assert_eq!(new.misconf, Fact::Known(0));
        new.read_info("errorstat_MISCONF:count=3\r\n");
        assert_eq!(new.misconf, Fact::Known(3));
    }
}
