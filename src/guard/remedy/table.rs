//! The table of remedies: M §10 as rows. A finding may have several; the first that applies is tried first.

use super::{Remedy, files, hands, kernel, redis};

/// Every remedy: of one finding first what changes most for good, last what a human must do.
pub const REMEDIES: &[Remedy] = &JOINED;

const PARTS: [&[Remedy]; 4] = [kernel::ROWS, files::ROWS, redis::ROWS, hands::ROWS];

const JOINED: [Remedy; count()] = {
    let mut rows = [PARTS[0][0]; count()];
    let (mut part, mut at) = (0, 0);
    while part < PARTS.len() {
        let mut row = 0;
        while row < PARTS[part].len() {
            rows[at] = PARTS[part][row];
            (row, at) = (row + 1, at + 1);
        }
        part += 1;
    }
    rows
};

const fn count() -> usize {
    let (mut part, mut count) = (0, 0);
    while part < PARTS.len() {
        count += PARTS[part].len();
        part += 1;
    }
    count
}
