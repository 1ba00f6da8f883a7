//! The pages about the embedded definitions: an index, and one page for each.
//!
//! `UPDATE_EXAMPLES=1` writes them.

use std::fs;
use std::path::{Path, PathBuf};

use ringback::domain::{JobStatus, Timestamp, credential_variable, format_duration, format_rate};
use ringback::providers::{Definition, load_providers};
use serde_json::{Value, json};

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");

/// Returns the index.
fn index() -> String {
    let all = load_providers(None).valid;
    let mut page = format!(
        "# Job APIs\n\nThese {} job APIs are built in. The pages are made from their definitions in \
         `src/providers/definitions/`, whose heads name the source of each fact, and what could not be verified. \
         [PROVIDERS.md](PROVIDERS.md) explains how to add one.\n\n| Job API | `provider` | Own webhooks, and when to use \
         Ringback |\n|---|---|---|\n",
        all.len()
    );
    for Definition { id, name, webhooks, .. } in all.values().map(AsRef::as_ref) {
        let webhooks = cell(webhooks.as_deref().unwrap_or_default());
        page += &format!("| [{name}](providers/{id}.md) | `{id}` | {webhooks} |\n");
    }
    page
}

/// Returns the page about a definition.
fn page(definition: &Definition) -> String {
    let Definition { id, name, docs, webhooks, notes, poll, limits, .. } = definition;
    let (job_id, params) = (definition.first_example().unwrap_or_default(), definition.first_params());
    let mut body =
        json!({ "provider": id, "jobId": job_id, "callbackUrl": "https://app.example.com/hooks/job" });
    if !params.is_empty() {
        body["params"] = Value::from(params.clone());
    }
    let mut page = format!("# {name}\n\n`provider`: `{id}`. [The documentation of the API]({docs}).\n");
    if let Some(sentence) = webhooks {
        page += &format!("\n{sentence}\n");
    }
    page += &format!(
        "\nThe body of `POST /v1/watches`:\n\n```json\n{}\n```\n",
        serde_json::to_string_pretty(&body).unwrap()
    );
    // As if the operator had permitted the host of the example.
    let refused = match (definition.params(&params), definition.check_job_id(job_id)) {
        (Err(wrong), _) => wrong.iter().map(|(_, error)| error.to_string()).collect(),
        (_, Err(error)) => error,
        (Ok(_), Ok(())) => String::new(),
    };
    let host = refused.split_once("must not be sent to ").and_then(|(_, rest)| rest.split(';').next());
    let mut permitted = definition.clone();
    permitted.set_operator_hosts(host.unwrap_or_default(), false).unwrap();
    let needs_host = host.is_some();
    let params = permitted.params(&params).unwrap_or_else(|wrong| panic!("{id}: {wrong:?}"));
    let request = permitted
        .shown_request(job_id, &params, None, Timestamp::from_millis(0))
        .unwrap_or_else(|why| panic!("{id}: {why}"));
    page += &format!("\n## Request\n\n```http\n{request}\n```\n\n");
    page += &if definition.needs_credential() {
        format!("The credential is the value of `{}`.\n", credential_variable(id))
    } else {
        "No credential is needed.\n".to_owned()
    };
    if needs_host {
        page += &format!("The operator lists the hosts that clients may choose in `providers.{id}.hosts`.\n");
    }
    page += &cancellation(&permitted, (job_id, &params));
    page += &parameters(definition);
    page += &statuses(definition);
    let (first, deadline) = (format_duration(poll.first), format_duration(poll.deadline));
    let rate = limits.rate.spacing.map_or_else(|| "any rate".to_owned(), format_rate);
    let concurrency = limits.concurrency;
    page += &format!(
        "\n## Limits\n\n- At most {rate}, and {concurrency} polls at once, for one credential.\n- The first poll takes place \
         {first} after the registration; the interval is at most {}.\n- A watch lives {deadline} by default.\n",
        format_duration(poll.max_interval)
    );
    if !notes.is_empty() {
        page += "\n## Notes\n\n";
    }
    for note in notes {
        page += &format!("- {note}\n");
    }
    page
}

/// Returns the section about the request that cancels a job.
fn cancellation(definition: &Definition, job: (&str, &str)) -> String {
    let id = &definition.id;
    let Some(request) = definition.shown_cancel(job, None, Timestamp::from_millis(0)) else {
        return String::new();
    };
    let request = request.unwrap_or_else(|why| panic!("{id}: {why}"));
    format!(
        "\n## Cancellation\n\nIf the operator sets `providers.{id}.allow_cancel`, [a client can cancel the \
         job](../API.md#cancel-the-job):\n\n```http\n{request}\n```\n"
    )
}

/// Returns the section about the parameters.
fn parameters(definition: &Definition) -> String {
    let mut rows = String::new();
    for parameter in definition.parameters() {
        let values = match (parameter.pattern, parameter.values) {
            (Some(pattern), []) => format!("matches `{}`", cell(pattern)),
            (_, []) => "a text of 1 to 256 bytes".to_owned(),
            (_, values) => values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", "),
        };
        let absent = if parameter.is_optional { "optional" } else { "required" };
        let default = parameter.default.map_or_else(|| absent.to_owned(), |default| format!("`{default}`"));
        rows += &format!("| `{}` | {values} | {default} |\n", parameter.name);
    }
    if rows.is_empty() {
        rows
    } else {
        format!("\n## Parameters\n\n| Name | Values | Default |\n|---|---|---|\n{rows}")
    }
}

/// Returns the section about the statuses.
fn statuses(definition: &Definition) -> String {
    let mut words: Vec<_> = definition.status_words().collect();
    if words.is_empty() {
        return "\n## Statuses\n\nRules decide the status of each answer: see the definition.\n".to_owned();
    }
    words.sort_by_key(|(word, status)| (status.as_str(), *word));
    let row = |(word, status): &(&str, JobStatus)| {
        format!(
            "| `{}` | {status} | {} |\n",
            cell(word),
            cell(definition.explanation(word).unwrap_or_default())
        )
    };
    let rows: String = words.iter().map(row).collect();
    format!("\n## Statuses\n\n| The API's word | Status of the job | Explanation |\n|---|---|---|\n{rows}")
}

/// Returns a text as the cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// Every page with its file.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = Path::new(DOCS);
    let own = load_providers(None).valid.into_values();
    let own = own.map(|definition| (docs.join(format!("providers/{}.md", definition.id)), page(&definition)));
    own.chain([(docs.join("JOB_APIS.md"), index())]).collect()
}

// Once: no database is used.
#[test]
#[expect(clippy::disallowed_methods, reason = "the developer's request to write the files, as insta has one")]
fn the_page_about_each_job_api_is_current() {
    let folder = Path::new(DOCS).join("providers");
    if std::env::var_os("UPDATE_EXAMPLES").is_some() {
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder).unwrap();
        for (file, page) in pages() {
            fs::write(file, page).unwrap();
        }
    }
    for (file, page) in pages() {
        let name = file.display();
        let present = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(present, page, "{name}: run this test with UPDATE_EXAMPLES=1");
    }
    let present = fs::read_dir(folder).unwrap().count();
    assert_eq!(present + 1, pages().len(), "each page is about a definition");
}
