//! The shares of the file descriptors.
//!
//! Every connection needs a descriptor, and a process has a limited number: 1,024 by default under systemd, 524,288 at
//! most. If one use takes all, every other use fails: with 1,024 idle clients, no webhook could be sent. The soft limit
//! is therefore raised to the hard limit at the start, and each use has a share of that. The shares together leave a
//! tenth for polls, mails, the database and the logs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Number of descriptors with which every limit is at its maximum.
const ENOUGH: u64 = 16_384;

/// Number of sockets that one lookup of a name can use: two families, two servers.
const SOCKETS_OF_LOOKUP: usize = 4;

/// The shares of the file descriptors. Each is the maximum; other limits may be lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DescriptorShares {
    /// Connections of clients.
    pub(super) connections: usize,
    /// Attempts in flight, each with a connection and a lookup.
    pub(super) attempts: usize,
    /// Unused connections to receivers and providers.
    pub(super) unused: usize,
    /// Lookups of names at registration.
    pub(super) lookups: usize,
}

impl DescriptorShares {
    /// Divides this number of descriptors.
    pub(super) fn of(limit: u64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self {
            connections: limit / 2,
            attempts: limit / 16 * 5 / (1 + SOCKETS_OF_LOOKUP),
            unused: limit / 32,
            lookups: limit / 16 / SOCKETS_OF_LOOKUP,
        }
    }
}

/// Raises the soft limit of open files to the hard limit. Returns the limit that is in force.
pub(super) fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = match raised {
        Ok(()) => maximum,
        Err(_) => current,
    };
    // None is no limit.
    let limit = limit.unwrap_or(u64::MAX);
    if limit < ENOUGH {
        tracing::warn!(
            "only {limit} files may be open, so fewer connections are served; raise the hard limit to {ENOUGH} \
             (LimitNOFILE, ulimit -Hn)"
        );
    }
    limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_leave_descriptors_for_the_rest() {
        for limit in [256, 1_024, 4_096, 8_192, ENOUGH, 1 << 20] {
            let shares = DescriptorShares::of(limit);
            let used = shares.connections
                + shares.attempts * (1 + SOCKETS_OF_LOOKUP)
                + shares.unused
                + shares.lookups * SOCKETS_OF_LOOKUP;
            let rest = usize::try_from(limit).unwrap() - used;
            assert!(rest * 12 >= usize::try_from(limit).unwrap(), "{rest} of {limit}");
            assert!(
                [shares.connections, shares.attempts, shares.unused, shares.lookups].iter().all(|n| *n > 0)
            );
        }
        let low = DescriptorShares { connections: 512, attempts: 64, unused: 32, lookups: 16 };
        assert_eq!(DescriptorShares::of(1_024), low);
        assert_eq!(DescriptorShares::of(u64::MAX).connections, usize::MAX / 2);
    }

    #[test]
    fn the_limit_of_open_files_is_raised() {
        assert_eq!(raise_limit(), getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX));
        assert_eq!(raise_limit(), getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX));
    }
}
