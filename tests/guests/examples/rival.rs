//! Claims what `echo` serves.

use reverie_plugin_sdk::{Handler, Manifest, export};

struct Guest;

export!(Guest);

impl Handler for Guest {
    fn manifest() -> Manifest {
        Manifest::new("rival", "1.0.0", "Claims what is taken.").message("echo:ping", "Taken.", "")
    }
}
