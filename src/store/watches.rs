//! Watches: registering, amending, stopping and reading them.

mod amend;
mod read;
mod register;
mod stop;

pub use self::amend::{AmendRefusal, AmendWatch};
pub use self::read::WatchFilter;
pub use self::register::{Register, RegisterMany};
pub use self::stop::StopWatch;

pub(super) use self::amend::amend_watch;
#[cfg(test)]
pub(super) use self::read::listed;
pub(super) use self::register::{register, register_many};
pub(super) use self::stop::stop_watch;
