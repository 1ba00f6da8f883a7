//! Guesses about the members of answers.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Greatest depth at which members are searched.
const DEPTH_MAX: usize = 6;

/// Names of the member that holds the status, best first. They are compared without case, `_` and `-`.
const STATUS_NAMES: &[&str] = &[
    "status",
    "state",
    "taskstatus",
    "jobstatus",
    "runstatus",
    "processingstatus",
    "phase",
    "lifecyclestate",
    "buildstatus",
    "stage",
    "done",
    "finished",
    "completed",
    "iscomplete",
    "isdone",
    "isfinished",
    "ready",
];

/// Names of members with the URL or the text of a result, best first.
const OUTPUT_NAMES: &[&str] = &[
    "outputurl",
    "resulturl",
    "downloadurl",
    "videourl",
    "audiourl",
    "imageurl",
    "fileurl",
    "mp4url",
    "output",
    "result",
    "url",
    "video",
    "text",
    "transcript",
];

/// Names of lists of results, best first.
const OUTPUTS_NAMES: &[&str] =
    &["outputs", "results", "output", "result", "videos", "images", "files", "artifacts", "assets", "data"];

/// Names of the URL within one of several results.
const URL_NAMES: &[&str] = &["url", "downloadurl", "videourl", "imageurl", "href", "uri", "src"];

/// Names of members with an error: the code, and the message.
const CODE_NAMES: &[&str] = &["errorcode", "failurecode"];
const MESSAGE_NAMES: &[&str] = &[
    "errormessage",
    "failuremessage",
    "failurereason",
    "failedreason",
    "errordetail",
    "error",
    "failure",
    "reason",
];

/// Names of the time at which a job was created, and at which it ended.
const CREATED_NAMES: &[&str] = &[
    "createdat",
    "createdon",
    "created",
    "createtime",
    "datecreated",
    "submittedat",
    "creationtime",
    "queuedat",
];
const COMPLETED_NAMES: &[&str] = &[
    "completedat",
    "completedon",
    "datecompleted",
    "finishedat",
    "finishedon",
    "succeededat",
    "endedat",
    "completed",
    "finished",
    "endtime",
    "completetime",
    "completiontime",
];

/// Names of the progress.
const PROGRESS_NAMES: &[&str] = &[
    "progress",
    "percent",
    "percentage",
    "percentcomplete",
    "percentdone",
    "progresspercent",
    "progresspercentage",
    "completion",
];

/// Names of the number of which a progress beside it counts the part that is done.
const TOTAL_NAMES: &[&str] = &["total", "totalcount", "progresstotal"];

/// Names of texts that can be the cause of a failure, and can be something else.
const VAGUE_MESSAGE_NAMES: &[&str] = &["message", "detail", "statusmessage"];

/// Names of the id of the job, best first.
pub(super) const ID_NAMES: &[&str] =
    &["id", "jobid", "taskid", "runid", "requestid", "predictionid", "uuid", "name"];

/// Names of members that say, beside the status, how the job has ended. They are compared like those of the status.
const OUTCOME_NAMES: &[&str] = &[
    "result",
    "resultstate",
    "resultstatus",
    "conclusion",
    "outcome",
    "verdict",
    "finalstatus",
    "success",
    "succeeded",
    "successful",
    "issuccess",
    "haserror",
    "iserror",
    "failed",
    "isfailed",
    "error",
];

/// Words with a known meaning. They are compared without case, `_`, `-` and spaces.
const WORDS: &[(Meaning, &[&str])] = &[
    (
        Meaning::Pending,
        &[
            "pending",
            "queued",
            "inqueue",
            "created",
            "submitted",
            "waiting",
            "scheduled",
            "new",
            "notstarted",
            "accepted",
            "enqueued",
            "throttled",
            "initialized",
        ],
    ),
    (
        Meaning::Processing,
        &[
            "processing",
            "running",
            "inprogress",
            "started",
            "starting",
            "active",
            "working",
            "executing",
            "rendering",
            "generating",
            "uploading",
            "validating",
            "finalizing",
            "cancelling",
            "canceling",
            "preparing",
        ],
    ),
    (
        Meaning::Completed,
        &[
            "completed",
            "complete",
            "succeeded",
            "success",
            "successful",
            "done",
            "finished",
            "ready",
            "ended",
            "ok",
        ],
    ),
    (
        Meaning::Failed,
        &["failed", "failure", "error", "errored", "timedout", "timeout", "rejected", "crashed", "fatal"],
    ),
    (Meaning::Cancelled, &["cancelled", "canceled", "aborted", "stopped", "terminated", "killed", "revoked"]),
    (Meaning::Expired, &["expired"]),
];

