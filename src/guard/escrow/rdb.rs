//! Is this stream a whole snapshot? Its first bytes say so, its last opcode does, and the sum of all of it
//! (CRC-64 of Jones) stands behind (`rdb.c:rdbSaveRio`).
//!
//! Refuses to know: what the values are, where the bytes come from and go to. Invariants: memory is bounded; whatever
//! comes in, nothing panics; what is not proved whole is an error.

use crc::{CRC_64_REDIS, Crc, Digest, Table};

static SUM: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);

/// Of the sum at the end.
const TRAILER: usize = 8;
/// In front of it: `rdb.h:RDB_OPCODE_EOF`.
const END: u8 = 0xff;
/// A pair of words about the snapshot: `rdb.h:RDB_OPCODE_AUX`.
const AUX: u8 = 0xfa;
/// What is kept of the beginning, to read such pairs: they come first.
const HEAD_MAX: usize = 1024;
/// Earlier ones have no sum.
const VERSION_LEAST: u32 = 5;

/// Why it is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RdbError {
    /// Does not begin as one.
    #[error("the snapshot does not begin as one")]
    Magic,
    /// Of a layout without a sum.
    #[error("the snapshot has version {0}, which carries no sum")]
    Version(u32),
    /// Ends too early.
    #[error("the snapshot is cut short: its last opcode is missing")]
    Cut,
    /// Bytes were changed on the way.
    #[error("the sum of the snapshot is wrong: {found:016x}, and it says {said:016x}")]
    Sum {
        /// Of its bytes.
        found: u64,
        /// At its end.
        said: u64,
    },
}

/// What is known of a whole one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// All of it.
    pub bytes: u64,
    /// Of its layout.
    pub version: u32,
    /// Was there a sum? The server's `rdbchecksum no` leaves it out.
    pub summed: bool,
    /// Who wrote it: `redis 7.0.15`.
    pub server: Option<String>,
    /// The server's clock when the child began to write, Unix seconds.
    pub ctime: Option<u64>,
}

/// See the module's page.
pub struct Checker {
    digest: Digest<'static, u64, Table<16>>,
    bytes: u64,
    head: Vec<u8>,
    /// The newest bytes: perhaps the sum.
    kept: Vec<u8>,
    /// The one before them.
    last: u8,
}

impl Default for Checker {
    fn default() -> Self {
        Checker { digest: SUM.digest(), bytes: 0, head: Vec::new(), kept: Vec::new(), last: 0 }
    }
}

impl Checker {
    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next bytes in.
    pub fn feed(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        let room = HEAD_MAX - self.head.len();
        self.head.extend_from_slice(&chunk[..chunk.len().min(room)]);
        // What cannot be the sum any more: first of what was kept, then of the chunk.
        let sure = (self.kept.len() + chunk.len()).saturating_sub(TRAILER);
        let old = sure.min(self.kept.len());
        let kept: Vec<u8> = self.kept.drain(..old).collect();
        self.sum(&kept);
        self.sum(&chunk[..sure - old]);
        self.kept.extend_from_slice(&chunk[sure - old..]);
    }

    fn sum(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.last = bytes.last().copied().unwrap_or(self.last);
    }

    /// Is it whole?
    pub fn finish(self) -> Result<Checked, RdbError> {
        let (version, start) = magic(&self.head).ok_or(RdbError::Magic)?;
        if version < VERSION_LEAST {
            return Err(RdbError::Version(version));
        }
        let trailer: [u8; TRAILER] = self.kept.as_slice().try_into().map_err(|_| RdbError::Cut)?;
        if self.last != END || self.bytes < (start + 1 + TRAILER) as u64 {
            return Err(RdbError::Cut);
        }
        let (found, said) = (self.digest.finalize(), u64::from_le_bytes(trailer));
        if said != 0 && said != found {
            return Err(RdbError::Sum { found, said });
        }
        let mut checked =
            Checked { bytes: self.bytes, version, summed: said != 0, server: None, ctime: None };
        checked.read_pairs(&self.head[start..]);
        Ok(checked)
    }
}

/// `REDIS0010`, and from version 80 on `VALKEY080`; both are nine bytes.
fn magic(head: &[u8]) -> Option<(u32, usize)> {
    let digits = head.get(..9)?;
    let digits = digits.strip_prefix(b"REDIS").or_else(|| digits.strip_prefix(b"VALKEY"))?;
    let plain = digits.iter().all(u8::is_ascii_digit);
    Some((std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()?, 9))
}

impl Checked {
    /// The pairs at the beginning. A pair that is not understood ends it: they are only told of.
    fn read_pairs(&mut self, mut head: &[u8]) {
        while let Some((&AUX, rest)) = head.split_first() {
            let Some((name, rest)) = string(rest) else { return };
            let Some((value, rest)) = string(rest) else { return };
            match name.as_str() {
                "redis-ver" => self.server = Some(format!("redis {value}")),
                "valkey-ver" => self.server = Some(format!("valkey {value}")),
                "ctime" => self.ctime = value.parse().ok(),
                _ => {}
            }
            head = rest;
        }
    }
}

