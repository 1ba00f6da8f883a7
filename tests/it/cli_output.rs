//! The output of the command line: on a narrow terminal, into a closed pipe, and through a proxy.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::json;
use unicode_width::UnicodeWidthStr as _;

use crate::cli::{Scripted, ask, ended, program, url};
use crate::fakes::{Reply, error};
use crate::harness::{Harness, KEY, guarded, id, minutes};

/// Runs a command whose stdout is a terminal of 80 columns, and returns what it shows.
async fn on_a_terminal(env: &[(&str, &str)], line: &[&str]) -> String {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let size = rustix::termios::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&master, size).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let slave: OwnedFd = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
    let child = program(env, line).stdout(Stdio::from(slave)).stdin(Stdio::null()).spawn().unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let (mut shown, mut master) = (Vec::new(), std::fs::File::from(master));
        // The end is the error EIO, after the last descriptor of the other side was closed.
        let _ = master.read_to_end(&mut shown);
        String::from_utf8(shown).unwrap()
    });
    let ran = ended(child).await;
    assert_eq!(ran.code, 0, "{line:?}: {ran:#?}");
    guarded("the end of the output", reading).await.unwrap().replace("\r\n", "\n")
}

#[tokio::test]
async fn nothing_wraps_on_a_terminal_of_80_columns() {
    let h = Harness::start().await;
    h.provider.completed("job_0123456789abcdef");
    h.provider.processing("job_0123456789abcdeg", 50);
    let path = "/a/path/that/is/long/enough/to/fill/half/of/a/line/of/text";
    h.receiver.script(path, [Reply::new(500, "an answer that does not fit into the rest of the line")]);
    let body = json!({ "jobId": "job_0123456789abcdef", "callbackUrl": h.receiver.url(path) });
    let watch = h.register(&body).await;
    h.watch("job_0123456789abcdeg").await;
    h.pass(minutes(1)).await;
    h.receiver.take(2).await;
    let delivery = h.delivery(&watch).await;
    let (dlv, evt) = (id(&delivery), delivery["eventId"].as_str().unwrap().to_owned());
    let url = url(&h);
    let env = [("RINGBACK_URL", url.as_str()), ("RINGBACK_API_KEY", KEY), ("NO_COLOR", "1")];
    let tables: [(&[&str], &[&str]); 6] = [
        (&["watches"], &[&watch, "completed", "succeeded", "job_0123456789abcdef"]),
        (&["deliveries"], &[&dlv, "succeeded", "ATTEMPTS", "http://127.0.0.1"]),
        (&["show", &watch], &[&watch, "(", " ago)", &dlv, &evt]),
        (&["show", &dlv], &[&dlv, "500", " ago)"]),
        (&["show", &evt], &[&evt, &watch, &dlv]),
        (&["config"], &["delivery.retry_schedule   [5s, 5m, 30m, 2h, 5h, 10h, 14h, 20h, 24h]"]),
    ];
    for (line, words) in tables {
        let shown = on_a_terminal(&env, line).await;
        // URLs in a list of fields stay whole, so that they can be copied.
        let wide = shown.lines().find(|text| text.width() > 80 && !text.trim_start().starts_with("http"));
        assert_eq!(wide, None, "{line:?}: {shown}");
        for word in words {
            assert!(shown.contains(word), "{line:?}: {word}: {shown}");
        }
    }
    let colours = on_a_terminal(&env[..2], &["watches"]).await;
    assert!(colours.contains("\u{1b}[32mcompleted\u{1b}[0m"), "{colours}");
    h.give_up().await;
}

