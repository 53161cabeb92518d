//! What the control user may do, found out without changing anything: by what was answered, by the server's own
//! dry run (ACL DRYRUN, 7.0+), by what its table of commands lacks.
//!
//! Refuses to know: what follows from it. Invariant: a right is known only when the server said so.

use super::fact::Fact;

/// Something the guard may have to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// PING: refused like a write, so it tells whether writes are open.
    Ping,
    /// INFO.
    Info,
    /// ROLE.
    Role,
    /// CONFIG GET.
    ConfigGet,
    /// CONFIG SET.
    ConfigSet,
    /// BGSAVE.
    Bgsave,
    /// LASTSAVE.
    Lastsave,
    /// MULTI, EXEC: to read the switch and set it in one.
    Multi,
    /// CONFIG REWRITE: to carry one out for a client while the switch is down.
    ConfigRewrite,
}

/// One row a right.
struct Row {
    name: &'static str,
    /// What ACL SETUSER grants it by.
    grant: &'static str,
    /// Whole words for a dry run, where doing it would change something or be counted.
    dry: &'static str,
}

const fn row(name: &'static str, grant: &'static str, dry: &'static str) -> Row {
    Row { name, grant, dry }
}

/// In the order of [`Right`].
const ROWS: [Row; 9] = [
    row("ping", "+ping", "PING"),
    row("info", "+info", ""),
    row("role", "+role", ""),
    row("config-get", "+config|get", ""),
    row("config-set", "+config|set", "CONFIG SET stop-writes-on-bgsave-error yes"),
    row("bgsave", "+bgsave", "BGSAVE"),
    row("lastsave", "+lastsave", ""),
    row("multi", "+multi +exec +discard", ""),
    row("config-rewrite", "+config|rewrite", "CONFIG REWRITE"),
];

/// What an error says of the right to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// It ran, or failed for a reason of its own.
    Allowed,
    /// This user may not.
    Forbidden,
    /// Nobody may: renamed, or withdrawn by who runs the server.
    Withdrawn,
    /// It says nothing of the right.
    Silent,
}

const WITHDRAWN: [&str; 6] = [
    "unknown command",
    "unknown subcommand",
    "Unknown subcommand",
    "not allowed",
    "not supported",
    "is disabled",
];

impl Word {
    /// Of an error (`server.c:processCommand`, `acl.c:getAclErrorMessage`; managed services have words of their own).
    pub fn of_error(why: &str) -> Word {
        if why.starts_with("NOPERM") {
            Word::Forbidden
        } else if WITHDRAWN.iter().any(|words| why.contains(words)) {
            Word::Withdrawn
        } else if why.starts_with("MISCONF") {
            // Denied after the check of permissions.
            Word::Allowed
        } else {
            Word::Silent
        }
    }
}

/// See the module's page.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Rights {
    each: [Fact<bool>; ROWS.len()],
    /// Those that nobody has.
    withdrawn: [bool; ROWS.len()],
}

impl Rights {
    /// Those that only a dry run tells, and its words.
    pub const DRY: [Right; 4] = [Right::Ping, Right::ConfigSet, Right::Bgsave, Right::ConfigRewrite];

