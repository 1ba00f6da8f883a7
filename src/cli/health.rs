//! `ringback health`: whether the service on this machine is alive, for whoever starts containers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use super::{Failure, configuration, say};
use crate::clock::Clock;
use crate::config::Flags;
use crate::egress;

/// Less than the three seconds that the image gives it.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Ask the service on this machine whether it is alive
///
/// It reads the configuration as `ringback serve` does and asks /healthz where that listens. The exit
/// code is 0 if it answers, else 1. The image's HEALTHCHECK is this.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback health --ready

Alive is a service that answers; ready is one that can serve: its database answers, and it is not
about to end. Restart what is not alive; send no requests to what is not ready.")]
pub struct Health {
    /// Ask whether it is ready: /readyz
    #[arg(long)]
    ready: bool,
    /// The configuration file [default: ringback.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where it listens, as 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

impl Health {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let flags = Flags { config: self.config, listen: self.listen, ..Flags::default() };
        let address = reached(configuration(&flags)?.listen);
        if address.port() == 0 {
            let sentence =
                "`listen` has port 0, so the service takes any that is free: name it with --listen";
            return Err(Failure::Usage(sentence.into()));
        }
        let url = format!("http://{address}/{}", if self.ready { "readyz" } else { "healthz" });
        let client = egress::unguarded(TIMEOUT).context("the HTTP client cannot be made")?;
        let asked = Clock::System.timeout(TIMEOUT, client.get(&url).send()).await;
        let failed = |why: &str| Err(Failure::Failed(format!("{url}: {why}")));
        match asked {
            None => failed(&format!("no answer within {} s", TIMEOUT.as_secs())),
            Some(Err(error)) => failed(&egress::SendError::classify(&error).to_string()),
            Some(Ok(answer)) if !answer.status().is_success() => {
                failed(&format!("it answered {}", answer.status()))
            }
            Some(Ok(_)) => Ok(say(if self.ready { "ready" } else { "alive" })?),
        }
    }
}

/// From this machine, "everywhere" is reached on its loopback.
fn reached(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("127.0.0.1:80", "127.0.0.1:80"),
        ] {
            assert_eq!(reached(listen.parse().expect("an address")).to_string(), asked);
        }
    }
}
