//! Who may do what, without a server: keys and their scopes, attempts, sessions, signed addresses, origins and hosts, and to whom
//! things belong. Read [`Access`] first: it tells who calls.

#![forbid(unsafe_code)]

mod attempts;
mod bucket;
mod caller;
mod file;
mod gate;
mod identity;
mod key;
mod keyring;
mod origin;
mod scope;
mod session;
mod signer;
mod site;
mod tally;
mod token;

pub use attempts::Attempts;
pub use bucket::Bucket;
pub use caller::Caller;
pub use file::KeysFile;
pub use gate::{Access, Given, Refusal};
pub use identity::{MAX_CLIENT_ID, api_user, check_client_id, check_unguessable, owner_of, tenant_of};
pub use key::{Key, Limits};
pub use keyring::Keyring;
pub use origin::{Authority, Host, Origin};
pub use scope::{Need, Scope};
pub use session::Sessions;
pub use signer::Signer;
pub use site::{Asked, Denied, Site};
pub use tally::{Pixels, Queue, Queued};
pub use token::Token;
