//! Who may publish and subscribe to what over NATS, and how each party proves who it is.
//!
//! - [`Role`]: the parties and the permissions of each. The only list of them.
//! - [`NatsKey`]: a party's key pair (an nkey), in a file that only its owner can read.
//! - [`HubKeys`]: a hub's keys, and the part of the server's config that names them.
//! - [`AuthRequests`]: what the servers ask about connections that their config doesn't know; [`ConnectionRevoker`] ends connections.
//! - [`JoinToken`]: what a machine shows that isn't known yet and wants to join.

mod auth_requests;
mod hub_keys;
mod join_token;
mod jwt;
mod nats_key;
mod revoker;
mod role;

pub(crate) use auth_requests::ASKS_WHETHER_REVOKED;
pub use auth_requests::{AuthRequest, AuthRequests};
pub use hub_keys::{HubKeys, HubKeysError};
pub use join_token::JoinToken;
pub use nats_key::{NatsKey, NatsKeyError};
pub use revoker::ConnectionRevoker;
pub use role::{Permissions, Role};
