//! Who may say what over NATS.
//!
//! - [`Role`]: the parties, and the subjects that each may publish and subscribe to. The only list of them.
//! - [`NatsKey`]: a party's key pair (an nkey), in a file that only its owner reads.
//! - [`HubKeys`]: the keys of a hub, and the part of the server's config that names them.
//! - [`Callout`]: lets agents in by what the journal says of their keys, and [`ConnectionRevoker`] shows them out.

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
