//! Fails when it is asked who it is.

use reverie_plugin_sdk::{Handler, Manifest, export};

struct Guest;

export!(Guest);

impl Handler for Guest {
    fn manifest() -> Manifest {
        panic!("no manifest today")
    }
}
