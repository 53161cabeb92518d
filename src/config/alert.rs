//! Where alerts are sent: an `http://` URL into host, path and credentials. Refuses to know DNS and HTTP.
//!
//! Invariant: user, password, path and query are shown to nobody: web hooks keep their secrets in any of them.

use percent_encoding::percent_decode_str;

use super::Secret;
use super::url::host_port;

/// http's own.
const PORT: u16 = 80;

/// A URL that takes alerts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    /// What the request's Host header says: without the port where it is http's own.
    pub host: String,
    /// Path and query, `/` at the least.
    pub path: Secret,
    /// `user:password`, decoded.
    pub credentials: Option<Secret>,
}

/// Reads `--alert-url`. No complaint quotes more of it than its scheme.
pub fn target(text: &str) -> Result<Target, String> {
    let (scheme, rest) = text.split_once("://").ok_or("write http://host:port/path")?;
    match scheme.to_ascii_lowercase().as_str() {
        "http" => {}
        "https" => {
            return Err(
                "`https://`: this version does not speak TLS; use http:// inside a private network, or \
                 --alert-command with curl"
                    .into(),
            );
        }
        _ => return Err(format!("`{scheme}://`: only http:// takes alerts")),
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let path = path.split('#').next().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    if path.bytes().any(|b| !b.is_ascii_graphic()) {
        return Err("the path has a character that must be percent-encoded".into());
    }
    let (info, host) =
        authority.rsplit_once('@').map_or((None, authority), |(info, host)| (Some(info), host));
    let credentials = info.map(|info| percent_decode_str(info).decode_utf8_lossy().into_owned());
    let credentials = credentials.filter(|info| !info.is_empty()).map(|info| match info.contains(':') {
        true => Secret(info),
        false => Secret(info + ":"),
    });
    let address = host_port(host, Some(PORT))?;
    Ok(Target { address, host: host.to_owned(), path: Secret(path), credentials })
}

impl Target {
    /// For logs and `check-config`.
    pub fn masked(&self, mask: &str) -> String {
        let info = if self.credentials.is_some() { format!("{mask}@") } else { String::new() };
        let path = if self.path.0 == "/" { "/" } else { &format!("/{mask}") };
        format!("http://{info}{}{path}", self.address)
    }

    /// The Authorization header's value (RFC 7617).
    pub fn authorization(&self) -> Option<String> {
        self.credentials.as_ref().map(|Secret(pair)| format!("Basic {}", base64(pair.as_bytes())))
    }
}

/// RFC 4648, with padding. Ten lines of ours for one header are less than a crate.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |word, byte| (word << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * at)) as usize & 63];
            out.push(if at <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_its_parts_and_shows_no_secret() {
        for (text, address, path, authorization, shown) in [
            ("http://h", "h:80", "/", None, "http://h:80/"),
            ("HTTP://h:9093/api/v1?token=hush", "h:9093", "/api/v1?token=hush", None, "http://h:9093/***"),
            ("http://h?hush", "h:80", "/?hush", None, "http://h:80/***"),
            (
                "http://u:hu%40sh@[::1]:1/#x",
                "[::1]:1",
                "/",
                Some("Basic dTpodUBzaA=="),
                "http://***@[::1]:1/",
            ),
            ("http://hush@h/", "h:80", "/", Some("Basic aHVzaDo="), "http://***@h:80/"),
        ] {
            let read = target(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((read.address.as_str(), read.path.0.as_str()), (address, path), "{text}");
            assert_eq!(read.authorization().as_deref(), authorization, "{text}");
            assert_eq!(read.masked("***"), shown);
            assert!(!format!("{read:?}").contains("hush") && !format!("{read:?}").contains("hu@sh"));
        }
        assert_eq!(
            ["", "f", "fo", "foo", "foob"].map(|s| base64(s.as_bytes())),
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]
        );
    }

    #[test]
    fn what_takes_no_alerts_is_refused_with_the_cure() {
        for (text, says) in [
            ("https://:hush@h/", "does not speak TLS"),
            ("ftp://hush@h", "only http://"),
            ("h:80/hush", "write http://"),
            ("http:///hush", "host is missing"),
            ("http://hush@h:port", "port must be a number"),
            ("http://h/hush hush", "percent-encoded"),
        ] {
            let error = target(text).expect_err(text);
            assert!(error.contains(says) && !error.contains("hush"), "{text}: {error}");
        }
    }
}
