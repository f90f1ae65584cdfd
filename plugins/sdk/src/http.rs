//! Requests to HTTP servers. Capability `http`; the operator lists the origins that a plugin may reach, and each hop of a
//! redirect is checked too.
//!
//! ```no_run
//! # use reverie_plugin_sdk::{Error, http::Request};
//! # fn ask() -> Result<(), Error> {
//! let answer = Request::new("GET", "http://127.0.0.1:8188/queue").send()?;
//! assert_eq!(answer.status, 200);
//! # Ok(()) }
//! ```

use std::time::Duration;

use crate::{
    Error, ErrorKind,
    bindings::wasi_http::wasi::{
        http::{
            outgoing_handler,
            types::{
                ErrorCode, Fields, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions,
                Scheme, http_error_code,
            },
        },
        io::streams::StreamError,
    },
    clock,
    url::Url,
};

const MAX_REDIRECTS: usize = 5;
const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_RESPONSE_BYTES: usize = 16 << 20;

/// Bytes taken from an answer at once.
const PIECE: u64 = 256 << 10;

/// A request that is being put together.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    timeout: Duration,
    max_response_bytes: usize,
}

/// An answer, of whatever status.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status, such as 200.
    pub status: u16,
    /// Names are in lower case. What is not UTF-8 in a value is replaced.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of this name, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

impl Request {
    /// A request without headers or a body: 30 seconds for it all and 16 MiB for the answer's body, unless set otherwise.
    pub fn new(method: &str, url: &str) -> Self {
        Self {
            method: method.to_owned(),
            url: url.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout: TIMEOUT,
            max_response_bytes: MAX_RESPONSE_BYTES,
        }
    }

    /// Adds a header. `Host`, `Content-Length` and those that concern the connection are the host's own.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    /// Sets how long it may take, redirects included. The operator's `http_timeout_ms` bounds each wait in it as well.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how long the answer's body may be. The operator's `http_max_body_bytes` bounds it as well.
    #[must_use]
    pub fn max_response_bytes(mut self, limit: usize) -> Self {
        self.max_response_bytes = limit;
        self
    }

    /// Sends it and takes in the answer. Redirects are followed, at most 5; credentials stay with the origin they were meant for.
    ///
    /// # Errors
    /// `denied` for an origin that the operator does not list, `unavailable` for a server that can't be reached or breaks off,
    /// `too-large` for an answer over a limit, `invalid-input` for a request that can't be sent.
    pub fn send(mut self) -> Result<Response, Error> {
        let end = clock::monotonic_ns().saturating_add(nanoseconds(self.timeout));
        let mut url = Url::parse(&self.url)?;
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.send_once(&url, end)?;
            let Some(location) = answer.header("location").filter(|_| (301..=308).contains(&answer.status))
            else {
                return Ok(answer);
            };
            if matches!(answer.status, 304..=306) {
                return Ok(answer);
            }
            let next = url.join(location)?;
            if answer.status == 303 && self.method != "HEAD"
                || matches!(answer.status, 301 | 302) && self.method == "POST"
            {
                self.method = "GET".into();
                self.body.clear();
                self.headers.retain(|(name, _)| !name.to_ascii_lowercase().starts_with("content-"));
            }
            if !next.same_origin(&url) {
                let credentials = ["authorization", "cookie", "proxy-authorization"];
                self.headers.retain(|(name, _)| !credentials.contains(&name.to_ascii_lowercase().as_str()));
            }
            url = next;
        }
        Err(Error::unavailable(format!("{}: more than {MAX_REDIRECTS} redirects", self.url)))
    }

    fn send_once(&self, url: &Url, end: u64) -> Result<Response, Error> {
        let failed = |code: ErrorCode| {
            let (kind, cause) = words(code);
            Error::new(kind, format!("{} {url}: {cause}", self.method))
        };
        let late = || Error::unavailable(format!("{} {url}: not done in time", self.method));
        let left = end.checked_sub(clock::monotonic_ns()).filter(|&left| left > 0).ok_or_else(late)?;
        let (request, body) = self.prepare(url)?;
        let options = RequestOptions::new();
        // A host that knows no such limits has its own.
        let _ = options.set_connect_timeout(Some(left));
        let _ = options.set_first_byte_timeout(Some(left));
        let _ = options.set_between_bytes_timeout(Some(left));
        let pending = outgoing_handler::handle(request, Some(options)).map_err(failed)?;
        if let Some(body) = body {
            // A server may answer before it has taken in the body, and then want no more of it.
            let _ = write(body, &self.body);
        }
        pending.subscribe().block();
        let answer = match pending.get() {
            Some(Ok(answer)) => answer.map_err(failed)?,
            _ => return Err(Error::internal("the host gave no answer to a request")),
        };
        self.read(&answer, end, late, failed)
    }

    /// The request, and its body where it has one.
    fn prepare(&self, url: &Url) -> Result<(OutgoingRequest, Option<OutgoingBody>), Error> {
        let mut headers: Vec<(String, Vec<u8>)> =
            self.headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect();
        if !self.body.is_empty() {
            headers.push(("content-length".into(), self.body.len().to_string().into_bytes()));
        }
        let headers = Fields::from_list(&headers).map_err(|e| {
            Error::invalid_input(format!("the headers of a request to {url} are not valid: {e}"))
        })?;
        let request = OutgoingRequest::new(headers);
        let scheme = if url.secure { Scheme::Https } else { Scheme::Http };
        request
            .set_method(&method(&self.method))
            .and_then(|()| request.set_scheme(Some(&scheme)))
            .and_then(|()| request.set_authority(Some(&url.authority)))
            .and_then(|()| request.set_path_with_query(Some(&url.path)))
            .map_err(|()| {
                Error::invalid_input(format!("{} {url}: not a valid method and URL", self.method))
            })?;
        let body = (!self.body.is_empty()).then(|| request.body().expect("taken once"));
        Ok((request, body))
    }

    fn read(
        &self,
        answer: &IncomingResponse,
        end: u64,
        late: impl Fn() -> Error,
        failed: impl Fn(ErrorCode) -> Error,
    ) -> Result<Response, Error> {
        let headers = answer.headers().entries().into_iter();
        let headers = headers
            .map(|(name, value)| (name.to_ascii_lowercase(), String::from_utf8_lossy(&value).into_owned()))
            .collect();
        let incoming = answer.consume().expect("taken once");
        let stream = incoming.stream().expect("taken once");
        let mut body = Vec::new();
        loop {
            match stream.blocking_read(PIECE) {
                Ok(piece) if body.len() + piece.len() > self.max_response_bytes => {
                    let limit = self.max_response_bytes;
                    return Err(Error::too_large(format!(
                        "the answer of {} is over {limit} bytes",
                        self.url
                    )));
                }
                Ok(piece) => body.extend_from_slice(&piece),
                Err(StreamError::Closed) => break,
                Err(StreamError::LastOperationFailed(error)) => {
                    // Where the host tells no code of a broken body, its words are the code's.
                    let cause = http_error_code(&error).unwrap_or_else(|| {
                        let text = error.to_debug_string();
                        let own = text.strip_prefix("internal error: ").map(str::to_owned);
                        ErrorCode::InternalError(Some(own.unwrap_or(text)))
                    });
                    return Err(failed(cause));
                }
            }
            if clock::monotonic_ns() > end {
                return Err(late());
            }
        }
        Ok(Response { status: answer.status(), headers, body })
    }
}

