//! The few commands and errors we originate, encoded by redis-protocol.
//!
//! Refuses to know why they are sent.

use redis_protocol::resp2::encode::encode_borrowed;
use redis_protocol::resp2::types::BorrowedFrame;

/// Appends the multibulk request `words` to `out`.
pub fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    let words: Vec<_> = words.iter().map(|w| BorrowedFrame::BulkString(w)).collect();
    append(out, &BorrowedFrame::Array(&words));
}

/// Appends the error reply `-text\r\n` to `out`. CR and LF in `text` become blanks, as
/// `networking.c:addReplyErrorLength` does.
pub fn error(out: &mut Vec<u8>, text: &str) {
    let line: String = text.chars().map(|c| if c == '\r' || c == '\n' { ' ' } else { c }).collect();
    append(out, &BorrowedFrame::Error(&line));
}

fn append(out: &mut Vec<u8>, frame: &BorrowedFrame<'_>) {
    let at = out.len();
    out.resize(at + frame.encode_len(false), 0);
    let written =
        encode_borrowed(&mut out[at..], frame, false).expect("the buffer has the frame's own length");
    out.truncate(at + written);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_originate_is_plain_resp() {
        let mut out = Vec::new();
        command(&mut out, &[b"SELECT", b"0"]);
        error(&mut out, "ERR a\r\nb");
        assert_eq!(out, b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n-ERR a  b\r\n");
    }
}
