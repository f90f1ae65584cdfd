//! What wit-bindgen generates from `wit/handler.wit`.

wit_bindgen::generate!({
    path: "../../wit",
    world: "plugin",
    pub_export_macro: true,
    export_macro_name: "export_handler",
    default_bindings_module: "reverie_plugin_sdk::bindings",
});
