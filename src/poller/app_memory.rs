//! The memory of pending results, which all apps share.
//!
//! **Fairness.** An app gets space only if it then uses no more than what is still free. One app alone gets at most half
//! of the memory, a second one half of the rest, and there is always space for a further one: an app whose jobs complete
//! by the thousand delays only its own. A result that has become larger keeps its space and may take what is free.
//!
//! **Without space** a completed job is polled again later, because its provider still knows that it has completed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::AppNo;

/// Memory of all pending results, in KiB.
const MEMORY_KIB: u32 = 64 * 1024;

/// The memory of all pending results.
#[derive(Debug)]
pub struct AppMemory(Mutex<Use>);

#[derive(Debug)]
struct Use {
    /// What is free, in KiB.
    free: u32,
    /// What each app uses, in KiB. An app that uses nothing has no entry.
    used: HashMap<AppNo, u32>,
}

/// A part of the memory. It is free again when this is dropped.
#[derive(Debug)]
pub struct AppSpace {
    memory: Arc<AppMemory>,
    app: AppNo,
    kib: u32,
}

impl AppMemory {
    /// Creates a memory of which nothing is used.
    pub fn new() -> Arc<Self> {
        Self::of(MEMORY_KIB)
    }

    fn of(free: u32) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Use { free, used: HashMap::new() })))
    }

    /// Takes this many KiB for a job that an app polls. Returns `None` if the app uses too much already.
    pub fn take(self: &Arc<Self>, app: AppNo, kib: u32) -> Option<AppSpace> {
        let is_fair = |found: &mut Use| {
            let own = found.used.get(&app).copied().unwrap_or_default();
            found.free.checked_sub(kib).is_some_and(|left| own.saturating_add(kib) <= left)
        };
        let is_taken = self.change(|found| is_fair(found) && found.resize(app, 0, kib));
        is_taken.then(|| AppSpace { memory: Arc::clone(self), app, kib })
    }

    fn change<R>(&self, change: impl FnOnce(&mut Use) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Use {
    /// Changes the size of a part of an app. Returns whether there is space for it.
    fn resize(&mut self, app: AppNo, before: u32, after: u32) -> bool {
        let Some(free) = self.free.saturating_add(before).checked_sub(after) else { return false };
        self.free = free;
        match self.used.entry(app) {
            Entry::Occupied(mut used) => {
                *used.get_mut() = used.get().saturating_sub(before).saturating_add(after);
                if *used.get() == 0 {
                    used.remove();
                }
            }
            Entry::Vacant(used) if after > 0 => drop(used.insert(after)),
            Entry::Vacant(_) => {}
        }
        true
    }
}

impl AppSpace {
    /// Changes the size. Returns whether there is space for it; otherwise the size stays.
    pub fn resize(&mut self, kib: u32) -> bool {
        let is_resized = self.memory.change(|found| found.resize(self.app, self.kib, kib));
        if is_resized {
            self.kib = kib;
        }
        is_resized
    }
}

impl Drop for AppSpace {
    fn drop(&mut self) {
        self.memory.change(|found| found.resize(self.app, self.kib, 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(memory: &AppMemory) -> u32 {
        memory.change(|found| found.free)
    }

    #[test]
    fn an_app_leaves_space_for_every_other() {
        let memory = AppMemory::of(1_024);
        let mut spaces = Vec::new();
        for (app, most) in [(1, 512), (2, 256), (3, 128)] {
            let before = spaces.len();
            spaces.extend(std::iter::from_fn(|| memory.take(AppNo(app), 1)));
            assert_eq!(spaces.len() - before, most, "app {app}");
        }
        assert_eq!(free(&memory), 128);
        assert!(memory.take(AppNo(4), 64).is_some() && memory.take(AppNo(4), 65).is_none());
        assert!(memory.take(AppNo(4), u32::MAX).is_none());
        drop(spaces);
        assert_eq!(free(&memory), 1_024);
        assert!(memory.change(|found| found.used.is_empty()));
    }

    #[test]
    fn a_result_that_grows_takes_what_is_free() {
        let memory = AppMemory::of(100);
        let mut space = memory.take(AppNo(1), 50).expect("half of it");
        assert!(space.resize(90) && !space.resize(101));
        assert_eq!(free(&memory), 10);
        assert!(space.resize(20));
        assert_eq!(free(&memory), 80);
        drop(space);
        assert_eq!(free(&memory), 100);
    }
}