/// What a status means: a list of `[status.map]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Pending,
    Processing,
    Completed,
    Failed,
    Cancelled,
    Expired,
}

impl Meaning {
    /// All lists, in the order of a definition.
    pub(super) const ALL: [Self; 6] =
        [Self::Pending, Self::Processing, Self::Completed, Self::Failed, Self::Cancelled, Self::Expired];

    /// Returns the name of the list.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// A status.
#[derive(Clone, Debug)]
pub(super) struct Word {
    /// The status as TOML.
    pub(super) toml: String,
    pub(super) meaning: Option<Meaning>,
    /// Whether an answer has it.
    pub(super) is_seen: bool,
}

/// The guesses about some answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Guess {
    /// Path of the status.
    pub(super) status: Option<String>,
    pub(super) words: Vec<Word>,
    /// Path of the id of the job.
    pub(super) job_id: Option<String>,
    /// Keys of `[extract]` with their values as TOML.
    pub(super) fields: Vec<(&'static str, String)>,
    /// What another member says of a job whose status sounds like a success.
    pub(super) doubts: Vec<Doubt>,
}

/// A member that decides, together with the status, how a job has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Doubt {
    /// The status as TOML.
    pub(super) status: String,
    pub(super) path: String,
    /// The value as TOML; `None` for an object.
    pub(super) value: Option<String>,
    /// Whether the value contradicts the status.
    pub(super) is_contrary: bool,
}

/// A member of an answer.
pub(super) struct Member<'a> {
    pub(super) path: String,
    pub(super) name: String,
    pub(super) value: &'a Value,
    depth: usize,
}

impl Guess {
    /// Guesses from answers about one job.
    pub(super) fn of(answers: &[Value], id: &str) -> Self {
        let members: Vec<Member<'_>> = answers.iter().flat_map(members).collect();
        let mut guess = Self { job_id: id_path(&members, id), ..Self::default() };
        if let Some(path) = status_path(&members) {
            let values = members.iter().filter(|member| member.path == path).map(|member| member.value);
            guess.words = words(values);
            guess.doubts = answers.iter().flat_map(|answer| doubts(answer, &path)).collect();
            guess.doubts.dedup();
            guess.forget_contradicted();
            guess.status = Some(path);
        } else {
            guess.words = words(std::iter::empty());
        }
        let mut add = |key, value: Option<String>| guess.fields.extend(value.map(|value| (key, value)));
        add("progress", progress(&members));
        let outputs = outputs(&members);
        if outputs.is_none() {
            add(
                "output",
                output(&members, id).map(|path| format!("{{ path = \"{path}\", when = [\"completed\"] }}")),
            );
        }
        add("outputs", outputs);
        let error = members
            .iter()
            .find(|member| MESSAGE_NAMES.contains(&member.name.as_str()) && member.value.is_object());
        let inner = |name: &str| {
            let error = error?;
            error
                .value
                .get(name)
                .filter(|value| is_scalar(value))
                .map(|_| format!("\"{}.{name}\"", error.path))
        };
        add("error_code", inner("code").or_else(|| inner("type")).or_else(|| text_at(&members, CODE_NAMES)));
        add(
            "error_message",
            inner("message")
                .or_else(|| inner("detail"))
                .or_else(|| text_at(&members, MESSAGE_NAMES))
                .or_else(|| {
                    text_at(&members, VAGUE_MESSAGE_NAMES)
                        .map(|path| format!("{{ path = {path}, when = [\"failed\"] }}"))
                }),
        );
        add("created_at", time(&members, CREATED_NAMES));
        add("completed_at", time(&members, COMPLETED_NAMES));
        guess
    }
}

