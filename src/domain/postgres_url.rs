//! The URL of a PostgreSQL server, as providers hand it out.
//!
//! The library knows fewer parameters than libpq, and refuses every other. This module reads those that decide
//! something, leaves out those that decide nothing here, and refuses the rest with what to write instead.
//!
//! **Verification.** libpq verifies nothing with `sslmode=require`, unless a root certificate is given. Here
//! `require` verifies the certificate and its name, as `verify-full` does in libpq, because a connection that anybody
//! can intercept is as good as none. `prefer`, the default, verifies as well if the server offers TLS.
//!
//! | `sslmode` | TLS | Certificate |
//! |---|---|---|
//! | `disable` | never | |
//! | `allow`, `prefer` | if the server offers it | authority and name |
//! | `require`, `verify-full` | always | authority and name |
//! | `verify-ca` | always | authority |
//! | `no-verify` | always | none; for servers whose authority is not handed out, such as Heroku's |
//!
//! **Poolers.** A pooler in transaction mode gives each transaction another session. The lock that excludes a second
//! process, the settings and the prepared statements belong to a session. The well-known ones are refused here by
//! their name; `store/db/postgres` detects the others.

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::Masked;

/// Maximum of `connect_timeout`. A server that sleeps needs some seconds to start.
const CONNECT_TIMEOUT_MAX: u64 = 30;

/// How to write a URL.
const FORM: &str = "write it as postgres://user:password@host:5432/name?sslmode=require, with %40 for an @ in the \
                    password and so on";

/// Parameters that decide nothing here: they tune other programs, or Ringback has a value of its own.
const IGNORED: &[&str] = &[
    "adapter",
    "advisory_locks",
    "binary_parameters",
    "checkout_timeout",
    "client_encoding",
    "conn_max_age",
    "connection_limit",
    "encoding",
    "fallback_application_name",
    "gssencmode",
    "idle_timeout",
    "insert_returning",
    "keepalive",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "krbsrvname",
    "max_age",
    "max_connections",
    "max_conns",
    "max_overflow",
    "min_connections",
    "min_messages",
    "pool",
    "pool_health_check_period",
    "pool_max_conn_idle_time",
    "pool_max_conn_lifetime",
    "pool_max_conns",
    "pool_min_conns",
    "pool_recycle",
    "pool_size",
    "pool_timeout",
    "prepareThreshold",
    "prepared_statements",
    "reaping_frequency",
    "reconnect",
    "socket_timeout",
    "sslcompression",
    "sslsni",
    "statement_cache_capacity",
    "statement_cache_size",
    "statement_limit",
    "statement_timeout",
    "supa",
    "tcp_user_timeout",
    "timeout",
    "uselibpqcompat",
    "workaround",
];

/// Values that decide nothing here, of parameters that otherwise do.
const NEUTRAL: &[(&str, &str)] = &[
    ("pgbouncer", "0"),
    ("pgbouncer", "false"),
    ("pool_mode", "session"),
    ("schema", "public"),
    ("schema_search_path", "public"),
    ("ssl", "false"),
    ("target_session_attrs", "any"),
    ("target_session_attrs", "primary"),
    ("target_session_attrs", "read-write"),
];

/// Parameters that the library reads.
const OF_THE_LIBRARY: &[&str] = &[
    "application_name",
    "channel_binding",
    "dbname",
    "host",
    "hostaddr",
    "load_balance_hosts",
    "options",
    "password",
    "port",
    "sslnegotiation",
    "user",
];

/// What of the server's certificate is verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verification {
    /// Nothing.
    None,
    /// The authority that signed it.
    Authority,
    /// The authority and the name.
    #[default]
    Full,
}

/// URL of a PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresUrl {
    /// The URL with the parameters that the library knows.
    pub url: Masked,
    /// What of the certificate is verified.
    pub verification: Verification,
    /// File with the trusted authorities; `None`: those of the machine.
    pub roots: Option<PathBuf>,
    /// Whether TLS begins without a request, as PostgreSQL 17 allows.
    pub direct_tls: bool,
    /// Timeout of a connection.
    pub connect_timeout: Option<Duration>,
}

