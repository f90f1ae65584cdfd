//! `/v1/comfy/*`: `comfy` jobs over HTTP, as clients of the Python server submit and poll them. They are not waited for: a
//! workflow may take minutes.

use std::{collections::HashMap, sync::Arc};

use serde_json::{Map, Value, json};
use uuid::Uuid;
use warp::{Filter, Reply, multipart::FormData};

use super::{
    Layer, Route,
    core::{jobs, messages::ask, uploads},
    error::or_error,
    with,
};
use crate::{
    dispatch,
    error::{Error, ErrorKind},
    jobs::{Snapshot, Status},
    plugins::Registry,
};

const JOB_TYPE: &str = "comfy";

/// What is asked without fields.
const TOLD: &[&str] = &["workflows", "servers"];

/// The field of the picture; the second is Reverie's earlier name.
const FILES: &[&str] = &["image", "file"];

/// What a form may have besides it.
const FIELDS: &[&str] = &["workflowId", "params"];

/// A job's own fields in this API.
const PROGRESS: &[(&str, Value)] = &[
    ("nodes_total", Value::Null),
    ("nodes_seen", Value::Null),
    ("current_node", Value::Null),
    ("node_progression", Value::Array(Vec::new())),
];

pub fn layer() -> Layer {
    Layer { errors: None, routes }
}

fn routes(registry: &Arc<Registry>) -> Route {
    let jobs = warp::path!("v1" / "comfy" / "jobs");
    let job = warp::path!("v1" / "comfy" / "jobs" / String);
    let submit = jobs.and(warp::post()).and(uploads::form()).and(with(registry)).then(
        |form: FormData, registry: Arc<Registry>| async move {
            or_error(submit(form, &registry).await.map_err(bad_request).map(|job| warp::reply::json(&job)))
        },
    );
    let get =
        job.and(warp::get()).and(with(registry)).then(|id: String, registry: Arc<Registry>| async move {
            let job = find(&registry, &id);
            or_error(job.map(|job| warp::reply::json(&described(&job, &registry))))
        });
    let cancel = job.and(warp::delete()).and(with(registry)).map(|id: String, registry: Arc<Registry>| {
        or_error(cancel(&registry, &id).map(|ack| warp::reply::json(&ack)))
    });
    let told = warp::path!("v1" / "comfy" / String).and(warp::get()).and(with(registry)).then(
        |what: String, registry: Arc<Registry>| async move {
            or_error(tell(&registry, &what).await.map(|reply| warp::reply::json(&reply)))
        },
    );
    let all = submit.or(get).unify().or(cancel).unify().or(told).unify();
    all.map(Reply::into_response).boxed()
}

/// What is wrong with a form or the workflow that it names is 400 in this API.
fn bad_request(error: Error) -> Error {
    match error.kind {
        ErrorKind::InvalidInput | ErrorKind::NotFound => Error::new(ErrorKind::BadRequest, error.message),
        _ => error,
    }
}

/// The reply to a question without fields.
async fn tell(registry: &Arc<Registry>, what: &str) -> Result<Map<String, Value>, Error> {
    if !TOLD.contains(&what) {
        return Err(Error::not_found("no such resource"));
    }
    let mut reply = ask(registry, &format!("comfy:{what}"), Map::new()).await?;
    reply.remove("type");
    Ok(reply)
}

async fn submit(form: FormData, registry: &Arc<Registry>) -> Result<Value, Error> {
    let form = uploads::read(form, &registry.services.uploads, FILES).await?;
    let params = params(form.fields, form.file)?;
    // What is wrong with them is told at once: a caller that does not follow the job would not learn it.
    ask(registry, "comfy:check", params.clone()).await?;
    let id = jobs::submit(registry, JOB_TYPE, params, None).await?.detach();
    Ok(json!({"id": id, "job_id": id, "jobId": id, "status": "queued"}))
}

