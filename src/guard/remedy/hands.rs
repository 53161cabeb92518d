//! What only a human may do: the exact command for this server and host, as far as they are known.
//!
//! Refuses to know: how to do any of it. Invariant: nothing here deletes data, stops the server or weakens a security
//! module.

use super::files::{is_data_dir, may_set_dir};
use super::{Consent, OVERCOMMIT_FILE, Plan, Proof, Reach, Remedy, cli, quoted};
use crate::guard::evidence::Evidence;
use crate::guard::evidence::host::Dump;
use crate::guard::finding::failing::version;

pub const ROWS: &[Remedy] = &[
    row("overcommit-memory", "set the kernel's overcommit mode", overcommit),
    row("fork-enomem", "set the kernel's overcommit mode", |e| match e.host.memory.overcommit.get() {
        Some(1) => {
            hand(format!("raise the memory limit of the server's container or service; {}", look_at(e)))
        }
        _ => overcommit(e),
    }),
    row("fork-eagain", "raise the limit that binds", |e| {
        let pid = pid(e);
        hand(match e.host.process.unit.known() {
            Some(Some(unit)) => format!(
                "systemctl set-property {unit} TasksMax=infinity && prlimit --pid {pid} --nproc=65536:65536"
            ),
            _ => format!(
                "prlimit --pid {pid} --nproc=65536:65536 # in a container: docker update --pids-limit 4096 NAME"
            ),
        })
    }),
    row("child-oom-killed", "give the server more memory", more_memory),
    row("cgroup-headroom", "give the server more memory", more_memory),
    row("memory-headroom", "find out who uses the memory", |_| {
        hand("ps -eo pid,rss,comm --sort=-rss | head".into())
    }),
    row("maxmemory-high", "give the server more memory", more_memory),
    row("no-swap-container", "give the server more memory", more_memory),
    row("thp-always", "set huge pages to madvise", |_| {
        hand("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled".into())
    }),
    row("child-killed", "save again and watch", |e| {
        hand(format!(
            "{} BGSAVE # who sends signals: auditctl -a always,exit -F arch=b64 -S kill -F a1=9",
            cli(&e.address)
        ))
    }),
    row("child-crashed", "find a replica and test the memory", |e| {
        hand(format!("{} INFO replication # then: redis-server --test-memory 1024", cli(&e.address)))
    }),
    row("disk-full", "make room", make_room),
    row("disk-headroom", "make room", make_room),
    row("inodes-full", "find what uses the inodes", |e| {
        hand(format!("df -i {dir} && du --inodes -xS {dir}/.. | sort -n | tail", dir = dir(e)))
    }),
    row("quota", "raise the quota", |e| {
        let user = e.host.process.uid.get().map_or("USER".into(), |uid| format!("'#{uid}'"));
        hand(format!(
            "df -T {dir} && quota -v -u {user} # then: setquota, or xfs_quota -x -c 'limit …'",
            dir = dir(e)
        ))
    }),
    row("file-size-limit", "lift the file size limit", |e| {
        hand(format!("prlimit --pid {} --fsize=unlimited:unlimited", pid(e)))
    }),
    row("fd-limit", "raise the limit of open files", |e| {
        hand(format!("prlimit --pid {} --nofile=65536:65536", pid(e)))
    }),
    row("io-error", "take a copy elsewhere, then look at the disk", |e| {
        hand(format!("{} --rdb /mnt/other-disk/escrow.rdb && dmesg -T | grep -i error", cli(&e.address)))
    }),
    row("dir-missing", "make the directory and tell the server", |e| {
        let dir = match e.healthy.as_ref() {
            Some(healthy) => quoted(&healthy.dir),
            None => {
                e.host.place.dir.known().map_or("/var/lib/redis".into(), |dir| quoted(&dir.to_string_lossy()))
            }
        };
        let owner = match (
            e.healthy.as_ref().and_then(|h| h.owner),
            e.host.process.uid.get(),
            e.host.process.gid.get(),
        ) {
            (Some((uid, gid)), ..) | (None, Some(uid), Some(gid)) => format!("-o {uid} -g {gid}"),
            (None, ..) => "-o redis -g redis".into(),
        };
        let mode = e.healthy.as_ref().and_then(|h| h.mode).unwrap_or(0o750);
        let (cli, make) = (cli(&e.address), format!("install -d {owner} -m {mode:04o} {dir}"));
        hand(match may_set_dir(e) {
            true => format!("{make} && {cli} CONFIG SET dir {dir} && {cli} BGSAVE"),
            // The restart alone would lose what is unsaved: the snapshot is pulled first.
            false => format!(
                "{make} && {cli} --rdb {dir}/{} # and only then restart the server, which is not allowed CONFIG SET dir",
                quoted(
                    e.look
                        .dbfilename
                        .known()
                        .filter(|name| !name.is_empty())
                        .map_or("dump.rdb", String::as_str)
                )
            ),
        })
    }),
    row("dir-permission", "let the server write there", |e| {
        let dir = dir(e);
        if e.host.place.dump.is(Dump::NotAFile) {
            let name = quoted(e.look.dbfilename.known().map_or("dump.rdb", String::as_str));
            return hand(format!("mv {dir}/{name} {dir}/{name}.aside"));
        }
        let owner = match (e.host.process.uid.get(), e.host.process.gid.get()) {
            (Some(uid), Some(gid)) => format!("{uid}:{gid}"),
            _ => "redis:redis".into(),
        };
        // Never the root of the host: the server belongs elsewhere.
        if e.host.place.dir.known().is_some_and(|dir| !is_data_dir(dir)) {
            let user = owner.replace(':', " -g ");
            let cli = cli(&e.address);
            let make = format!("install -d -o {user} -m 0750 /var/lib/redis");
            return hand(match may_set_dir(e) {
                true => format!("{make} && {cli} CONFIG SET dir /var/lib/redis && {cli} BGSAVE"),
                false => format!(
                    "{make} && {cli} --rdb /var/lib/redis/dump.rdb # and only then restart the server with \
                     dir /var/lib/redis: it is not allowed CONFIG SET dir"
                ),
            });
        }
        let sticky = e.host.place.mode.is_and(|mode| mode & 0o1000 != 0) && !e.host.place.writable.is(false);
        hand(match sticky {
            true => format!(
                "chown {owner} {dir}/{}",
                quoted(e.look.dbfilename.known().map_or("dump.rdb", String::as_str))
            ),
            false => format!("chown {owner} {dir} && chmod u+rwx {dir}"),
        })
    }),
    row("dir-immutable", "find out why, then take the flag off", |e| {
        let dir = dir(e);
        let file = e
            .host
            .place
            .dump
            .is_and(|dump| matches!(dump, Dump::File { immutable, .. } if immutable.is(true)));
        let name = quoted(e.look.dbfilename.known().map_or("dump.rdb", String::as_str));
        let what = if file { format!("{dir}/{name}") } else { dir };
        hand(format!("lsattr -d {what} && chattr -i {what}"))
    }),
    row("read-only-filesystem", "allow the path, or look at the disk", |e| {
        let dir = dir(e);
        let sandbox = e.host.place.read_only.is(true) && e.host.place.host_read_only.is(false);
        match e.host.process.unit.known() {
            Some(Some(unit)) if sandbox => hand(format!(
                "mkdir -p /etc/systemd/system/{unit}.d && printf '[Service]\\nReadWritePaths=-{dir}\\n' > \
                 /etc/systemd/system/{unit}.d/data.conf && systemctl daemon-reload \
                 # holds from the next start; before it: {} --rdb /var/tmp/escrow.rdb",
                cli(&e.address)
            )),
            _ => hand(format!(
                "findmnt -T {dir} && dmesg -T | grep -iE 'remount|error' # if the disk is sound: mount -o remount,rw $(findmnt -nro TARGET -T {dir})"
            )),
        }
    }),
    row("lsm-denied", "read what was denied, then label the directory", |e| {
        let dir = dir(e);
        let by = e.host.process.confined_by.known().and_then(|by| by.as_deref());
        // SELinux contexts are user:role:type:level; AppArmor has profile names.
        match by {
            Some(context) if context.matches(':').count() >= 2 => {
                hand(format!("ausearch -m avc -ts recent -c redis-server; restorecon -v {dir}"))
            }
            Some(profile) => hand(format!(
                "journalctl -k -g apparmor=.DENIED | tail; aa-status | grep {}; aa-logprof",
                quoted(profile)
            )),
            None => hand(format!(
                "ausearch -m avc -ts recent; journalctl -k -g 'apparmor=.DENIED' | tail; ls -dZ {dir}"
            )),
        }
    }),
    row("aof-write-error", "make room", make_room),
    row("aof-fsync-sticky", "look at the disk, then have the file rewritten", |e| {
        hand(format!("dmesg -T | grep -i error; {} BGREWRITEAOF", cli(&e.address)))
    }),
    row("child-hung", "look at the child, then give it up", |e| {
        let child = e.host.process.children.known().and_then(|children| children.first());
        hand(match child {
            Some((child, _)) => {
                format!("cat /proc/{child}/wchan; grep State /proc/{child}/status; kill -USR1 {child}")
            }
            None => format!("ps -o pid,stat,etime,args --ppid {} # then: kill -USR1 CHILD", pid(e)),
        })
    }),
    row("break-in-signs", "look, and touch nothing", |e| {
        let cli = cli(&e.address);
        hand(format!(
            "{cli} CLIENT LIST; {cli} MODULE LIST; {cli} INFO replication; {cli} --bigkeys; {cli} ACL LIST"
        ))
    }),
    row("zombie-primary", "ask Sentinel who the primary is", |_| {
        hand("redis-cli -p 26379 SENTINEL masters".into())
    }),
    row("sentinel-will-fail-over", "ask Sentinel how long it waits", |_| {
        hand("redis-cli -p 26379 SENTINEL masters | grep -A1 -e flags -e down-after-milliseconds".into())
    }),
    row("rewrite-persisted-no", "look into the file", |e| {
        let file = e.server.config_file.known().filter(|file| !file.is_empty());
        hand(format!(
            "grep -n stop-writes-on-bgsave-error {}",
            file.map_or("/etc/redis/redis.conf".into(), |f| quoted(f))
        ))
    }),
    row("probe-hazard", "let liveness ask for any answer", |_| {
        hand("livenessProbe: {tcpSocket: {port: 6379}, timeoutSeconds: 5} # readinessProbe alone asks for PONG".into())
    }),
    row("config-blocked", "give bgsafe a user of its own", |e| {
        let look = e.look.knob.reason().map(ToString::to_string);
        // A command that was renamed away, or withdrawn, is given back by no right (`server.c:processCommand`).
        if e.seen.config_denied.clone().or(look).is_some_and(|why| why.contains("unknown command")) {
            return hand(
                "grep -n rename-command /etc/redis/redis.conf # a managed service gives CONFIG to nobody: --policy hold"
                    .into(),
            );
        }
        if version(e).is_some_and(|version| version < (6, 0, 0)) {
            return hand(
                "grep -n rename-command /etc/redis/redis.conf # there are no ACLs before 6.0".into(),
            );
        }
        hand(format!(
            "{} ACL SETUSER bgsafe on '>SECRET' resetkeys resetchannels -@all +ping +info '+config|get' '+config|set' \
             +bgsave +lastsave '+client|setname' '+client|id' '+client|list' +role '+acl|whoami' +multi +exec +discard",
            cli(&e.address)
        ))
    }),
    row("fork-slow", "see how long forks take", |e| {
        hand(format!("{} --intrinsic-latency 30", cli(&e.address)))
    }),
    row("unknown", "read the server's log", |e| match e.server.logfile.known().map(String::as_str) {
        Some(file) if file.starts_with('/') => hand(format!("tail -n 50 {}", quoted(file))),
        _ => hand(look_at(e)),
    }),
];

