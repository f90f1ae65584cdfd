//! Takes memory of the host in every way there is, and gives none back.

use reverie_plugin_sdk::{
    Blob, Error, Handler, Job, Manifest, Message,
    bindings::wasi_http::wasi::http::types::Fields,
    clock, export, hub,
    images::{Filter, Format, Image},
    jobs, log,
    serde_json::{Value, json},
    storage,
    websocket::Connection,
};

struct Hoarder;

export!(Hoarder);

const MB: usize = 1 << 20;

impl Handler for Hoarder {
    fn manifest() -> Manifest {
        Manifest::new("hoarder", "1.0.0", "Hoards.")
            .message(
                "hoarder:take",
                "Takes in the way named until that fails, and answers with the failure.",
                "",
            )
            .message("hoarder:little", "Takes nothing.", "")
            .job("hoarder", "Takes as a job does.", "")
            .capabilities(&["storage", "images", "jobs", "http", "websocket"])
    }

    fn message(message: Message) -> Result<(), Error> {
        let body: Value = message.parse()?;
        let reply = match body["way"].as_str().unwrap_or_default() {
            "" => json!({}),
            "own memory" => forever(|| Ok(vec![1u8; MB])),
            "blobs" => forever(|| Ok(Blob::new(&[1; MB], "image/png"))),
            "empty blobs" => forever(|| Ok(Blob::new(&[], ""))),
            "media types" => {
                let long = "x".repeat(MB);
                forever(|| Ok(Blob::new(&[], &long)))
            }
            "reads" => {
                let blob = Blob::new(&vec![1; 4 * MB], "");
                forever(|| Ok(blob.read(0, u64::MAX)))
            }
            "pictures" => {
                let pixels = vec![1; MB];
                forever(|| Image::from_rgba(512, 512, &pixels))
            }
            "decoded pictures" => {
                let blob = Image::from_rgba(512, 512, &vec![1; MB])?.encode(Format::Png, 0)?;
                forever(|| reverie_plugin_sdk::images::decode(&blob))
            }
            "encoded pictures" => {
                let picture = Image::from_rgba(256, 256, &noise(256 * 256 * 4))?;
                forever(|| picture.encode(Format::Png, 0))
            }
            "resized pictures" => {
                let picture = Image::from_rgba(16, 16, &[1; 1024])?;
                forever(|| picture.resize(4000, 4000, Filter::Nearest))
            }
            "pixels" => {
                let picture =
                    Image::from_rgba(512, 512, &vec![1; MB])?.resize(1024, 1024, Filter::Nearest)?;
                forever(|| Ok(picture.rgba()))
            }
            "replies" => {
                let long = json!({"type": "hoarder:long", "text": "x".repeat(MB)}).to_string();
                forever(|| hub::reply(&long))
            }
            "many values" => {
                let dense = format!(r#"{{"type": "x", "list": [0{}]}}"#, ",0".repeat(MB));
                forever(|| hub::reply(&dense))
            }
            "state" => {
                let (blob, mut names) = (Blob::new(&[1; 64 << 10], ""), 0..);
                forever(|| storage::put_named(&format!("state-{}", names.next().unwrap_or(0)), &blob))
            }
            "outputs" => {
                let blob = Blob::new(&[1; 64 << 10], "image/png");
                forever(|| storage::put(&blob))
            }
            "stored objects" => {
                let key = storage::put_named("kept", &Blob::new(&vec![1; 512 << 10], ""))?;
                forever(|| storage::get(&key))
            }
            "inbox" => {
                let job = jobs::submit("hoarder", r#"{"way": "waits"}"#)?;
                let long = format!("{:?}", "x".repeat(MB));
                forever(|| jobs::send(&job, &long))
            }
            "headers" => forever(|| Fields::from_list(&[]).map_err(|e| Error::internal(e.to_string()))),
            "websocket" => {
                let connection = Connection::connect(body["url"].as_str().unwrap_or_default(), 5000)?;
                clock::sleep(1500);
                forever(|| connection.receive(5000))
            }
            "log" => {
                (0..body["lines"].as_u64().unwrap_or(0))
                    .for_each(|n| log::warn(format!("line {n}\n\x1b[31mred")));
                log::warn("x".repeat(MB));
                json!({})
            }
            other => return Err(Error::invalid_input(format!("there is no way '{other}'"))),
        };
        let mut reply = reply;
        reply["type"] = "hoarder:done".into();
        message.reply(&reply)
    }

    fn job(job: Job) -> Result<(), Error> {
        let params: Value = job.params()?;
        match params["way"].as_str().unwrap_or_default() {
            "progress" => {
                for n in 0..100 {
                    job.progress_with(0.5, &json!({format!("field-{n}"): "x".repeat(10_000)}))?;
                }
                job.complete(&[], &json!({}))
            }
            "completion" => job.complete(&[], &json!({"long": "x".repeat(5 * MB)})),
            _ => {
                while !job.cancelled() {
                    clock::sleep(20);
                }
                Err(Error::cancelled())
            }
        }
    }
}

/// Takes until that fails or traps.
fn forever<T>(mut take: impl FnMut() -> Result<T, Error>) -> Value {
    let mut taken = Vec::new();
    loop {
        match take() {
            Ok(one) => taken.push(one),
            Err(error) => {
                let count = taken.len();
                return json!({"taken": count, "kind": format!("{:?}", error.kind), "error": error.message});
            }
        }
    }
}

/// Bytes that do not compress.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..count).map(next).collect()
}
