//! The scanner alone: reads RESP replies from standard input and says where each ends and what an error
//! means. Try it: `printf '+OK\r\n*2\r\n:1\r\n$2\r\nhi\r\n-MISCONF no disk\r\n' | cargo run --example scan`

use std::io::Read;

use bgsafe::resp::error::classify;
use bgsafe::resp::scan::{Scan, Step};

fn main() -> std::io::Result<()> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    let (mut scan, mut at, mut start) = (Scan::new(), 0, 0);
    loop {
        match scan.next(&bytes, at) {
            Step::Value { end, kind } => {
                println!("{start:>6}..{end:<6} {}", kind as char);
                (start, at) = (end, end);
            }
            Step::Error { text, end, top, closes } => {
                let line = &bytes[text..end - 2];
                let meaning = classify(line).map_or("an error", |_| "a refusal");
                let place = if top { "" } else { " inside" };
                println!("{start:>6}..{end:<6} -{place} {meaning}: {}", String::from_utf8_lossy(line));
                at = end;
                if closes.is_some() {
                    start = end;
                }
            }
            Step::More | Step::Line { .. } => {
                if start < bytes.len() {
                    println!("{start:>6}..       unfinished");
                }
                return Ok(());
            }
            Step::Malformed { at } => {
                println!("{at:>6}..       not RESP");
                return Ok(());
            }
        }
    }
}
