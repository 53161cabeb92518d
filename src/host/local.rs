//! Does an address lead to this host?
//!
//! Refuses to know: what listens there. Invariant: nothing is sent, and a name that leads to several hosts leads
//! elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use crate::config::Address;

/// Loopback, a unix socket, or an address of one of our interfaces. Resolves names, and blocks meanwhile.
pub fn is_local(address: &Address) -> bool {
    match address {
        Address::Unix(_) => true,
        Address::Tcp(at) => at.to_socket_addrs().is_ok_and(|found| {
            let found: Vec<SocketAddr> = found.collect();
            !found.is_empty() && found.iter().all(|at| is_ours(at.ip()))
        }),
    }
}

/// The kernel answers a packet to one of our own addresses from that same address. Not asked by a bind: where
/// `net.ipv4.ip_nonlocal_bind` is set (keepalived, HAProxy) every address can be bound. Connecting UDP sends nothing.
fn is_ours(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    if ip.is_loopback() || ip.is_unspecified() {
        return true;
    }
    if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return false;
    }
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((ip, 9))?;
        socket.local_addr()
    };
    source().is_ok_and(|source| source.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_host_are_local() {
        for (address, local) in [
            ("127.0.0.1:6379", true),
            ("127.9.9.9:6379", true),
            ("[::1]:6379", true),
            ("localhost:6379", true),
            ("0.0.0.0:6379", true),
            ("[::ffff:127.0.0.1]:6379", true),
            ("192.0.2.1:6379", false),
            ("[2001:db8::1]:6379", false),
            ("224.0.0.1:6379", false),
            ("255.255.255.255:6379", false),
            ("", false),
            ("127.0.0.1", false),
            ("127.0.0.1:99999", false),
        ] {
            assert_eq!(is_local(&Address::Tcp(address.into())), local, "{address}");
        }
        assert!(is_local(&Address::Unix("/run/redis.sock".into())));
    }
}
