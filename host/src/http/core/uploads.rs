//! `POST /v1/upload`: the multipart field `file`, taken in piece by piece, and optionally `type`: what kind of picture it is.
//! Also the reading of multipart forms.

use std::{collections::HashMap, sync::Arc};

use reverie_access::Caller;
use schemars::JsonSchema;
use serde::Serialize;
use warp::Filter;

use super::{
    Content, File, Operation, Route, access,
    error::or_error,
    multipart::{FormData, Part, form},
    of, with,
};
use crate::{
    error::{Error, ErrorKind},
    pictures,
    plugins::Registry,
    uploads::Uploads,
};

/// Bytes of a form field that is not a file.
const MAX_FIELD_BYTES: usize = 64 * 1024;
const MAX_FIELDS: usize = 32;

/// What `type` may say. It asks for the picture's size in the answer.
const KINDS: &[&str] = &["canny", "depth", "pose", "image", "ref"];

pub fn routes(registry: &Arc<Registry>) -> Route {
    warp::path!("v1" / "upload")
        .and(warp::post())
        .and(access::caller(registry))
        .and(form())
        .and(with(registry))
        .then(|caller: Caller, form: FormData, registry: Arc<Registry>| async move {
            or_error(upload(form, &caller, &registry).await.map(|answer| warp::reply::json(&answer)))
        })
        .boxed()
}

/// The form that is taken.
#[derive(JsonSchema)]
#[schemars(rename = "UploadForm")]
#[expect(dead_code, reason = "it describes the form, which is read piece by piece")]
struct Expected {
    file: File,
    /// What kind of picture it is: canny, depth, pose, image or ref. It asks for the picture's size in the answer.
    r#type: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Uploaded {
    /// What jobs take as a picture, with or without `fileRef:` in front; for `uploads.ttl_s`, five minutes unless configured.
    file_ref: String,
    /// The form's `type`.
    #[serde(skip_serializing_if = "Option::is_none")]
    bucket: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u32>,
}

pub fn operations() -> Vec<Operation> {
    let upload = Operation::post("/v1/upload", "Upload a file");
    let upload =
        upload.takes(Content::Form(of::<Expected>())).answers_json::<Uploaded>("The file's reference.");
    vec![upload.errors(&[ErrorKind::Unavailable])]
}

async fn upload(form: FormData, caller: &Caller, registry: &Registry) -> Result<Uploaded, Error> {
    let uploads = &registry.services.uploads;
    let form = read(form, uploads, caller.tenant(), &["file"]).await?;
    let file_ref = form.file.ok_or_else(|| missing_file("file"))?;
    let Some(kind) = form.fields.get("type").filter(|kind| !kind.is_empty()) else {
        return Ok(Uploaded { file_ref, bucket: None, width: None, height: None });
    };
    let checked = || {
        if !KINDS.contains(&kind.as_str()) {
            let known = KINDS.join(", ");
            return Err(Error::new(ErrorKind::BadRequest, format!("type: '{kind}' is none of {known}")));
        }
        let content = uploads.resolve(&file_ref, caller.tenant())?.content;
        pictures::dimensions(&content).map_err(|e| Error::new(ErrorKind::BadRequest, e.message))
    };
    let (width, height) = checked().inspect_err(|_| uploads.forget(&file_ref))?;
    let bucket = Some(kind.clone());
    Ok(Uploaded { file_ref, bucket, width: Some(width), height: Some(height) })
}

/// What a form held.
pub struct Form {
    /// The upload of the file field.
    pub file: Option<String>,
    pub fields: HashMap<String, String>,
}

/// Reads a form; the file in one of the fields `files`, the last one, becomes an upload of the tenant.
///
/// # Errors
/// `BadRequest` for a broken form or an empty file, `TooLarge`, or `Unavailable` when the memory for uploads is full.
pub async fn read(
    mut form: FormData,
    uploads: &Arc<Uploads>,
    tenant: Option<&str>,
    files: &[&str],
) -> Result<Form, Error> {
    let mut read = Form { file: None, fields: HashMap::new() };
    while let Some(part) = form.next().await {
        let part = part?;
        if read.fields.len() >= MAX_FIELDS {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the form has more than {MAX_FIELDS} fields"),
            ));
        }
        if files.contains(&part.name()) {
            read.file = Some(read_file(part, uploads, tenant).await?);
        } else {
            let name = part.name().to_owned();
            read.fields.insert(name, read_field(part).await?);
        }
    }
    Ok(read)
}

/// The error for a form without a file.
pub fn missing_file(field: &str) -> Error {
    Error::new(ErrorKind::BadRequest, format!("the multipart field '{field}' is missing"))
}

async fn read_file(mut part: Part, uploads: &Arc<Uploads>, tenant: Option<&str>) -> Result<String, Error> {
    let mut incoming = uploads.begin(tenant);
    while let Some(chunk) = part.data().await {
        incoming.push(&chunk?)?;
    }
    incoming.finish(part.content_type())
}

async fn read_field(mut part: Part) -> Result<String, Error> {
    let name = part.name().to_owned();
    let mut text = Vec::new();
    while let Some(chunk) = part.data().await {
        let chunk = chunk?;
        if text.len() + chunk.len() > MAX_FIELD_BYTES {
            let error = format!("the form field '{name}' is over {MAX_FIELD_BYTES} bytes");
            return Err(Error::new(ErrorKind::TooLarge, error));
        }
        text.extend_from_slice(&chunk);
    }
    String::from_utf8(text)
        .map_err(|_| Error::new(ErrorKind::BadRequest, format!("the form field '{name}' is not UTF-8")))
}
