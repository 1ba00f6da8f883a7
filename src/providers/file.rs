//! The form of a definition file: every table and key of the TOML.
//!
//! `compile` reads the values and lists every error in them. Unknown keys are rejected here, so that a misspelt key
//! is never ignored.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::Value;

use crate::domain::{JobStatus, Output, Timestamp};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) schema: u32,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) docs: String,
    pub(super) params: BTreeMap<String, ParamTable>,
    pub(super) auth: AuthTable,
    pub(super) request: RequestTable,
    #[serde(default)]
    pub(super) response: ResponseTable,
    pub(super) status: StatusTable,
    pub(super) extract: ExtractTable,
    #[serde(default)]
    pub(super) errors: ErrorsTable,
    #[serde(default)]
    pub(super) not_found: NotFoundTable,
    #[serde(default)]
    pub(super) poll: PollTable,
    #[serde(default)]
    pub(super) limits: LimitsTable,
    #[serde(default)]
    pub(super) example: Vec<Example>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct ParamTable {
    pub(super) pattern: Option<String>,
    #[serde(default)]
    pub(super) encode: Encode,
    pub(super) default: Option<String>,
    pub(super) r#enum: Option<Vec<String>>,
}

/// How a value is put into the URL's path.
#[derive(Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Encode {
    /// As one segment; `/` is encoded.
    #[default]
    Segment,
    /// As several segments; `/` is kept.
    Path,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthTable {
    pub(super) r#type: AuthType,
    pub(super) header: Option<String>,
    pub(super) prefix: Option<String>,
    #[serde(default)]
    pub(super) send_to: Vec<String>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum AuthType {
    None,
    Bearer,
    Header,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestTable {
    #[serde(default)]
    pub(super) method: Method,
    pub(super) url: String,
    #[serde(default)]
    pub(super) query: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    pub(super) timeout: Option<String>,
    pub(super) max_body: Option<String>,
}

/// Methods of a poll. A definition that needs another method cannot be loaded, instead of sending wrong requests.
#[derive(Deserialize, Default)]
pub(super) enum Method {
    #[default]
    #[serde(rename = "GET")]
    Get,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct ResponseTable {
    #[serde(default)]
    pub(super) unwrap: PathList,
    #[serde(default)]
    pub(super) request_id: PathList,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusTable {
    pub(super) path: PathList,
    #[serde(default)]
    pub(super) fold: Fold,
    #[serde(default = "processing")]
    pub(super) unknown: JobStatus,
    pub(super) map: MapTable,
    #[serde(default)]
    pub(super) explain: BTreeMap<String, String>,
}

fn processing() -> JobStatus {
    JobStatus::Processing
}

/// How status words are compared.
#[derive(Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fold {
    /// Exactly.
    #[default]
    None,
    /// Without regard to case.
    Lower,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MapTable {
    #[serde(default)]
    pub(super) pending: Vec<String>,
    #[serde(default)]
    pub(super) processing: Vec<String>,
    #[serde(default)]
    pub(super) completed: Vec<String>,
    #[serde(default)]
    pub(super) failed: Vec<String>,
    #[serde(default)]
    pub(super) cancelled: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExtractTable {
    pub(super) job_id: PathList,
    pub(super) progress: Option<ProgressTable>,
    #[serde(default)]
    pub(super) output: PathList,
    pub(super) outputs: Option<OutputsTable>,
    #[serde(default)]
    pub(super) error_code: PathList,
    #[serde(default)]
    pub(super) error_message: PathList,
    pub(super) created_at: Option<TimeTable>,
    pub(super) completed_at: Option<TimeTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProgressTable {
    #[serde(default)]
    pub(super) path: PathList,
    pub(super) unit: Option<Unit>,
    pub(super) ratio: Option<[String; 2]>,
}

/// Unit of a progress number.
#[derive(Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    /// 0 to 100.
    Percent,
    /// 0 to 1.
    Fraction,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutputsTable {
    pub(super) each: PathList,
    pub(super) url: PathList,
    #[serde(default)]
    pub(super) r#type: PathList,
    #[serde(default)]
    pub(super) thumbnail: PathList,
    #[serde(default)]
    pub(super) poster: PathList,
    #[serde(default)]
    pub(super) only_urls: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TimeTable {
    pub(super) path: PathList,
    pub(super) format: TimeFormat,
}

/// Format of a time.
#[derive(Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum TimeFormat {
    /// Text in RFC 3339.
    Rfc3339,
    /// Number of seconds since 1970.
    EpochS,
    /// Number of milliseconds since 1970.
    EpochMs,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct ErrorsTable {
    pub(super) when: Option<ConditionTable>,
    #[serde(default)]
    pub(super) code: PathList,
    #[serde(default)]
    pub(super) message: PathList,
    #[serde(default)]
    pub(super) account: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConditionTable {
    pub(super) path: String,
    pub(super) is: Value,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct NotFoundTable {
    pub(super) http: Option<Vec<u16>>,
    #[serde(default)]
    pub(super) path: PathList,
    #[serde(default)]
    pub(super) values: Vec<String>,
    pub(super) grace: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct PollTable {
    pub(super) first: Option<String>,
    pub(super) min_interval: Option<String>,
    pub(super) max_interval: Option<String>,
    pub(super) deadline: Option<String>,
    pub(super) price: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsTable {
    pub(super) rate: Option<String>,
    pub(super) burst: Option<u32>,
    pub(super) concurrency: Option<u32>,
}

/// A response of the provider, and its meaning.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Example {
    pub(super) job_id: String,
    #[serde(default = "ok")]
    pub(super) http: u16,
    pub(super) body: String,
    pub(super) expect: Expect,
}

fn ok() -> u16 {
    200
}

/// Meaning of an example. For a response about the job, every field is compared: a field that is not listed must be
/// null.
#[derive(Deserialize, Clone, Debug)]
#[serde(tag = "answer", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Expect {
    Seen {
        status: JobStatus,
        raw_status: String,
        #[serde(default)]
        unknown_status: bool,
        progress: Option<u8>,
        output: Option<String>,
        outputs: Option<Vec<Output>>,
        error_code: Option<String>,
        error_message: Option<String>,
        created_at: Option<Timestamp>,
        completed_at: Option<Timestamp>,
        request_id: Option<String>,
    },
    NotFound {
        #[serde(default)]
        says: String,
    },
    Account {
        code: String,
        #[serde(default)]
        says: String,
    },
    RateLimited {
        #[serde(default)]
        says: String,
    },
    Trouble {
        #[serde(default)]
        says: String,
    },
}

/// One path, or a list. The first path with a usable value is used.
#[derive(Default)]
pub(super) struct PathList(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for PathList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = PathList;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a path or a list of paths")
            }

            fn visit_str<E>(self, text: &str) -> Result<PathList, E> {
                Ok(PathList(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<PathList, A::Error> {
                let mut paths = Vec::new();
                while let Some(path) = list.next_element()? {
                    paths.push(path);
                }
                Ok(PathList(paths))
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}
