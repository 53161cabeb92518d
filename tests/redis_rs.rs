//! A foreign client judges us: redis-rs, with its own parser, pool-less and multiplexed, RESP2 and RESP3, through bgsafe.

mod support;

use std::collections::HashMap;

use redis::{AsyncCommands, Client, Commands, ProtocolVersion, RedisResult, Script, Value};
use support::{Proxy, Server};

fn client(proxy: &Proxy, protocol: ProtocolVersion) -> Client {
    let query = if protocol == ProtocolVersion::RESP3 { "?protocol=resp3" } else { "" };
    Client::open(format!("redis://{}/{query}", proxy.address)).expect("a sound URL")
}

const BOTH: [ProtocolVersion; 2] = [ProtocolVersion::RESP2, ProtocolVersion::RESP3];

#[test]
fn values_of_every_type_come_back_as_they_went() -> RedisResult<()> {
    let server = Server::start(&[]);
    let proxy = Proxy::of(&server);
    for protocol in BOTH {
        let mut con = client(&proxy, protocol).get_connection()?;
        let () = redis::cmd("FLUSHALL").query(&mut con)?;
        let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        let () = con.set("k", &bytes)?;
        assert_eq!(con.get::<_, Vec<u8>>("k")?, bytes);
        assert_eq!(con.get::<_, Option<String>>("none")?, None);
        let () = con.hset_multiple("h", &[("a", 1), ("b", 2)])?;
        let hash: HashMap<String, i64> = con.hgetall("h")?;
        assert_eq!(hash, HashMap::from([("a".into(), 1), ("b".into(), 2)]));
        let () = con.zadd_multiple("z", &[(1.5, "x"), (2.5, "y")])?;
        let scores: Vec<(String, f64)> = con.zrange_withscores("z", 0, -1)?;
        assert_eq!(scores, [("x".into(), 1.5), ("y".into(), 2.5)]);
        let keys: Vec<String> = con.scan()?.collect::<RedisResult<_>>()?;
        assert_eq!(keys.len(), 3);
        let wrong: RedisResult<i64> = con.incr("h", 1);
        assert_eq!(wrong.expect_err("a hash is no number").code(), Some("WRONGTYPE"));
    }
    Ok(())
}

#[test]
fn pipelines_transactions_and_scripts_run_through() -> RedisResult<()> {
    let server = Server::start(&[]);
    let proxy = Proxy::of(&server);
    for protocol in BOTH {
        let mut con = client(&proxy, protocol).get_connection()?;
        let () = redis::cmd("FLUSHALL").query(&mut con)?;
        let mut pipe = redis::pipe();
        for i in 0..1_000 {
            pipe.cmd("SET").arg(i).arg(i).ignore().cmd("GET").arg(i);
        }
        let got: Vec<i64> = pipe.query(&mut con)?;
        assert!(got.into_iter().eq(0..1_000));
        let (n, list): (i64, Vec<i64>) = redis::pipe()
            .atomic()
            .incr("n", 5)
            .rpush("l", &[1, 2])
            .ignore()
            .lrange("l", 0, -1)
            .query(&mut con)?;
        assert_eq!((n, list), (5, vec![1, 2]));
        let next: (i64,) = redis::transaction(&mut con, &["n"], |con, pipe| {
            let n: i64 = con.get("n")?;
            pipe.set("n", n * 2).ignore().get("n").query(con)
        })?;
        assert_eq!(next, (10,));
        let script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
        assert_eq!(script.key("n").arg(7).invoke::<i64>(&mut con)?, 17);
    }
    Ok(())
}

#[test]
fn messages_reach_a_subscriber() -> RedisResult<()> {
    let server = Server::start(&[]);
    let proxy = Proxy::of(&server);
    let client = client(&proxy, ProtocolVersion::RESP2);
    let (mut listener, mut speaker) = (client.get_connection()?, client.get_connection()?);
    let mut pubsub = listener.as_pubsub();
    pubsub.subscribe("ch")?;
    pubsub.psubscribe("p*")?;
    for (channel, text) in [("ch", "one"), ("px", "two"), ("ch", "three")] {
        assert_eq!(speaker.publish::<_, _, i64>(channel, text)?, 1);
        let message = pubsub.get_message()?;
        assert_eq!(
            (message.get_channel_name(), message.get_payload::<String>()?),
            (channel, text.to_owned())
        );
    }
    Ok(())
}

#[test]
fn a_multiplexed_connection_keeps_a_hundred_tasks_apart() -> RedisResult<()> {
    let server = Server::start(&[]);
    let proxy = Proxy::of(&server);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for protocol in BOTH {
        runtime.block_on(async {
            let con = client(&proxy, protocol).get_multiplexed_async_connection().await?;
            let tasks: Vec<_> = (0..100)
                .map(|task: i64| {
                    let mut con = con.clone();
                    tokio::spawn(async move {
                        for i in 0..20 {
                            let key = format!("{task}:{i}");
                            let () = con.set(&key, task * i).await?;
                            assert_eq!(con.get::<_, i64>(&key).await?, task * i);
                        }
                        let got: Value = redis::cmd("ECHO").arg(task).query_async(&mut con).await?;
                        assert_eq!(got, Value::BulkString(task.to_string().into_bytes()));
                        RedisResult::Ok(())
                    })
                })
                .collect();
            for task in tasks {
                task.await.expect("it did not panic")?;
            }
            RedisResult::Ok(())
        })?;
    }
    Ok(())
}
