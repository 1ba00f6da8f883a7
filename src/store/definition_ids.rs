//! The ids of apps' definitions, in memory.
//!
//! Most apps have none, and a registration must not read the database to find that out. An id stays after the deletion
//! of its definition, whose watches can still run, until there are too many: it only says that a read may find
//! something.

use std::collections::{BTreeSet, HashMap};
use std::sync::{PoisonError, RwLock};

use crate::domain::AppNo;

/// Number of ids of an app that are kept. It can have 50 definitions at a time.
const IDS_OF_APP: usize = 1_000;

/// The ids of the definitions of each app.
#[derive(Debug, Default)]
pub struct DefinitionIds(RwLock<HashMap<AppNo, BTreeSet<String>>>);

impl FromIterator<(AppNo, String)> for DefinitionIds {
    fn from_iter<T: IntoIterator<Item = (AppNo, String)>>(found: T) -> Self {
        let mut ids: HashMap<AppNo, BTreeSet<String>> = HashMap::new();
        for (app, id) in found {
            ids.entry(app).or_default().insert(id);
        }
        Self(RwLock::new(ids))
    }
}

impl DefinitionIds {
    /// Returns whether the app may have a definition with this id.
    pub fn has(&self, app: AppNo, id: &str) -> bool {
        let ids = self.0.read().unwrap_or_else(PoisonError::into_inner);
        // With too many, each may be one.
        ids.get(&app).is_some_and(|ids| ids.contains(id) || ids.len() >= IDS_OF_APP)
    }

    /// Returns whether the app may have any definition.
    pub fn has_any(&self, app: AppNo) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains_key(&app)
    }

    /// Notes the id of a definition.
    pub fn add(&self, app: AppNo, id: &str) {
        let mut ids = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let ids = ids.entry(app).or_default();
        if ids.len() < IDS_OF_APP {
            ids.insert(id.to_owned());
        }
    }

    /// Forgets the ids of an app that is erased.
    pub fn forget(&self, app: AppNo) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&app);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_with_too_many_ids_may_have_each() {
        let ids: DefinitionIds = [(AppNo(1), "one".to_owned())].into_iter().collect();
        assert!(ids.has(AppNo(1), "one") && !ids.has(AppNo(1), "two") && !ids.has(AppNo(2), "one"));
        for n in 0..2 * IDS_OF_APP {
            ids.add(AppNo(1), &format!("id-{n}"));
        }
        assert!(ids.has(AppNo(1), "two") && !ids.has(AppNo(2), "two"));
        assert!(ids.has_any(AppNo(1)) && !ids.has_any(AppNo(2)));
        ids.forget(AppNo(1));
        assert!(!ids.has(AppNo(1), "one"));
    }
}
