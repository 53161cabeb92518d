//! The durable note of the restore we owe: one line of JSON and a checksum, padded to a sector.
//!
//! Refuses to know: files, and when the note is written. Invariant: whatever bytes come in, decode
//! gives the very note that was encoded, `None` for a blank page, or an error; a torn or garbled
//! note never reads as another one, and nothing panics.

use serde::{Deserialize, Serialize};

use super::aof::APPENDONLY;
use super::dialogue::KNOB;

/// What is owed, to whom, since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debt {
    /// Of this layout.
    pub version: u32,
    /// The server, without credentials.
    pub address: String,
    /// The configured upstream of the bgsafe that owes it: the server, or the one through which it was found.
    #[serde(default)]
    pub upstream: String,
    /// The server process whose switch was lowered. Another process owes us nothing.
    pub run_id: String,
    /// The setting that was changed. Not written where it is the switch: then the layout is the first one, which
    /// every bgsafe reads.
    #[serde(default = "switch", skip_serializing_if = "is_switch")]
    pub setting: String,
    /// The value to put back.
    pub owed: String,
    /// Unix milliseconds.
    pub since_ms: u64,
    /// The incident it belongs to.
    pub incident: String,
}

/// The layout of a note about the switch.
pub const VERSION: u32 = 1;
/// … about another setting: a bgsafe that knows of none refuses it by name.
pub const VERSION_SETTING: u32 = 2;

fn switch() -> String {
    KNOB.into()
}

fn is_switch(setting: &str) -> bool {
    setting == KNOB
}

impl Debt {
    /// Is the append-only file owed, not the switch?
    pub fn is_aof(&self) -> bool {
        self.setting == APPENDONLY
    }
}

/// Notes are padded to this, so that one overwrites another completely, in one sector.
pub const SECTOR: usize = 512;

/// Why a note cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DebtError {
    /// Not a note, or part of one.
    #[error("bgsafe: the debt note is torn or garbled")]
    Garbled,
    /// Written by a later bgsafe.
    #[error("bgsafe: the debt note has version {0}, this bgsafe reads {VERSION} and {VERSION_SETTING}")]
    Version(u32),
}

/// `sum json\n`, then blanks up to a multiple of [`SECTOR`].
pub fn encode(debt: &Debt) -> Vec<u8> {
    // Strings and numbers only: serde_json cannot fail on them.
    let json = serde_json::to_string(debt).expect("a struct of strings and numbers serializes");
    let mut page = format!("{:016x} {json}\n", fnv1a(json.as_bytes())).into_bytes();
    page.resize(page.len().next_multiple_of(SECTOR), b' ');
    page
}

/// The note on `page`; `None` when the page is blank (or only zeros: preallocated, never written).
pub fn decode(page: &[u8]) -> Result<Option<Debt>, DebtError> {
    if page.iter().all(|b| matches!(b, 0 | b' ' | b'\n')) {
        return Ok(None);
    }
    let end = memchr::memchr(b'\n', page).ok_or(DebtError::Garbled)?;
    let line = std::str::from_utf8(&page[..end]).map_err(|_| DebtError::Garbled)?;
    let (sum, json) = line.split_once(' ').ok_or(DebtError::Garbled)?;
    if sum.len() != 16 || u64::from_str_radix(sum, 16) != Ok(fnv1a(json.as_bytes())) {
        return Err(DebtError::Garbled);
    }
    let debt: Debt = serde_json::from_str(json).map_err(|_| DebtError::Garbled)?;
    match debt.version {
        VERSION => Ok(Some(debt)),
        VERSION_SETTING if debt.is_aof() => Ok(Some(debt)),
        later => Err(DebtError::Version(later)),
    }
}

/// FNV-1a, 64 bits: it guards against torn writes, not against forgers, who could as well type
/// CONFIG SET.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debt() -> Debt {
        Debt {
            version: VERSION,
            address: "127.0.0.1:6379".into(),
            upstream: "127.0.0.1:6379".into(),
            run_id: "a".repeat(40),
            setting: KNOB.into(),
            owed: "yes".into(),
            since_ms: 1_795_342_500_000,
            incident: "20261122T101500Z-1f3a".into(),
        }
    }

    #[test]
    fn a_note_comes_back_as_it_went_in() {
        let page = encode(&debt());
        assert_eq!(page.len() % SECTOR, 0);
        assert_eq!(decode(&page), Ok(Some(debt())));
        assert_eq!(decode(&[0; 512]), Ok(None));
        assert_eq!(decode(b"    \n"), Ok(None));
    }

    #[test]
    fn every_tear_and_every_flipped_byte_is_noticed() {
        let page = encode(&debt());
        let end = memchr::memchr(b'\n', &page).unwrap();
        for cut in 1..=end {
            for filler in [b' ', 0, b'x'] {
                let mut torn = page.clone();
                torn[cut..].fill(filler);
                assert_ne!(decode(&torn).ok().flatten(), Some(debt()), "cut at {cut}");
                let mut head = page.clone();
                head[..cut].fill(filler);
                assert!(decode(&head).is_err() || decode(&head) == Ok(None), "head of {cut}");
            }
        }
        for at in 0..end {
            let mut flipped = page.clone();
            flipped[at] ^= 1;
            assert!(decode(&flipped).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_later_layout_is_refused_by_name() {
        for version in [2, 3] {
            assert_eq!(decode(&encode(&Debt { version, ..debt() })), Err(DebtError::Version(version)));
        }
    }

    /// Written by an earlier bgsafe, and by this one so that an earlier one can read it.
    #[test]
    fn a_note_about_the_switch_has_the_first_layout() {
        let json = format!(
            r#"{{"version":1,"address":"127.0.0.1:6379","run_id":"{}","owed":"yes","since_ms":1795342500000,"incident":"20261122T101500Z-1f3a"}}"#,
            "a".repeat(40)
        );
        let page = format!("{:016x} {json}\n", fnv1a(json.as_bytes()));
        assert_eq!(decode(page.as_bytes()), Ok(Some(Debt { upstream: String::new(), ..debt() })));
        assert!(!String::from_utf8_lossy(&encode(&debt())).contains("setting"));
    }

    #[test]
    fn a_note_about_another_setting_comes_back_too() {
        let aof = Debt { version: VERSION_SETTING, setting: APPENDONLY.into(), ..debt() };
        let page = encode(&aof);
        assert_eq!((page.len(), decode(&page)), (SECTOR, Ok(Some(aof))));
    }
}
