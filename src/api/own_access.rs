//! A registration with a credential of the app beside `provider`.
//!
//! The definition is the operator's and says how the key is sent; the credential supplies the key. The job is then the app's
//! alone (`store/job_polls`). The names in a registration are read once before all other fields, because what they name is
//! in the store, and the other fields are checked by the definition for that credential.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::credentials::check_name;
use super::http::{Api, FieldErrorCode, Invalid, ObjectReader, Problem};
use crate::domain::{AppNo, DefinitionPoll, Id, JobName, Masked, NewPoll, PollSource};
use crate::providers::{Definition, OwnDefinition};

/// What a registration names of its app's own.
#[derive(Default)]
pub(super) struct Named {
    /// The credential, if the app has it.
    credential: Option<(Id, Masked)>,
}

/// A definition with the credential of the app that a registration names.
pub(super) struct OwnAccess {
    credential: (Id, String),
    own: Arc<OwnDefinition>,
}

/// The fields that name something. Whatever is wrong with them is found when they are read.
#[derive(Deserialize)]
struct NameFields {
    #[serde(default)]
    credential: Value,
}

/// Looks up what a registration names of the app's own.
pub(super) async fn find(api: &Api, app: AppNo, text: &str) -> Result<Named, Problem> {
    let names: Option<NameFields> = serde_json::from_str(text).ok();
    let credential = names.and_then(|names| check_name(names.credential.as_str()?).ok());
    let Some(name) = credential else { return Ok(Named::default()) };
    Ok(Named { credential: api.store.credential(app, name).await? })
}

/// Takes the credential for a definition; `None` also if it is wrong.
pub(super) fn take_credential(
    api: &Api,
    fields: &mut ObjectReader<'_, '_>,
    definition: &Definition,
    named: &Named,
) -> Option<OwnAccess> {
    let name = fields.parsed("credential", check_name)?;
    let found = usable(api, definition, named);
    let (id, own) = fields.keep("credential", found)?;
    Some(OwnAccess { credential: (id, name), own })
}

fn usable(api: &Api, definition: &Definition, named: &Named) -> Result<(Id, Arc<OwnDefinition>), Invalid> {
    let Some((id, secret)) = &named.credential else {
        let detail = "there is no such credential in this app; GET /v1/credentials lists them";
        return Err((FieldErrorCode::UnknownCredential, detail.to_owned()));
    };
    let own = api.own_definitions.get(definition, (*id, secret));
    own.map(|own| (*id, own)).map_err(|detail| (FieldErrorCode::Conflict, detail))
}

impl OwnAccess {
    /// Returns the definition, which sends the key to the hosts of the credential only.
    pub(super) fn definition(&self) -> &Arc<Definition> {
        &self.own.definition
    }

    /// Makes the job the app's own, and returns how it is polled. It is refused if the key would be sent to another host
    /// than those of the credential.
    pub(super) fn apply(
        self,
        api: &Api,
        app: AppNo,
        fields: &mut ObjectReader<'_, '_>,
        job: JobName,
    ) -> Option<(JobName, NewPoll)> {
        let access = api.access.get(&job.provider);
        let base_url = access.and_then(|access| access.base_url.as_ref());
        let checked = self.own.check_requests((&job.job_id, &job.params), base_url);
        fields.keep("credential", checked.map_err(|detail| (FieldErrorCode::Conflict, detail)))?;
        let (id, name) = self.credential;
        let shown = serde_json::json!({ "credential": name }).to_string();
        let source = PollSource::Definition(DefinitionPoll {
            provider: job.provider.clone(),
            credential: name,
            credential_id: Some(id),
        });
        let poll = api.store.new_poll(app, source, shown, Some(id));
        let account = format!("{:?}", poll.id);
        Some((JobName { account, ..job }, poll))
    }
}
