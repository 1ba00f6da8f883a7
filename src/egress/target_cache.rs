//! The URLs that were parsed last. Each attempt needs its URL parsed, and most attempts go to few URLs.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::address::Target;

/// Maximum number of URLs. When it is reached, all of them are forgotten, and each costs one parse again.
const TARGETS_MAX: usize = 1_024;

/// Maximum length of a URL that is kept, in bytes. Together they need less than a megabyte.
const LENGTH_MAX: usize = 256;

/// Parsed URLs, by their texts. The settings by which they were checked do not change while the process runs.
#[derive(Default)]
pub(super) struct TargetCache(Mutex<HashMap<Box<str>, Target>>);

impl TargetCache {
    pub(super) fn get(&self, url: &str) -> Option<Target> {
        self.targets().get(url).cloned()
    }

    pub(super) fn put(&self, url: &str, target: &Target) {
        if url.len() > LENGTH_MAX {
            return;
        }
        let mut targets = self.targets();
        if targets.len() >= TARGETS_MAX {
            targets.clear();
        }
        targets.insert(url.into(), target.clone());
    }

    fn targets(&self) -> MutexGuard<'_, HashMap<Box<str>, Target>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::address::Settings;
    use super::*;

    #[test]
    fn the_number_of_parsed_urls_is_limited() {
        let (cache, settings) = (TargetCache::default(), Settings::default());
        for n in 0..=TARGETS_MAX {
            let url = format!("https://a.example/{n}");
            let target = settings.parse(&url).expect("permitted");
            cache.put(&url, &target);
            assert_eq!(cache.get(&url), Some(target));
        }
        assert_eq!(cache.targets().len(), 1, "the others are forgotten");
        let long = format!("https://a.example/{}", "x".repeat(LENGTH_MAX));
        cache.put(&long, &settings.parse(&long).expect("permitted"));
        assert_eq!(cache.get(&long), None);
    }
}
