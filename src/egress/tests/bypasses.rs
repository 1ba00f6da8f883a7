//! Bypasses of the guards of other webhook senders that were fixed in 2026, as tests of this one. Each names the public
//! report. Two more are tests of the API: `bad_input::every_field_that_takes_an_address_is_guarded`, and
//! `delivering::a_host_that_resolves_privately_later_is_refused`.

use super::*;

/// Returns the errors of a registration, of an attempt and of a poll. The URL was registered without the guard.
async fn refusals(
    strict: &Egress,
    url: &str,
) -> (Option<AddressError>, Option<SendError>, Option<SendError>) {
    let (lenient, _) = egress(&["0.0.0.0/0", "::/0"], here());
    let registered = strict.check(APP, url, Moment::MAX).await.err();
    let polled = strict.fetch(guarded_poll(post(&lenient, url).url.as_str())).await.err();
    (registered, strict.send(post(&lenient, url)).await.err(), polled)
}

async fn assert_all_refuse(strict: &Egress, url: &str) {
    let found = refusals(strict, url).await;
    assert!(
        matches!(
            found,
            (Some(AddressError::Forbidden(_)), Some(SendError::Refused(_)), Some(SendError::Refused(_)))
        ),
        "{url}: {found:?}"
    );
}

// Svix, SVIXSEC-2026-0001 (1.98, svix/svix-webhooks#2464): the host was compared with its brackets, so that no IPv6
// address was recognised; nor was one with a zone.
#[tokio::test]
async fn an_ipv6_address_in_brackets_is_judged() {
    let (strict, _) = egress(&[], Resolver::fixed(|name| panic!("`{name}` was read as a name")));
    for host in ["[::1]", "[::]", "[::ffff:127.0.0.1]", "[fd00:ec2::254]", "[fe80::1]"] {
        assert_all_refuse(&strict, &format!("https://{host}/")).await;
        assert_all_refuse(&strict, &format!("https://{host}:8443/")).await;
    }
    for host in ["[fe80::1%eth0]", "[fe80::1%25eth0]", "[::1%251]"] {
        strict.check(APP, &format!("https://{host}/"), Moment::MAX).await.expect_err(host);
    }
}

// Svix, the same report: the guard parsed a URL with one crate and the client with another, which panicked at URLs that
// the first had accepted.
#[tokio::test]
async fn every_url_that_is_accepted_can_be_sent() {
    let port = responding(OK).await;
    let (egress, _) = egress(&["127.0.0.0/8"], here());
    let printable: String = (' '..='~').filter(|c| !['#', '?'].contains(c)).collect();
    for path in [&*printable, "%", "%zz", "é/☃/\u{10ffff}", "//", "/..//../"] {
        for url in [format!("http://127.0.0.1:{port}/{path}"), format!("http://127.0.0.1:{port}?{path}?")] {
            assert_eq!(egress.send(post(&egress, &url)).await.unwrap().status, 200, "{url}");
        }
    }
}

// Svix, svix/svix-webhooks#2539: ranges without receivers were missing.
#[tokio::test]
async fn ranges_without_receivers_are_refused() {
    let (strict, _) = egress(&[], here());
    for host in [
        "224.0.0.1",
        "239.255.255.255",
        "192.88.99.1",
        "[3fff::1]",
        "[100::1]",
        "[2002:7f00:1::1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::7f00:1]",
        "[5f00::1]",
    ] {
        assert_all_refuse(&strict, &format!("https://{host}/")).await;
    }
}

// hook0, hook0/hook0@3b27e932: forms of IPv6 that contain an IPv4 address were read as public IPv6 addresses.
#[tokio::test]
async fn an_ipv4_address_in_a_form_of_ipv6_is_refused() {
    for host in [
        "::7f00:1",
        "::ffff:7f00:1",
        "::ffff:0:7f00:1",
        "::5efe:7f00:1",
        "::200:5efe:7f00:1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::7f00:1",
        "2002:7f00:1::1",
        "2001:0:7f00:1::1",
        "fec0::7f00:1",
    ] {
        let address: IpAddr = host.parse().unwrap();
        let (strict, _) = egress(&[], Resolver::fixed(move |_| Ok(vec![PUBLIC, address])));
        assert_all_refuse(&strict, &format!("https://[{host}]/")).await;
        assert_all_refuse(&strict, "https://receiver.example/").await;
    }
}

