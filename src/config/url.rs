//! Addresses and server URLs: the closed little grammar that redis-cli, redis-py and their kin
//! share. Refuses to know DNS, files and options. No error quotes more of a URL than its scheme:
//! the rest may hold a password.
//!
//! Invariant: what [`Upstream`]'s writer [`Upstream::to_url`] writes, [`upstream`] reads back.

use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{Address, Secret};

/// redis-server's own default (`config.c`, `port`).
const PORT: u16 = 6379;
/// Sentinel's (`config.c`, REDIS_SENTINEL_PORT).
pub const SENTINEL_PORT: u16 = 26379;

/// Kept as they are in a written URL: RFC 3986's unreserved characters, and `/` in a path.
const WORD: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &WORD.remove(b'/');

/// A server, and what its URL said about the control connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Where it is.
    pub address: Address,
    /// Before the colon.
    pub user: Option<String>,
    /// After it.
    pub password: Option<Secret>,
    /// Whose primary it is, when Sentinel says where that is: the address is that of the first Sentinel then.
    pub group: Option<Group>,
}

/// Servers of which one is the primary, and the Sentinels that say which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// `host:port` each, at least one.
    pub sentinels: Vec<String>,
    /// What they call it.
    pub name: String,
}

/// How a scheme is read. `NotYet` says why, and what to do instead.
enum Scheme {
    Tcp,
    Unix,
    Sentinel,
    NotYet(&'static str),
}

const TLS: &str = "this version does not speak TLS to the server: \
    use redis:// over a private network, or put a TLS tunnel such as stunnel between";

const SCHEMES: [(&str, Scheme); 10] = [
    ("redis", Scheme::Tcp),
    ("valkey", Scheme::Tcp),
    ("unix", Scheme::Unix),
    ("redis+unix", Scheme::Unix),
    ("valkey+unix", Scheme::Unix),
    ("rediss", Scheme::NotYet(TLS)),
    ("valkeys", Scheme::NotYet(TLS)),
    ("redis+sentinel", Scheme::Sentinel),
    ("redis-sentinel", Scheme::Sentinel),
    ("valkey+sentinel", Scheme::Sentinel),
];

/// Reads `--upstream`.
pub fn upstream(text: &str) -> Result<Upstream, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        let address = match text.strip_prefix("unix:") {
            Some(path) => Address::Unix(socket_path(path)?),
            None if text.contains('@') => {
                return Err("a user or password needs a scheme: redis://user:password@host:port".into());
            }
            None => Address::Tcp(host_port(text, Some(PORT))?),
        };
        return Ok(Upstream { address, user: None, password: None, group: None });
    };
    let known = SCHEMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(scheme));
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
    database_only(query)?;
    match known {
        Some((_, Scheme::NotYet(why))) => Err(format!("`{scheme}://`: {why}")),
        None => Err(format!("`{scheme}://` is no scheme bgsafe knows; use redis:// or unix://")),
        Some((_, Scheme::Tcp)) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            database(path)?;
            let (user, password, host) = user_info(authority)?;
            Ok(Upstream { address: Address::Tcp(host_port(host, Some(PORT))?), user, password, group: None })
        }
        Some((_, Scheme::Sentinel)) => {
            let named = "after the Sentinels comes their name for the group: redis+sentinel://host:26379,host:26379/name";
            let (authority, path) = rest.split_once('/').ok_or(named)?;
            let (name, db) = path.split_once('/').unwrap_or((path, ""));
            database(db)?;
            let name = Some(decode(name)?).filter(|name| !name.is_empty()).ok_or(named)?;
            let (user, password, hosts) = user_info(authority)?;
            let sentinels: Result<Vec<_>, _> =
                hosts.split(',').map(|host| host_port(host, Some(SENTINEL_PORT))).collect();
            let sentinels = sentinels?;
            let address = Address::Tcp(sentinels[0].clone());
            Ok(Upstream { address, user, password, group: Some(Group { sentinels, name }) })
        }
        Some((_, Scheme::Unix)) => {
            let slash = rest.find('/').ok_or("a socket needs an absolute path: unix:///run/redis.sock")?;
            let (authority, path) = rest.split_at(slash);
            let (user, password, host) = user_info(authority)?;
            if !host.is_empty() {
                return Err("a socket has no host: write three slashes, unix:///run/redis.sock".into());
            }
            Ok(Upstream { address: Address::Unix(socket_path(&decode(path)?)?), user, password, group: None })
        }
    }
}

/// Reads one `--listen`: `host:port`, `unix:/path` or `unix:///path`.
pub fn listen(text: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Address::Unix(socket_path(path.strip_prefix("//").unwrap_or(path))?));
    }
    if text.contains("://") {
        return Err("write host:port or unix:/path, without a scheme".into());
    }
    Ok(Address::Tcp(host_port(text, None)?))
}

