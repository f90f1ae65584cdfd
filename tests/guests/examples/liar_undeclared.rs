//! Uses the storage without asking for it.

use reverie_plugin_sdk::{Error, Handler, Manifest, Message, export, storage};

struct Guest;

export!(Guest);

impl Handler for Guest {
    fn manifest() -> Manifest {
        Manifest::new("liar", "1.0.0", "Lies.").message("liar:x", "Reads.", "")
    }

    fn message(message: Message) -> Result<(), Error> {
        storage::get(&message.body).map(drop)
    }
}
