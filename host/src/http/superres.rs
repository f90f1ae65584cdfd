//! `POST /superres` and `/v1/superres`: an `sr` job, waited for. It takes the same way as one over WebSocket.

use std::{collections::HashMap, sync::Arc};

use serde_json::{Map, Value};
use warp::{
    Filter, Reply,
    http::{Response, header},
    multipart::FormData,
};

use super::{
    Route,
    error::or_error,
    run::{self, Done},
    uploads, with,
};
use crate::{error::Error, plugins::Registry, storage};

/// Form fields and whether they are numbers.
const FIELDS: &[(&str, bool)] =
    &[("magnitude", true), ("scale", true), ("quality", true), ("model", false), ("out_format", false)];

pub fn routes(registry: &Arc<Registry>) -> Route {
    let path = warp::path!("superres").or(warp::path!("v1" / "superres")).unify();
    path.and(warp::post()).and(uploads::form()).and(with(registry)).then(
        |form: FormData, registry: Arc<Registry>| async move { or_error(superres(form, &registry).await) },
    )
    .boxed()
}

async fn superres(form: FormData, registry: &Arc<Registry>) -> Result<impl Reply + use<>, Error> {
    let form = uploads::read(form, &registry.services.uploads).await?;
    let file_ref = form.file.ok_or_else(uploads::missing_file)?;
    let mut params = params(&form.fields)?;
    params.insert("fileRef".into(), file_ref.into());
    let Done { job, key, content } = run::submit(registry, "sr", params, None).await?.done().await?;
    let scale = job.meta.get("scale").map(Value::to_string).unwrap_or_default();
    Ok(Response::builder()
        .header(header::CONTENT_TYPE, storage::media_type(&key))
        .header(header::CACHE_CONTROL, "no-store")
        .header("X-SuperRes", scale)
        .header("X-Storage-Key", &key)
        .header("X-Job-Id", job.id.to_string())
        .body(content)
        .expect("plain header values"))
}

fn params(fields: &HashMap<String, String>) -> Result<Map<String, Value>, Error> {
    let mut params = Map::new();
    for (name, is_number) in FIELDS {
        let Some(text) = fields.get(*name).map(|text| text.trim()).filter(|text| !text.is_empty()) else {
            continue;
        };
        let value = if *is_number {
            let number: Option<Value> = serde_json::from_str(text).ok().filter(Value::is_number);
            number.ok_or_else(|| Error::invalid(format!("{name}: '{text}' is not a number")))?
        } else {
            text.into()
        };
        params.insert((*name).into(), value);
    }
    Ok(params)
}
