//! Errors of users: on the command line, in the configuration, and in the files that it names.

use rustix::fs::{CWD, FileType, Mode, mknodat};

use serde_json::json;

use crate::cli::{Ran, run};
use crate::harness::{AUTH, Harness, JSON, KEY};

#[tokio::test]
async fn usage_errors_exit_with_2_with_or_without_a_server() {
    let no_server = [("RINGBACK_URL", "http://127.0.0.1:1"), ("RINGBACK_API_KEY", KEY)];
    for (line, says) in [
        (&["watches", "--url", "ftp://x"][..], "--url: this URL cannot be used"),
        (&["watch", "job_1", "--url", "127.0.0.1:8080"], "it must begin with http:// or https://"),
        (&["keys", "list", "--url", "https://u:hush@a.example"], "--url: this URL cannot be used"),
        (&["watches", "--status", "nope"], "[possible values: watching, completed,"),
        (&["deliveries", "--status", "nope"], "[possible values: pending, succeeded, failed, skipped]"),
        (&["keys", "create", "--scope", "nope"], "[possible values: read, write, admin]"),
        (&["keys", "create", "--expires-in", "soon"], "is not a duration"),
        (&["watch", "job_1", "--payload", "xml"], "[possible values: event, raw, cloudevents]"),
        (&["watch", "job_1", "--expires-in", "soon"], "is not a duration"),
        (&["watch", "job_1", "--poll-interval", "soon"], "is not a duration"),
        (&["serve", "--listen", "nowhere"], "--listen: `nowhere` is not an address"),
    ] {
        for env in [&no_server[..], &[]] {
            let ran = run(env, line).await.expect(2);
            assert!(ran.err.contains(says) && !ran.err.contains("hush"), "{line:?}: {ran:#?}");
        }
    }
}

// Once: a file of SQLite.
#[tokio::test]
async fn a_command_on_a_database_prints_its_warnings() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut t = crate::harness::Harness::start().await;
    t.stop().await;
    std::fs::set_permissions(t.file(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let url = format!("sqlite://{}", t.file().display());
    let ran = run(&[], &["keys", "list", "--database-url", &url]).await.expect(0);
    assert!(ran.err.contains("every user of this machine could read"), "{ran:#?}");
    t.restart().await;
    t.finish().await;
}

#[tokio::test]
async fn a_fifo_instead_of_certificates_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("ca.pem");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let fifo = fifo.display().to_string();
    let env = [("RINGBACK_URL", "http://127.0.0.1:1"), ("RINGBACK_API_KEY", KEY), ("SSL_CERT_FILE", &*fifo)];
    for line in [&["watches"][..], &["watch", "job_1"], &["health", "--listen", "127.0.0.1:1"], &["serve"]] {
        let ran = run(&env, line).await.expect(1);
        assert!(ran.err.contains("SSL_CERT_FILE=") && ran.err.contains("it is a FIFO"), "{line:?}: {ran:#?}");
    }
}

