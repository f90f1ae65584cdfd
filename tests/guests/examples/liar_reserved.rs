//! Claims what is the host's own.

use reverie_plugin_sdk::{Handler, Manifest, export};

struct Guest;

export!(Guest);

impl Handler for Guest {
    fn manifest() -> Manifest {
        Manifest::new("liar", "1.0.0", "Lies.").message("job:submit", "Not its own.", "")
    }
}
