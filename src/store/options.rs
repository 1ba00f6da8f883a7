//! The column `options` of a destination: how requests are signed and authenticated, as JSON. The column is sealed,
//! because it can hold a password or a client's secret.

use serde::{Deserialize, Serialize};

use super::db::{Result, StoreError};
use crate::domain::{Access, Auth, BasicAuth, ClientCredentials, Masked, Signing, TlsPem, TlsSummary};

/// The options, as they are stored. Each part is missing if it is the default.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct StoredOptions {
    #[serde(flatten)]
    signing: Signing,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<StoredAuth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<TlsSummary>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum StoredAuth {
    Basic {
        username: String,
        password: String,
    },
    Oauth2 {
        token_url: String,
        client_id: String,
        client_secret: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        audience: Option<String>,
        #[serde(default)]
        scopes: Vec<String>,
    },
}

/// The column `tls`: certificates and key of a TLS identity, in PEM.
#[derive(Serialize, Deserialize)]
struct StoredTls {
    certificate: Option<String>,
    key: Option<String>,
    authorities: Option<String>,
}

/// The options of a destination, apart from the headers and the secret.
pub(super) type Options = (Option<Box<Signing>>, Option<Box<Access>>);

/// Returns the options as they are stored before they are sealed; `None` for the default.
pub(super) fn options_text(signing: Option<&Signing>, access: Option<&Access>) -> Option<String> {
    if signing.is_none() && access.is_none() {
        return None;
    }
    let auth = access.and_then(|access| access.auth.as_ref()).map(|auth| match auth.clone() {
        Auth::Basic(BasicAuth { username, password }) => {
            StoredAuth::Basic { username, password: password.reveal().to_owned() }
        }
        Auth::Oauth2(ClientCredentials { token_url, client_id, client_secret, audience, scopes }) => {
            let client_secret = client_secret.reveal().to_owned();
            StoredAuth::Oauth2 { token_url, client_id, client_secret, audience, scopes }
        }
    });
    let tls = access.and_then(|access| access.tls.clone());
    let options = StoredOptions { signing: signing.cloned().unwrap_or_default(), auth, tls };
    // A type of this program: it cannot fail.
    Some(serde_json::to_string(&options).unwrap_or_default())
}

/// Reads the opened text of the column.
pub(super) fn read_options(text: Option<&str>) -> Result<Options> {
    let Some(text) = text else { return Ok((None, None)) };
    // The error of the parser could quote a secret.
    let broken = |_| StoreError::Inconsistent("the options of a destination cannot be read".to_owned());
    let StoredOptions { signing, auth, tls } = serde_json::from_str(text).map_err(broken)?;
    let signing = Some(signing).filter(|signing| *signing != Signing::default()).map(Box::new);
    let auth = auth.map(|auth| match auth {
        StoredAuth::Basic { username, password } => {
            Auth::Basic(BasicAuth { username, password: Masked::new(password) })
        }
        StoredAuth::Oauth2 { token_url, client_id, client_secret, audience, scopes } => {
            let client_secret = Masked::new(client_secret);
            Auth::Oauth2(ClientCredentials { token_url, client_id, client_secret, audience, scopes })
        }
    });
    Ok((signing, Access::of(auth, tls)))
}

/// Returns a TLS identity as it is stored before it is sealed.
pub(super) fn tls_text(pem: &TlsPem) -> String {
    let TlsPem { certificate, key, authorities } = pem.clone();
    let key = key.map(|key| key.reveal().to_owned());
    serde_json::to_string(&StoredTls { certificate, key, authorities }).unwrap_or_default()
}

/// Reads the opened text of the column `tls`.
pub(super) fn read_tls(text: &str) -> Result<TlsPem> {
    let broken = |_| StoreError::Inconsistent("the TLS identity of a destination cannot be read".to_owned());
    let StoredTls { certificate, key, authorities } = serde_json::from_str(text).map_err(broken)?;
    Ok(TlsPem { certificate, key: key.map(Masked::new), authorities })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{KeyKind, SignatureForm};

    #[test]
    fn options_are_read_as_they_were_stored() {
        let signing = Signing { form: SignatureForm::Standard, keys: vec![KeyKind::Ed25519] };
        let basic = Auth::Basic(BasicAuth { username: "u".to_owned(), password: Masked::new("p") });
        let client = ClientCredentials {
            token_url: "https://auth.example/token".to_owned(),
            client_id: "c".to_owned(),
            client_secret: Masked::new("s"),
            audience: None,
            scopes: vec!["a".to_owned()],
        };
        let for_api = Auth::Oauth2(ClientCredentials { audience: Some("api".to_owned()), ..client.clone() });
        let oauth2 = Auth::Oauth2(client);
        let tls = TlsSummary { fingerprint: "ab".to_owned(), certificate: None, authorities: 2 };
        for (signing, access) in [
            (None, None),
            (Some(signing), None),
            (None, Access::of(Some(basic.clone()), None)),
            (None, Access::of(Some(oauth2), Some(tls.clone()))),
            (None, Access::of(Some(for_api), None)),
            (Some(Signing { form: SignatureForm::None, ..Signing::default() }), Access::of(None, Some(tls))),
        ] {
            let text = options_text(signing.as_ref(), access.as_deref());
            let read = read_options(text.as_deref()).expect("read");
            assert_eq!(read, (signing.map(Box::new), access), "{text:?}");
        }
        // The first version stored the signature only.
        let (signing, access) =
            read_options(Some(r#"{"signature":"github","keys":["hmac"]}"#)).expect("read");
        assert_eq!((signing.map(|one| one.form), access), (Some(SignatureForm::Github), None));
        let error = read_options(Some(r#"{"auth":{"type":"basic","username":"hush"}}"#)).expect_err("broken");
        assert!(!error.to_string().contains("hush"), "{error}");
    }
}