/// Reads `host:port`, `[ipv6]:port`; without a port only where there is a default.
pub fn host_port(text: &str, default: Option<u16>) -> Result<String, String> {
    let (host, port) = match text.rsplit_once(':') {
        _ if text.ends_with(']') => (text, None),
        Some((host, _)) if host.contains(':') && !host.ends_with(']') => {
            return Err("an IPv6 address stands in brackets: [::1]:6379".into());
        }
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let port = match (port, default) {
        (Some(port), _) => port
            .parse()
            .ok()
            .filter(|_| port.bytes().all(|b| b.is_ascii_digit()))
            .ok_or("the port must be a number from 0 to 65535")?,
        (None, Some(default)) => default,
        (None, None) => return Err("the port is missing: write host:port".into()),
    };
    if host.is_empty() {
        return Err("the host is missing: write 127.0.0.1:port, or 0.0.0.0:port for every interface".into());
    }
    let named = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let sound = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.bytes().all(named),
    };
    if !sound {
        return Err(
            "the host has a character no host name has (percent-encode a password's @, : and /)".into()
        );
    }
    Ok(format!("{host}:{port}"))
}

impl Upstream {
    /// The URL again. `Some(mask)` stands in the password's place.
    pub fn to_url(&self, mask: Option<&str>) -> String {
        let mut info = String::new();
        if let Some(user) = &self.user {
            info += &utf8_percent_encode(user, WORD).to_string();
        }
        if let Some(password) = &self.password {
            info.push(':');
            match mask {
                Some(mask) => info += mask,
                None => info += &utf8_percent_encode(&password.0, WORD).to_string(),
            }
        }
        if !info.is_empty() {
            info.push('@');
        }
        if let Some(Group { sentinels, name }) = &self.group {
            return format!(
                "redis+sentinel://{info}{}/{}",
                sentinels.join(","),
                utf8_percent_encode(name, WORD)
            );
        }
        match &self.address {
            Address::Tcp(at) => format!("redis://{info}{at}"),
            Address::Unix(path) => {
                format!("unix://{info}{}", utf8_percent_encode(&path.to_string_lossy(), PATH))
            }
        }
    }
}

type UserInfo<'a> = (Option<String>, Option<Secret>, &'a str);

/// `user:password@host`. A lone word is the password to redis-cli and the user to redis-py: it is
/// read as the user, and the builder asks for the password then.
fn user_info(authority: &str) -> Result<UserInfo<'_>, String> {
    let Some((info, host)) = authority.rsplit_once('@') else {
        return Ok((None, None, authority));
    };
    let some = |text: &str| Ok::<_, String>(Some(decode(text)?).filter(|t| !t.is_empty()));
    Ok(match info.split_once(':') {
        Some((user, password)) => (some(user)?, some(password)?.map(Secret), host),
        None => (some(info)?, None, host),
    })
}

fn decode(text: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at + 1..at + 3).is_some_and(|h| h.iter().all(u8::is_ascii_hexdigit));
    if (0..bytes.len()).any(|at| bytes[at] == b'%' && !hex(at)) {
        return Err("a % must be followed by two hexadecimal digits; write a literal % as %25".into());
    }
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| "a percent-encoded word is not UTF-8".into())
}

/// Persistence belongs to the whole server, so a database number is accepted and changes nothing.
fn database(path: &str) -> Result<(), String> {
    match path.bytes().all(|b| b.is_ascii_digit()) {
        true => Ok(()),
        false => Err("after the host only a database number may follow, redis://host:6379/0 (a password's / is written \
                      %2F)"
            .into()),
    }
}

fn database_only(query: &str) -> Result<(), String> {
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("db", number)) => database(number)?,
            _ => return Err("of a URL's query only `db=` is known here: remove the others".into()),
        }
    }
    Ok(())
}