// Once: the database is not involved.
#[tokio::test]
async fn an_error_says_what_is_wrong_with_a_text_or_a_time() {
    let t = Harness::with(&[("RINGBACK_SLACK__BOT_TOKEN", "xoxb-1-token")]).await;
    let half = "must be Unicode: it contains half of a surrogate pair";
    for (fields, pointer, reason) in [
        (r#""jobId":"\ud800","notify":[]"#, "/jobId", half),
        (r#""jobId":"j","notify":["\udc00"]"#, "/notify/0", half),
        (r#""jobId":"j","notify":[],"expiresIn":"\ud800""#, "/expiresIn", half),
        (r#""jobId":"j","email":"\ud800""#, "/email", half),
        (
            r#""jobId":"j","notify":["MAILTO:a@x.example"]"#,
            "/notify/0",
            "no mail is sent from here; the operator can set smtp.url",
        ),
        (
            r#""jobId":"j","notify":[],"expectedAt":"9999-12-31T23:59:59Z""#,
            "/expectedAt",
            "must be from 1970-01-01T00:00:00Z to 9999-01-01T00:00:00Z",
        ),
        (
            r#""jobId":"j","notify":[],"expectedAt":"1969-12-31T23:59:59Z""#,
            "/expectedAt",
            "must be from 1970",
        ),
    ] {
        let answer = t.send("POST", "/v1/watches", &[AUTH, JSON], format!("{{{fields}}}").as_bytes()).await;
        let problem = answer.expect(422);
        let error = &problem["errors"][0];
        assert_eq!(error["pointer"], pointer, "{fields}: {problem}");
        assert!(error["detail"].as_str().unwrap().starts_with(reason), "{fields}: {problem}");
    }
    let answer = t.get("/v1/deliveries?since=1969-12-31T23:59:59Z").await.expect(422);
    assert_eq!(answer["errors"][0]["code"], "out_of_range", "{answer}");
    t.get("/v1/deliveries?since=2026-02-18T14:00:00.123456789123Z").await.expect(200);
    let slack = t.post("/v1/destinations", &json!({ "type": "slack", "channel": "#ops" })).await.expect(201);
    let rotate = t.act(&format!("/v1/destinations/{}/rotate-secret", slack["id"].as_str().unwrap())).await;
    let detail = "a destination of the channel slack has no secret; only webhooks are signed";
    assert_eq!(rotate.expect(422)["detail"], detail);
    t.finish().await;
}

#[tokio::test]
async fn a_value_with_a_mistake_is_not_called_missing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ringback.toml");
    let run_with = async |text: &str, env: &[(&str, &str)]| {
        std::fs::write(&file, text).unwrap();
        run(env, &["config", "--config", file.to_str().unwrap()]).await.expect(1).err
    };
    let mail = [("RINGBACK_SMTP__URL", "smtp://mail.example.com"), ("RINGBACK_SMTP__FROM", "x")];
    let said = run_with("", &mail).await;
    assert!(said.contains("RINGBACK_SMTP__FROM: `x` is not a sender"), "{said}");
    assert!(!said.contains("needs [smtp] from"), "{said}");
    let said = run_with("[[destination]]\nname = 1\nurl = 'https://a.example/'\n", &[]).await;
    assert!(said.contains("ringback.toml:2: destination[1].name: must be a string"), "{said}");
    assert!(!said.contains("is required"), "{said}");
}

#[tokio::test]
async fn config_exits_with_1_and_lists_every_error() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    for name in ["apis", "templates/email"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    std::fs::write(at("apis/broken.toml"), "id = \n").unwrap();
    std::fs::write(at("templates/email/subject.txt"), "{{ titel }}").unwrap();
    let file = at("ringback.toml");
    let run_with = async |text: String, env: &[(&str, &str)]| {
        std::fs::write(&file, text).unwrap();
        run(env, &["config", "--config", &file]).await
    };
    let timeout = ("RINGBACK_DELIVERY__TIMEOUT", "5x");
    let lines = |ran: Ran| {
        assert_eq!(ran.out, "", "{ran:#?}");
        ran.err.replace(&format!("{}/", folder.path().display()), "")
    };

    let (apis, templates) = (at("apis"), at("templates"));
    let text = format!("lisen = 'x'\n[providers]\npath = '{apis}'\n[templates]\npath = '{templates}'\n");
    let errors = lines(run_with(text, &[timeout]).await.expect(1));
    insta::assert_snapshot!(errors, @r"
    ringback.toml:1: `lisen` is not a setting; the nearest is `listen`
    RINGBACK_DELIVERY__TIMEOUT: `5x` is not a duration; write it as 250ms, 5s, 10m, 2h or 30d
    apis/broken.toml:1:6: string values must be quoted, expected literal string; write texts and paths between quotes
    templates/email/subject.txt:1: undefined value: `titel` is undefined; the nearest is `title`, with the sample `job.completed`
    ");

    let text = "[providers.nope]\nrate = '1/x'\n[providers.muvi]\nmin_interval = '2h'\n".to_owned();
    let missing = [timeout, ("RINGBACK_TEMPLATES__PATH", "not-there")];
    let errors = lines(run_with(text, &missing).await.expect(1));
    let served = lines(run(&missing, &["serve", "--config", &file]).await.expect(1));
    assert_eq!(served, errors, "a start lists the same errors");
    insta::assert_snapshot!(errors, @r"
    ringback.toml:2: `providers.nope.rate`: `1/x` is not a rate; write it as 10/s, 600/m, 3000/h or off
    RINGBACK_DELIVERY__TIMEOUT: `5x` is not a duration; write it as 250ms, 5s, 10m, 2h or 30d
    ringback.toml:2: there is no provider `nope`; `ringback provider list` shows all
    ringback.toml:4: [providers.muvi] min_interval is greater than max_interval; lower it or raise max_interval
    RINGBACK_TEMPLATES__PATH: the folder not-there cannot be read: No such file or directory (os error 2)
    ");

    // A provider of an unknown folder is no error, but one that other errors would have hidden.
    let text = "[providers.nope]\nrate = '1/s'\n[providers]\npath = ''\n".to_owned();
    let errors = lines(run_with(text, &[]).await.expect(1));
    insta::assert_snapshot!(errors, @r"
    ringback.toml:4: `providers.path`: the path is empty; write one, or leave the setting out
    ringback.toml:2: no definition that could be read is about a provider `nope`; `ringback provider list` shows all
    ");

    let missing = [
        ("RINGBACK_LISTEN", "x"),
        ("RINGBACK_PROVIDERS__MUVY__API_KEY", "x"),
        ("RINGBACK_PROVIDERS__PATH", "not-there"),
        ("RINGBACK_TEMPLATES__PATH", "not-there"),
    ];
    let errors = lines(run_with(String::new(), &missing).await.expect(1));
    insta::assert_snapshot!(errors, @r"
    RINGBACK_LISTEN: `x` is not an address with a port; write it as 127.0.0.1:8080
    RINGBACK_PROVIDERS__MUVY__API_KEY: no definition that could be read is about a provider `muvy`; the nearest is `muvi`
    RINGBACK_PROVIDERS__PATH: the folder not-there cannot be read: No such file or directory (os error 2)
    RINGBACK_TEMPLATES__PATH: the folder not-there cannot be read: No such file or directory (os error 2)
    ");

    let text = "[providers]\npath = 'not-there'\n[templates]\npath = 'not-there'\n".to_owned();
    let errors = lines(run_with(text, &[]).await.expect(1));
    insta::assert_snapshot!(errors, @r"
    ringback.toml:2: `providers.path`: the folder not-there cannot be read: No such file or directory (os error 2)
    ringback.toml:4: `templates.path`: the folder not-there cannot be read: No such file or directory (os error 2)
    ");

    let text = "lisen = 'x'\n[providers.muvi]\nrate = 'x'\nbase_url = 'http://a.example'\nmin_interval = '2h'\n\
                [[destination]]\nname = 1\nurl = 'http://169.254.169.254/'\n[destination.headers]\nhost = 'x'\n\
                [[destination]]\nname = 'a'\nurl = 'https://a.example/x'\nrat = '1/s'\n";
    let errors = lines(run_with(text.to_owned(), &[]).await.expect(1));
    insta::assert_snapshot!(errors, @r"
    ringback.toml:1: `lisen` is not a setting; the nearest is `listen`
    ringback.toml:3: `providers.muvi.rate`: `x` is not a rate; write it as 10/s, 600/m, 3000/h or off
    ringback.toml:7: destination[1].name: must be a string; write it in quotation marks
    ringback.toml:5: [providers.muvi] min_interval is greater than max_interval; lower it or raise max_interval
    ringback.toml:10: destination[1].headers.host: `host` is not yours to set; choose another name
    ringback.toml:8: destination[1].url: must not lead to 169.254.169.254 (an address that is link-local); the operator can permit it: add 169.254.169.254 to egress.allow (RINGBACK_EGRESS__ALLOW)
    ringback.toml:14: destination[2].rat: there is no such field; did you mean `rate`?
    ");

    run_with("log = 'warn'".to_owned(), &[]).await.expect(0);
    run(&[], &["config", "--config", &at("nowhere.toml")]).await.expect(1);
    run(&[], &["config", "--listen", "nowhere"]).await.expect(1);
}
