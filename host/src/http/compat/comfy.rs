//! `/v1/comfy/*`: `comfy` jobs over HTTP, as clients of the Python server submit and poll them. They are not waited for: a
//! workflow may take minutes.

use std::{collections::HashMap, sync::Arc};

use reverie_access::Caller;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;
use warp::{Filter, Reply};

use super::{
    Content, File, Layer, Operation, Route, access,
    core::{jobs, messages::ask, uploads},
    error::or_error,
    multipart::{FormData, form},
    of, with,
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

pub fn layer() -> Layer {
    Layer {
        name: "ComfyUI",
        description: "Workflows on the operator's ComfyUI servers, as clients of the Python server submit and poll them.",
        operations,
        errors: None,
        routes,
    }
}

fn routes(registry: &Arc<Registry>) -> Route {
    let jobs = warp::path!("v1" / "comfy" / "jobs");
    let job = warp::path!("v1" / "comfy" / "jobs" / String);
    let asked = access::caller(registry).and(with(registry));
    let submit = jobs.and(warp::post()).and(access::caller(registry)).and(form()).and(with(registry)).then(
        |caller: Caller, form: FormData, registry: Arc<Registry>| async move {
            let submitted = submit(form, &caller, &registry).await;
            or_error(submitted.map_err(bad_request).map(|job| warp::reply::json(&job)))
        },
    );
    let get = job.and(warp::get()).and(asked.clone()).then(
        |id: String, caller: Caller, registry: Arc<Registry>| async move {
            let job = find(&registry, &caller, &id);
            or_error(job.map(|job| warp::reply::json(&described(&job, &registry))))
        },
    );
    let cancel = job.and(warp::delete()).and(asked.clone()).then(
        |id: String, caller: Caller, registry: Arc<Registry>| async move {
            or_error(cancel(&registry, &caller, &id).await.map(|ack| warp::reply::json(&ack)))
        },
    );
    let told = warp::path!("v1" / "comfy" / String).and(warp::get()).and(asked).then(
        |what: String, caller: Caller, registry: Arc<Registry>| async move {
            or_error(tell(&registry, caller, &what).await.map(|reply| warp::reply::json(&reply)))
        },
    );
    let all = submit.or(get).unify().or(cancel).unify().or(told).unify();
    all.map(Reply::into_response).boxed()
}

/// The form that is taken.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ComfyForm")]
#[expect(dead_code, reason = "it describes the form, whose fields the job's schema checks")]
struct Expected {
    workflow_id: String,
    /// Values of the workflow's inputs: an object in JSON.
    params: Option<String>,
    /// The picture that the workflow works on.
    image: Option<File>,
    /// Another name of `image`.
    file: Option<File>,
}

fn operations() -> Vec<Operation> {
    let id = |operation: Operation| {
        operation.path("id", of::<Uuid>(), "The job's `id`.").errors(&[ErrorKind::NotFound])
    };
    let told = |what, summary| {
        let told = Operation::get(format!("/v1/comfy/{what}"), summary);
        told.answers_json::<Map<String, Value>>("The plugin's reply.").errors_of_plugin()
    };
    vec![
        Operation::post("/v1/comfy/jobs", "Submit a workflow")
            .takes(Content::Form(of::<Expected>()))
            .answers_json::<Submitted>("The job, which has been accepted.")
            .errors_of_plugin(),
        id(Operation::get("/v1/comfy/jobs/{id}", "A job as it is now")).answers_json::<Described>("The job."),
        id(Operation::delete("/v1/comfy/jobs/{id}", "Cancel a job"))
            .answers_json::<Cancelled>("What came of it, also for a job that had ended."),
        told(TOLD[0], "The workflows that there are"),
        told(TOLD[1], "How the ComfyUI servers are"),
    ]
}

/// What is wrong with a form or the workflow that it names is 400 in this API.
fn bad_request(error: Error) -> Error {
    match error.kind {
        ErrorKind::InvalidInput | ErrorKind::NotFound => Error::new(ErrorKind::BadRequest, error.message),
        _ => error,
    }
}

/// The reply to a question without fields.
async fn tell(registry: &Arc<Registry>, caller: Caller, what: &str) -> Result<Map<String, Value>, Error> {
    if !TOLD.contains(&what) {
        return Err(Error::not_found("no such resource"));
    }
    let mut reply = ask(registry, caller, &format!("comfy:{what}"), Map::new()).await?;
    reply.remove("type");
    Ok(reply)
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ComfySubmitted")]
struct Submitted {
    id: Uuid,
    job_id: Uuid,
    #[serde(rename = "jobId")]
    camel_id: Uuid,
    status: Status,
}

async fn submit(form: FormData, caller: &Caller, registry: &Arc<Registry>) -> Result<Submitted, Error> {
    let form = uploads::read(form, &registry.services.uploads, caller.tenant(), FILES).await?;
    let params = params(form.fields, form.file)?;
    // What is wrong with them is told at once: a caller that does not follow the job would not learn it.
    ask(registry, caller.clone(), "comfy:check", params.clone()).await?;
    let id = jobs::submit(registry, JOB_TYPE, params, caller.owner(None)).await?.detach();
    Ok(Submitted { id, job_id: id, camel_id: id, status: Status::Queued })
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

/// A job of this type that the caller may see; those of other types are not of this resource.
fn find(registry: &Registry, caller: &Caller, id: &str) -> Result<Snapshot, Error> {
    let job = Uuid::parse_str(id).ok().and_then(|id| dispatch::found(registry, caller, id).ok());
    job.filter(|job| job.job_type == JOB_TYPE)
        .ok_or_else(|| Error::not_found(format!("no job '{id}' of type '{JOB_TYPE}'")))
}

/// A job as polling clients read it. Times are unix seconds.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ComfyJob")]
struct Described {
    id: Uuid,
    #[serde(rename = "workflowId")]
    workflow_id: Option<Value>,
    status: Status,
    created_at: f64,
    started_at: Option<f64>,
    finished_at: Option<f64>,
    error: Option<String>,
    /// The `code` of the error.
    code: Option<String>,
    outputs: Vec<Output>,
    progress: Progress,
    /// What the plugin tells of the outputs, once it is done.
    meta: Option<Map<String, Value>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ComfyOutput")]
struct Output {
    id: String,
    /// Where it is served, from the server's root.
    url: String,
    filename: Value,
    /// Always `output`.
    r#type: &'static str,
    subfolder: Value,
    /// Its key in the storage.
    key: String,
    #[serde(rename = "mediaType")]
    media_type: Option<Value>,
}

/// How far it is; with further fields of the plugin.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ComfyProgress")]
struct Progress {
    nodes_total: Value,
    nodes_seen: Value,
    current_node: Value,
    /// The ids of the nodes, in the order in which they ran.
    node_progression: Value,
    /// 0 to 1.
    fraction: f64,
    #[serde(flatten)]
    more: Map<String, Value>,
}

fn described(job: &Snapshot, registry: &Registry) -> Described {
    let params = registry.services.jobs.params(job.id);
    let files = job.meta.get("outputs").and_then(Value::as_array);
    let file = |key: &str| files.and_then(|files| files.iter().find(|file| file["key"] == key));
    let output = |output: &crate::jobs::Output| {
        let file = file(&output.key);
        let of_file = |field: &str| file.and_then(|file| file.get(field)).cloned();
        Output {
            id: output.key.clone(),
            url: output.url.clone(),
            filename: of_file("filename").unwrap_or_else(|| output.key.clone().into()),
            r#type: "output",
            subfolder: of_file("subfolder").unwrap_or_else(|| "".into()),
            key: output.key.clone(),
            media_type: of_file("mediaType"),
        }
    };
    Described {
        id: job.id,
        workflow_id: params.as_ref().and_then(|params| params.get("workflowId")).cloned(),
        status: job.status,
        created_at: job.created,
        started_at: job.started,
        finished_at: job.finished,
        error: job.error.clone(),
        code: job.code.clone(),
        outputs: job.outputs.iter().map(output).collect(),
        progress: progress(job),
        meta: (job.status == Status::Done).then(|| job.meta.clone()),
    }
}

fn progress(job: &Snapshot) -> Progress {
    let mut more = job.detail.clone();
    more.remove("fraction");
    let mut take = |field: &str| more.remove(field).unwrap_or_default();
    Progress {
        nodes_total: take("nodes_total"),
        nodes_seen: take("nodes_seen"),
        current_node: take("current_node"),
        node_progression: match take("node_progression") {
            Value::Null => Value::Array(Vec::new()),
            nodes => nodes,
        },
        fraction: job.fraction.to_string().parse().unwrap_or(0.0),
        more,
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ComfyCancelled")]
struct Cancelled {
    id: Uuid,
    #[serde(flatten)]
    cancelled: dispatch::Cancelled,
}

async fn cancel(registry: &Registry, caller: &Caller, id: &str) -> Result<Cancelled, Error> {
    let job = find(registry, caller, id)?;
    Ok(Cancelled { id: job.id, cancelled: dispatch::cancelled(registry, caller, job.id).await? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
