//! Who may publish and subscribe to what over NATS, and how each party proves who it is.
//!
//! - [`Role`]: the parties and the permissions of each. The only list of them.
//! - [`NatsKey`]: a party's key pair (an nkey), in a file that only its owner can read.
//! - [`HubKeys`]: a hub's keys, and the part of the server's config that names them.
//! - [`Callout`]: admits agents by what the journal says about their keys; [`ConnectionRevoker`] ends their connections.

mod callout;
mod hub_keys;
mod jwt;
mod nats_key;
mod revoker;
mod role;

pub use callout::{AuthRequest, Callout};
pub use hub_keys::{HubKeys, HubKeysError};
pub use nats_key::{NatsKey, NatsKeyError};
pub use revoker::ConnectionRevoker;
pub use role::{Permissions, Role};
