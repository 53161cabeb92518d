//! Changes, made to a machine of files.

use super::super::fixture::{Fixture, PID};
use crate::guard::remedy::{Change, OVERCOMMIT_FILE};
use crate::host::{Host, HostError};

#[test]
fn a_setting_is_changed_kept_and_put_back() {
    let at = Fixture::new();
    let host = at.host();
    std::fs::create_dir_all(at.path("/etc/sysctl.d")).unwrap();
    let read = |path: &str| std::fs::read_to_string(at.path(path)).unwrap();
    let applied = host.apply(&Change::Overcommit { value: 1, keep: true }).unwrap();
    assert_eq!(read("/proc/sys/vm/overcommit_memory").trim(), "1");
    assert!(read(OVERCOMMIT_FILE).ends_with("\nvm.overcommit_memory = 1\n"));
    assert_eq!(applied.undo, Some(Change::Overcommit { value: 0, keep: false }));
    host.apply(&applied.undo.unwrap()).unwrap();
    assert_eq!(read("/proc/sys/vm/overcommit_memory").trim(), "0");
    assert!(!at.path(OVERCOMMIT_FILE).exists());

    at.write(OVERCOMMIT_FILE, "vm.overcommit_memory = 2\n");
    let refused = host.apply(&Change::Overcommit { value: 1, keep: true }).unwrap_err();
    assert!(refused.to_string().contains("is not ours"), "{refused}");
    assert_eq!(read("/proc/sys/vm/overcommit_memory").trim(), "0");
    host.apply(&Change::Overcommit { value: 1, keep: false }).unwrap();
    host.apply(&Change::Overcommit { value: 0, keep: false }).unwrap();
    assert_eq!(read(OVERCOMMIT_FILE), "vm.overcommit_memory = 2\n");
    at.remove("/etc/sysctl.d");
    let refused = host.apply(&Change::Overcommit { value: 1, keep: true }).unwrap_err();
    assert!(refused.to_string().contains("by hand: sysctl -w vm.overcommit_memory=1"), "{refused}");
    assert_eq!(read("/proc/sys/vm/overcommit_memory").trim(), "0");
}

#[test]
fn a_groups_limit_is_written_only_where_groups_are() {
    let at = Fixture::new();
    let host = at.host();
    let own = "/sys/fs/cgroup/system.slice/redis-server.service";
    let set = |file: &str| host.apply(&Change::CgroupMax { file: file.into(), value: 4096 });
    let applied = set(&format!("{own}/memory.max")).unwrap();
    assert_eq!((applied.before.as_str(), applied.after.as_str()), ("1000", "4096"));
    at.write(&format!("{own}/memory.current"), "2000");
    let undone = host.apply(&applied.undo.unwrap());
    assert!(matches!(undone, Err(HostError::Refused { .. })), "the kernel would kill: {undone:?}");
    at.write("/etc/pids.max", "1");
    at.link("/sys/fs/cgroup/out", &at.path("/etc"));
    at.write(&format!("{own}/cgroup.kill"), "0");
    for file in [
        "/etc/pids.max",
        "/sys/fs/cgroup/../../../etc/pids.max",
        "/sys/fs/cgroup/out/pids.max",
        "sys/fs/cgroup/pids.max",
    ] {
        assert!(matches!(set(file), Err(HostError::Refused { .. })), "{file}");
    }
    assert!(matches!(set(&format!("{own}/cgroup.kill")), Err(HostError::Refused { .. })));
    assert_eq!(std::fs::read_to_string(at.path("/etc/pids.max")).unwrap(), "1");
}

#[test]
fn a_change_to_another_process_or_directory_is_not_made() {
    let at = Fixture::new();
    let host = at.host();
    let chmod = |dir: &str| Change::Chmod { pid: PID, dir: dir.into(), mode: 0o700 };
    host.facts(&Fixture::asked());
    host.apply(&chmod("/var/lib/redis")).unwrap();
    assert!(matches!(host.apply(&chmod("/var/lib/other")), Err(HostError::Moved(_))));
    assert!(matches!(host.apply(&chmod("/etc/cron.d")), Err(HostError::Refused { .. })));
    at.process(PID, "redis-server", 1, &[PID], 950.0);
    assert!(
        matches!(host.apply(&chmod("/var/lib/redis")), Err(HostError::Moved(_))),
        "the number was reused"
    );
    let stranger = at.host();
    stranger.apply(&chmod("/var/lib/redis")).unwrap();
    at.process(PID, "nginx", 1, &[PID], 950.0);
    assert!(matches!(stranger.apply(&chmod("/var/lib/redis")), Err(HostError::Moved(_))), "no server");
}