    /// The words of a dry run.
    pub fn dry(right: Right) -> &'static str {
        ROWS[right as usize].dry
    }

    /// May we? Unknown when nobody said.
    pub fn may(&self, right: Right) -> &Fact<bool> {
        &self.each[right as usize]
    }

    /// Known to be denied.
    pub fn denied(&self, right: Right) -> bool {
        self.may(right).is(false)
    }

    /// Takes in what was said of one.
    pub fn learn(&mut self, right: Right, word: Word) {
        let at = right as usize;
        match word {
            Word::Allowed => (self.each[at], self.withdrawn[at]) = (Fact::Known(true), false),
            Word::Forbidden => (self.each[at], self.withdrawn[at]) = (Fact::Known(false), false),
            Word::Withdrawn => (self.each[at], self.withdrawn[at]) = (Fact::Known(false), true),
            Word::Silent => {}
        }
    }

    /// Takes over what `newer` knows.
    pub fn update(&mut self, newer: &Rights) {
        for at in 0..ROWS.len() {
            if newer.each[at].known().is_some() {
                self.each[at] = newer.each[at].clone();
                self.withdrawn[at] = newer.withdrawn[at];
            }
        }
    }

    /// Names of those we have, and of those we have not.
    pub fn names(&self) -> (Vec<&'static str>, Vec<&'static str>) {
        (self.of(|may| may.is(true)), self.of(|may| may.is(false)))
    }

    fn of(&self, so: impl Fn(&Fact<bool>) -> bool) -> Vec<&'static str> {
        ROWS.iter().zip(&self.each).filter(|(_, may)| so(may)).map(|(row, _)| row.name).collect()
    }

    /// For the log.
    pub fn line(&self) -> String {
        let (may, may_not) = self.names();
        let unknown = self.of(|may| may.known().is_none());
        let parts = [("may", may), ("may not", may_not), ("not known", unknown)];
        let told = parts.iter().filter(|(_, names)| !names.is_empty());
        told.map(|(what, names)| format!("{what}: {}", names.join(", "))).collect::<Vec<_>>().join("; ")
    }

    /// What ACL SETUSER would have to grant: the rights that this user lacks and others may have. Who never rewrites a
    /// file through us need not give that right: it is asked for when it is missed.
    pub fn lacking(&self) -> Vec<&'static str> {
        let needed = |at: usize| at != Right::ConfigRewrite as usize;
        let lacks = |at: &usize| needed(*at) && self.each[*at].is(false) && !self.withdrawn[*at];
        (0..ROWS.len()).filter(lacks).map(|at| ROWS[at].grant).collect()
    }

    /// Is a command gone that others have, so that it may have another name?
    pub fn is_withdrawn(&self, right: Right) -> bool {
        self.withdrawn[right as usize]
    }

    /// Who runs such a server, by what is withdrawn.
    pub fn product(&self) -> Option<&'static str> {
        let fits = |product: &&Product| {
            product.without.iter().all(|right| self.is_withdrawn(*right))
                && product.with.iter().all(|right| self.may(*right).is(true))
        };
        PRODUCTS.iter().find(fits).map(|product| product.name)
    }

    /// Why the switch cannot be lowered, if that is known.
    pub fn blocked(&self) -> Option<String> {
        let needed = [Right::ConfigGet, Right::ConfigSet, Right::Multi];
        let denied: Vec<_> =
            needed.into_iter().filter(|r| self.denied(*r)).map(|r| ROWS[r as usize].name).collect();
        (!denied.is_empty()).then(|| match self.product() {
            Some(product) => format!("bgsafe may not: {}; this looks like {product}", denied.join(", ")),
            None => format!("bgsafe may not: {}", denied.join(", ")),
        })
    }
}

/// A managed service, known by what it withdraws.
struct Product {
    name: &'static str,
    without: &'static [Right],
    with: &'static [Right],
}

/// First row that fits. After each service's own list of restricted commands.
const PRODUCTS: [Product; 3] = [
    Product {
        name: "Google Memorystore",
        without: &[Right::ConfigSet, Right::Bgsave, Right::Lastsave],
        with: &[Right::Info],
    },
    Product {
        name: "Amazon ElastiCache",
        without: &[Right::ConfigGet, Right::ConfigSet, Right::Bgsave],
        with: &[Right::Info, Right::Lastsave],
    },
    Product { name: "Redis Cloud", without: &[Right::Bgsave], with: &[Right::Info, Right::ConfigGet] },
];

#[cfg(test)]
mod tests {
    use super::*;
    use Right::*;

