//! The signing secret and the key pair of the caller's app: show and rotate.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use serde::Serialize;
use utoipa::ToSchema;

use super::http::{Answer, Call, Content, Problem, ProblemCode, first_answer, json};
use crate::channels::webhook::Secret;
use crate::channels::webhook::ed25519::{PrivateKey, PublicKey};
use crate::domain::{Masked, Timestamp, draw_private_key};
use crate::store::{Idempotent, RotateSecret, StoreError};

/// The bounds of the grace. A receiver that still uses the old secret after 30 days is not maintained.
pub(super) const GRACE: (&str, &str) = ("0s", "30d");

/// Default of the grace.
pub(super) const GRACE_DEFAULT: Duration = Duration::from_secs(24 * 3600);

/// A signing secret and the public key of the key pair.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SigningSecret<'a> {
    /// `whsec_` and base64.
    secret: &'a str,
    /// `whpk_` and base64: verifies the signatures of destinations with the key `ed25519`.
    public_key: String,
    /// The previous secret and key, while they sign, too.
    #[schema(required)]
    previous: Option<PreviousSecret>,
}

/// A signing secret and a key pair that were replaced.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PreviousSecret {
    /// End of the grace: the previous secret and key sign until then.
    pub(super) expires_at: Timestamp,
}

impl<'a> SigningSecret<'a> {
    /// The error is about a private key that this service did not make.
    fn of(secret: &'a Masked, private_key: &Masked, old_until: Option<Timestamp>) -> Result<Self, Problem> {
        Ok(Self {
            secret: secret.reveal(),
            public_key: public_key(private_key)?.expose(),
            previous: old_until.map(|expires_at| PreviousSecret { expires_at }),
        })
    }
}

/// Returns the public key of a stored private key.
pub fn public_key(private_key: &Masked) -> Result<PublicKey, Problem> {
    let key = PrivateKey::parse(private_key.reveal());
    key.map(|key| key.public())
        .map_err(|error| StoreError::Inconsistent(format!("the private key of an app {error}")).into())
}

/// Show the app's signing secret
#[utoipa::path(
    get, path = "/v1/signing-secret", operation_id = "showSigningSecret", tag = "Secrets",
    security(("key" = ["admin"])),
    responses((status = 200, description = "The secret.", body = SigningSecret))
)]
pub async fn show(call: Call) -> Answer {
    call.no_query()?;
    let app = call.api.store.app(call.app()).ok_or_else(Problem::not_found)?;
    let old_until = app.old_secret(call.api.clock.now()).map(|(_, until)| until);
    Ok(json(StatusCode::OK, &SigningSecret::of(&app.signing_secret, &app.private_key, old_until)?))
}

/// How to replace a signing secret.
#[derive(ToSchema)]
struct Rotation {
    /// Time in which the previous secret and key sign, too, `0s` to `30d`. Default: `24h`.
    #[schema(example = "24h", default = "24h", value_type = Option<String>)]
    grace: Duration,
}

/// Replace the app's signing secret and key pair
///
/// During the grace both the new and the previous secret sign, and both keys: `webhook-signature` holds two signatures
/// of each kind, separated by spaces. A secret and a key that are older still are dropped. Destinations with a secret
/// of their own keep it.
#[utoipa::path(
    post, path = "/v1/signing-secret/rotate", operation_id = "rotateSigningSecret", tag = "Secrets",
    security(("key" = ["admin"])),
    request_body(content = Option<Rotation>, example = json!({"grace": "24h"})),
    responses(
        (status = 200, description = "The new secret.", body = SigningSecret),
        (status = 409, description = "The secret is set in the server's configuration; or a request with this \
            Idempotency-Key is in progress, or the key was used with another API key."),
    )
)]
pub async fn rotate(call: Call) -> Answer {
    let write = call.write_secret(Content::Optional).await?;
    let Rotation { grace } = write.object(|fields| {
        let grace = fields.duration("grace", GRACE).unwrap_or(GRACE_DEFAULT);
        Some(Rotation { grace })
    })?;
    let (api, app) = (&write.api, write.app());
    if api.store.has_configured_secret(app) {
        let detail = "the signing secret is set in the server's configuration; change signing_secret there";
        return Err(Problem::new(ProblemCode::SecretConfigured, detail).into());
    }
    let (now, secret) = (api.clock.now(), Masked::new(Secret::generate().expose()));
    let private_key = draw_private_key();
    let old_until = Some(now.plus(grace)).filter(|until| *until > now);
    let answer = first_answer(StatusCode::OK, &SigningSecret::of(&secret, &private_key, old_until)?);
    let rotate = RotateSecret { app, signing_secret: secret, private_key, grace, now };
    let Ok(()) = api.store.rotate_secret(Idempotent::with_response(rotate, write.key(), &answer)).await??;
    Ok(answer.into_response())
}