/// The job's parameters, as `job:submit` has them.
fn params(fields: HashMap<String, String>, file: Option<String>) -> Result<Map<String, Value>, Error> {
    let mut params = Map::new();
    for (name, text) in fields {
        let value = match name.as_str() {
            "workflowId" => text.into(),
            "params" if text.trim().is_empty() => continue,
            "params" => match serde_json::from_str(&text) {
                Ok(Value::Object(object)) => object.into(),
                Ok(_) => return Err(Error::invalid("params: must be a JSON object")),
                Err(e) => return Err(Error::invalid(format!("params: not JSON: {e}"))),
            },
            _ => {
                let accepted = FIELDS.join(", ");
                return Err(Error::invalid(format!(
                    "{name}: no such field; accepted are {accepted} and image"
                )));
            }
        };
        params.insert(name, value);
    }
    if let Some(file) = file {
        params.insert("inputImage".into(), file.into());
    }
    Ok(params)
}

/// A job of this type; those of others are not of this resource.
fn find(registry: &Registry, id: &str) -> Result<Snapshot, Error> {
    let job = Uuid::parse_str(id).ok().and_then(|id| registry.services.jobs.get(id).ok());
    job.filter(|job| job.job_type == JOB_TYPE)
        .ok_or_else(|| Error::not_found(format!("no job '{id}' of type '{JOB_TYPE}'")))
}

/// The job as polling clients read it.
fn described(job: &Snapshot, registry: &Registry) -> Value {
    let params = registry.services.jobs.params(job.id);
    let workflow = params.as_ref().and_then(|params| params.get("workflowId")).cloned();
    let mut progress: Map<String, Value> =
        PROGRESS.iter().map(|(field, none)| ((*field).to_owned(), none.clone())).collect();
    progress.extend(job.detail.clone());
    let fraction: f64 = job.fraction.to_string().parse().unwrap_or(0.0);
    progress.insert("fraction".into(), fraction.into());
    let files = job.meta.get("outputs").and_then(Value::as_array);
    let file = |key: &str| files.and_then(|files| files.iter().find(|file| file["key"] == key));
    let outputs: Vec<Value> = job
        .outputs
        .iter()
        .map(|output| {
            let file = file(&output.key);
            let of_file = |field: &str| file.and_then(|file| file.get(field)).cloned();
            json!({
                "id": output.key,
                "url": output.url,
                "filename": of_file("filename").unwrap_or_else(|| output.key.clone().into()),
                "type": "output",
                "subfolder": of_file("subfolder").unwrap_or_else(|| "".into()),
                "key": output.key,
                "mediaType": of_file("mediaType"),
            })
        })
        .collect();
    json!({
        "id": job.id,
        "workflowId": workflow,
        "status": job.status,
        "created_at": job.created,
        "started_at": job.started,
        "finished_at": job.finished,
        "error": job.error,
        "code": job.code,
        "outputs": outputs,
        "progress": progress,
        "meta": if job.status == Status::Done { json!(job.meta) } else { Value::Null },
    })
}

fn cancel(registry: &Registry, id: &str) -> Result<Value, Error> {
    let job = find(registry, id)?;
    let mut ack = dispatch::cancelled(registry, job.id)?;
    ack["id"] = json!(job.id);
    Ok(ack)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_becomes_the_parameters_of_a_job() {
        let fields = |fields: &[(&str, &str)]| {
            fields.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect()
        };
        let made = params(fields(&[("workflowId", "blur"), ("params", r#"{"seed": 1}"#)]), Some("x".into()));
        let expected = json!({"workflowId": "blur", "params": {"seed": 1}, "inputImage": "x"});
        assert_eq!(Value::Object(made.unwrap()), expected);
        for (wrong, said) in [("params", "not JSON"), ("prompt", "accepted are workflowId")] {
            let error = params(fields(&[(wrong, "x")]), None).unwrap_err();
            assert!(error.message.contains(said), "{error:?}");
        }
    }
}