const fn row(finding: &'static str, does: &'static str, plan: fn(&Evidence) -> Plan) -> Remedy {
    Remedy {
        finding,
        does,
        reach: Reach::Human,
        needs: "a person",
        survives: true,
        undo: "by hand",
        consent: Consent::Never,
        proof: Proof::Save,
        plan,
    }
}

fn hand(command: String) -> Plan {
    Plan::ByHand(command)
}

fn overcommit(_: &Evidence) -> Plan {
    hand(format!("sysctl -w vm.overcommit_memory=1 && echo vm.overcommit_memory=1 > {OVERCOMMIT_FILE}"))
}

fn more_memory(e: &Evidence) -> Plan {
    hand(match e.host.process.unit.known() {
        Some(Some(unit)) => format!("systemctl set-property {unit} MemoryMax=NEW"),
        _ if e.host.process.kubernetes.is(true) => {
            "kubectl set resources statefulset NAME --limits=memory=NEW".into()
        }
        _ if e.host.process.container.is(true) => "docker update --memory NEW --memory-swap NEW NAME".into(),
        _ => look_at(e),
    })
}

fn make_room(e: &Evidence) -> Plan {
    let dir = dir(e);
    hand(format!("df -h {dir} && du -xh --max-depth=1 {dir} | sort -h # then grow the volume"))
}

fn look_at(e: &Evidence) -> String {
    match e.host.process.unit.known() {
        Some(Some(unit)) => format!("journalctl -u {unit} -n 50"),
        _ => "journalctl -n 50 -g redis # in a container: docker logs --tail 50 NAME".into(),
    }
}

/// The server's process, for the shell.
fn pid(e: &Evidence) -> String {
    e.host.pid.get().map_or("$(pidof redis-server)".into(), |pid| pid.to_string())
}

/// The data directory, for the shell.
fn dir(e: &Evidence) -> String {
    let told = e.look.dir.known().filter(|dir| !dir.is_empty()).cloned();
    let seen = || e.host.place.dir.known().map(|dir| dir.to_string_lossy().into_owned());
    quoted(&told.or_else(seen).unwrap_or_else(|| "/var/lib/redis".into()))
}
