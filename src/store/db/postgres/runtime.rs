//! A runtime for one connection, driven by the thread that waits for an answer.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::clock::Clock;

/// A runtime for one connection, driven by the thread that waits for an answer.
pub struct BlockingRuntime(Option<Runtime>);

impl BlockingRuntime {
    /// Creates a runtime.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(Some(tokio::runtime::Builder::new_current_thread().enable_all().build()?)))
    }

    /// Runs `work` to its end on this thread.
    #[expect(clippy::expect_used, reason = "it is taken in `drop` only")]
    pub fn block_on<F: Future>(&self, work: F) -> F::Output {
        self.0.as_ref().expect("not dropped yet").block_on(work)
    }

    /// Returns a function for `backon` that sleeps between retries, while the connection is driven.
    pub fn sleeper(self: &Arc<Self>) -> impl Fn(Duration) + 'static {
        let runtime = Arc::clone(self);
        move |span| runtime.block_on(Clock::System.sleep(span))
    }
}

impl fmt::Debug for BlockingRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockingRuntime")
    }
}

impl Drop for BlockingRuntime {
    /// Does not wait: waiting is not allowed on a thread of an asynchronous runtime, and nothing is pending.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
