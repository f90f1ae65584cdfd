//! What wit-bindgen generates from `wit/handler.wit`.

wit_bindgen::generate!({
    path: "../../wit",
    world: "plugin",
    pub_export_macro: true,
    export_macro_name: "export_handler",
    default_bindings_module: "reverie_plugin_sdk::bindings",
});

/// `wasi:http`, in a world of its own: a plugin that does not use it imports none of it.
pub mod wasi_http {
    wit_bindgen::generate!({
        path: "wit/http.wit",
        world: "outbound",
        generate_all,
    });
}
