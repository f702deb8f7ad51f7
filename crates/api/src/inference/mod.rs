//! One inference request, from its checked body to a backend's response. How the response becomes HTTP is
//! [`crate::http`]'s business.

mod affinity;
mod attempt;
mod body_budget;
mod choice;
#[cfg(test)]
mod conversation_turns;
mod default_model;
mod dispatch;
pub(crate) mod endpoint;
mod error;
mod form;
pub(crate) mod headers;
mod health;
mod leeway;
mod loading;
mod members;
mod model_access;
mod options;
mod peek;
mod phase;
mod queue;
mod relay;
mod request;
mod request_body;
mod resend;
mod retry_policy;
mod slot;
mod slot_policy;
mod startup;
mod stored;

pub(crate) use body_budget::{BodyBudget, HeldBytes};
pub(crate) use default_model::default_for;
pub(crate) use dispatch::Inference;
pub(crate) use endpoint::{Endpoint, Family, ModelPlace, Verb};
pub(crate) use error::InferenceError;
pub(crate) use form::{MODEL_WITHIN_BYTES, check_whole_form, peek_begun_form, peek_form, with_model};
pub(crate) use members::FailedRequests;
pub(crate) use model_access::{Pools, pool_for, pools_for, sees_model};
pub(crate) use options::{BadOption, COMMENTS_FOR, Options, Progress, WakeMode};
pub(crate) use peek::{AskedModel, BadBody, MAX_DEPTH, check_case, checked_model, peek};
pub(crate) use phase::{CurrentPhase, Phase};
#[cfg(test)]
pub(crate) use queue::flow;
pub(crate) use queue::{QueuePosition, QueueView};
#[cfg(test)]
pub(crate) use relay::Reserved;
pub(crate) use relay::{Relay, ResponseBody};
pub(crate) use request::{InferenceRequest, InferenceResponse, Timings};
pub(crate) use request_body::{BodyFault, Incoming, RequestBody};
pub(crate) use startup::{Missing, Startup};
pub(crate) use stored::{REMEMBERED, Remembered, Stored};
