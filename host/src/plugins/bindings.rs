//! What wasmtime generates from `wit/handler.wit`. Plain functions are host functions that return at once; those marked
//! `async` suspend the guest.

wasmtime::component::bindgen!({
    path: "../wit",
    world: "plugin",
    imports: {
        "reverie:handler/job.receive": async | trappable,
        "reverie:handler/jobs.submit": async | trappable,
        "reverie:handler/jobs.submit-named": async | trappable,
        "reverie:handler/jobs.wait": async | trappable,
        "reverie:handler/storage": async | trappable,
        "reverie:handler/images.decode": async | trappable,
        "reverie:handler/images.[method]image.encode": async | trappable,
        "reverie:handler/images.[method]image.encode-with-parameters": async | trappable,
        "reverie:handler/images.[method]image.resize": async | trappable,
        "reverie:handler/diffusion.generate": async | trappable,
        "reverie:handler/diffusion.size": async | trappable,
        "reverie:handler/scoring.embed-text": async | trappable,
        "reverie:handler/scoring.embed-image": async | trappable,
        "reverie:handler/scoring.measure": async | trappable,
        "reverie:handler/scoring.perceptual-hash": async | trappable,
        "reverie:handler/upscale.run": async | trappable,
        "reverie:handler/websocket.[static]connection.connect": async | trappable,
        "reverie:handler/websocket.[method]connection.send-text": async | trappable,
        "reverie:handler/websocket.[method]connection.send-binary": async | trappable,
        "reverie:handler/websocket.[method]connection.receive": async | trappable,
        "reverie:handler/files": async | trappable,
        "reverie:handler/clock.sleep": async | trappable,
        default: trappable,
    },
    exports: { default: async },
    with: {
        "reverie:handler/types.blob": super::imports::Blob,
        "reverie:handler/images.image": super::imports::Picture,
        "reverie:handler/websocket.connection": super::imports::Connection,
    },
    require_store_data_send: true,
});
