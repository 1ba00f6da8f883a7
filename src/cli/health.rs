//! `ringback health`: health check of the service on this machine, for container runtimes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use super::arguments::configuration;
use super::output::{Failure, print_line};
use crate::clock::Clock;
use crate::config::Flags;
use crate::egress;

/// Timeout of the request: less than the three seconds of the image's HEALTHCHECK.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Check whether the service on this machine is alive
///
/// Reads the configuration as `ringback serve` does and requests /healthz at its address. The exit code is 0 if the
/// service answers, else 1. The HEALTHCHECK of the image runs this command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback health --ready

A service is alive if it answers. It is ready if its database answers and it is not shutting down.
Restart a service that is not alive; send no requests to a service that is not ready.")]
pub struct Health {
    /// Check whether the service is ready: /readyz
    #[arg(long)]
    ready: bool,
    /// Configuration file [default: ringback.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port of the service, such as 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

impl Health {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let flags = Flags { config: self.config, listen: self.listen, ..Flags::default() };
        let address = local_address(configuration(&flags)?.listen);
        if address.port() == 0 {
            let sentence =
                "`listen` has port 0, so the port of the service is not known; give it with --listen";
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
                failed(&format!("answered {}", answer.status()))
            }
            Some(Ok(_)) => Ok(print_line(if self.ready { "ready" } else { "alive" })?),
        }
    }
}

/// Returns the address of a server on this machine: loopback if it listens on all addresses.
fn local_address(listen: SocketAddr) -> SocketAddr {
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
    fn a_server_on_all_addresses_is_checked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("127.0.0.1:80", "127.0.0.1:80"),
        ] {
            assert_eq!(local_address(listen.parse().expect("an address")).to_string(), asked);
        }
    }
}
