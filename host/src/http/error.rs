//! Errors as HTTP: a status and a JSON body `{error, code, detail, field?}`. `detail` repeats `error` for clients of the FastAPI
//! server that came before.

use std::convert::Infallible;

use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use warp::{
    Rejection, Reply,
    http::{HeaderValue, StatusCode, header},
    reply::Response,
};

use super::describe::Errors;
use crate::{
    error::{Error, ErrorKind},
    paths::Hidden,
};

/// What a full queue tells a client to wait, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// An error on its way through warp's filters.
#[derive(Debug)]
struct Rejected(Error);

impl warp::reject::Reject for Rejected {}

/// Makes other routes be tried, and this the answer where none serves.
pub fn reject(error: Error) -> Rejection {
    warp::reject::custom(Rejected(error))
}

/// What is said of a body that can't be read to its end, by a peer that is too slow or for another reason, which `otherwise` tells.
pub fn of_body(error: &(dyn std::error::Error + 'static), otherwise: &str) -> Error {
    match reverie_net::is_too_slow(error) {
        true => Error::new(
            ErrorKind::BadRequest,
            "the body came too slowly (server.body_timeout_s, server.min_body_bytes_per_s)",
        ),
        false => Error::new(ErrorKind::BadRequest, otherwise),
    }
}

/// The body of an error.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub struct Body<'a> {
    /// What was wrong, and what is accepted.
    error: &'a str,
    /// What went wrong, coarsely.
    code: &'a str,
    /// The same as `error`.
    detail: &'a str,
    /// The field that was wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

/// Core's errors, as the document tells them.
pub const DESCRIBED: Errors = Errors {
    name: "error",
    status: ErrorKind::status,
    body: SchemaGenerator::subschema_for::<Body<'static>>,
};

/// Turns an error into its answer.
pub fn response(error: &Error) -> Response {
    let (message, code) = (&error.message, error.kind.code());
    let body = Body { error: message, code, detail: message, field: error.field() };
    let mut response = warp::reply::json(&body).into_response();
    *response.status_mut() = StatusCode::from_u16(error.kind.status()).expect("a valid status");
    // For resources that tell it in another shape.
    response.extensions_mut().insert(error.clone());
    if matches!(error.kind, ErrorKind::Busy | ErrorKind::Unavailable) {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    if error.kind == ErrorKind::Unauthorized {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// An answer whose error names no folder of the server.
pub fn hiding(hidden: &Hidden, mut answer: Response) -> Response {
    let Some(message) = answer.extensions().get::<Error>().and_then(|error| hidden.without(&error.message))
    else {
        return answer;
    };
    let Some(error) = answer.extensions_mut().remove::<Error>() else { return answer };
    let told = response(&Error { message, ..error });
    let (parts, body) = told.into_parts();
    answer.extensions_mut().extend(parts.extensions);
    answer.headers_mut().remove(header::CONTENT_LENGTH);
    *answer.body_mut() = body;
    answer
}

/// An answer, or its error as one.
pub fn or_error<T: Reply>(result: Result<T, Error>) -> Response {
    match result {
        Ok(reply) => reply.into_response(),
        Err(error) => response(&error),
    }
}

/// Turns every rejection into an answer. The order matters: warp collects the rejections of all routes, and the most
/// telling one wins.
pub async fn recover(rejection: Rejection) -> Result<Response, Infallible> {
    let error = if let Some(Rejected(error)) = rejection.find() {
        error.clone()
    } else if rejection.is_not_found() {
        Error::not_found("no such resource")
    } else if rejection.find::<warp::reject::PayloadTooLarge>().is_some() {
        Error::new(ErrorKind::TooLarge, "the request's body is over the limit")
    } else if rejection.find::<warp::reject::LengthRequired>().is_some() {
        Error::new(ErrorKind::BadRequest, "a Content-Length header is required")
    } else if rejection.find::<warp::reject::UnsupportedMediaType>().is_some() {
        Error::new(ErrorKind::UnsupportedMediaType, "the request's content type is not accepted here")
    } else if let Some(missing) = rejection.find::<warp::reject::MissingHeader>() {
        Error::new(ErrorKind::BadRequest, format!("the header '{}' is missing", missing.name()))
    } else if let Some(invalid) = rejection.find::<warp::reject::InvalidHeader>() {
        Error::new(ErrorKind::BadRequest, format!("the header '{}' is not valid here", invalid.name()))
    } else if rejection.find::<warp::reject::InvalidQuery>().is_some() {
        Error::new(ErrorKind::BadRequest, "the query string can't be read")
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        Error::new(ErrorKind::MethodNotAllowed, "this resource does not take that method")
    } else {
        tracing::error!(?rejection, "unexpected rejection");
        Error::internal("the request failed (a fault of the server)")
    };
    Ok(response(&error))
}
