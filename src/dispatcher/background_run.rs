//! A run over many deliveries in the background, of which at most one is in progress.

/// Whether a run is due, and whether one is in progress. A run that becomes due meanwhile follows it.
#[derive(Debug, Default)]
pub(super) struct BackgroundRun {
    is_due: bool,
    is_running: bool,
}

impl BackgroundRun {
    /// Makes a run due.
    pub(super) fn request(&mut self) {
        self.is_due = true;
    }

    /// Returns whether a run can be started now.
    pub(super) fn can_start(&self) -> bool {
        self.is_due && !self.is_running
    }

    /// Returns whether a run is to be started now. It is then in progress.
    pub(super) fn start(&mut self) -> bool {
        let starts = self.can_start();
        if starts {
            (self.is_due, self.is_running) = (false, true);
        }
        starts
    }

    /// Records the end of the run.
    pub(super) fn end(&mut self) {
        self.is_running = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_becomes_due_follows_the_present_one() {
        let mut run = BackgroundRun::default();
        assert!(!run.start());
        run.request();
        assert!(run.start());
        run.request();
        assert!(!run.start());
        run.end();
        assert!(run.start());
        run.end();
        assert!(!run.can_start());
    }
}
