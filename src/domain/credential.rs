//! Credentials of apps: how one is sent, and to which hosts.

use serde::{Deserialize, Serialize};

use super::{Id, Masked, Timestamp};

word_enum! {
    /// How a credential is sent. Beside `provider`, its definition says that, and the kind says only what the text is.
    CredentialKind {
        /// `authorization: Bearer …`.
        Bearer = "bearer",
        /// In a header of any name.
        Header = "header",
        /// HTTP Basic.
        Basic = "basic",
        /// As a parameter of the query.
        Query = "query",
        /// As the definition of the provider says: one text or several fields, as its page describes the key.
        Key = "key",
    }
}

/// What is secret about a credential, and where it may be sent. It is stored as one sealed text, so that a writer of
/// the database cannot send the secret elsewhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialSecret {
    /// How it is sent.
    pub kind: CredentialKind,
    /// Hosts that get it, each perhaps with a port.
    pub send_to: Vec<String>,
    /// Name of the header or of the parameter; empty for other kinds.
    pub name: String,
    /// Token, value or key; `user:password` for Basic.
    pub value: String,
}

impl CredentialSecret {
    /// Returns the text that is sealed.
    pub fn text(&self) -> Masked {
        // A struct of texts can always be written.
        Masked::new(serde_json::to_string(self).unwrap_or_default())
    }

    /// Reads such a text. The error is a sentence that repeats nothing of it.
    pub fn parse(text: &Masked) -> Result<Self, String> {
        serde_json::from_str(text.reveal()).map_err(|_| "the stored credential cannot be read".to_owned())
    }
}

/// A credential of an app, without its secret.
#[derive(Clone, Debug)]
pub struct Credential {
    /// What identifies it, also after another one with its name was created.
    pub id: Id,
    /// The client's name for it.
    pub name: String,
    /// How it is sent.
    pub kind: CredentialKind,
    /// Hosts that get it.
    pub send_to: Vec<String>,
    /// Time of the creation.
    pub created_at: Timestamp,
}
