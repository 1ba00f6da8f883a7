//! Recognises errors whose cause lies on this machine: no free descriptor, port or memory.
//!
//! Such an error says nothing about the peer. If it counted against a receiver, one tenant that uses up the
//! descriptors would open the breakers of its neighbours' receivers.

use std::io;

use rustix::io::Errno;

/// Returns what this process or its machine lacks, if that is the cause of an error, and what to do about it.
pub(super) fn lacking(error: &io::Error) -> Option<&'static str> {
    match Errno::from_io_error(error)? {
        Errno::MFILE => {
            Some("this process has no free file descriptor; raise its limit (LimitNOFILE, ulimit -n)")
        }
        Errno::NFILE => Some("this machine has no free file descriptor; raise fs.file-max"),
        Errno::NOMEM | Errno::NOBUFS => Some("this machine has no memory for a connection"),
        Errno::ADDRNOTAVAIL if ports_are_scarce() => {
            Some("this machine has no free local port; widen net.ipv4.ip_local_port_range")
        }
        _ => None,
    }
}

/// Returns whether the machine has few free local ports. `EADDRNOTAVAIL` has two causes: no free port, or no local
/// address of the family, as for IPv6 in most containers. The second is no shortage: it would never end.
fn ports_are_scarce() -> bool {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let sockets = read("/proc/net/sockstat") + &read("/proc/net/sockstat6");
    are_scarce(&sockets, &read("/proc/sys/net/ipv4/ip_local_port_range")).unwrap_or(false)
}

/// Returns whether TCP sockets, those that linger after their connection included, could hold half of the ports.
fn are_scarce(sockets: &str, range: &str) -> Option<bool> {
    let mut used = None;
    for line in sockets.lines() {
        let Some(counters) = line.strip_prefix("TCP: ").or_else(|| line.strip_prefix("TCP6: ")) else {
            continue;
        };
        let words: Vec<&str> = counters.split_whitespace().collect();
        for pair in words.chunks_exact(2).filter(|pair| matches!(pair[0], "inuse" | "tw")) {
            used = Some(used.unwrap_or(0) + pair[1].parse::<u64>().ok()?);
        }
    }
    let mut bounds = range.split_whitespace().map(str::parse::<u64>);
    let (first, last) = (bounds.next()?.ok()?, bounds.next()?.ok()?);
    Some(2 * used? >= (last + 1).saturating_sub(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_address_family_is_no_shortage_of_ports() {
        let sockets = |inuse, lingering| {
            format!(
                "sockets: used 9\nTCP: inuse {inuse} orphan 0 tw {lingering} alloc 9 mem 1\nUDP: inuse 3 mem 2\n"
            )
        };
        let range = "32768\t60999\n";
        assert_eq!(are_scarce(&sockets(40, 300), range), Some(false));
        assert_eq!(are_scarce(&sockets(40, 28_000), range), Some(true));
        assert_eq!(are_scarce(&sockets(28_232, 0), range), Some(true));
        let v6 = sockets(40, 14_000) + "TCP6: inuse 300\nUDP6: inuse 90000\n";
        assert_eq!(are_scarce(&v6, range), Some(true));
        assert_eq!(are_scarce("", range), None);
        assert_eq!(are_scarce(&sockets(1, 1), ""), None);
    }
}
