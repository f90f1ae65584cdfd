//! Version 2.0.0 of the plugin `echo`.

use reverie_plugin_sdk::{Error, Handler, Job, Manifest, Message, export};

struct Echo;

export!(Echo);

impl Handler for Echo {
    fn manifest() -> Manifest {
        reverie_test_guests::manifest("2.0.0")
    }

    fn message(message: Message) -> Result<(), Error> {
        reverie_test_guests::message(message, "2.0.0")
    }

    fn job(job: Job) -> Result<(), Error> {
        reverie_test_guests::job(job, "2.0.0")
    }
}
