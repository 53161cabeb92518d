//! Who else guards this server: the names of control connections, and CLIENT LIST read for them. A name is
//! visible to everybody at once, works while writes are refused, and goes with its connection.
//!
//! | name | its bgsafe |
//! |---|---|
//! | `bgsafe:ID` | lowers nothing and owes nothing |
//! | `bgsafe:ID:claims` | is about to lower the switch, or to take a debt over |
//! | `bgsafe:ID:owes=yes,since=MS` | lowered the switch: it alone proves and restores |
//! | `bgsafe:ID:spent` | put it back unproved, for its exposure budget is spent |
//!
//! Refuses to know: what follows from it. Invariant: a name is bounded, has no blank, and reads back as what
//! was written; any other name is nobody's.

use std::time::Duration;

/// What a bgsafe says of itself by the name of its control connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stance {
    /// Nothing.
    #[default]
    Peace,
    /// It is about to become the owner.
    Claims,
    /// It lowered the switch.
    Owes {
        /// The value to put back.
        owed: String,
        /// Unix milliseconds, by its own clock.
        since_ms: u64,
    },
    /// Its exposure budget is spent: nobody is to lower the switch again.
    Spent,
}

/// Another bgsafe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// `id=` of CLIENT LIST: one connection of this server's life.
    pub client: u64,
    /// One bgsafe process.
    pub id: String,
    /// What it says of itself.
    pub stance: Stance,
    /// Seconds since it last said anything.
    pub idle_secs: u64,
}

/// A living guard looks every second; only a server that forks for longer keeps it silent, and then everybody.
pub const SILENT: Duration = Duration::from_secs(10);
/// Longer names are not ours.
const NAME_MOST: usize = 96;
const PREFIX: &str = "bgsafe:";

impl Peer {
    /// Has it said something lately? The connection of a machine that lost its power stands for minutes.
    pub fn lives(&self) -> bool {
        self.idle_secs < SILENT.as_secs()
    }

    /// Did it lower the switch?
    pub fn owes(&self) -> bool {
        matches!(self.stance, Stance::Owes { .. })
    }
}

/// The name that says so; `own` is the name in peace.
pub fn name(own: &str, stance: &Stance) -> String {
    match stance {
        Stance::Peace => own.to_string(),
        Stance::Claims => format!("{own}:claims"),
        Stance::Owes { owed, since_ms } => format!("{own}:owes={owed},since={since_ms}"),
        Stance::Spent => format!("{own}:spent"),
    }
}

/// Whose name is it, and what does it say?
pub fn parse(name: &str) -> Option<(&str, Stance)> {
    let rest = name.strip_prefix(PREFIX).filter(|_| name.len() <= NAME_MOST)?;
    let (id, says) = rest.split_once(':').unwrap_or((rest, ""));
    let stance = match says {
        // A later bgsafe may say what we do not understand: it is there, no more.
        "claims" => Stance::Claims,
        "spent" => Stance::Spent,
        says => match says.strip_prefix("owes=").and_then(|says| says.split_once(",since=")) {
            Some((owed, since)) if ["yes", "no"].contains(&owed) => {
                Stance::Owes { owed: owed.to_string(), since_ms: since.parse().unwrap_or(0) }
            }
            Some(_) | None => Stance::Peace,
        },
    };
    (!id.is_empty()).then_some((id, stance))
}

/// Every bgsafe in the text of CLIENT LIST, but the one named `own` in peace.
pub fn read(list: &str, own: &str) -> Vec<Peer> {
    let own = parse(own).map(|(id, _)| id);
    let peer = |line: &str| {
        let field = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let (id, stance) = parse(field("name")?)?;
        let client = field("id")?.parse().ok()?;
        let idle_secs = field("idle").and_then(|idle| idle.parse().ok()).unwrap_or(0);
        (Some(id) != own).then(|| Peer { client, id: id.to_string(), stance, idle_secs })
    };
    list.lines().filter_map(peer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owes(since_ms: u64) -> Stance {
        Stance::Owes { owed: "yes".into(), since_ms }
    }

    #[test]
    fn a_name_says_what_it_said() {
        for stance in [Stance::Peace, Stance::Claims, owes(1_795_342_500_000), owes(u64::MAX), Stance::Spent]
        {
            let name = name("bgsafe:0123456789abcdef", &stance);
            assert!(name.len() <= NAME_MOST && name.bytes().all(|b| (b'!'..=b'~').contains(&b)), "{name}");
            assert_eq!(parse(&name), Some(("0123456789abcdef", stance)));
        }
    }

    #[test]
    fn what_is_not_ours_is_nobodys_and_what_is_newer_is_only_there() {
        let long = format!("bgsafe:{}", "x".repeat(100));
        for name in ["", "bgsafe", "bgsafe:", "bgsafe::owes=yes,since=1", "bgsafe-doctor-7", "app", &long] {
            assert_eq!(parse(name), None, "{name}");
        }
        for name in ["bgsafe:a:prays", "bgsafe:a:owes=maybe,since=1", "bgsafe:a:owes=yes"] {
            assert_eq!(parse(name), Some(("a", Stance::Peace)), "{name}");
        }
    }

    #[test]
    fn a_list_is_read_for_the_others() {
        let list = "id=3 addr=127.0.0.1:1 laddr=x fd=8 name=bgsafe:a:owes=yes,since=5 age=1 idle=0 db=0\r\n\
                    id=4 addr=a name=bgsafe:me:claims idle=0\nid=5 addr=a name= idle=99\nid=6 name=app idle=0\n\
                    id=7 addr=a name=bgsafe:b idle=12\nid=x name=bgsafe:c\ngarbage\n";
        let peers = read(list, "bgsafe:me");
        let said: Vec<_> = peers.iter().map(|p| (p.client, p.id.as_str(), p.owes(), p.lives())).collect();
        assert_eq!(said, [(3, "a", true, true), (7, "b", false, false)]);
    }
}
