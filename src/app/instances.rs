//! Named instances of definitions: `[providers.jenkins-eu] definition = "jenkins"`.
//!
//! An instance is a copy of a definition under the id of its section. Everything else follows from the id: clients name
//! it as `provider`, and settings, credential, budget, health, metrics and the identity of jobs are its own.

use std::sync::Arc;

use crate::config::{Config, ConfigError};
use crate::domain::similar;
use crate::providers::{InvalidDefinition, Providers, is_provider_id};

/// Adds the configured instances to the definitions, and those of a definition with mistakes to the invalid ones.
/// Returns every error. `all_read` is false if a part of the definitions could not be read.
pub(super) fn add(
    config: &Config,
    definitions: &mut Providers,
    invalid: &mut Vec<InvalidDefinition>,
    all_read: bool,
) -> Vec<ConfigError> {
    let (mut errors, mut found, mut disabled) = (Vec::new(), Providers::new(), Vec::new());
    for (id, own) in &config.providers {
        let Some(name) = own.definition.as_deref().filter(|name| *name != id) else { continue };
        let mut wrong = |message: String| {
            let source = config.source(&format!("providers.{id}.definition"));
            errors.push(ConfigError { source, message: format!("[providers.{id}] definition: {message}") });
        };
        let is_taken = definitions.contains_key(id) || invalid.iter().any(|one| one.id == *id);
        if !is_provider_id(id) {
            wrong(format!(
                "`{id}` cannot be the id of a provider; write 1 to 40 characters of a-z, 0-9 and -, starting with a letter"
            ));
        } else if is_taken {
            wrong(format!("`{id}` is the id of another definition; give the instance another name"));
        } else if let Some(definition) = definitions.get(name) {
            found.insert(id.clone(), Arc::new(definition.instance(id)));
        } else if let Some(one) = invalid.iter().find(|one| one.id == name) {
            disabled.push(InvalidDefinition { id: id.clone(), mistakes: one.mistakes.clone() });
        } else {
            let known = definitions.keys().map(String::as_str);
            let near = similar(name, known).map(|near| format!("the nearest is `{near}`"));
            let near = near.unwrap_or_else(|| "`ringback provider list` shows all".to_owned());
            let missing =
                if all_read { "there is no definition" } else { "no definition that could be read is" };
            wrong(format!("{missing} `{name}`; {near}"));
        }
    }
    definitions.extend(found);
    invalid.extend(disabled);
    errors
}
