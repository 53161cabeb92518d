//! Written conversations: each is held direct, then through bgsafe whole, byte by byte and cut at random.

use std::net::SocketAddr;

use crate::assert_same;
use crate::support::{Conn, Proxy, Rng, Server, command, program, send_cut};

/// One step of a conversation; the number is the connection, opened at its first step.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Sends a command: words split at blanks.
    Say(usize, &'static str),
    /// Sends bytes as they are.
    Raw(usize, &'static [u8]),
    /// Sends this many times over.
    Many(usize, usize, &'static str),
    /// Waits for these bytes, behind what was waited for before.
    Hear(usize, &'static str),
    /// Waits for the end.
    End(usize),
    /// Sends no more.
    Half(usize),
}
use Step::*;

type Script = (&'static str, &'static [Step]);

/// An echo marks a place in the replies where waiting for the last one is too vague.
const MARK: &str = "ECHO mark";

#[rustfmt::skip]
const SCRIPTS: &[Script] = &[
    ("plain commands and every kind of RESP2 reply", &[
        Say(0, "SET k v"), Say(0, "GET k"), Say(0, "GET none"), Say(0, "INCR n"), Say(0, "INCR k"), Say(0, "RPUSH l a b c"),
        Say(0, "LRANGE l 0 -1"), Say(0, "LRANGE none 0 -1"), Say(0, "MGET k none n"), Say(0, "NOSUCH a b"), Say(0, "GET"),
        Say(0, "EXEC"), Say(0, "DISCARD"), Say(0, "PING"), Say(0, "PING text"), Say(0, MARK), Hear(0, "mark"),
    ]),
    ("inline commands, quotes, empty lines, empty arrays", &[
        Raw(0, b"SET k \"a b\\x41\\n\"\r\n\r\n\r\nGET k\n*0\r\n*-1\r\n   \r\nPING\r\nset 'q w' 'e\\'r'\r\nget 'q w'\r\nECHO mark\r\n"),
        Hear(0, "mark"),
    ]),
    ("unbalanced quotes end the connection", &[Raw(0, b"PING\r\nSET \"k v\r\n"), End(0)]),
    ("a bulk length that is no number ends it", &[Raw(0, b"*2\r\n$3\r\nGET\r\n$x\r\n"), End(0)]),
    ("a negative bulk length ends it", &[Raw(0, b"PING\r\n*2\r\n$3\r\nGET\r\n$-1\r\n"), End(0)]),
    ("a bulk length past every limit ends it", &[Raw(0, b"*1\r\n$99999999999\r\n"), End(0)]),
    ("a multibulk length past every limit ends it", &[Raw(0, b"*2147483648\r\n"), End(0)]),
    ("a multibulk of a thousand million elements only waits", &[Raw(0, b"*1073741824\r\n$4\r\nPING\r\n"), Half(0), End(0)]),
    ("something else than a bulk ends it", &[Raw(0, b"*1\r\n:4\r\nPING\r\n"), End(0)]),
    // Redis takes it as it is, Valkey from 8.1 on ends the connection.
    ("a body without its line end", &[Raw(0, b"*2\r\n$4\r\nECHO\r\n$2\r\nabXY*1\r\n$4\r\nPING\r\n"), Half(0), End(0)]),
    ("an HTTP request is not served", &[Raw(0, b"POST / HTTP/1.1\r\nHost: here\r\n\r\n"), End(0)]),
    ("QUIT answers, and what follows is not run", &[Say(0, "QUIT"), Say(0, "SET after quit"), End(0), Say(1, "GET after"), Half(1), End(1)]),
    ("a pipeline with QUIT inside", &[Raw(0, b"PING\r\nQUIT\r\nPING\r\n"), End(0)]),
    ("half-closed after a whole pipeline", &[Raw(0, b"PING\r\nINCR n\r\nGET n\r\n"), Half(0), End(0)]),
    ("half-closed inside a command", &[Raw(0, b"PING\r\n*2\r\n$3\r\nGET\r\n$1\r\n"), Half(0), End(0)]),
    ("half-closed at once", &[Raw(0, b""), Half(0), End(0)]),
    ("transactions, with errors before and inside EXEC", &[
        Say(0, "MULTI"), Say(0, "SET k v"), Say(0, "INCR k"), Say(0, "GET k"), Say(0, "EXEC"), Say(0, "MULTI"), Say(0, "NOSUCH"),
        Say(0, "SET k w"), Say(0, "EXEC"), Say(0, "MULTI"), Say(0, "MULTI"), Say(0, "WATCH k"), Say(0, "EXEC"), Say(0, "MULTI"), Say(0, "SET k x"),
        Say(0, "DISCARD"), Say(0, "GET k"), Say(0, "MULTI"), Say(0, "EXEC"), Say(0, "MULTI"), Say(0, "RESET"), Say(0, "EXEC"), Say(0, MARK), Hear(0, "mark"),
    ]),
    ("WATCH is broken by another's write", &[
        Say(0, "WATCH k"), Hear(0, "+OK"), Say(1, "SET k other"), Hear(1, "+OK"), Say(0, "MULTI"), Say(0, "SET k mine"), Say(0, "EXEC"), Hear(0, "*-1"),
        Say(0, "WATCH k"), Say(0, "UNWATCH"), Hear(0, "+OK\r\n+OK"), Say(1, "SET k again"), Hear(1, "+OK"), Say(0, "MULTI"), Say(0, "GET k"), Say(0, "EXEC"), Hear(0, "again"),
    ]),
    ("subscriptions in RESP2, with messages between confirmations", &[
        Say(0, "SUBSCRIBE a b c"), Say(0, "PSUBSCRIBE p*"), Hear(0, ":4"), Say(1, "PUBLISH a one"), Say(1, "PUBLISH pa two"), Hear(0, "two"),
        Say(0, "PING"), Say(0, "PING x"), Say(0, "GET k"), Say(0, "UNSUBSCRIBE b"), Say(0, "UNSUBSCRIBE nosuch"), Say(0, "UNSUBSCRIBE"), Say(0, "PUNSUBSCRIBE"), Hear(0, ":0"),
        Say(0, "PUNSUBSCRIBE"), Say(0, "UNSUBSCRIBE"), Say(0, "UNSUBSCRIBE x y"), Say(0, "PUBLISH a three"), Say(0, MARK), Hear(0, "mark"),
        Say(0, "SUBSCRIBE"), Say(0, MARK), Hear(0, "mark"),
    ]),
    // Unknown commands before 7.0, and then the words that are waited for stand in the errors.
    ("sharded subscriptions in RESP2", &[
        Say(0, "SSUBSCRIBE s1 s2"), Hear(0, "s2"), Say(1, "SPUBLISH s1 four"), Hear(1, "\r\n"), Say(0, "SUNSUBSCRIBE"), Say(0, "RESET"), Say(0, MARK), Hear(0, "mark"),
    ]),
    ("subscriptions in RESP3, with commands between pushes", &[
        Say(0, "HELLO 3"), Say(0, "SUBSCRIBE a b"), Say(0, "GET k"), Say(0, "PUBLISH a self"), Say(0, "PSUBSCRIBE *"), Say(0, MARK), Hear(0, "mark"),
        Say(1, "PUBLISH b other"), Hear(0, "pmessage"), Say(0, "UNSUBSCRIBE"), Say(0, "PUNSUBSCRIBE"), Say(0, "UNSUBSCRIBE"), Say(0, "SET k v"), Say(0, MARK), Hear(0, "mark"),
        Say(0, "MULTI"), Say(0, "SUBSCRIBE inside"), Say(0, "PING"), Say(0, "EXEC"), Say(0, "PUBLISH inside x"), Say(0, MARK), Hear(0, "mark"),
    ]),
    ("SUBSCRIBE in a RESP2 transaction", &[
        Say(0, "MULTI"), Say(0, "SUBSCRIBE a b"), Say(0, "EXEC"), Hear(0, ":2"), Say(1, "PUBLISH a x"), Hear(0, "x"), Say(0, "UNSUBSCRIBE"), Say(0, MARK), Hear(0, "mark"),
    ]),
    ("RESP3 kinds as the server's own debug command makes them", &[
        Say(0, "HELLO 3"), Say(0, "DEBUG PROTOCOL string"), Say(0, "DEBUG PROTOCOL integer"), Say(0, "DEBUG PROTOCOL double"), Say(0, "DEBUG PROTOCOL null"),
        Say(0, "DEBUG PROTOCOL array"), Say(0, "DEBUG PROTOCOL set"), Say(0, "DEBUG PROTOCOL map"), Say(0, "DEBUG PROTOCOL attrib"), Say(0, "DEBUG PROTOCOL push"),
        Say(0, "DEBUG PROTOCOL verbatim"), Say(0, "DEBUG PROTOCOL true"), Say(0, "DEBUG PROTOCOL false"), Say(0, "DEBUG PROTOCOL bignum"),
        Say(0, "HSET h a 1 b 2"), Say(0, "HGETALL h"), Say(0, "ZADD z 1.5 a"), Say(0, "ZRANGE z 0 -1 WITHSCORES"), Say(0, "CONFIG GET maxmemory"), Say(0, MARK), Hear(0, "mark"),
        Say(0, "HELLO 2"), Say(0, "HGETALL h"), Say(0, "HELLO 9"), Say(0, "HELLO x"), Say(0, "HELLO 3 SETNAME me"), Say(0, "CLIENT GETNAME"), Say(0, "RESET"), Say(0, "CLIENT GETNAME"), Say(0, "HGETALL h"), Say(0, MARK), Hear(0, "mark"),
    ]),
    ("attributes and scripts that switch the protocol", &[
        Say(0, "HELLO 3"), Raw(0, b"EVAL \"redis.setresp(3); return redis.call('hgetall','h')\" 0\r\n"), Say(0, MARK), Hear(0, "mark"),
        Raw(0, b"EVAL \"return {1,{2,{3,'x'}},redis.error_reply('E my'),redis.status_reply('S'),false,true}\" 0\r\n"),
        Raw(0, b"EVAL \"return redis.error_reply('MISCONFIGURED no')\" 0\r\n"), Raw(0, b"EVAL \"return redis.error_reply('-MIS')\" 0\r\n"),
        Raw(0, b"EVAL \"return {err='MISC'}\" 0\r\n"), Raw(0, b"EVAL \"error('boom')\" 0\r\n"), Say(0, MARK), Hear(0, "mark"),
    ]),
    ("MONITOR sees others, and itself until RESET", &[
        Say(0, "MONITOR"), Hear(0, "+OK"), Say(1, "SET k v"), Hear(1, "+OK"), Hear(0, "\"SET\" \"k\" \"v\""), Say(0, "PING"), Hear(0, "PONG"),
        Raw(1, b"EVAL \"return redis.call('get','k')\" 0\r\n"), Hear(1, "v"), Hear(0, "lua"), Say(0, "RESET"), Hear(0, "+RESET"), Say(0, "GET k"), Say(0, MARK), Hear(0, "mark"),
    ]),
    ("CLIENT REPLY SKIP, OFF and ON", &[
        Say(0, "CLIENT REPLY SKIP"), Say(0, "SET k 1"), Say(0, "GET k"), Hear(0, "1"), Say(0, "CLIENT REPLY OFF"), Say(0, "INCR k"), Say(0, "GET k"), Say(0, "NOSUCH"),
        Say(0, "CLIENT REPLY ON"), Hear(0, "+OK"), Say(0, "GET k"), Hear(0, "2"), Raw(0, b"CLIENT REPLY SKIP\r\nPING\r\nPING\r\n"), Say(0, MARK), Hear(0, "mark"), Say(0, "CLIENT REPLY on"), Say(0, "CLIENT REPLY nonsense"), Say(0, MARK), Hear(0, "mark"),
    ]),
    ("CLIENT REPLY SKIP in a transaction", &[
        Say(0, "MULTI"), Say(0, "CLIENT REPLY SKIP"), Say(0, "SET k v"), Say(0, "GET k"), Say(0, "EXEC"), Say(0, MARK), Say(0, MARK), Say(0, MARK), Hear(0, "mark"), Hear(0, "mark"),
    ]),
    ("tracking: invalidations as pushes", &[
        Say(0, "HELLO 3"), Say(0, "CLIENT TRACKING ON"), Say(0, "GET k"), Say(0, MARK), Hear(0, "mark"), Say(1, "SET k v"), Hear(1, "+OK"), Hear(0, "invalidate"), Say(0, "GET k"), Say(0, "SET k own"), Say(0, MARK), Hear(0, "mark"),
        Say(0, "CLIENT TRACKING OFF"), Say(0, "CLIENT TRACKING ON OPTIN"), Say(0, "CLIENT CACHING YES"), Say(0, "GET k"), Say(0, "GET l"), Say(0, MARK), Hear(0, "mark"), Say(1, "SET l 1"), Say(1, "SET k 2"), Hear(0, "invalidate"), Say(1, "FLUSHALL"), Hear(0, "_"), Say(0, MARK), Hear(0, "mark"),
    ]),
    ("tracking in broadcast mode", &[
        Say(0, "HELLO 3"), Say(0, "CLIENT TRACKING ON BCAST PREFIX b: NOLOOP"), Hear(0, "+OK"), Say(1, "SET b:1 v"), Say(1, "SET c:1 v"), Hear(0, "b:1"), Say(0, "SET b:2 own"), Say(0, MARK), Hear(0, "mark"),
    ]),
    ("AUTH, SELECT, SWAPDB and names", &[
        // Each on its own: Redis from 7.2 on drops AUTH's error behind unsent replies (redis/redis#15640).
        Say(0, "AUTH x"), Hear(0, "correct?\r\n"), Say(0, "AUTH nobody x"), Hear(0, "WRONGPASS"), Say(0, "SELECT 3"), Say(0, "SET k three"), Say(0, "SELECT 99"), Say(0, "SELECT x"), Say(0, "GET k"), Say(0, "SELECT 0"), Say(0, "GET k"), Say(0, "SWAPDB 0 3"), Say(0, "GET k"),
        Say(0, "CLIENT SETNAME me"), Say(0, "CLIENT GETNAME"), Say(0, "CLIENT SETNAME"), Say(0, "ACL WHOAMI"), Say(0, MARK), Hear(0, "mark"),
    ]),
    ("functions and scripts", &[
        Raw(0, b"FUNCTION LOAD REPLACE \"#!lua name=lib\\nredis.register_function('f', function(k,a) return a[1] end)\"\r\n"),
        Say(0, "FCALL f 0 hello"), Say(0, "FCALL nosuch 0"), Say(0, "FUNCTION LIST"), Say(0, "SCRIPT LOAD x"), Say(0, "EVALSHA ffffffffffffffffffffffffffffffffffffffff 0"), Say(0, "FUNCTION DELETE lib"), Say(0, MARK), Hear(0, "mark"),
    ]),
    ("blocking commands, woken by another", &[
        Say(0, "BLPOP q 0"), Say(0, "GET k"), Say(1, MARK), Hear(1, "mark"), Say(1, "LPUSH q v"), Hear(1, ":1"), Hear(0, "v\r\n$-1"), Say(0, "BRPOP q 0.01"), Hear(0, "*-1"), Say(0, "BLMOVE a b LEFT LEFT 0.01"), Say(0, "BZPOPMIN z 0.01"), Say(0, "XREAD BLOCK 10 STREAMS s $"),
        Say(0, "WAIT 1 10"), Say(0, MARK), Hear(0, "mark"),
    ]),
    ("a blocked client is not woken by a key of the wrong type", &[
        Say(0, "BLPOP q 0"), Say(1, MARK), Hear(1, "mark"), Say(1, "SET q x"), Say(1, "DEL q"), Say(1, "RPUSH q y"), Hear(0, "y"),
    ]),
    ("a deep reply built by a script", &[
        Raw(0, b"EVAL \"local t = {'x'} for i = 1, 3000 do t = {t} end return t\" 0\r\nECHO mark\r\n"), Hear(0, "mark"),
        Raw(0, b"EVAL \"local t = {'x'} for i = 1, 20000 do t = {t} end return t\" 0\r\nECHO mark\r\n"), Hear(0, "mark"),
    ]),
    ("a wide reply", &[
        Raw(0, b"EVAL \"local t = {} for i = 1, 50000 do t[i] = i end return t\" 0\r\nECHO mark\r\n"), Hear(0, "mark"),
    ]),
    ("a pipeline of three thousand", &[Many(0, 1000, "INCR n"), Many(0, 1000, "GET n"), Many(0, 1000, "NOSUCH"), Say(0, MARK), Hear(0, "mark")]),
    ("CLIENT KILL and CLIENT NO-EVICT", &[
        Say(0, "CLIENT NO-EVICT on"), Say(0, "CLIENT KILL 1.2.3.4:5"), Say(0, "CLIENT KILL ID 999999999"), Say(0, "CLIENT KILL TYPE normal SKIPME yes MAXAGE 5"), Say(0, "CLIENT"), Say(0, "CLIENT NOSUCH"), Say(0, MARK), Hear(0, "mark"),
    ]),
    ("DEBUG RELOAD and SAVE between writes", &[
        Say(0, "SET k v"), Say(0, "DEBUG RELOAD"), Say(0, "GET k"), Say(0, "SAVE"), Say(0, "DEBUG SLEEP 0.05"), Say(0, MARK), Hear(0, "mark"),
    ]),
    ("unknown commands with odd names and long arguments", &[
        Raw(0, b"*1\r\n$0\r\n\r\n*1\r\n$3\r\na\r\n\r\n*2\r\n$40\r\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n$0\r\n\r\n*1\r\n$5\r\n\0\xff-*$\r\n"), Say(0, MARK), Hear(0, "mark"),
    ]),
];

/// Conversations that older servers cannot hold, with or without us, and since when servers can: 6.0 has no RESET, and
/// does not come back from a deep reply.
const SINCE: [(&str, (u32, u32)); 2] =
    [("MONITOR sees others, and itself until RESET", (6, 2)), ("a deep reply built by a script", (6, 2))];

fn hold(address: SocketAddr, steps: &[Step], cut: u64, rng: &mut Rng) -> Vec<Vec<u8>> {
    let mut conns: Vec<(Conn, usize)> = Vec::new();
    for step in steps {
        let (Say(n, _) | Raw(n, _) | Many(n, ..) | Hear(n, _) | End(n) | Half(n)) = *step;
        while conns.len() <= n {
            conns.push((Conn::tcp(address), 0));
        }
        let (conn, heard) = &mut conns[n];
        match *step {
            Say(_, line) => send_cut(conn, &command(line), cut, rng),
            Raw(_, bytes) => send_cut(conn, bytes, cut, rng),
            Many(_, times, line) => send_cut(conn, &command(line).repeat(times), cut, rng),
            Hear(_, mark) => {
                conn.until_from(*heard, mark.as_bytes());
                let at = conn.seen[*heard..].windows(mark.len()).position(|w| w == mark.as_bytes());
                *heard += at.expect("just heard") + mark.len();
            }
            End(_) => conn.until_end(),
            Half(_) => conn.half_close(),
        }
    }
    // What stands behind the last thing waited for counts too.
    let rest = |(mut conn, _): (Conn, usize)| {
        conn.half_close();
        conn.until_end();
        conn.seen
    };
    conns.into_iter().map(rest).collect()
}

/// What stands before each conversation.
fn clean(server: &Server) {
    for line in ["FLUSHALL", "SCRIPT FLUSH", "FUNCTION FLUSH", "CONFIG RESETSTAT"] {
        server.ask(line);
    }
}

#[test]
fn each_written_conversation_is_the_same_through_bgsafe() {
    let server = Server::start(&["--save", ""]);
    let proxy = Proxy::of(&server);
    let guard = server.guard();
    for (name, steps) in SCRIPTS {
        if SINCE.iter().any(|(later, (major, minor))| later == name && !program().at_least(*major, *minor)) {
            eprintln!("LEFT OUT «{name}», which {} {} cannot hold", program().product, program().version);
            continue;
        }
        clean(&server);
        let direct = hold(server.address, steps, 0, &mut Rng(1));
        for cut in 0..4 {
            clean(&server);
            let through = hold(proxy.address, steps, cut, &mut Rng(cut));
            for (n, (a, b)) in direct.iter().zip(&through).enumerate() {
                assert_same(&format!("{name}, connection {n}, cut {cut}"), &guard, a, b);
            }
        }
    }
}
