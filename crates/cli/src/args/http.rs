//! Flags of the HTTP server: who may connect, and how long anything may take.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kvist_base::Bytes;
use kvist_server::{HttpLimits, TlsFiles};

use super::After;

/// As good as never, and still a time that clocks can add.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Who may connect, and how long anything may take.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Network")]
pub struct HttpArgs {
    /// Serve HTTPS with this certificate, and those it was signed with, as PEM. Certificate and key
    /// are read again when they change.
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_key",
        hide_short_help = true
    )]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, as PEM.
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_cert",
        hide_short_help = true
    )]
    pub tls_key: Option<PathBuf>,
    /// Answer to these names too, beside addresses, localhost and names without a dot; * answers to
    /// all. Pages of other sites cannot reach the server under a name of theirs.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub allowed_hosts: Vec<String>,
    /// Let pages of this origin call the API, as https://example.org; * lets all.
    #[arg(
        long,
        value_name = "ORIGIN",
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub cors_origin: Vec<String>,
    /// Most open connections; further ones wait to be accepted.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(1..),
        hide_short_help = true
    )]
    pub max_connections: u32,
    /// Largest request body; larger ones are answered with 413.
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "4MiB",
        hide_short_help = true
    )]
    pub max_body_size: Bytes,
    /// Close a connection after so long without a request, or off.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "75s",
        hide_short_help = true
    )]
    pub keep_alive: After,
    /// Answer 429 to a request whose turn has not come after so long, or off.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        hide_short_help = true
    )]
    pub queue_timeout: After,
    /// End a request that is not finished after so long, or off.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10m",
        hide_short_help = true
    )]
    pub request_timeout: After,
    /// /health says 503 when the engine has been at one step for so long, or off. Larger where
    /// weights are streamed from a slow disk.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        hide_short_help = true
    )]
    pub step_timeout: After,
    /// On SIGTERM, say not ready and go on serving for so long, or off: balancers need time.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "off",
        hide_short_help = true
    )]
    pub drain_delay: After,
    /// On SIGTERM, finish what runs for at most so long.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        hide_short_help = true
    )]
    pub drain_timeout: After,
    /// Print every limit, what happens beyond it and the flag that sets it; serve nothing.
    #[arg(long, hide_short_help = true)]
    pub print_limits: bool,
}

impl HttpArgs {
    /// The server's limits.
    pub fn limits(&self) -> HttpLimits {
        let time = |after: After| after.time().map_or(NEVER, |time| time.min(NEVER));
        HttpLimits {
            connections_max: usize::try_from(self.max_connections).unwrap_or(usize::MAX),
            body_bytes_max: self.max_body_size,
            // A body that may be sent alone must not be refused for want of room.
            bodies_bytes_max: HttpLimits::default()
                .bodies_bytes_max
                .max(self.max_body_size),
            idle_time_max: time(self.keep_alive),
            queue_time_max: time(self.queue_timeout),
            request_time_max: time(self.request_timeout),
            step_time_max: time(self.step_timeout),
            drain_delay: self.drain_delay.time().unwrap_or_default().min(NEVER),
            drain_time_max: time(self.drain_timeout),
            ..HttpLimits::default()
        }
    }

    /// Certificate and key, if HTTPS is wanted.
    pub fn tls(&self) -> Option<TlsFiles> {
        let (certificates, key) = self.tls_cert.clone().zip(self.tls_key.clone())?;
        Some(TlsFiles { certificates, key })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn http(flags: &str) -> HttpArgs {
        let line = format!("kvist serve {flags}");
        match Cli::try_parse_from(line.split_whitespace()) {
            Ok(cli) => match cli.command {
                Command::Serve(args) => args.http,
                other => panic!("{other:?}"),
            },
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn without_flags_the_limits_are_the_servers_own() {
        assert_eq!(http("").limits(), HttpLimits::default());
        assert_eq!(http("").tls(), None);
    }

    #[test]
    fn flags_set_what_they_name() {
        let limits = http(
            "--max-connections 7 --max-body-size 64MiB --keep-alive 1s --queue-timeout 2s \
             --request-timeout off --step-timeout 3m --drain-delay 5s --drain-timeout 45s",
        )
        .limits();
        let expected = HttpLimits {
            connections_max: 7,
            body_bytes_max: Bytes::MIB * 64,
            bodies_bytes_max: Bytes::MIB * 64,
            idle_time_max: Duration::from_secs(1),
            queue_time_max: Duration::from_secs(2),
            request_time_max: NEVER,
            step_time_max: Duration::from_secs(180),
            drain_delay: Duration::from_secs(5),
            drain_time_max: Duration::from_secs(45),
            ..HttpLimits::default()
        };
        assert_eq!(limits, expected);
        let hosts = http("--allowed-hosts a.example,b.example --cors-origin https://c.example");
        assert_eq!(hosts.allowed_hosts, ["a.example", "b.example"]);
        assert_eq!(hosts.cors_origin, ["https://c.example"]);
    }

    #[test]
    fn a_certificate_needs_its_key() {
        assert!(Cli::try_parse_from(["kvist", "serve", "--tls-cert", "a.pem"]).is_err());
        assert!(Cli::try_parse_from(["kvist", "serve", "--tls-key", "a.pem"]).is_err());
        assert!(http("--tls-cert a.pem --tls-key b.pem").tls().is_some());
    }
}