impl Guess {
    /// Removes the guesses that a status means success where another member of its answer says that the job failed.
    fn forget_contradicted(&mut self) {
        for word in &mut self.words {
            if self.doubts.iter().any(|doubt| doubt.is_contrary && doubt.status == word.toml) {
                word.meaning = None;
            }
        }
    }
}

/// Returns what other members of an answer say of a job whose status sounds like a success.
fn doubts(answer: &Value, status_path: &str) -> Vec<Doubt> {
    let members = members(answer);
    let status = members.iter().find(|member| member.path == status_path).map(|member| member.value);
    let status = match status {
        Some(Value::String(word)) if meaning(word) == Some(Meaning::Completed) => quoted(word),
        Some(Value::Bool(true)) => "true".to_owned(),
        _ => return Vec::new(),
    };
    let doubt = |member: &Member<'_>| {
        let name = member.name.as_str();
        if member.path == status_path || !OUTCOME_NAMES.contains(&name) {
            return None;
        }
        let is_of_failure = ["error", "haserror", "iserror", "failed", "isfailed"].contains(&name);
        let (value, is_contrary) = match member.value {
            Value::Bool(value) => (Some(value.to_string()), *value == is_of_failure),
            Value::String(word) if !word.is_empty() && word.len() <= 40 => match meaning(word) {
                Some(Meaning::Completed) => (Some(quoted(word)), false),
                Some(Meaning::Failed | Meaning::Cancelled | Meaning::Expired) => (Some(quoted(word)), true),
                None if name == "error" => (Some(quoted(word)), true),
                Some(Meaning::Pending | Meaning::Processing) | None => return None,
            },
            Value::String(text) if !text.is_empty() && name == "error" => (None, true),
            Value::Object(members) if name == "error" && !members.is_empty() => (None, true),
            Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                return None;
            }
        };
        Some(Doubt { status: status.clone(), path: member.path.clone(), value, is_contrary })
    };
    members.iter().filter_map(doubt).collect()
}

/// Returns a basic string of TOML. The escapes of JSON are those of TOML, except for U+007F.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// Returns a name for comparison: without case, `_`, `-` and spaces.
pub(super) fn folded(name: &str) -> String {
    name.chars().filter(|c| !"_- ".contains(*c)).flat_map(char::to_lowercase).collect()
}

/// Returns every member of an answer, the higher ones first. Those of a list are left out.
pub(super) fn members(answer: &Value) -> Vec<Member<'_>> {
    let mut found = Vec::new();
    let mut level: Vec<(String, &Map<String, Value>)> =
        answer.as_object().map(|object| ("$".to_owned(), object)).into_iter().collect();
    for depth in 0..DEPTH_MAX {
        let mut next = Vec::new();
        for (path, object) in level {
            for (name, value) in object {
                let Some(step) = step(name) else { continue };
                let path = format!("{path}{step}");
                if let Some(object) = value.as_object() {
                    next.push((path.clone(), object));
                }
                found.push(Member { path, name: folded(name), value, depth });
            }
        }
        level = next;
    }
    found
}

/// Returns the step of a path to a member; `None` for a name that a path cannot have within a text of TOML.
pub(super) fn step(name: &str) -> Option<String> {
    let is_plain = |c: char| c.is_alphanumeric() || "_-".contains(c);
    if !name.is_empty() && name.chars().all(is_plain) {
        return Some(format!(".{name}"));
    }
    let is_quotable = |c: char| !c.is_control() && !"'\"\\{}".contains(c);
    (!name.is_empty() && name.chars().all(is_quotable)).then(|| format!("['{name}']"))
}

fn is_scalar(value: &Value) -> bool {
    value.is_string() || value.is_number() || value.is_boolean()
}

/// Returns the member with the best of these names, the highest one of several.
pub(super) fn best<'m, 'a>(
    members: &'m [Member<'a>],
    names: &[&str],
    fits: impl Fn(&Value) -> bool,
) -> Option<&'m Member<'a>> {
    let rank = |member: &Member<'_>| {
        let name = names.iter().position(|name| *name == member.name)?;
        fits(member.value).then_some((name, member.depth))
    };
    let ranked = members.iter().filter_map(|member| Some((rank(member)?, member)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, member)| member)
}

