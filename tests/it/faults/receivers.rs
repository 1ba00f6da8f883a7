//! Hostile receivers of the real program. Each scenario has watches with a hostile receiver and watches with a good
//! one, which is not affected.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde_json::json;

use super::Survived;
use super::hostile::{Behaviour, Hostile, Tls, bomb};
use crate::crash::{Ground, get, nap};
use crate::fakes::Reply;
use crate::harness::{guarded, id};
use crate::tls::authority_and;
use crate::verdict::{Ended, Verdict, peak_of, post};

/// Watches with a hostile receiver, and as many with a good one, in each round.
const WATCHES: u64 = 8;

/// A short timeout, and more retries than hostile answers.
const SETTINGS: [(&str, &str); 2] = [
    ("RINGBACK_DELIVERY__TIMEOUT", "700ms"),
    ("RINGBACK_DELIVERY__RETRY_SCHEDULE", "50ms, 50ms, 100ms, 100ms, 150ms, 200ms, 200ms, 500ms, 500ms"),
];

pub async fn slow_head(rounds: u64) -> Survived {
    survived(Behaviour::SlowHead, rounds).await
}

pub async fn slow_body(rounds: u64) -> Survived {
    survived(Behaviour::SlowBody, rounds).await
}

pub async fn endless(rounds: u64) -> Survived {
    survived(Behaviour::Endless, rounds).await
}

pub async fn resets(rounds: u64) -> Survived {
    survived(Behaviour::Reset, rounds).await
}

pub async fn wrong_length(rounds: u64) -> Survived {
    survived(Behaviour::WrongLength, rounds).await
}

pub async fn compression_bomb(rounds: u64) -> Survived {
    survived(Behaviour::Bomb, rounds).await
}

pub async fn redirects(rounds: u64) -> Survived {
    survived(Behaviour::Redirect, rounds).await
}

/// The first eight connections fail in six ways; then the certificate is good. A new receiver in each round.
pub async fn failing_tls(rounds: u64) -> Survived {
    let mut verdict = Verdict::default();
    for _ in 0..rounds {
        let (root, good) = authority_and("127.0.0.1");
        let (_, untrusted) = authority_and("127.0.0.1");
        let (other_root, other_name) = authority_and("other.example.com");
        let folder = tempfile::tempdir().unwrap();
        let roots = folder.path().join("roots.pem");
        let pem = |der: &[u8]| {
            let text = base64::engine::general_purpose::STANDARD.encode(der);
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
        };
        std::fs::write(&roots, pem(&root) + &pem(&other_root)).unwrap();
        let hostile = Hostile::start(Behaviour::Tls, Some(Tls { good, untrusted, other_name })).await;
        let url = format!("https://{}", hostile.address());
        let trust = ("SSL_CERT_FILE", roots.to_str().unwrap());
        let settings = [SETTINGS[0], SETTINGS[1], trust];
        verdict.add(run(Behaviour::Tls, &hostile, &url, &settings, 1).await);
        assert!(hostile.connections() > 8, "every way to fail was tried: {}", hostile.connections());
    }
    Survived::Here(rounds, verdict)
}

async fn survived(behaviour: Behaviour, rounds: u64) -> Survived {
    let hostile = Hostile::start(behaviour, None).await;
    let url = format!("http://{}", hostile.address());
    let verdict = run(behaviour, &hostile, &url, &SETTINGS, rounds).await;
    assert!(u64::from(hostile.hostile_attempts()) >= WATCHES * rounds, "the receiver was hostile");
    Survived::Here(rounds, verdict)
}

async fn run(
    behaviour: Behaviour,
    hostile: &Hostile,
    url: &str,
    settings: &[(&str, &str)],
    rounds: u64,
) -> Verdict {
    let ground = Ground::on("sqlite://ringback.db".to_owned()).await;
    let ended = Ended::before(&ground).await;
    let process = ground.start_with(settings);
    let address = process.address().await;
    let mut accepted = BTreeMap::new();
    for round in 0..rounds {
        for n in 0..WATCHES {
            for (name, to) in [("bad", url.to_owned()), ("good", ground.receiver.url(""))] {
                let job = format!("{name}_{round}_{n}");
                ground.provider.completed(&job);
                if behaviour == Behaviour::Bomb && n == 0 {
                    let exploding = Reply::new(200, bomb()).with("content-encoding", "gzip");
                    ground.provider.script(&job, [exploding]);
                }
                // A path of its own: a breaker of one delivery must not spare another the fault.
                let body = json!({ "jobId": job, "callbackUrl": format!("{to}/{job}") });
                let watch = id(&post(address, "/v1/watches", &body).await.expect(201));
                accepted.insert(job, watch);
            }
        }
        guarded("the deliveries", async {
            for left in ["/v1/watches?status=watching&limit=1", "/v1/deliveries?status=pending&limit=1"] {
                while !get(address, left).await["data"].as_array().unwrap().is_empty() {
                    nap(20).await;
                }
            }
        })
        .await;
    }
    let hits = [hostile.hits(), ground.receiver.all()].concat();
    let mut verdict = Verdict::of(address, &accepted, &hits).await;
    verdict.after_end = ended.attempts_since(&ground.receiver);
    verdict.after_end.extend(hostile.followed().into_iter().map(|path| format!("{path} was followed")));
    verdict.peak = peak_of(&process);
    process.terminate();
    let (status, said) = process.ended().await;
    assert!(status.success(), "{status}: {said}");
    assert!(ground.receiver.complaints().is_empty(), "{:?}", ground.receiver.complaints());
    verdict
}
