//! How requests to a webhook are signed: with which keys, and in which form.

use serde::{Deserialize, Serialize};

word_enum! {
    /// Kind of a key that signs in the standard form.
    KeyKind {
        /// HMAC-SHA256 with a shared secret (`v1`).
        Hmac = "hmac",
        /// Ed25519 with the app's private key (`v1a`); the receiver needs only the public key.
        Ed25519 = "ed25519",
    }
}

word_enum! {
    /// Form of a signature.
    SignatureForm {
        /// Standard Webhooks: `webhook-signature`.
        Standard = "standard",
        /// As GitHub signs: `x-hub-signature-256`.
        Github = "github",
        /// As Stripe signs: `stripe-signature`.
        Stripe = "stripe",
        /// No signature.
        None = "none",
    }
}

impl SignatureForm {
    /// Returns the headers that only this form sets, in lower case.
    pub const fn headers(self) -> &'static [&'static str] {
        match self {
            // Every custom header with the prefix `webhook-` is refused.
            Self::Standard | Self::None => &[],
            Self::Github => &["x-hub-signature-256", "x-github-event", "x-github-delivery"],
            Self::Stripe => &["stripe-signature"],
        }
    }

    /// Returns whether the key is the text of a secret. In the standard form, it is the bytes that the text encodes.
    pub const fn has_text_key(self) -> bool {
        matches!(self, Self::Github | Self::Stripe)
    }
}

/// How the requests to a webhook are signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Signing {
    /// Form of the signature.
    #[serde(rename = "signature")]
    pub form: SignatureForm,
    /// The keys that sign in the standard form, each once.
    pub keys: Vec<KeyKind>,
}

impl Signing {
    /// Returns the form and the keys, each only if it is not the default. Other forms have no keys.
    pub fn shown(&self) -> (Option<SignatureForm>, Option<&[KeyKind]>) {
        let form = Some(self.form).filter(|form| *form != SignatureForm::Standard);
        let keys = Some(self.keys.as_slice()).filter(|keys| form.is_none() && *keys != [KeyKind::Hmac]);
        (form, keys)
    }

    /// Returns whether a key of this kind signs in the standard form.
    pub fn has(&self, kind: KeyKind) -> bool {
        self.keys.contains(&kind)
    }
}

impl Default for Signing {
    fn default() -> Self {
        Self { form: SignatureForm::Standard, keys: vec![KeyKind::Hmac] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_the_default_is_shown() {
        let of = |form, keys: &[KeyKind]| Signing { form, keys: keys.to_vec() };
        for (signing, shown) in [
            (Signing::default(), (None, None)),
            (of(SignatureForm::Standard, &[KeyKind::Ed25519]), (None, Some(&[KeyKind::Ed25519][..]))),
            (of(SignatureForm::Standard, KeyKind::ALL), (None, Some(KeyKind::ALL))),
            (of(SignatureForm::Github, &[KeyKind::Hmac]), (Some(SignatureForm::Github), None)),
            (of(SignatureForm::None, &[KeyKind::Hmac]), (Some(SignatureForm::None), None)),
        ] {
            assert_eq!(signing.shown(), shown, "{signing:?}");
        }
    }
}
