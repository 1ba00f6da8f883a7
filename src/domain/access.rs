//! How requests to a webhook authenticate themselves: with a password, with a token, or with a client certificate.

use std::fmt;

use super::Masked;

word_enum! {
    /// Kind of an authentication towards a receiver.
    AuthKind {
        /// A name and a password (RFC 7617).
        Basic = "basic",
        /// A token that a token URL issues for client credentials (RFC 6749, section 4.4).
        Oauth2 = "oauth2",
    }
}

/// Authentication towards a receiver, in the header `authorization`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// A name and a password.
    Basic(BasicAuth),
    /// Client credentials, for which a token URL issues tokens.
    Oauth2(ClientCredentials),
}

/// A name and a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    /// Name, without a colon.
    pub username: String,
    /// Password.
    pub password: Masked,
}

/// Client credentials of OAuth 2.0.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCredentials {
    /// URL that issues tokens.
    pub token_url: String,
    /// Name of the client.
    pub client_id: String,
    /// Secret of the client.
    pub client_secret: Masked,
    /// API for which the token is requested. RFC 6749 does not have it; Auth0 requires it.
    pub audience: Option<String>,
    /// Requested scopes; without one, the token URL decides.
    pub scopes: Vec<String>,
}

impl fmt::Debug for ClientCredentials {
    /// Prints no URL, because it can contain a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCredentials").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// How requests to a webhook authenticate themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Authentication in a header.
    pub auth: Option<Auth>,
    /// TLS identity. Only a saved destination has one.
    pub tls: Option<TlsSummary>,
}

impl Access {
    /// Returns the parts together; `None` if there is none.
    pub fn of(auth: Option<Auth>, tls: Option<TlsSummary>) -> Option<Box<Self>> {
        (auth.is_some() || tls.is_some()).then(|| Box::new(Self { auth, tls }))
    }
}

/// What may be shown of a TLS identity. Deliveries hold it in place of the certificates, which can be large.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TlsSummary {
    /// SHA-256 of the whole identity, in hex. Connections of different identities are never shared.
    pub fingerprint: String,
    /// SHA-256 of the client certificate, in hex.
    pub certificate: Option<String>,
    /// Number of trusted authorities; 0 for those of the server.
    pub authorities: usize,
}

/// A TLS identity as a client gives it, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsPem {
    /// Client certificate, followed by its intermediate certificates.
    pub certificate: Option<String>,
    /// Private key of the client certificate.
    pub key: Option<Masked>,
    /// Certificate authorities that are trusted in place of the server's.
    pub authorities: Option<String>,
}

/// A TLS identity that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTls {
    /// What may be shown.
    pub summary: TlsSummary,
    /// The identity.
    pub pem: TlsPem,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_of_an_authentication_has_no_secret() {
        let basic = Auth::Basic(BasicAuth { username: "u".to_owned(), password: Masked::new("hush") });
        let oauth2 = Auth::Oauth2(ClientCredentials {
            token_url: "https://auth.example/?t=hush".to_owned(),
            client_id: "c".to_owned(),
            client_secret: Masked::new("hush"),
            audience: None,
            scopes: Vec::new(),
        });
        let pem = TlsPem { key: Some(Masked::new("hush")), ..TlsPem::default() };
        let shown = format!("{basic:?} {oauth2:?} {pem:?}");
        assert!(shown.contains("\"u\"") && shown.contains("\"c\"") && !shown.contains("hush"), "{shown}");
    }
}
