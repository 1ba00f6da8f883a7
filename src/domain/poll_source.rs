//! How a job is polled that is not polled with a definition and a credential of the operator.

use serde::{Deserialize, Serialize};

use super::{Id, Masked};

/// The account of jobs whose definition and credential are both the operator's.
pub const OPERATOR_ACCOUNT: &str = "default";

/// What the poller needs to poll a job that is an app's alone.
#[derive(Clone, Debug)]
pub enum PollSource {
    /// The registration says how it is polled.
    Inline {
        /// The poll object, as canonical JSON. It can hold credentials.
        poll: Masked,
        /// The text of the credential that the poll object names.
        credential: Option<Masked>,
    },
    /// A definition of the operator says it, and the credential is the app's.
    Definition(DefinitionPoll),
}

/// A poll by a definition of the operator with a credential of the app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinitionPoll {
    /// Id of the definition.
    pub provider: String,
    /// Name of the credential, for people.
    pub credential: String,
    /// Id of the credential; `None` if it was deleted.
    pub credential_id: Option<Id>,
}

/// The stored form of a [`DefinitionPoll`]. The id of the credential stands beside it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredPoll {
    provider: String,
    credential: String,
}

impl PollSource {
    /// Returns the text that is stored and identifies the job, together with the id of the credential. The two forms never
    /// have equal texts: only a poll object has a URL.
    pub fn text(&self) -> String {
        match self {
            Self::Inline { poll, .. } => poll.reveal().to_owned(),
            Self::Definition(DefinitionPoll { provider, credential, .. }) => {
                let (provider, credential) = (provider.clone(), credential.clone());
                // A struct of texts can always be written.
                serde_json::to_string(&StoredPoll { provider, credential }).unwrap_or_default()
            }
        }
    }

    /// Reads a stored text, with the id of the credential and its text, which only a poll object needs here.
    pub fn read(text: String, credential: Option<(Id, Masked)>) -> Self {
        match serde_json::from_str::<StoredPoll>(&text) {
            Ok(StoredPoll { provider, credential: name }) => Self::Definition(DefinitionPoll {
                provider,
                credential: name,
                credential_id: credential.map(|(id, _)| id),
            }),
            Err(_) => {
                Self::Inline { poll: Masked::new(text), credential: credential.map(|(_, secret)| secret) }
            }
        }
    }
}

/// How a job that is an app's alone is polled, as its registration says.
#[derive(Clone, Debug)]
pub struct NewPoll {
    /// Keyed hash of the app, the source and the credential: the `account` of the job.
    pub id: Id,
    /// How it is polled.
    pub source: PollSource,
    /// Id of the credential.
    pub credential: Option<Id>,
    /// What the registration says, without secrets, for people: the poll object, or the name of the credential.
    pub shown: String,
}