/// `sun_path` holds 108 bytes with its end mark (104 on the BSDs and macOS).
fn socket_path(text: &str) -> Result<PathBuf, String> {
    const LONGEST: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
    if !Path::new(text).is_absolute() {
        return Err("a socket needs an absolute path: unix:/run/redis.sock".into());
    }
    if text.len() > LONGEST || text.contains('\0') {
        return Err(format!("a socket's path has at most {LONGEST} bytes and no NUL"));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tcp(at: &str) -> Address {
        Address::Tcp(at.into())
    }

    #[test]
    fn urls_read_as_redis_people_write_them() {
        let unix = || Address::Unix("/run/redis.sock".into());
        let table: [(&str, Address, Option<&str>, Option<&str>); 17] = [
            ("redis://h", tcp("h:6379"), None, None),
            ("redis://h:7", tcp("h:7"), None, None),
            ("REDIS://h:7/", tcp("h:7"), None, None),
            ("valkey://h:7/3", tcp("h:7"), None, None),
            ("redis://h?db=2", tcp("h:6379"), None, None),
            ("redis://[::1]", tcp("[::1]:6379"), None, None),
            ("redis://[::1]:7/0", tcp("[::1]:7"), None, None),
            ("redis://:p@h", tcp("h:6379"), None, Some("p")),
            ("redis://u:p%40%3a%2F@h", tcp("h:6379"), Some("u"), Some("p@:/")),
            ("redis://u:p:q@h", tcp("h:6379"), Some("u"), Some("p:q")),
            ("redis://u@h", tcp("h:6379"), Some("u"), None),
            ("unix:///run/redis.sock?db=1", unix(), None, None),
            ("redis+unix://u:p@/run/redis.sock", unix(), Some("u"), Some("p")),
            ("unix:/run/redis.sock", unix(), None, None),
            ("localhost:6379", tcp("localhost:6379"), None, None),
            ("10.0.0.1", tcp("10.0.0.1:6379"), None, None),
            ("[fe80::1]:7", tcp("[fe80::1]:7"), None, None),
        ];
        for (text, address, user, password) in table {
            let read = upstream(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let password = password.map(|p| Secret(p.into()));
            assert_eq!(
                read,
                Upstream { address, user: user.map(Into::into), password, group: None },
                "{text}"
            );
        }
    }

    #[test]
    fn a_group_is_named_by_its_sentinels() {
        for scheme in ["redis+sentinel", "redis-sentinel", "valkey+sentinel"] {
            let read = upstream(&format!("{scheme}://u:p@h1,[::1]:7/my%20group/0")).expect(scheme);
            let group =
                Group { sentinels: vec!["h1:26379".into(), "[::1]:7".into()], name: "my group".into() };
            assert_eq!((read.group, read.user.as_deref()), (Some(group), Some("u")));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_cure_and_without_the_password() {
        for (text, says) in [
            ("rediss://:hush@h", "does not speak TLS"),
            ("redis+sentinel://h:26379", "name for the group"),
            ("redis+sentinel://h:26379/", "name for the group"),
            ("redis+sentinel://:hush@h:x/name", "port must be a number"),
            ("redis+sentinel:///name", "host is missing"),
            ("http://h", "is no scheme"),
            ("redis://", "host is missing"),
            ("redis://:hush@", "host is missing"),
            ("redis://h:port", "port must be a number"),
            ("redis://h:+7", "port must be a number"),
            ("redis://h:70000", "port must be a number"),
            ("redis://::1:6379", "brackets"),
            ("redis://h/zero", "database number"),
            ("redis://h?password=hush", "only `db=`"),
            ("redis://:hush%4@h", "two hexadecimal"),
            ("redis://:hush%@h", "two hexadecimal"),
            ("redis://:hush%ff@h", "not UTF-8"),
            ("redis://:hush/more@h", "written %2F"),
            ("u:hush@h:1", "needs a scheme"),
            ("unix://run/redis.sock", "three slashes"),
            ("unix:redis.sock", "absolute path"),
            ("h h:1", "character no host name has"),
        ] {
            let error = upstream(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
            assert!(!error.contains("hush"), "{text}: {error}");
        }
    }

    #[test]
    fn listening_needs_a_host_and_a_port() {
        assert_eq!(listen("0.0.0.0:6380"), Ok(tcp("0.0.0.0:6380")));
        assert_eq!(listen("unix:/run/b.sock"), Ok(Address::Unix("/run/b.sock".into())));
        assert_eq!(listen("unix:///run/b.sock"), Ok(Address::Unix("/run/b.sock".into())));
        for (text, says) in [
            ("6380", "port is missing"),
            (":6380", "host is missing"),
            ("redis://h:1", "without a scheme"),
            ("unix:b.sock", "absolute"),
        ] {
            let error = listen(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    fn any_address() -> impl Strategy<Value = Address> {
        prop_oneof![
            ("[a-z][a-z0-9-]{0,20}", any::<u16>()).prop_map(|(h, p)| Address::Tcp(format!("{h}:{p}"))),
            any::<(std::net::Ipv6Addr, u16)>().prop_map(|(h, p)| Address::Tcp(format!("[{h}]:{p}"))),
            "(/[a-z %?@#é]{1,10}){1,3}".prop_map(|p| Address::Unix(p.into())),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            address in any_address(),
            user in proptest::option::of(".{1,12}"),
            password in proptest::option::of(".{1,12}"),
            name in proptest::option::of(".{1,12}"),
        ) {
            let group = name.map(|name| Group { sentinels: vec!["h1:26379".into(), "[::1]:7".into()], name });
            let address = if group.is_some() { tcp("h1:26379") } else { address };
            let one = Upstream { address, user, password: password.map(Secret), group };
            prop_assert_eq!(upstream(&one.to_url(None)), Ok(one));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (upstream(&text), listen(&text), upstream(&format!("redis://{text}")));
        }
    }
}