impl PostgresUrl {
    /// Reads a URL. The error is a sentence, and repeats nothing that can be a part of a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let start = text.find("://").map_or(0, |at| at + 3);
        // As the library does: everything before the first @ is user and password.
        let host = text[start..].find('@').map_or(start, |at| start + at + 1);
        let (place, query) = match text[host..].find('?') {
            Some(at) => (&text[..host + at], &text[host + at + 1..]),
            None => (text, ""),
        };
        if text[host..].contains('@') {
            return Err(format!("an @ follows the host, as if the password contained one; {FORM}"));
        }
        let mut parsed = Self {
            url: Masked::new(""),
            verification: Verification::Full,
            roots: None,
            direct_tls: false,
            connect_timeout: None,
        };
        let mut kept = Vec::new();
        let (mut hosts, mut ports) = split_hosts(&place[host..]);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, raw) =
                pair.split_once('=').ok_or_else(|| format!("a parameter has no value; {FORM}"))?;
            let decode =
                |text| percent_decode_str(text).decode_utf8().map_err(|_| format!("not UTF-8; {FORM}"));
            let (name, value) = (decode(name)?, decode(raw)?);
            match &*name {
                "host" => hosts = value.split(',').map(str::to_owned).collect(),
                "port" => ports = value.split(',').map(str::to_owned).collect(),
                _ => {}
            }
            if let Some(pair) = parsed.take(&name, &value)? {
                kept.push(pair);
            } else if OF_THE_LIBRARY.contains(&&*name) {
                kept.push(format!("{name}={raw}"));
            }
        }
        check_poolers(&hosts, &ports)?;
        let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
        parsed.url = Masked::new(format!("{place}{query}"));
        Ok(parsed)
    }

    /// Takes a parameter. Returns what the library is to read instead.
    fn take(&mut self, name: &str, value: &str) -> Result<Option<String>, String> {
        if NEUTRAL.contains(&(name, value)) {
            return Ok(None);
        }
        match (name, value) {
            ("sslmode", mode) => return self.ssl_mode(mode).map(Some),
            ("ssl", "true") | ("sslaccept", "strict") => return self.ssl_mode("verify-full").map(Some),
            ("sslaccept", _) => return Err(format!("sslaccept is not known; {SSL_MODES}")),
            ("sslrootcert", "system") => self.roots = None,
            ("sslrootcert", "") => {
                return Err("sslrootcert names no file; name one, or write system".to_owned());
            }
            ("sslrootcert", file) => self.roots = Some(PathBuf::from(file)),
            ("sslnegotiation", mode) => self.direct_tls = mode == "direct",
            ("connect_timeout", seconds) => {
                let seconds = seconds.trim().parse::<i64>();
                let seconds = seconds.map_err(|_| "connect_timeout is not a number of seconds".to_owned())?;
                // 0 and less: no limit, in libpq.
                let seconds = u64::try_from(seconds).unwrap_or_default();
                self.connect_timeout =
                    (seconds > 0).then(|| Duration::from_secs(seconds.min(CONNECT_TIMEOUT_MAX)));
            }
            ("target_session_attrs", _) => {
                return Err("the service writes, so target_session_attrs can only be read-write".to_owned());
            }
            ("pgbouncer" | "pool_mode", _) => {
                return Err(pooler(&format!("a URL with {name}"), "use the URL of a direct connection"));
            }
            ("schema" | "schema_search_path", _) => {
                return Err(format!("write options=-csearch_path%3DNAME instead of {name}=NAME"));
            }
            ("sslcert" | "sslkey" | "sslpassword", _) => {
                return Err(format!(
                    "{name}: client certificates are not supported; give the user a password"
                ));
            }
            _ if OF_THE_LIBRARY.contains(&name) || IGNORED.contains(&name) => {}
            _ => {
                // A part of a password that contains a ? is not repeated.
                let is_name = name.len() <= 32 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                let name = if is_name { format!("the parameter {name}") } else { "a parameter".to_owned() };
                return Err(format!("{name} is not supported; remove it, or {FORM}"));
            }
        }
        Ok(None)
    }

    fn ssl_mode(&mut self, mode: &str) -> Result<String, String> {
        let (mode, verification) = match mode {
            "disable" => ("disable", Verification::Full),
            "allow" | "prefer" => ("prefer", Verification::Full),
            "require" | "verify-full" => ("require", Verification::Full),
            "verify-ca" => ("require", Verification::Authority),
            "no-verify" => ("require", Verification::None),
            _ => return Err(format!("this sslmode is not known; {SSL_MODES}")),
        };
        self.verification = verification;
        Ok(format!("sslmode={mode}"))
    }
}

