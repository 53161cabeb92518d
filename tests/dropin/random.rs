//! Conversations nobody wrote: streams from a grammar, and noise, under a seed. Each is sent direct and through
//! bgsafe in random pieces, then half-closed; what came back until the end is compared.
//!
//! Nothing that blocks is among them: the server drops a blocked client whose end it reads, and then it is a race
//! how much of a stream was run.
//!
//! `BGSAFE_SEED` replays one stream, `BGSAFE_STREAMS` sets how many there are.

use crate::assert_same;
use crate::support::{Conn, Proxy, Rng, Server, command, send_cut};

/// How many streams, unless the environment says otherwise.
const STREAMS: u64 = 400;

/// Commands whose replies are the same every time; `K` a key, `N` a number, `V` a value.
const COMMANDS: &[&str] = &[
    "SET K V",
    "SET K N",
    "GET K",
    "GET K",
    "DEL K",
    "INCR K",
    "APPEND K V",
    "STRLEN K",
    "MGET K K K",
    "MSET K V K N",
    "EXISTS K K",
    "GETRANGE K N N",
    "SETRANGE K N V",
    "GETSET K V",
    "TYPE K",
    "RENAME K K",
    "OBJECT ENCODING K",
    "LPUSH K V V",
    "RPUSH K V",
    "LRANGE K 0 -1",
    "LPOP K",
    "RPOP K N",
    "LLEN K",
    "HSET K V N",
    "HGETALL K",
    "HGET K V",
    "SADD K 1 2 3",
    "SCARD K",
    "SISMEMBER K N",
    "ZADD K N V",
    "ZRANGE K 0 -1 WITHSCORES",
    "ZSCORE K V",
    "XADD K N-1 f V",
    "XRANGE K - +",
    "XLEN K",
    "SETBIT K N 1",
    "BITCOUNT K",
    "PFADD K V",
    "PFCOUNT K",
    "EXPIRE K 1000",
    "PERSIST K",
    "DBSIZE",
    "UNLINK a b c d",
    "ECHO V",
    "PING",
    "PING V",
    "PUBLISH ch V",
    "SORT K ALPHA",
    "COMMAND COUNT",
    "CONFIG GET maxmemory-samples",
    "CLIENT GETNAME",
    "CLIENT SETNAME V",
    "SCRIPT EXISTS V",
    "ACL WHOAMI",
    "LASTSAVE x",
    "NOSUCH K",
    "GET",
    "SET K",
    "INCR K K",
    "SELECT N",
    "SELECT 0",
    "SELECT V",
    "AUTH V",
    "COPY K K",
    "UNLINK K",
    "WAIT 0 1",
];

/// What changes the rules of the conversation.
const MODES: &[&str] = &[
    "MULTI",
    "EXEC",
    "EXEC",
    "DISCARD",
    "WATCH K",
    "UNWATCH",
    "HELLO 2",
    "HELLO 3",
    "HELLO 4",
    "RESET",
    "SUBSCRIBE ch",
    "SUBSCRIBE ch V",
    "UNSUBSCRIBE",
    "UNSUBSCRIBE ch",
    "PSUBSCRIBE c*",
    "PUNSUBSCRIBE",
    "PUNSUBSCRIBE c* x",
    "SSUBSCRIBE ch",
    "SUNSUBSCRIBE",
    "SPUBLISH ch V",
    "CLIENT REPLY OFF",
    "CLIENT REPLY ON",
    "CLIENT REPLY SKIP",
    "CLIENT TRACKING ON",
    "CLIENT TRACKING OFF",
    "CLIENT CACHING YES",
    "DEBUG PROTOCOL attrib",
    "DEBUG PROTOCOL push",
    "DEBUG PROTOCOL map",
    "DEBUG PROTOCOL verbatim",
    "DEBUG PROTOCOL bignum",
    "SUBSCRIBE",
    "READONLY",
    "ASKING",
];

/// Raw pieces: scripts, inline forms, nothing at all.
const RAW: &[&[u8]] = &[
    b"\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"\n",
    b"PING\n",
    b"get \"a\\x20b\"\r\n",
    b"SET a 'x y'\r\n",
    b"multi\r\n",
    b"exec\r\n",
    b"   PING  V \r\n",
    b"EVAL \"return {1,{2,{3}},redis.error_reply('MISC no'),false}\" 0\r\n",
    b"EVAL \"return redis.call('incr','a')\" 0\r\n",
    b"EVAL \"#!lua flags=no-writes\\nreturn 7\" 0\r\n",
    b"EVAL \"return redis.pcall('lpush','a',1)\" 0\r\n",
    b"EVAL \"redis.setresp(3) return redis.call('hgetall','b')\" 0\r\n",
    b"*1\r\n$0\r\n\r\n",
];

