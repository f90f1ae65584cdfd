//! Its schema is none.

use reverie_plugin_sdk::{Handler, Manifest, export};

struct Guest;

export!(Guest);

impl Handler for Guest {
    fn manifest() -> Manifest {
        Manifest::new("liar", "1.0.0", "Lies.").message("liar:x", "Bad schema.", "{\"type\": 5}")
    }
}