/// The modes of TLS.
const SSL_MODES: &str =
    "sslmode is disable, prefer, require, verify-ca, verify-full (the same as require) or no-verify";

/// Returns hosts and ports of the part between the user and the path.
fn split_hosts(place: &str) -> (Vec<String>, Vec<String>) {
    let hosts = place.split('/').next().unwrap_or_default();
    let split = |host: &str| match host.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host.to_ascii_lowercase(), port.to_owned()),
        _ => (host.to_ascii_lowercase(), String::new()),
    };
    hosts.split(',').map(split).unzip()
}

/// Refuses poolers in transaction mode that are known by their names.
fn check_poolers(hosts: &[String], ports: &[String]) -> Result<(), String> {
    for (n, host) in hosts.iter().enumerate() {
        let port = ports.get(n).or(ports.first()).map_or("", String::as_str);
        let is_supabase = [".supabase.com", ".supabase.co"].iter().any(|suffix| host.ends_with(suffix));
        if is_supabase && port == "6543" {
            let remedy =
                "use port 5432 of the same host, Supabase's pooler in session mode, or the direct connection";
            return Err(pooler("port 6543 of Supabase", remedy));
        }
        let (label, domain) = host.split_once('.').unwrap_or((host, ""));
        if domain.ends_with("neon.tech") && label.ends_with("-pooler") {
            return Err(pooler(
                "this host of Neon",
                "use the same host without `-pooler`, the direct connection",
            ));
        }
    }
    Ok(())
}

