//! What all resources of the API share: the server, the parts of a request, and problems.

mod answer;
mod body;
mod call;
mod concurrency_limit;
mod connections;
pub mod cursor;
pub mod endpoint;
pub mod endpoint_layer;
mod failures;
mod idempotency;
mod memory_budget;
pub mod object_reader;
mod problem;
mod provider_access;
mod query;
mod rate_limit;
mod serve;
mod state;
mod stream;
mod wrong_keys;

pub use answer::{
    Answer, Page, PageParams, SharedBody, created, first_answer, joined, json, json_text, listed, page,
};
pub use body::{BATCH_MAX, BODY_MAX, Content, too_large};
pub use call::{Call, Write};
pub use concurrency_limit::ConcurrencyLimiter;
pub use idempotency::InProgressKeys;
pub use memory_budget::{MEMORY_MAX, MemoryBudget};
pub use object_reader::ObjectReader;
pub use problem::{
    FieldError, FieldErrorCode, FieldErrors, Invalid, Problem, ProblemCode, ProblemView, not_one_of,
};
pub use provider_access::{OwnDefinitions, ProviderAccess};
pub use query::{Query, traceparent};
pub use rate_limit::SendRates;
pub use serve::{Front, Site, is_set, serve};
pub use state::{Api, Batches, CONNECTIONS_MAX, DeliveryWaits, WAITS_MAX};
pub use wrong_keys::WrongKeys;