    fn rights(words: &[(Right, Word)]) -> Rights {
        let mut rights = Rights::default();
        for (right, word) in words {
            rights.learn(*right, *word);
        }
        rights
    }

    #[test]
    fn nothing_is_known_that_was_not_said() {
        let rights = Rights::default();
        assert_eq!((rights.names(), rights.blocked(), rights.product()), ((vec![], vec![]), None, None));
        assert!(rights.lacking().is_empty() && rights.line().starts_with("not known: ping, info"));
        for (error, word) in [
            (
                "NOPERM this user has no permissions to run the 'config' command or its subcommand",
                Word::Forbidden,
            ),
            ("NOPERM User x has no permissions to run the 'bgsave' command", Word::Forbidden),
            ("ERR unknown command `CONFIG`, with args beginning with: `GET`", Word::Withdrawn),
            ("ERR Unknown subcommand or wrong number of arguments for 'set'", Word::Withdrawn),
            ("ERR command is not allowed", Word::Withdrawn),
            ("MISCONF Redis is configured to save", Word::Allowed),
            ("LOADING Redis is loading the dataset in memory", Word::Silent),
            ("NOAUTH Authentication required.", Word::Silent),
            ("ERR Background save already in progress", Word::Silent),
        ] {
            assert_eq!(Word::of_error(error), word, "{error}");
        }
    }

    #[test]
    fn what_is_lacking_is_granted_by_its_exact_words() {
        let rights = rights(&[
            (Ping, Word::Allowed),
            (ConfigSet, Word::Forbidden),
            (Bgsave, Word::Forbidden),
            (Multi, Word::Forbidden),
            (Lastsave, Word::Withdrawn),
            (Role, Word::Silent),
        ]);
        assert_eq!(rights.lacking(), ["+config|set", "+bgsave", "+multi +exec +discard"]);
        assert_eq!(
            rights.line(),
            "may: ping; may not: config-set, bgsave, lastsave, multi; not known: info, role, config-get, config-rewrite"
        );
        assert_eq!(rights.blocked().as_deref(), Some("bgsafe may not: config-set, multi"));
    }

    #[test]
    fn services_are_known_by_what_they_withdraw_and_by_nothing_less() {
        let gone = |rights: &[Right]| rights.iter().map(|r| (*r, Word::Withdrawn)).collect::<Vec<_>>();
        let here = |rights: &[Right]| rights.iter().map(|r| (*r, Word::Allowed)).collect::<Vec<_>>();
        for (without, with, product) in [
            (&[ConfigGet, ConfigSet, Bgsave][..], &[Info, Lastsave, Ping][..], Some("Amazon ElastiCache")),
            (&[ConfigGet, ConfigSet, Bgsave, Lastsave], &[Info, Ping], Some("Google Memorystore")),
            (&[Bgsave], &[Info, ConfigGet, Ping], Some("Redis Cloud")),
            (&[ConfigGet, ConfigSet], &[Info, Bgsave], None),
            (&[ConfigGet, ConfigSet, Bgsave], &[Info], None),
        ] {
            let rights = rights(&[gone(without), here(with)].concat());
            assert_eq!(rights.product(), product, "{without:?}");
            assert!(rights.lacking().is_empty());
        }
        let denied = [ConfigGet, ConfigSet, Bgsave].map(|right| (right, Word::Forbidden));
        let rights = rights(&[denied.to_vec(), here(&[Info, Lastsave])].concat());
        assert_eq!(rights.product(), None, "an ACL is no product");
    }

    #[test]
    fn what_is_newer_and_known_wins() {
        let mut rights = rights(&[(ConfigSet, Word::Withdrawn), (Bgsave, Word::Allowed)]);
        let mut newer = Rights::default();
        newer.learn(ConfigSet, Word::Allowed);
        rights.update(&newer);
        assert!(
            rights.may(ConfigSet).is(true) && rights.may(Bgsave).is(true) && !rights.is_withdrawn(ConfigSet)
        );
    }
}