/// Returns a sentence about a pooler in transaction mode.
fn pooler(what: &str, remedy: &str) -> String {
    format!(
        "{what} leads to a pooler in transaction mode, which gives each transaction another session, and the lock against a \
         second process belongs to a session; {remedy}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> PostgresUrl {
        PostgresUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    // t8y2/dbx#1210, neondatabase/neonctl#366
    #[test]
    fn urls_that_providers_hand_out_are_read() {
        use Verification::{Authority, Full, None as Nothing};
        for (text, url, verification) in [
            // Neon
            (
                "postgresql://u:p@ep-cool-1.eu-central-1.aws.neon.tech/db?sslmode=require&channel_binding=require",
                "postgresql://u:p@ep-cool-1.eu-central-1.aws.neon.tech/db?sslmode=require&channel_binding=require",
                Full,
            ),
            (
                "postgres://u:p@ep-1.neon.tech/db?sslmode=verify-full&options=endpoint%3Dep-1",
                "postgres://u:p@ep-1.neon.tech/db?sslmode=require&options=endpoint%3Dep-1",
                Full,
            ),
            // Supabase: the direct connection and the pooler in session mode
            (
                "postgresql://postgres:p%40ss@db.abc.supabase.co:5432/postgres",
                "postgresql://postgres:p%40ss@db.abc.supabase.co:5432/postgres",
                Full,
            ),
            (
                "postgresql://postgres.abc:p@aws-0-eu-west-1.pooler.supabase.com:5432/postgres?pgbouncer=false",
                "postgresql://postgres.abc:p@aws-0-eu-west-1.pooler.supabase.com:5432/postgres",
                Full,
            ),
            // RDS
            (
                "postgres://u:p@x.rds.amazonaws.com:5432/db?sslmode=verify-ca&sslrootcert=/etc/rds/global-bundle.pem",
                "postgres://u:p@x.rds.amazonaws.com:5432/db?sslmode=require",
                Authority,
            ),
            // Crunchy Bridge
            (
                "postgres://application:p@p.abc.db.postgresbridge.com:5432/postgres",
                "postgres://application:p@p.abc.db.postgresbridge.com:5432/postgres",
                Full,
            ),
            // Fly
            (
                "postgres://app:p@db.flycast:5432/app?sslmode=disable",
                "postgres://app:p@db.flycast:5432/app?sslmode=disable",
                Full,
            ),
            // Heroku
            (
                "postgres://u:p@ec2-1-2-3-4.compute-1.amazonaws.com:5432/db?sslmode=no-verify",
                "postgres://u:p@ec2-1-2-3-4.compute-1.amazonaws.com:5432/db?sslmode=require",
                Nothing,
            ),
            // Others
            (
                "postgres:///db?host=/var/run/postgresql&connect_timeout=10&target_session_attrs=primary",
                "postgres:///db?host=/var/run/postgresql",
                Full,
            ),
            // Rails
            (
                "postgres://u:p@h/db?adapter=postgresql&encoding=unicode&pool=5&timeout=5000&checkout_timeout=5\
                 &reaping_frequency=60&idle_timeout=300&prepared_statements=false",
                "postgres://u:p@h/db",
                Full,
            ),
            (
                "postgres://u:p@h/db?application_name=a&connection_limit=1&schema=public&sslrootcert=system",
                "postgres://u:p@h/db?application_name=a",
                Full,
            ),
        ] {
            let parsed = parse(text);
            assert_eq!((parsed.url.reveal(), parsed.verification), (url, verification), "{text}");
            assert!(url.parse::<tokio_postgres::Config>().is_ok(), "{url}");
        }
        let roots = parse("postgres://h/db?sslrootcert=%2Fa%20b.pem").roots;
        assert_eq!(roots.as_deref(), Some(std::path::Path::new("/a b.pem")));
        let timeout = |seconds| parse(&format!("postgres://h/db?connect_timeout={seconds}")).connect_timeout;
        assert_eq!(timeout("10"), Some(Duration::from_secs(10)));
        assert_eq!(timeout("600"), Some(Duration::from_secs(30)));
        assert_eq!([timeout("0"), timeout("-1")], [None; 2]);
        assert!(parse("postgres://h/db?sslnegotiation=direct&sslmode=require").direct_tls);
    }

    #[test]
    fn a_refused_url_names_the_remedy_and_no_password() {
        for (text, remedy) in [
            ("postgres://u:hush@aws-0.pooler.supabase.com:6543/postgres", "use port 5432"),
            (
                "postgres://u:hush@db.abc.supabase.co:6543/postgres?pgbouncer=true",
                "use the URL of a direct connection",
            ),
            ("postgres://u:hush@/postgres?host=db.abc.supabase.co&port=6543", "use port 5432"),
            ("postgres://u:hush@EP-1-POOLER.eu.aws.neon.tech/db", "without `-pooler`"),
            ("postgres://u:hush@h/db?target_session_attrs=standby", "read-write"),
            ("postgres://u:hush@h/db?sslmode=verify", "sslmode is disable"),
            ("postgres://u:hush@h/db?sslcert=a.pem", "give the user a password"),
            ("postgres://u:hush@h/db?schema=app", "options=-csearch_path%3DNAME"),
            ("postgres://u:hush@h/db?schema_search_path=app", "instead of schema_search_path=NAME"),
            ("postgres://u:hush@h/db?connect_timeout=soon", "number of seconds"),
            ("postgres://u:hush@h/db?passfile=x", "the parameter passfile is not supported"),
            ("postgres://u:hush@H?hush=1@h/db", "%40 for an @"),
            ("postgres://h?hUsh=1", "a parameter is not supported"),
        ] {
            let error = PostgresUrl::parse(text).expect_err(text);
            assert!(error.contains(remedy) && !error.to_lowercase().contains("hush"), "{text}: {error}");
        }
    }
}
