//! `/v1/comfy/*`: `comfy` jobs over HTTP. Unlike other jobs here they are not waited for: a workflow may take minutes.

use std::{collections::HashMap, sync::Arc};

use serde_json::{Map, Value, json};
use uuid::Uuid;
use warp::{Filter, Reply, http::StatusCode, multipart::FormData};

use super::{Route, ask::ask, error::or_error, uploads, with};
use crate::{
    dispatch,
    error::{Error, ErrorKind},
    jobs::{Snapshot, Spec},
    plugins::Registry,
};

const JOB_TYPE: &str = "comfy";

/// What is asked without fields.
const TOLD: &[&str] = &["workflows", "servers"];

/// What a form may have besides the file.
const FIELDS: &[&str] = &["workflowId", "params"];

pub fn routes(registry: &Arc<Registry>) -> Route {
    let jobs = warp::path!("v1" / "comfy" / "jobs");
    let job = warp::path!("v1" / "comfy" / "jobs" / String);
    let submit = jobs.and(warp::post()).and(uploads::form()).and(with(registry)).then(
        |form: FormData, registry: Arc<Registry>| async move {
            let accepted = submit(form, &registry).await;
            or_error(
                accepted.map(|job| warp::reply::with_status(warp::reply::json(&job), StatusCode::ACCEPTED)),
            )
        },
    );
    let get = job.and(warp::get()).and(with(registry)).map(|id: String, registry: Arc<Registry>| {
        or_error(find(&registry, &id).map(|job| warp::reply::json(&job.describe())))
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

/// The reply to a question without fields.
async fn tell(registry: &Arc<Registry>, what: &str) -> Result<Value, Error> {
    if !TOLD.contains(&what) {
        return Err(Error::not_found("no such resource"));
    }
    ask(registry, &format!("comfy:{what}"), Map::new()).await
}

async fn submit(form: FormData, registry: &Arc<Registry>) -> Result<Value, Error> {
    let form = uploads::read(form, &registry.services.uploads).await?;
    let params = params(form.fields, form.file)?;
    // What is wrong with them is told at once: a caller that does not follow the job would not learn it.
    ask(registry, "comfy:check", params.clone()).await?;
    let job_type = JOB_TYPE.to_owned();
    let spec = Spec { job_type, params, owner: None, priority: 0, name: None, background: false };
    dispatch::check_spec(registry, &spec)?;
    let id = registry.services.jobs.submit(spec, |_| ()).await?;
    Ok(json!({"jobId": id, "jobType": JOB_TYPE, "status": "queued"}))
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
                    "{name}: no such field; accepted are {accepted} and file"
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
        .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no job '{id}' of type '{JOB_TYPE}'")))
}

fn cancel(registry: &Registry, id: &str) -> Result<Value, Error> {
    let job = find(registry, id)?;
    dispatch::cancelled(registry, job.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_becomes_the_parameters_of_a_job() {
        let fields = |fields: &[(&str, &str)]| {
            fields.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect()
        };
        let made =
            params(fields(&[("workflowId", "blur"), ("params", r#"{"seed": 1}"#)]), Some("fileRef:x".into()));
        let expected = json!({"workflowId": "blur", "params": {"seed": 1}, "inputImage": "fileRef:x"});
        assert_eq!(Value::Object(made.unwrap()), expected);
        for (wrong, said) in [("params", "not JSON"), ("prompt", "accepted are workflowId")] {
            let error = params(fields(&[(wrong, "x")]), None).unwrap_err();
            assert!(error.message.contains(said), "{error:?}");
        }
    }
}