fn write(body: OutgoingBody, mut content: &[u8]) -> Result<(), StreamError> {
    let stream = body.write().expect("taken once");
    while !content.is_empty() {
        let room = stream.check_write()?;
        if room == 0 {
            stream.subscribe().block();
            continue;
        }
        let (piece, rest) = content.split_at(content.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
        stream.write(piece)?;
        content = rest;
    }
    stream.blocking_flush()?;
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
    Ok(())
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What an error of WASI's means here.
fn words(code: ErrorCode) -> (ErrorKind, String) {
    const KINDS: &[(&str, ErrorKind)] = &[
        ("denied", ErrorKind::Denied),
        ("invalid-input", ErrorKind::InvalidInput),
        ("too-large", ErrorKind::TooLarge),
        ("unavailable", ErrorKind::Unavailable),
    ];
    let unavailable = |text: &str| (ErrorKind::Unavailable, text.to_owned());
    match code {
        ErrorCode::InternalError(Some(text)) => {
            let kind = KINDS.iter().find_map(|(name, kind)| {
                Some((*kind, text.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
            });
            kind.unwrap_or((ErrorKind::Internal, text))
        }
        ErrorCode::HttpResponseBodySize(limit) => {
            let limit =
                limit.map_or_else(String::new, |limit| format!(" of {limit} bytes (http_max_body_bytes)"));
            (ErrorKind::TooLarge, format!("the answer's body is over the limit{limit}"))
        }
        ErrorCode::ConnectionTimeout => unavailable("no connection in time"),
        ErrorCode::ConnectionReadTimeout | ErrorCode::HttpResponseTimeout => unavailable("no answer in time"),
        ErrorCode::HttpRequestDenied | ErrorCode::DestinationIpProhibited => {
            (ErrorKind::Denied, "not allowed".into())
        }
        ErrorCode::HttpRequestMethodInvalid
        | ErrorCode::HttpRequestUriInvalid
        | ErrorCode::HttpRequestBodySize(_) => (ErrorKind::InvalidInput, code.to_string()),
        other => (ErrorKind::Unavailable, other.to_string()),
    }
}
