//! How a job is polled that is not polled with a definition and a credential of the operator.

use serde::{Deserialize, Serialize};

use super::definition::Pace;
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
    OfOperator {
        /// Id of the definition.
        provider: String,
        /// The credential.
        credential: CredentialRef,
    },
    /// A definition of the app says it.
    OfApp {
        /// The version of the definition.
        definition: DefinitionRef,
        /// The credential, if the definition needs one.
        credential: Option<CredentialRef>,
    },
}

/// A credential of an app that a registration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialRef {
    /// Its name, for people.
    pub name: String,
    /// Its id; `None` if it was deleted.
    pub id: Option<Id>,
}

/// A version of a definition of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinitionRef {
    /// The app's id of the definition.
    pub provider: String,
    /// Id of the version.
    pub id: Id,
    /// When and how fast it is polled.
    pub pace: Pace,
}

/// The stored form of a poll by a definition. The id of the credential stands beside it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredPoll {
    /// The operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    /// The app's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    definition: Option<StoredDefinition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredDefinition {
    provider: String,
    id: String,
    pace: Pace,
}

impl StoredDefinition {
    fn of(definition: &DefinitionRef) -> Self {
        let DefinitionRef { provider, id, pace } = definition;
        Self { provider: provider.clone(), id: format!("{id:?}"), pace: *pace }
    }

    fn read(self) -> Option<DefinitionRef> {
        Some(DefinitionRef { provider: self.provider, id: Id::parse(&self.id)?, pace: self.pace })
    }
}

impl PollSource {
    /// Returns the text that is stored and identifies the job, together with the id of the credential. The forms never
    /// have equal texts: only a poll object has a URL.
    pub fn text(&self) -> String {
        let stored = match self {
            Self::Inline { poll, .. } => return poll.reveal().to_owned(),
            Self::OfOperator { provider, credential } => StoredPoll {
                provider: Some(provider.clone()),
                definition: None,
                credential: Some(credential.name.clone()),
            },
            Self::OfApp { definition, credential } => StoredPoll {
                provider: None,
                definition: Some(StoredDefinition::of(definition)),
                credential: credential.as_ref().map(|credential| credential.name.clone()),
            },
        };
        // A struct of texts and numbers can always be written.
        serde_json::to_string(&stored).unwrap_or_default()
    }

    /// Reads a stored text, with the id of the credential and its text, which only a poll object needs here.
    pub fn read(text: String, credential: Option<(Id, Masked)>) -> Self {
        let (id, secret) = credential.unzip();
        let stored = serde_json::from_str::<StoredPoll>(&text).ok();
        let of = |name| CredentialRef { name, id };
        let definition_of = |stored: Option<StoredDefinition>| stored.and_then(StoredDefinition::read);
        match stored.map(|stored| (stored.provider, definition_of(stored.definition), stored.credential)) {
            Some((Some(provider), None, Some(name))) => Self::OfOperator { provider, credential: of(name) },
            Some((None, Some(definition), name)) => Self::OfApp { definition, credential: name.map(of) },
            _ => Self::Inline { poll: Masked::new(text), credential: secret },
        }
    }

    /// Returns the id of the version of the app's definition.
    pub fn definition_id(&self) -> Option<Id> {
        match self {
            Self::OfApp { definition, .. } => Some(definition.id),
            Self::Inline { .. } | Self::OfOperator { .. } => None,
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
    /// What the registration says, without secrets, for people: the poll object, or the names of the definition's
    /// version and of the credential.
    pub shown: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Limits, PollPolicy, Rate};

    #[test]
    fn a_stored_source_is_read_as_it_was() {
        let limits = Limits { rate: Rate { spacing: None }, burst: 1, concurrency: 1 };
        let pace = Pace::of(&PollPolicy::default(), limits);
        let definition = DefinitionRef { provider: "mine".to_owned(), id: Id::MAX, pace };
        let credential = CredentialRef { name: "my-key".to_owned(), id: Some(Id::MAX) };
        let sources = [
            PollSource::OfOperator { provider: "muvi".to_owned(), credential: credential.clone() },
            PollSource::OfApp { definition: definition.clone(), credential: None },
            PollSource::OfApp { definition, credential: Some(credential) },
            PollSource::Inline {
                poll: Masked::new(r#"{"url":"https://a.example/","method":"GET","credential":"my-key"}"#),
                credential: None,
            },
        ];
        for source in &sources {
            let id = match source {
                PollSource::OfOperator { .. } | PollSource::OfApp { credential: Some(_), .. } => {
                    Some(Id::MAX)
                }
                PollSource::OfApp { credential: None, .. } | PollSource::Inline { .. } => None,
            };
            let read = PollSource::read(source.text(), id.map(|id| (id, Masked::new("hush"))));
            assert_eq!(format!("{read:?}"), format!("{source:?}"));
        }
        let deleted = PollSource::read(sources[0].text(), None);
        let PollSource::OfOperator { credential, .. } = deleted else { panic!("{deleted:?}") };
        assert_eq!(credential.id, None);
    }
}
