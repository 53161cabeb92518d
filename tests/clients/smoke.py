"""redis-py through an address: values, pipelines, transactions, scripts, pubsub, blocking, errors, RESP2 and RESP3.

Run by scripts/clients; the only argument is a redis:// URL. Ends with 0 and one line, or with a traceback.
"""

import sys
import threading

import redis


def talk(url, protocol):
    r = redis.Redis.from_url(url, protocol=protocol, decode_responses=False)
    r.flushall()
    assert r.ping()
    blob = bytes(range(256)) * 4096
    assert r.set("k", blob) and r.get("k") == blob and r.get("none") is None
    assert r.hset("h", mapping={"a": 1, "b": 2}) == 2 and r.hgetall("h") == {b"a": b"1", b"b": b"2"}
    assert r.zadd("z", {"x": 1.5}) == 1 and [[m, s] for m, s in r.zrange("z", 0, -1, withscores=True)] == [[b"x", 1.5]]
    assert sorted(r.scan_iter()) == [b"h", b"k", b"z"]
    with r.pipeline(transaction=False) as pipe:
        for i in range(1000):
            pipe.set(f"p{i}", i).get(f"p{i}")
        assert pipe.execute()[1::2] == [str(i).encode() for i in range(1000)]
    with r.pipeline() as pipe:
        pipe.incr("n").rpush("l", 1, 2).lrange("l", 0, -1)
        assert pipe.execute() == [1, 2, [b"1", b"2"]]

    def double(pipe):
        n = int(pipe.get("n"))
        pipe.multi()
        pipe.set("n", n * 2)

    r.transaction(double, "n")
    assert r.get("n") == b"2"
    with r.pipeline() as pipe:
        pipe.watch("n")
        r.set("n", 9)
        pipe.multi()
        pipe.set("n", 0)
        try:
            pipe.execute()
            raise AssertionError("a broken WATCH went unnoticed")
        except redis.WatchError:
            pass
    assert r.register_script("return {KEYS[1], ARGV[1]}")(keys=["a"], args=["b"]) == [b"a", b"b"]
    try:
        r.incr("h")
        raise AssertionError("no error came")
    except redis.ResponseError as error:
        assert "WRONGTYPE" in str(error)

    pubsub = r.pubsub()
    pubsub.subscribe("ch")
    pubsub.psubscribe("p*")
    kinds = [pubsub.get_message(timeout=5)["type"] for _ in range(2)]
    assert kinds == ["subscribe", "psubscribe"], kinds
    assert r.publish("ch", "one") == 1 and pubsub.get_message(timeout=5)["data"] == b"one"
    assert r.publish("px", "two") == 1 and pubsub.get_message(timeout=5)["type"] == "pmessage"
    pubsub.close()

    got = []
    waiter = threading.Thread(target=lambda: got.append(r.blpop("queue", timeout=5)))
    waiter.start()
    r.rpush("queue", "job")
    waiter.join()
    assert [list(g) for g in got] == [[b"queue", b"job"]], got
    r.xadd("s", {"f": "v"})
    r.xgroup_create("s", "g", id="0")
    assert r.xreadgroup("g", "c", {"s": ">"})
    with r.monitor() as monitor:
        r.get("seen")
        assert any("seen" in monitor.next_command()["command"] for _ in range(3))
    r.close()


for protocol in (2, 3):
    talk(sys.argv[1], protocol)
print(f"redis-py {redis.__version__}: RESP2 and RESP3")