/// What ends a conversation.
const LAST: &[&[u8]] = &[
    b"",
    b"",
    b"",
    b"QUIT\r\n",
    b"QUIT\r\nPING\r\nSET a b\r\n",
    b"*1\r\n$x\r\n",
    b"*x\r\n",
    b"*1\r\n:1\r\n",
    b"*2\r\n$3\r\nGET\r\n",
    b"*2\r\n$3\r\nGET\r\n$5\r\nab",
    b"GET \"a\r\n",
    b"*1\r\n$-3\r\n",
    b"PIN",
    b"*1\r\n",
    b"*1000000\r\n$1\r\na\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$9999\r\nshort",
];

/// Letters of noise: what heads and inline lines are made of.
const NOISE: &[u8] = b"*$+-:\r\n\r\n\r\n01234 '\"PINGSETa\\x\0\xff";

fn line(rng: &mut Rng, template: &str) -> Vec<u8> {
    let words: Vec<String> = template
        .split(' ')
        .map(|word| match word {
            "K" => ["a", "b", "c", "d"][rng.below(4)].to_owned(),
            "N" => rng.below(12).to_string(),
            "V" => match rng.below(6) {
                0 => String::new(),
                1 => "-MISCONF nothing".into(),
                2 => "x".repeat(rng.below(3000)),
                _ => ["v", "two words", "line\r\nend", "*1"][rng.below(4)].to_owned(),
            },
            "N-1" => format!("{}-1", rng.below(9)),
            word => word.to_owned(),
        })
        .collect();
    let mut bytes = crate::support::multibulk(&words);
    if rng.below(9) == 0
        && words.iter().all(|w| w.bytes().all(|b| b.is_ascii_alphanumeric()) && !w.is_empty())
    {
        bytes = format!("{}\r\n", words.join(" ")).into_bytes();
    }
    bytes
}

fn stream(seed: u64) -> Vec<u8> {
    let mut rng = Rng(seed);
    let mut out = Vec::new();
    if seed.is_multiple_of(8) {
        // Noise behind a sound beginning.
        out.extend(line(&mut rng, "SET K V"));
        for _ in 0..rng.below(200) {
            out.push(*rng.of(NOISE));
        }
        return out;
    }
    // MONITOR is rare, and only where the clock is all that differs.
    if rng.below(25) == 0 {
        out.extend(command("MONITOR"));
    }
    let wild = 2 + rng.below(8);
    for _ in 0..rng.below(60) {
        match rng.below(24) {
            0 => out.extend_from_slice(rng.of::<&[u8]>(RAW)),
            n if n < wild => {
                let template = *rng.of(MODES);
                out.extend(line(&mut rng, template));
            }
            _ => {
                let template = *rng.of(COMMANDS);
                out.extend(line(&mut rng, template));
            }
        }
    }
    out.extend_from_slice(rng.of::<&[u8]>(LAST));
    out
}

fn replies(server: &Server, at: std::net::SocketAddr, bytes: &[u8], seed: u64, cut: u64) -> Vec<u8> {
    server.ask("FLUSHALL");
    let mut conn = Conn::tcp(at);
    send_cut(&mut conn, bytes, cut, &mut Rng(seed ^ 0xc0ffee));
    conn.half_close();
    conn.until_end();
    conn.seen
}

#[test]
fn streams_from_a_grammar_are_answered_the_same_through_bgsafe() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seeds = match number("BGSAFE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("BGSAFE_STREAMS").unwrap_or(STREAMS),
    };
    let server = Server::start(&["--save", ""]);
    let proxy = Proxy::of(&server);
    let guard = server.guard();
    let mut compared = 0;
    for seed in seeds {
        let bytes = stream(seed);
        let direct = replies(&server, server.address, &bytes, seed, 0);
        let through = replies(&server, proxy.address, &bytes, seed, 1 + seed % 3);
        assert_same(&format!("BGSAFE_SEED={seed} ({})", bytes.escape_ascii()), &guard, &direct, &through);
        compared += direct.len();
    }
    println!("{compared} bytes compared");
    assert!(compared > 0, "a test that compares nothing is none");
}
