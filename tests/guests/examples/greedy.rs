//! Wants what the operator has not granted.

use reverie_plugin_sdk::{Handler, Manifest, export};

struct Guest;

export!(Guest);

impl Handler for Guest {
    fn manifest() -> Manifest {
        Manifest::new("greedy", "1.0.0", "Wants.")
            .message("greedy:x", "Wants storage.", "")
            .capabilities(&["storage"])
    }
}
