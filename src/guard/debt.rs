//! The durable note of the restore we owe: one line of JSON and a checksum, padded to a sector.
//!
//! Refuses to know: files, and when the note is written. Invariant: whatever bytes come in, decode
//! gives the very note that was encoded, `None` for a blank page, or an error; a torn or garbled
//! note never reads as another one, and nothing panics.

use serde::{Deserialize, Serialize};

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
    /// The value to put back.
    pub owed: String,
    /// Unix milliseconds.
    pub since_ms: u64,
    /// The incident it belongs to.
    pub incident: String,
}

/// The layout written today.
pub const VERSION: u32 = 1;

/// Notes are padded to this, so that one overwrites another completely, in one sector.
pub const SECTOR: usize = 512;

/// Why a note cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DebtError {
    /// Not a note, or part of one.
    #[error("bgsafe: the debt note is torn or garbled")]
    Garbled,
    /// Written by a later bgsafe.
    #[error("bgsafe: the debt note has version {0}, this bgsafe reads {VERSION}")]
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
    if debt.version != VERSION {
        return Err(DebtError::Version(debt.version));
    }
    Ok(Some(debt))
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
        assert_eq!(decode(&encode(&Debt { version: 2, ..debt() })), Err(DebtError::Version(2)));
    }
}