// hook0, hook0/hook0@c8be99aa: a name was refused only if all its addresses were forbidden.
#[tokio::test]
async fn one_forbidden_address_of_a_name_refuses_the_connection() {
    let (listener, port) = unused_listener();
    let (egress, _) = egress(&[], Resolver::fixed(|_| Ok(vec![PUBLIC, LOOPBACK])));
    let url = format!("https://mixed.example:{port}/");
    let refusal = egress.check(APP, &url, Moment::MAX).await.unwrap_err();
    let detail = "must not lead to a private or otherwise special address; the operator can permit it: \
                  add mixed.example to egress.allow (RINGBACK_EGRESS__ALLOW)";
    assert_eq!(refusal, AddressError::Forbidden(detail.to_owned()));
    assert!(matches!(egress.send(post(&egress, &url)).await, Err(SendError::Refused(_))));
    assert_unused(&listener);
}

// hook0, the same commit: the client resolved the name again after the check.
#[tokio::test]
async fn a_name_rebound_after_registration_is_never_connected_to() {
    let (listener, port) = unused_listener();
    let lookups = Arc::new(AtomicUsize::new(0));
    let count = lookups.clone();
    let (egress, _) = egress(
        &[],
        Resolver::fixed(move |_| {
            Ok(vec![if count.fetch_add(1, Ordering::SeqCst) == 0 { PUBLIC } else { LOOPBACK }])
        }),
    );
    let url = format!("https://rebind.example:{port}/?secret");
    egress.check(APP, &url, Moment::MAX).await.unwrap();
    let error = egress.send(post(&egress, &url)).await.unwrap_err();
    let refusal = "must not lead to a private or otherwise special address; the operator can permit it: \
                   add rebind.example to egress.allow (RINGBACK_EGRESS__ALLOW)";
    assert_eq!(error, SendError::Refused(refusal.into()));
    assert_eq!(lookups.load(Ordering::SeqCst), 2);
    assert_unused(&listener);
}

// hook0, the same commit, on one connection: the addresses that were checked are those that are connected to.
#[tokio::test]
async fn a_connection_resolves_a_name_once() {
    let port = responding(OK).await;
    let lookups = Arc::new(AtomicUsize::new(0));
    let count = lookups.clone();
    let metadata = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
    let rebinding = Resolver::fixed(move |_| {
        Ok(vec![if count.fetch_add(1, Ordering::SeqCst) == 0 { LOOPBACK } else { metadata }])
    });
    let (egress, _) = egress(&["127.0.0.0/8"], rebinding);
    let url = format!("http://rebind.example:{port}/");
    assert_eq!(egress.send(post(&egress, &url)).await.unwrap().status, 200);
    assert_eq!(lookups.load(Ordering::SeqCst), 1);
    // The server closed the connection, so the next attempt needs a new one.
    assert!(matches!(egress.send(post(&egress, &url)).await, Err(SendError::Refused(_))));
}

// hook0, the same commit: redirects were followed without a check.
#[tokio::test]
async fn a_redirect_is_a_response_and_is_not_followed() {
    let elsewhere = responding(OK).await;
    let answer =
        format!("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{elsewhere}/\r\ncontent-length: 0\r\n\r\n");
    let port = responding(answer).await;
    let (egress, _) = egress(&["127.0.0.0/8"], here());
    let url = format!("http://127.0.0.1:{port}/");
    assert_eq!(egress.send(post(&egress, &url)).await.unwrap().status, 302);
    assert_eq!(egress.fetch(fetch(port)).await.unwrap().status, 302);
}

// Convoy, frain-dev/convoy#2756 (GHSA-w5pj-fmvx-pfr8, GHSA-hhw2-xh4x-4p7m, GHSA-fpc9-26gm-q9mq, GHSA-rgm6-4mrj-c94m):
// without a licence, connections were not checked, so a name could lead to a metadata service.
#[tokio::test]
async fn a_name_of_a_metadata_service_is_refused_by_default() {
    for address in [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fe80::a9fe:a9fe",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
    ] {
        let clock = Clock::Manual(ManualClock::at(Timestamp::from_millis(1_000_000)));
        let resolver = Resolver::fixed(move |_| Ok(vec![address.parse().unwrap()]));
        let default = Egress::new(Settings::default(), resolver, clock, Vec::new()).unwrap();
        assert_all_refuse(&default, "https://metadata.google.internal/").await;
        assert_all_refuse(&default, "https://receiver.example/latest/meta-data").await;
    }
}
