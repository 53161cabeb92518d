//! Words for a terminal: colour where it is wanted, numbers as people read them. Decides nothing.
//!
//! Invariant: text that came from a server or a file passes [`clean`] before it reaches a terminal.

use std::io::IsTerminal as _;

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub struct Paint(pub bool);

/// How much a word should worry the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// As it should be.
    Good,
    /// Worth a look.
    Busy,
    /// Somebody must act.
    Bad,
    /// Secondary.
    Faint,
    /// A heading.
    Bold,
}

impl Paint {
    /// For standard output: a terminal and no `NO_COLOR`, or `CLICOLOR_FORCE`.
    pub fn stdout() -> Paint {
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let forced = set("CLICOLOR_FORCE") && std::env::var_os("CLICOLOR_FORCE").is_some_and(|v| v != "0");
        Paint(!set("NO_COLOR") && (forced || std::io::stdout().is_terminal()))
    }

    /// `text` in that mood's colour, padded to `width` first so that columns stay straight.
    pub fn word(self, mood: Mood, text: &str, width: usize) -> String {
        let code = match mood {
            Mood::Good => "32",
            Mood::Busy => "33",
            Mood::Bad => "1;31",
            Mood::Faint => "2",
            Mood::Bold => "1",
        };
        match self.0 {
            true => format!("\x1b[{code}m{text:width$}\x1b[0m"),
            false => format!("{text:width$}"),
        }
    }
}

/// Without control characters: a server's words must not drive the terminal.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// `42s`, `3h 12m`, `2d 1h`.
pub fn seconds(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs}s"),
        60..3_600 => format!("{}m {}s", secs / 60, secs % 60),
        3_600..86_400 => format!("{}h {}m", secs / 3_600, secs % 3_600 / 60),
        _ => format!("{}d {}h", secs / 86_400, secs % 86_400 / 3_600),
    }
}

/// `12 ms`, `3.4 s`, `2m 5s`.
pub fn millis(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1e3),
        _ => seconds(ms / 1_000),
    }
}

/// `17 B`, `1.5 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let (mut value, mut unit) = (n as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_read_them() {
        let secs = [(0, "0s"), (59, "59s"), (61, "1m 1s"), (11_520, "3h 12m"), (176_400, "2d 1h")];
        assert!(secs.iter().all(|(n, text)| seconds(*n) == *text));
        let ms = [(12, "12 ms"), (3_400, "3.4 s"), (125_000, "2m 5s")];
        assert!(ms.iter().all(|(n, text)| millis(*n) == *text));
        let sizes = [(17, "17 B"), (1536, "1.5 KiB"), (64 << 20, "64.0 MiB"), (u64::MAX, "16384.0 PiB")];
        assert!(sizes.iter().all(|(n, text)| bytes(*n) == *text));
    }

    #[test]
    fn colour_keeps_columns_straight_and_strangers_drive_no_terminal() {
        assert_eq!(Paint(false).word(Mood::Good, "up", 4), "up  ");
        assert_eq!(Paint(true).word(Mood::Good, "up", 4), "\x1b[32mup  \x1b[0m");
        assert_eq!(clean("a\x1b[2Jb\n"), "a?[2Jb?");
    }
}