// svix/diom#1285
#[tokio::test]
async fn a_closed_pipe_is_a_quiet_end() {
    let watch = json!({ "id": "watch_1", "status": "failed", "job": { "status": "failed" } });
    let list = json!({ "data": [watch], "nextCursor": "more" });
    let table: [(&[&str], serde_json::Value, i32); 10] = [
        (&["watches", "--all"], list.clone(), 0),
        (&["watches", "--all", "--json"], list.clone(), 0),
        (&["deliveries"], list.clone(), 0),
        (&["keys", "list"], list, 0),
        (&["show", "watch_1", "--follow"], watch.clone(), 3),
        (&["stop", "watch_1"], watch, 0),
        (&["retry", "dlv_1"], json!({ "id": "dlv_1" }), 0),
        (&["completions", "bash"], json!({}), 0),
        (&["openapi"], json!({}), 0),
        (&["config"], json!({}), 0),
    ];
    for (line, answer, code) in table {
        let server = Scripted::start(&[(200, answer.clone()), (200, answer)]).await;
        let env = [("RINGBACK_URL", server.url.as_str()), ("RINGBACK_API_KEY", KEY)];
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran = ended(program(&env, line).stdout(writer).spawn().unwrap()).await.expect(code);
        assert_eq!(ran.err, "", "{line:?}");
    }
    // What is shown once must not be lost quietly.
    let key = json!({ "id": "key_1", "key": "rb_secret" });
    let server = Scripted::start(&[(201, key)]).await;
    let env = [("RINGBACK_URL", server.url.as_str()), ("RINGBACK_API_KEY", KEY)];
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ran = ended(program(&env, &["keys", "create"]).stdout(writer).spawn().unwrap()).await.expect(1);
    assert!(ran.err.contains("could not be shown") && ran.err.contains("key_1"), "{ran:#?}");
    // Without a reader, no key is made.
    let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
    let ran = ended(program(&env, &["keys", "create"]).stdout(null).spawn().unwrap()).await.expect(1);
    assert!(ran.err.contains("stdout is closed or the null device"), "{ran:#?}");
}

// modelstudioai/cli#51
#[tokio::test]
async fn the_command_line_uses_the_proxy_of_the_environment() {
    let list = json!({ "data": [], "nextCursor": null });
    let proxy = Scripted::start(&[(200, list.clone()), (502, json!({}))]).await;
    let with = |url: &'static str| {
        let env = [("RINGBACK_URL", url), ("HTTP_PROXY", &proxy.url), ("https_proxy", &proxy.url)];
        let env = [&env[..], &[("RINGBACK_API_KEY", KEY)]].concat();
        program(&env, &["watches"]).spawn().unwrap()
    };
    ended(with("http://ringback.test")).await.expect(0);
    let refused = ended(with("https://ringback.test")).await.expect(1);
    assert!(refused.err.contains("the proxy cannot connect to the destination"), "{refused:#?}");
    assert!(refused.err.contains("The proxy is that of https_proxy"), "{refused:#?}");
    assert_eq!(proxy.requests(), ["GET http://ringback.test/v1/watches", "CONNECT ringback.test:443"]);
    // A server on this machine needs no proxy.
    let here = Scripted::start(&[(200, list)]).await;
    let env = [
        ("RINGBACK_URL", here.url.as_str()),
        ("HTTP_PROXY", "http://127.0.0.1:1"),
        ("RINGBACK_API_KEY", KEY),
    ];
    ended(program(&env, &["watches"]).spawn().unwrap()).await.expect(0);
}

#[tokio::test]
async fn follow_shows_the_words_of_a_provider_once() {
    let h = Harness::start().await;
    h.provider.always("job_1", error(401, "UNAUTHORIZED", "no such key"));
    let watch = h.register(&json!({ "jobId": "job_1", "notify": [] })).await;
    h.pass(minutes(1)).await;
    let job = h.shown(&watch).await["job"].clone();
    let error = job["lastError"].as_str().unwrap_or_else(|| panic!("{job}"));
    assert_eq!(error.matches("UNAUTHORIZED").count(), 1, "{error}");
    let shown = ask(&url(&h), &["show", &watch]).await.expect(0).out;
    assert!(
        shown.contains("unknown, because no poll has brought a status") && !shown.contains("not polled"),
        "{shown}"
    );
    h.give_up().await;
}
