//! The scanner against redis-protocol: any RESP2 or RESP3 value, written by redis-protocol and cut
//! anywhere, ends where redis-protocol says it ends.

use bgsafe::resp::scan::{Scan, Step};
use proptest::prelude::*;
use redis_protocol::resp2::types::Resp2Frame;
use redis_protocol::resp3::types::Resp3Frame;
use redis_protocol::{resp2, resp3};

/// The offsets after each top-level value of `bytes`, handed in cut at `cuts`.
fn ends(bytes: &[u8], cuts: &[prop::sample::Index]) -> Vec<usize> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([bytes.len()]).collect();
    cuts.sort_unstable();
    let (mut scan, mut ends, mut start) = (Scan::new(), Vec::new(), 0);
    for cut in cuts {
        // As a caller does: what the scanner gives back is handed in again with more behind it.
        let chunk = &bytes[start..cut];
        let mut at = 0;
        loop {
            match scan.next(chunk, at) {
                Step::More => {
                    at = chunk.len();
                    break;
                }
                Step::Value { end, .. } | Step::Error { end, closes: Some(_), .. } => {
                    at = end;
                    ends.push(start + end);
                }
                Step::Error { end, closes: None, .. } => at = end,
                Step::Line { start: line } => {
                    at = line;
                    break;
                }
                Step::Malformed { at } => panic!("malformed at {at} of {chunk:?}"),
            }
        }
        start += at;
    }
    assert_eq!(start, bytes.len());
    ends
}

fn text() -> impl Strategy<Value = String> {
    "[ -~]{0,20}"
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        // Bodies that look like RESP.
        prop::sample::select(vec![
            b"\r\n".to_vec(),
            b"*1\r\n$".to_vec(),
            b"-MISCONF x\r\n".to_vec(),
            b"$-1\r\n".to_vec()
        ]),
    ]
}

fn resp2_value() -> impl Strategy<Value = resp2::types::OwnedFrame> {
    use resp2::types::OwnedFrame as F;
    let leaf = prop_oneof![
        text().prop_map(|s| F::SimpleString(s.into_bytes())),
        prop_oneof![text(), Just("MISCONF Redis is configured".into())].prop_map(F::Error),
        any::<i64>().prop_map(F::Integer),
        body().prop_map(F::BulkString),
        Just(F::Null),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| prop::collection::vec(inner, 0..6).prop_map(F::Array))
}

fn resp3_value() -> impl Strategy<Value = resp3::types::OwnedFrame> {
    use resp3::types::{OwnedFrame as F, VerbatimStringFormat};
    let leaf = prop_oneof![
        text().prop_map(|s| F::SimpleString { data: s.into_bytes(), attributes: None }),
        prop_oneof![text(), Just("MISCONF Redis is configured".into())]
            .prop_map(|data| F::SimpleError { data, attributes: None }),
        any::<i64>().prop_map(|data| F::Number { data, attributes: None }),
        (-1e9..1e9).prop_map(|data| F::Double { data, attributes: None }),
        any::<bool>().prop_map(|data| F::Boolean { data, attributes: None }),
        body().prop_map(|data| F::BlobString { data, attributes: None }),
        body().prop_map(|data| F::BlobError { data, attributes: None }),
        text().prop_map(|s| F::VerbatimString {
            data: s.into_bytes(),
            format: VerbatimStringFormat::Text,
            attributes: None
        }),
        "[0-9]{1,40}".prop_map(|s| F::BigNumber { data: s.into_bytes(), attributes: None }),
        Just(F::Null),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        let key = body().prop_map(|data| F::BlobString { data, attributes: None });
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|data| F::Array { data, attributes: None }),
            prop::collection::vec((key, inner), 0..4)
                .prop_map(move |pairs| F::Map { data: pairs.into_iter().collect(), attributes: None }),
        ]
    })
}

proptest! {
    #[test]
    fn resp2_values_end_where_redis_protocol_ends_them(
        values in prop::collection::vec(resp2_value(), 1..5),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for value in &values {
            let at = bytes.len();
            bytes.resize(at + value.encode_len(false), 0);
            let n = resp2::encode::encode(&mut bytes[at..], value, false).expect("room for it");
            bytes.truncate(at + n);
            let decoded = resp2::decode::decode(&bytes[at..]).expect("its own words").expect("all of it");
            prop_assert_eq!(decoded.1, n);
            expected.push(bytes.len());
        }
        prop_assert_eq!(ends(&bytes, &cuts), expected);
    }

    #[test]
    fn resp3_values_end_where_redis_protocol_ends_them(
        values in prop::collection::vec(resp3_value(), 1..5),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for value in &values {
            let at = bytes.len();
            bytes.resize(at + value.encode_len(false), 0);
            let n = resp3::encode::complete::encode(&mut bytes[at..], value, false).expect("room for it");
            bytes.truncate(at + n);
            let decoded = resp3::decode::complete::decode(&bytes[at..]).expect("its own words").expect("all of it");
            prop_assert_eq!(decoded.1, n);
            expected.push(bytes.len());
        }
        prop_assert_eq!(ends(&bytes, &cuts), expected);
    }
}
