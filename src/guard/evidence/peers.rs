//! Whom a server replicates to and from, as the section `replication` of INFO tells it
//! (`server.c:genRedisInfoString`, `replication.c`).
//!
//! Refuses to know: whether anybody can be reached where it is said to be. Invariant: a line that is not
//! understood names nobody.

use super::fact::{Fact, number};

/// A replica, as its primary names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// `host:port`, as it was announced.
    pub address: String,
    /// The full synchronisation is over.
    pub online: bool,
    /// How far it has acknowledged.
    pub offset: u64,
    /// Seconds since it did.
    pub lag: u64,
}

/// See the module's page.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Peers {
    /// Who follows this server.
    pub replicas: Vec<Peer>,
    /// Whom it follows, `host:port`; not told by a primary.
    pub primary: Fact<String>,
    /// Of a replica: is it connected to its primary, and in step?
    pub link_up: Fact<bool>,
    /// How far its own history goes.
    pub offset: Fact<u64>,
    /// FAILOVER is at work (6.2+).
    pub failing_over: Fact<bool>,
    host: String,
}

impl Peers {
    /// Reads one field of INFO. Others are skipped.
    pub fn read_field(&mut self, key: &str, value: &str) {
        match key {
            "master_host" => self.host = value.into(),
            "master_port" => {
                let port: Fact<u16> = number(value);
                self.primary = port.map(|port| host_port(&self.host, port));
            }
            "master_link_status" => self.link_up = Fact::Known(value == "up"),
            "master_failover_state" => self.failing_over = Fact::Known(value != "no-failover"),
            "master_repl_offset" => self.offset = number(value),
            _ => {
                let n = key.strip_prefix("slave").or_else(|| key.strip_prefix("replica"));
                if n.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
                    self.replicas.extend(peer(value));
                }
            }
        }
    }
}

/// `ip=127.0.0.1,port=6380,state=online,offset=14,lag=0`. Until 2.6 the words stood without names.
fn peer(value: &str) -> Option<Peer> {
    let of = |name: &str| value.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    // Who follows without saying where it listens is no server: a copy is being fetched, by us or by another.
    let port = of("port")?.parse().ok().filter(|port| *port != 0)?;
    let host = of("ip").filter(|ip| !ip.is_empty())?;
    let count = |name| of(name).and_then(|n| n.parse().ok());
    Some(Peer {
        address: host_port(host, port),
        online: of("state") == Some("online"),
        offset: count("offset").unwrap_or(0),
        lag: count("lag").unwrap_or(u64::MAX),
    })
}

fn host_port(host: &str, port: u16) -> String {
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(info: &str) -> Peers {
        let mut peers = Peers::default();
        for line in info.lines() {
            let (key, value) = line.split_once(':').unwrap();
            peers.read_field(key, value);
        }
        peers
    }

    #[test]
    fn a_primary_names_its_replicas() {
        let peers = read(
            "role:master\nconnected_slaves:3\nslave0:ip=10.0.0.2,port=6380,state=online,offset=14,lag=1\n\
             slave1:ip=fd00::2,port=6380,state=wait_bgsave,offset=0,lag=0\nslave2:10.0.0.3,6379,online\n\
             slave3:ip=10.0.0.4,port=0,state=online,offset=14,lag=0\n\
             slave_priority:100\nmaster_repl_offset:15",
        );
        let first = Peer { address: "10.0.0.2:6380".into(), online: true, offset: 14, lag: 1 };
        let second = Peer { address: "[fd00::2]:6380".into(), online: false, offset: 0, lag: 0 };
        assert_eq!(peers.replicas, [first, second]);
        assert_eq!((peers.primary, peers.offset), (Fact::UNKNOWN, Fact::Known(15)));
    }

    #[test]
    fn a_replica_names_its_primary() {
        let peers = read(
            "role:slave\nmaster_host:db.example\nmaster_port:6379\nmaster_link_status:down\nmaster_repl_offset:7",
        );
        assert_eq!(peers.primary, Fact::Known("db.example:6379".into()));
        assert_eq!((peers.link_up, peers.offset), (Fact::Known(false), Fact::Known(7)));
        assert!(peers.replicas.is_empty());
    }
}