/// Returns the path of the status: a member with a known word wins over its name.
fn status_path(members: &[Member<'_>]) -> Option<String> {
    let has_word = |value: &Value| value.as_str().is_some_and(|word| meaning(word).is_some());
    let is_word = |value: &Value| match value {
        Value::String(word) => !word.is_empty() && word.len() <= 40,
        Value::Number(_) | Value::Bool(_) => true,
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    };
    let found = best(members, STATUS_NAMES, has_word).or_else(|| best(members, STATUS_NAMES, is_word));
    found.map(|member| member.path.clone())
}

fn meaning(word: &str) -> Option<Meaning> {
    let word = folded(word);
    WORDS.iter().find(|(_, words)| words.contains(&word.as_str())).map(|(meaning, _)| *meaning)
}

/// Returns the statuses of the answers, and a guess for each meaning that a definition needs and no answer has.
fn words<'a>(values: impl Iterator<Item = &'a Value>) -> Vec<Word> {
    let (mut seen, mut words) = (BTreeSet::new(), Vec::new());
    let (mut is_upper, mut kind) = (false, Kind::Text);
    for value in values {
        let (toml, meaning) = match value {
            Value::String(word) => {
                is_upper |= word.chars().any(char::is_alphabetic) && *word == word.to_uppercase();
                (quoted(word), meaning(word))
            }
            Value::Bool(done) => {
                kind = Kind::Bool;
                (done.to_string(), Some(if *done { Meaning::Completed } else { Meaning::Processing }))
            }
            Value::Number(number) => {
                kind = Kind::Number;
                (number.to_string(), None)
            }
            Value::Null | Value::Array(_) | Value::Object(_) => continue,
        };
        if seen.insert(toml.clone()) {
            words.push(Word { toml, meaning, is_seen: true });
        }
    }
    for meaning in [Meaning::Processing, Meaning::Completed, Meaning::Failed] {
        let has = |meaning| words.iter().any(|word: &Word| word.meaning == Some(meaning));
        if has(meaning) || (meaning == Meaning::Processing && has(Meaning::Pending)) {
            continue;
        }
        let word = meaning.word();
        let toml = match (kind, meaning) {
            (Kind::Bool, Meaning::Completed) => "true".to_owned(),
            (Kind::Bool, Meaning::Processing) => "false".to_owned(),
            _ => quoted(&if is_upper { word.to_uppercase() } else { word.to_owned() }),
        };
        words.push(Word { toml, meaning: Some(meaning), is_seen: false });
    }
    words
}

/// The type of the statuses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Bool,
    Number,
}

/// Returns the path of the id of the job.
pub(super) fn id_path(members: &[Member<'_>], id: &str) -> Option<String> {
    let is_id = |value: &Value| match value {
        Value::String(text) => text == id,
        Value::Number(number) => number.to_string() == id,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    };
    let named = best(members, ID_NAMES, is_id);
    named.or_else(|| members.iter().find(|member| is_id(member.value))).map(|member| member.path.clone())
}

/// Returns whether a part of a URL looks like an id: it has a digit and is not a version, or it is long.
pub(super) fn looks_like_id(part: &str) -> bool {
    let is_version = part
        .strip_prefix('v')
        .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit() || c == '.'));
    let has_digit = part.chars().any(|c| c.is_ascii_digit());
    !is_version && (has_digit || part.len() >= 20)
}

/// Returns a pattern that the id matches.
pub(super) fn pattern(id: &str) -> String {
    let all = |fits: fn(&char) -> bool| id.chars().all(|c| fits(&c));
    if all(char::is_ascii_digit) {
        "[0-9]+".to_owned()
    } else if all(|c| c.is_ascii_hexdigit() || *c == '-') && id.len() >= 16 {
        "[0-9a-fA-F-]+".to_owned()
    } else {
        let others: BTreeSet<char> =
            id.chars().filter(|c| !c.is_ascii_alphanumeric() && !"_-".contains(*c)).collect();
        let others: String = others.into_iter().map(|c| regex::escape(&c.to_string())).collect();
        format!("[A-Za-z0-9_{others}-]+")
    }
}

