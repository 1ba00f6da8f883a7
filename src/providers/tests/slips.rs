//! Guarantees of the messages about slips: each names the place, what is allowed, and the remedy.

use super::schema_2::text;
use crate::providers::compile::compile;

/// Returns the mistakes of a definition of schema 2 with these tables, without those about its missing examples.
fn mistakes(tables: &str) -> Vec<String> {
    let (_, mistakes) = compile(&text(tables));
    let texts = mistakes.into_iter().map(|mistake| mistake.text);
    texts.filter(|text| !text.starts_with("example: at least one")).collect()
}

/// Slips, and what one message must contain.
fn check(slips: &[(&str, &str)]) {
    let wrong = |(tables, expected): &&(&str, &str)| {
        !mistakes(tables).iter().any(|mistake| mistake.contains(expected))
    };
    let wrong: Vec<_> = slips.iter().filter(wrong).map(|slip| (slip, mistakes(slip.0))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_key_in_the_wrong_place_is_named_with_its_place() {
    let url = "url = \"https://api.two.example/{job_id}\"\n";
    check(&[
        (
            &format!("[request]\n{url}tiemout = \"5s\"\n"),
            "request.tiemout: is not a key of this table; did you mean `timeout`?",
        ),
        (
            &format!("[request]\n{url}rate = \"5/s\"\n"),
            "request.rate: is not a key of this table; it is a key of [limits]",
        ),
        ("[poll]\nburst = 5\n", "poll.burst: is not a key of this table; it is a key of [limits]"),
        ("[limits]\nspeed = 5\n", "the keys here are `burst`, `concurrency`, `rate`"),
        ("[extract]\njob_id = \"none\"\nstate = \"$.s\"\n", "extract.state: is not a key of this table"),
        ("[[limits]]\nrate = \"5/s\"\n", "write [limits] and not [[limits]]"),
        ("[rule]\nhttp = 404\nanswer = \"error\"\n", "write [[rule]] and not [rule]"),
        ("[result]\nurl = \"https://api.two.example/x\"\n", "write [[result]] and not [result]"),
        (
            "[cancel]\npath = \"/x\"\n[cancel.rule]\nhttp = 404\nanswer = \"refused\"\n",
            "write [[cancel.rule]] and not [cancel.rule]",
        ),
        ("[[limits]\nrate = 5\n", "]"),
        ("[limits]\nrate = \"5/s\"\n[limits]\nburst = 5\n", "under one heading"),
    ]);
}

#[test]
fn a_value_of_the_wrong_type_is_named_with_the_right_one() {
    check(&[
        (
            "[extract]\njob_id = \"none\"\nprogress = \"$.p\"\n",
            "extract.progress: must be a table such as { path = \"$.progress\", unit = \"percent\" }",
        ),
        ("[extract]\njob_id = \"none\"\nprogress = { path = \"$.p\" }\n", "with `unit`"),
        (
            "[extract]\njob_id = \"none\"\nprogress = { path = \"$.p\", unit = \"seconds\" }\n",
            "write one of `percent`, `fraction`",
        ),
        (
            "[extract]\njob_id = \"none\"\noutputs = \"$.files[*]\"\n",
            "{ each = \"$.files[*]\", url = \"$.url\" }",
        ),
        ("[extract]\njob_id = \"none\"\ncreated_at = \"$.t\"\n", "format = \"rfc3339\""),
        (
            "[extract]\njob_id = \"none\"\ncreated_at = { path = \"$.t\", format = \"iso\" }\n",
            "write one of `rfc3339`",
        ),
        ("[extract]\njob_id = \"none\"\noutput = $.url\n", "between quotes"),
        ("[extract]\njob_id = \"none\"\noutput = \"url\"\n", "`url` is not a path; write it as $.a.b"),
        (
            "[extract]\njob_id = \"none\"\noutput = { path = \"$.u\", when = \"completed\" }\n",
            "write [\"completed\"]",
        ),
        (
            "[extract]\njob_id = \"none\"\noutput = { path = \"$.u\", when = [\"done\"] }\n",
            "`done` is not possible here; write one of `pending`",
        ),
        ("[poll]\nfirst = 5\n", "poll.first: must be a duration in quotes, such as \"5s\" or \"2h\""),
        ("[poll]\nfirst = \"5 parsecs\"\n", "poll.first: "),
        ("[limits]\nburst = \"5\"\n", "must be a whole number, and not a text"),
        ("[[rule]]\nall = [{ path = \"$.a\", is = [1, 2] }]\nanswer = \"error\"\n", "write `in` for a list"),
        ("[[rule]]\nall = [{ path = \"$.a\", in = \"x\" }]\nanswer = \"error\"\n", "write [\"x\"]"),
        (
            "[[rule]]\nall = [{ path = \"$.a\", exists = \"true\" }]\nanswer = \"error\"\n",
            "must be true or false, and not a text",
        ),
        (
            "[[rule]]\nall = { path = \"$.a\", is = 1 }\nanswer = \"error\"\n",
            "must be a list in brackets, and not a table",
        ),
        ("[[rule]]\nall = [\"$.a\"]\nanswer = \"error\"\n", "{ path = \"$.code\", is = 5 }"),
        ("[[rule]]\nhttp = \"404,410\"\nanswer = \"error\"\n", "`404,410` is not an HTTP status"),
        ("[[rule]]\nhttp = 404\nstatus = \"done\"\n", "`done` is not possible here; write one of"),
        ("[[rule]]\nhttp = 404\n", "has exactly one of `status`"),
        ("[auth]\ntype = \"oauth\"\n", "write one of `none`"),
        ("[auth]\ntype = \"bearer\"\nsend_to = \"api.two.example\"\n", "write [\"api.two.example\"]"),
        (
            "[auth]\ntype = \"bearer\"\nsend_to = [\"https://api.two.example\"]\n",
            "write it as api.example.com",
        ),
        ("[request]\nurl = \"api.two.example/{job_id}\"\n", "is not a URL; write it as https://"),
        ("[request]\nurl = \"https://api.two.example/{job_id}?x=1\"\n", "move the query to request.query"),
    ]);
}

#[test]
fn a_wrong_pattern_is_named_with_the_reason() {
    let part = |pattern: &str| {
        format!("[extract]\njob_id = \"none\"\noutput = {{ path = \"$.u\", match = {pattern} }}\n")
    };
    check(&[
        (&part("\"(\""), "extract.output.match: `(` is not a regular expression: unclosed group"),
        (&part("\"\\d+\""), "between single quotes"),
        (&part("\"(a)(b)\""), "has 2 groups"),
        (&part("\"x{job_id}\""), "it has no parameters such as `{job_id}`"),
        ("[params.job_id]\npattern = \"{job_id}\"\n", "it has no parameters such as `{job_id}`"),
    ]);
}

#[test]
fn a_name_in_braces_is_never_taken_literally() {
    let extract = |keys: &str| format!("[extract]\njob_id = \"none\"\n{keys}\n");
    let rule = |test: &str| format!("[[rule]]\nall = [{{ path = \"$.a\", {test} }}]\nanswer = \"error\"\n");
    let literal = "would be taken literally";
    check(&[
        (
            "[auth]\ntype = \"bearer\"\nsend_to = [\"{region}.two.example\"]\n",
            "auth.send_to: `{region}.two.example` has braces",
        ),
        ("[auth]\ntype = \"bearer\"\nsend_to = [\"*.{region}.two.example\"]\n", "list each host"),
        (&rule("in = [\"{job_id}\"]"), literal),
        (&rule("is = \"{other}\""), "`{other}` is not declared; add [params.other]"),
        (&rule("is = \"{$.b}\""), "write `same_as`"),
        ("[errors]\nwhen = { path = \"$.id\", is = \"{job_id}\" }\n", literal),
        ("[errors]\ncode = \"$.c\"\naccount = [\"{job_id}\"]\n", literal),
        ("[not_found]\npath = \"$.c\"\nvalues = [\"no job {job_id}\"]\n", literal),
        (&extract("null = [\"{job_id}\"]"), literal),
        (&extract("output = \"$['{job_id}'].url\""), "write [{job_id}]"),
        (&extract("output = \"$.jobs[?@.id == '{job_id}'].url\""), "== {job_id} in a filter"),
        ("[[rule]]\nhttp = 409\nanswer = \"error\"\nexplain = \"Job {job_id} is locked.\"\n", literal),
        ("[[rule]]\nhttp = 409\nstatus = \"failed\"\nraw_status = \"{$.s}\"\n", literal),
        (
            "[status]\npath = \"$.s\"\n[status.map]\nprocessing = [\"run\"]\ncompleted = [\"{job_id} ok\"]\nfailed = [\"bad\"]\n",
            literal,
        ),
        ("[request]\nurl = \"https://api.two.example/{job_id}\"\naccept = \"application/{kind}\"\n", literal),
        (
            "[request]\nurl = \"https://api.two.example/{job_id}\"\nquery = { \"{job_id}\" = \"1\" }\n",
            literal,
        ),
        (
            "[auth]\ntype = \"query\"\nquery = { id = \"{job_id}\" }\nsend_to = [\"api.two.example\"]\n",
            "a field of the credential here",
        ),
        ("[params.region]\ndefault = \"{eu}\"\n", literal),
        (
            "[auth]\ntype = \"oauth2\"\ntoken_url = \"https://login.example/t\"\nscope = \"{scope}\"\nsend_to = [\"api.two.example\"]\n",
            literal,
        ),
    ]);
    assert!(mistakes(&rule("is = '{\"a\": 1}'")).is_empty(), "JSON in a text is no name");
}