/// One string as `rdb.c:rdbSaveRawString` writes it: a length or a small number. Compressed ones are not read.
fn string(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let low = usize::from(first & 0x3f);
    let number = |len: usize| {
        let (digits, rest) = rest.split_at_checked(len)?;
        let mut value = [0; 4];
        value[..len].copy_from_slice(digits);
        // Sign extension of the two shorter forms: nothing that we read is below zero.
        Some((u32::from_le_bytes(value).to_string(), rest))
    };
    let (len, rest) = match (first >> 6, low) {
        (0, len) => (len, rest),
        (1, high) => (high << 8 | usize::from(*rest.first()?), rest.get(1..)?),
        (3, 0) => return number(1),
        (3, 1) => return number(2),
        (3, 2) => return number(4),
        _ => return None,
    };
    let (text, rest) = rest.split_at_checked(len)?;
    Some((String::from_utf8_lossy(text).into_owned(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Checked, RdbError> {
        let mut checker = Checker::default();
        chunks.into_iter().for_each(|chunk| checker.feed(chunk));
        checker.finish()
    }

    /// An empty server's snapshot, but for its sum.
    fn body() -> Vec<u8> {
        let mut body =
            b"REDIS0010\xfa\x09redis-ver\x067.0.15\xfa\x0aredis-bits\xc0\x40\xfa\x05ctime\xc2".to_vec();
        body.extend_from_slice(&1_795_342_500_u32.to_le_bytes());
        body.extend_from_slice(b"\xfa\x08aof-base\xc0\x00\xff");
        body
    }

    fn whole() -> Vec<u8> {
        let mut all = body();
        let sum = SUM.checksum(&all);
        all.extend_from_slice(&sum.to_le_bytes());
        all
    }

    /// The check value of `crc64.c:crc64Test`.
    #[test]
    fn the_sum_is_the_one_of_redis() {
        assert_eq!(SUM.checksum(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn a_whole_snapshot_is_known_at_every_split() {
        let all = whole();
        let expected = Checked {
            bytes: all.len() as u64,
            version: 10,
            summed: true,
            server: Some("redis 7.0.15".into()),
            ctime: Some(1_795_342_500),
        };
        for at in 0..=all.len() {
            assert_eq!(check([&all[..at], &all[at..]]).as_ref(), Ok(&expected), "{at}");
        }
        for size in 1..20 {
            assert_eq!(check(all.chunks(size)).as_ref(), Ok(&expected), "by {size}");
        }
    }

    #[test]
    fn every_cut_every_flipped_bit_and_every_byte_too_many_is_noticed() {
        let all = whole();
        for cut in 0..all.len() {
            assert!(check([&all[..cut]]).is_err(), "cut at {cut}");
        }
        for at in 0..all.len() * 8 {
            let mut flipped = all.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(check([flipped.as_slice()]).is_err(), "bit {at}");
        }
        for extra in [0, 0xff, b'\n'] {
            let longer = [all.as_slice(), &[extra]].concat();
            assert!(check([longer.as_slice()]).is_err(), "{extra}");
        }
        assert!(check([]).is_err());
    }

    #[test]
    fn a_server_that_sums_nothing_is_told_of() {
        let mut all = body();
        all.extend_from_slice(&[0; TRAILER]);
        assert!(check([all.as_slice()]).is_ok_and(|checked| !checked.summed));
        all.pop();
        assert!(check([all.as_slice()]).is_err());
    }

    #[test]
    fn later_servers_have_another_first_word_and_earlier_ones_no_sum() {
        let of = |first: &[u8]| {
            let mut all = [first, b"\xfa\x0avalkey-ver\x059.1.2\xff"].concat();
            let sum = SUM.checksum(&all);
            all.extend_from_slice(&sum.to_le_bytes());
            check([all.as_slice()])
        };
        let valkey = of(b"VALKEY080").unwrap();
        assert_eq!((valkey.version, valkey.server.as_deref()), (80, Some("valkey 9.1.2")));
        assert_eq!(of(b"REDIS0004"), Err(RdbError::Version(4)));
        for other in [&b"REDIS00x0"[..], b"RODIS0010", b"VALKEY+80", b"*1\r\n$4\r\nP"] {
            assert_eq!(of(other), Err(RdbError::Magic), "{other:?}");
        }
    }

    #[test]
    fn absurd_pairs_are_passed_over() {
        for pairs in [
            &b"\xfa"[..],
            b"\xfa\x3fx",
            b"\xfa\x80\xff\xff\xff\xff",
            b"\xfa\xc3\x01\x01a",
            b"\xfa\x01a\xc2\x01",
        ] {
            let mut all = [b"REDIS0011".as_slice(), pairs, b"\xff"].concat();
            let sum = SUM.checksum(&all);
            all.extend_from_slice(&sum.to_le_bytes());
            assert_eq!(check([all.as_slice()]).unwrap().server, None, "{pairs:?}");
        }
    }
}
