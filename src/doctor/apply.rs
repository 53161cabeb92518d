//! One step of a remedy: what it would change, making it, and what takes it back.
//!
//! Refuses to know: whether it should be made. Invariant: what was before is read before anything is touched.

use super::fix::Changed;
use super::gather::Ward;
use crate::cli::paint::bytes;
use crate::guard::dialogue::{Answer, KNOB, Talk};
use crate::guard::evidence::host::{Limit, NO_LIMIT};
use crate::guard::evidence::{Evidence, Fact};
use crate::guard::remedy::{Change, Resource, Step, cli, quoted};

/// A step that was made, and the command that takes it back.
pub(super) struct Made {
    pub(super) changed: Changed,
    pub(super) undo: Option<String>,
}

/// What the step changes, from, to. The name is empty where there is no before and after.
pub(super) async fn preview(step: &Step, e: &Evidence, ward: &mut Ward) -> (String, Option<String>, String) {
    match step {
        Step::Config { name, value } => ((*name).into(), ward.config(name).await, quoted(value)),
        Step::Command(_) => (String::new(), None, String::new()),
        Step::Host(change) => of_host(change, e),
    }
}

/// Makes it. The error says whose side refused, and what a human can do.
pub(super) async fn apply(ward: &mut Ward, e: &Evidence, step: &Step) -> Result<Made, String> {
    let command = step.command(e);
    match step {
        Step::Config { name, value } => {
            let before = ward.config(name).await;
            let words = ["CONFIG", "SET", *name, value.as_str()].map(String::from).to_vec();
            send(ward, words).await?;
            let after = ward.config(name).await;
            let undo =
                before.as_ref().map(|b| format!("{} CONFIG SET {name} {}", cli(&e.address), quoted(b)));
            Ok(Made { changed: Changed { command, before, after }, undo })
        }
        Step::Command(words) => {
            // What stands in the file then outlives everybody who knows that it was meant for minutes (config.c:rewriteConfig).
            if *words == ["CONFIG", "REWRITE"] && ward.config(KNOB).await.as_deref() != Some("yes") {
                return Err(format!("CONFIG REWRITE would keep {KNOB} no for good: set it to yes first"));
            }
            send(ward, words.iter().map(|word| (*word).to_owned()).collect()).await?;
            let after = Some("accepted".into());
            Ok(Made { changed: Changed { command, before: None, after }, undo: None })
        }
        Step::Host(change) => {
            let made = ward.change(change.clone()).await.map_err(|why| why.to_string())?;
            let (before, after) = (Some(made.before), Some(made.after));
            Ok(Made { changed: Changed { command, before, after }, undo: made.undo.map(|c| c.command()) })
        }
    }
}

async fn send(ward: &mut Ward, words: Vec<String>) -> Result<(), String> {
    match ward.talk(Talk::Apply(vec![words])).await {
        Ok(Answer::Applied(Ok(()))) => Ok(()),
        Ok(Answer::Applied(Err(why))) => Err(format!("upstream: {why}{}", hint(&why))),
        Ok(_) => Err("upstream: answered something else".into()),
        Err(why) => Err(why.to_string()),
    }
}

fn hint(why: &str) -> &'static str {
    match why {
        _ if why.contains("protected config") => {
            "; set enable-protected-configs local in redis.conf (config.c), it takes a restart"
        }
        _ if why.starts_with("NOPERM") => "; look with a user who has the right, or type it yourself",
        _ if why.contains("unknown command") => {
            "; the command was renamed or taken away: type it by its new name"
        }
        _ => "",
    }
}

fn of_host(change: &Change, e: &Evidence) -> (String, Option<String>, String) {
    fn word<T: ToString>(fact: &Fact<T>) -> Option<String> {
        fact.known().map(ToString::to_string)
    }
    let number = |n: u64| if n == NO_LIMIT { "unlimited".to_owned() } else { n.to_string() };
    let host = &e.host;
    match change {
        Change::Overcommit { value, .. } => {
            ("vm.overcommit_memory".into(), word(&host.memory.overcommit), value.to_string())
        }
        Change::Thp { enabled, defrag } => {
            let both = |enabled: String, defrag: Option<String>| match defrag {
                Some(defrag) => format!("{enabled}, defrag {defrag}"),
                None => enabled,
            };
            let before = word(&host.memory.thp)
                .map(|thp| both(thp, defrag.as_ref().and_then(|_| word(&host.memory.thp_defrag))));
            ("transparent huge pages".into(), before, both(enabled.clone(), defrag.clone()))
        }
        Change::Limit { resource, soft, hard, .. } => {
            let (name, before) = match resource {
                Resource::Nproc => ("processes of the user (soft:hard)", &host.process.nproc),
                Resource::Nofile => ("open files (soft:hard)", &host.process.nofile),
            };
            let pair = |l: &Limit| format!("{}:{}", number(l.soft), number(l.hard));
            (name.into(), before.known().map(pair), pair(&Limit { soft: *soft, hard: *hard }))
        }
        Change::Chown { dir, uid, gid, .. } => {
            let before = host.place.owner.known().map(|(uid, gid)| format!("{uid}:{gid}"));
            (format!("owner of {}", dir.display()), before, format!("{uid}:{gid}"))
        }
        Change::Chmod { dir, mode, .. } => {
            let before = host.place.mode.known().map(|mode| format!("{mode:04o}"));
            (format!("mode of {}", dir.display()), before, format!("{mode:04o}"))
        }
        Change::MakeDir { dir, uid, gid, mode, .. } => {
            (dir.display().to_string(), Some("missing".into()), format!("{uid}:{gid} {mode:04o}"))
        }
        Change::RemoveDeadTemps { dir, names, .. } => {
            let dead = host.place.dead_temps.known().map(|all| {
                let all = all.iter().filter(|temp| names.contains(&temp.name));
                bytes(all.map(|temp| temp.size).sum())
            });
            let what = format!("dead temporary files in {}", dir.display());
            (what, dead.map(|size| format!("{} ({size})", names.len())), "removed, for good".into())
        }
        Change::CgroupMax { file, value } => {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let before = match name.starts_with("pids") {
                true => host.cgroup.pids_max.get(),
                false => host.cgroup.memory_max.get(),
            };
            (file.display().to_string(), before.map(number), number(*value))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_shown_with_what_was_before_where_that_is_known() {
        let mut e = Evidence::default();
        let change = Change::Chmod { pid: 1, dir: "/data".into(), mode: 0o750 };
        assert_eq!(of_host(&change, &e), ("mode of /data".into(), None, "0750".into()));
        e.host.place.mode = Fact::Known(0o555);
        assert_eq!(of_host(&change, &e), ("mode of /data".into(), Some("0555".into()), "0750".into()));
        e.host.process.nproc = Fact::Known(Limit { soft: 1, hard: NO_LIMIT });
        let limit = Change::Limit { pid: 1, resource: Resource::Nproc, soft: 9, hard: NO_LIMIT };
        let (_, before, after) = of_host(&limit, &e);
        assert_eq!((before.as_deref(), after.as_str()), (Some("1:unlimited"), "9:unlimited"));
    }
}