fn progress(members: &[Member<'_>]) -> Option<String> {
    let percent = |text: &str| text.trim_end_matches('%').parse::<f64>().is_ok();
    let is_number = |value: &Value| value.is_number() || value.as_str().is_some_and(percent);
    let found = best(members, PROGRESS_NAMES, is_number)?;
    // A number of items beside their total.
    let parent = parent_of(&found.path);
    let of_total = |member: &&Member<'_>| parent_of(&member.path) == parent && member.value.is_number();
    let total = members.iter().filter(of_total).find(|member| TOTAL_NAMES.contains(&member.name.as_str()));
    if let Some(total) = total.filter(|_| found.value.is_number()) {
        return Some(format!("{{ ratio = [\"{}\", \"{}\"] }}", found.path, total.path));
    }
    // A number such as 0.4 in any answer: percentages are seldom below 1 and not whole.
    let mut values = members.iter().filter(|member| member.path == found.path).map(|member| member.value);
    let is_fraction = values.any(|value| value.as_f64().is_some_and(|number| number > 0.0 && number < 1.0));
    let unit = if is_fraction { "fraction" } else { "percent" };
    Some(format!("{{ path = \"{}\", unit = \"{unit}\" }}", found.path))
}

fn is_url(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.starts_with("https://") || text.starts_with("http://"))
}

/// Returns the path of the object that has a member.
fn parent_of(path: &str) -> &str {
    path.rfind(['.', '[']).map_or(path, |end| &path[..end])
}

fn output(members: &[Member<'_>], id: &str) -> Option<String> {
    // The URL of the job itself, under a general name.
    let is_of_job = |value: &Value| {
        let last = value.as_str().and_then(|url| url.split(['?', '#']).next()?.rsplit('/').next());
        last.is_some_and(|last| last == id || last.strip_suffix(".json") == Some(id))
    };
    let url = best(members, OUTPUT_NAMES, |value| is_url(value) && !is_of_job(value));
    let found = url.or_else(|| best(members, &["output", "result", "text", "transcript"], Value::is_string));
    found.map(|member| member.path.clone())
}

/// Returns the table for a list of results.
fn outputs(members: &[Member<'_>]) -> Option<String> {
    let of_list = |value: &Value| match value.as_array()?.first()? {
        item @ Value::String(_) if is_url(item) => Some("$".to_owned()),
        Value::Object(item) => {
            let name = URL_NAMES.iter().find_map(|name| {
                item.iter().find(|(key, value)| folded(key) == *name && is_url(value)).map(|(key, _)| key)
            });
            name.and_then(|name| step(name)).map(|step| format!("${step}"))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
    };
    let found = best(members, OUTPUTS_NAMES, |value| of_list(value).is_some())?;
    let url = of_list(found.value)?;
    Some(format!("{{ each = \"{}[*]\", url = {{ path = \"{url}\", when = [\"completed\"] }} }}", found.path))
}

/// Returns the path of the text with one of these names.
fn text_at(members: &[Member<'_>], names: &[&str]) -> Option<String> {
    best(members, names, Value::is_string).map(|member| format!("\"{}\"", member.path))
}

/// Returns the table for a time.
fn time(members: &[Member<'_>], names: &[&str]) -> Option<String> {
    let found = best(members, names, |value| format_of_time(value).is_some())?;
    let format = format_of_time(found.value)?;
    Some(format!("{{ path = \"{}\", format = \"{format}\" }}", found.path))
}

/// Returns the format of a time between 2001 and 2286, in which the units differ in their number of digits.
fn format_of_time(value: &Value) -> Option<&'static str> {
    let of_number = |number: f64| match number {
        1e9..1e10 => Some("epoch_s"),
        1e12..1e13 => Some("epoch_ms"),
        1e15..1e16 => Some("epoch_us"),
        _ => None,
    };
    match value {
        Value::Number(number) => of_number(number.as_f64()?),
        Value::String(text) if text.parse::<jiff::Timestamp>().is_ok() => Some("rfc3339"),
        Value::String(text) if text.parse::<jiff::civil::DateTime>().is_ok() => Some("naive_utc"),
        Value::String(text) => of_number(text.parse().ok()?),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}
