//! A registration with a credential or a definition of the app.
//!
//! The definition says how the key is sent; the credential supplies the key. If one of the two is the app's, the job is
//! the app's alone (`store/job_polls`). A definition of the app is used in place of the operator's with the same id.
//! The names in a registration are read once before all other fields, because what they name is in the store, and the
//! other fields are checked by the definition.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::credentials::check_name;
use super::http::{Api, FieldErrorCode, Invalid, ObjectReader, Problem};
use crate::domain::{
    AppNo, CredentialRef, DefinitionRef, DefinitionVersion, Id, JobName, NewPoll, PollSource,
};
use crate::providers::{Definition, OwnDefinition};

/// A definition for a credential, or why there is none.
type MadeDefinition = Result<Arc<OwnDefinition>, String>;

/// What a registration names of its app's own.
pub(super) struct Named {
    /// The credential, if the app has it, and its definition. The error is the rest of a sentence about the credential;
    /// `None`: no definition is known.
    credential: Option<(Id, Option<MadeDefinition>)>,
    /// The definition, if the app has it. The error says why this program refuses it.
    pub(super) definition: Option<(DefinitionVersion, Result<Arc<Definition>, String>)>,
}

/// A definition and a credential, at least one of which is the app's.
pub(super) struct OwnAccess {
    definition: Arc<Definition>,
    /// The version of the app's definition.
    version: Option<DefinitionVersion>,
    credential: Option<(Id, String, Arc<OwnDefinition>)>,
}

/// The fields that name something. Whatever is wrong with them is found when they are read.
#[derive(Deserialize)]
struct NameFields {
    #[serde(default)]
    credential: Value,
    #[serde(default)]
    provider: Value,
    #[serde(default)]
    poll: Value,
}

/// Looks up what a registration names of the app's own.
pub(super) async fn find(api: &Api, app: AppNo, text: &str) -> Result<Named, Problem> {
    let given: Option<NameFields> = serde_json::from_str(text).ok();
    let mut named = Named { credential: None, definition: None };
    let Some(given) = given.filter(|given| given.poll.is_null()) else { return Ok(named) };
    let provider = given.provider.as_str().unwrap_or_else(|| api.default_provider());
    if api.store.may_define(app, provider)
        && let Some(version) = api.store.current_definition(app, provider.to_owned()).await?
    {
        let definition = api.own_definitions.of_app(&api.store, app, &version).await?;
        named.definition = definition.map(|definition| (version, definition));
    }
    let Some(name) = given.credential.as_str().and_then(|name| check_name(name).ok()) else {
        return Ok(named);
    };
    let Some((id, secret)) = api.store.credential(app, name).await? else { return Ok(named) };
    let used = match &named.definition {
        Some((version, definition)) => {
            definition.as_ref().ok().map(|definition| (Arc::clone(definition), Some(version.id)))
        }
        None => api.providers.get(provider).map(|definition| (Arc::clone(definition), None)),
    };
    let own = match used {
        Some(used) => Some(api.own_definitions.with_credential(app, used, (id, secret)).await?),
        None => None,
    };
    named.credential = Some((id, own));
    Ok(named)
}

/// Takes the credential for a definition, of which `version` is that of the app. Returns what is the app's, if anything
/// is; `None` also if the credential is wrong.
pub(super) fn take_credential(
    fields: &mut ObjectReader<'_, '_>,
    (definition, version): (&Arc<Definition>, Option<&DefinitionVersion>),
    named: &Named,
) -> Option<OwnAccess> {
    let version = version.cloned();
    if !fields.has("credential") {
        let definition = Arc::clone(definition);
        return version.map(|version| OwnAccess { definition, version: Some(version), credential: None });
    }
    let name = fields.parsed("credential", check_name)?;
    let (id, own) = fields.keep("credential", usable(named))?;
    Some(OwnAccess { definition: Arc::clone(&own.definition), version, credential: Some((id, name, own)) })
}

fn usable(named: &Named) -> Result<(Id, Arc<OwnDefinition>), Invalid> {
    // The definition is known.
    let Some((id, Some(own))) = &named.credential else {
        let detail = "there is no such credential in this app; GET /v1/credentials lists them";
        return Err((FieldErrorCode::UnknownCredential, detail.to_owned()));
    };
    own.clone().map(|own| (*id, own)).map_err(|detail| (FieldErrorCode::Conflict, detail))
}

impl OwnAccess {
    /// Returns the definition, which sends a key of the app to the hosts of the credential only.
    pub(super) fn definition(&self) -> &Arc<Definition> {
        &self.definition
    }

    /// Makes the job the app's own, and returns how it is polled. It is refused if the key would be sent to another
    /// host than those of the credential.
    pub(super) fn apply(
        self,
        api: &Api,
        app: AppNo,
        fields: &mut ObjectReader<'_, '_>,
        job: JobName,
    ) -> Option<(JobName, NewPoll)> {
        let Self { version, credential, .. } = self;
        let access = api.access.get(&job.provider).filter(|_| version.is_none());
        let base_url = access.and_then(|access| access.base_url.as_ref());
        if let Some((_, _, own)) = &credential {
            let checked = own.check_requests((&job.job_id, &job.params), base_url);
            fields.keep("credential", checked.map_err(|detail| (FieldErrorCode::Conflict, detail)))?;
        }
        let shown = ShownPoll {
            credential: credential.as_ref().map(|(_, name, _)| name.clone()),
            definition_version: version.as_ref().map(|version| version.version),
        };
        let id = credential.as_ref().map(|(id, ..)| *id);
        let credential = credential.map(|(id, name, _)| CredentialRef { name, id: Some(id) });
        let source = match (version, credential) {
            (None, None) => return None,
            (None, Some(credential)) => PollSource::OfOperator { provider: job.provider.clone(), credential },
            (Some(DefinitionVersion { id, provider, summary, .. }), credential) => {
                let definition = DefinitionRef { provider, id, pace: summary.pace };
                PollSource::OfApp { definition, credential }
            }
        };
        let poll = api.store.new_poll(app, source, shown.text(), id);
        let account = format!("{:?}", poll.id);
        Some((JobName { account, ..job }, poll))
    }
}

/// What is shown of how a definition polls a job that is the app's alone.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ShownPoll {
    /// Name of the credential of the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) credential: Option<String>,
    /// Version of the definition of the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) definition_version: Option<u32>,
}

impl ShownPoll {
    fn text(&self) -> String {
        // A struct of texts and numbers can always be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what is shown of a job; nothing if none of it is the app's.
    pub(super) fn read(shown: Option<&str>) -> Self {
        shown.and_then(|shown| serde_json::from_str(shown).ok()).unwrap_or_default()
    }
}
