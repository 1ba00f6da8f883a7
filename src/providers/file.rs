//! The form of a definition file: the tables and keys of the TOML that a definition does not have as they are.
//!
//! `compile` reads the values and lists every error in them. Unknown keys are rejected here, so that a misspelt key
//! is never ignored.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::definition::{Errors, Example, Fold, Response};
use super::extract::{Extract, Paths};
use super::template::ParamTable;
use crate::domain::JobStatus;

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
    pub(super) response: Response,
    pub(super) status: StatusTable,
    pub(super) extract: Extract,
    #[serde(default)]
    pub(super) errors: Errors,
    #[serde(default)]
    pub(super) not_found: NotFoundTable,
    #[serde(default)]
    pub(super) poll: PollTable,
    #[serde(default)]
    pub(super) limits: LimitsTable,
    #[serde(default)]
    pub(super) example: Vec<Example>,
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

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AuthType {
    None,
    Bearer,
    Header,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestTable {
    pub(super) method: Option<Method>,
    pub(super) url: String,
    #[serde(default)]
    pub(super) query: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    pub(super) timeout: Option<String>,
    pub(super) max_body: Option<String>,
}

/// Methods of a poll. A definition that needs another method cannot be loaded, instead of sending wrong requests.
#[derive(Deserialize)]
pub(super) enum Method {
    #[serde(rename = "GET")]
    Get,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusTable {
    pub(super) path: Paths,
    #[serde(default)]
    pub(super) fold: Fold,
    pub(super) unknown: Option<JobStatus>,
    pub(super) map: MapTable,
    #[serde(default)]
    pub(super) explain: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct MapTable {
    pub(super) pending: Vec<String>,
    pub(super) processing: Vec<String>,
    pub(super) completed: Vec<String>,
    pub(super) failed: Vec<String>,
    pub(super) cancelled: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NotFoundTable {
    pub(super) http: Option<Vec<u16>>,
    pub(super) path: Paths,
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
