//! The routes as what connections are served by.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use reverie_net::Body;
use tower_service::Service;
use warp::{
    http::{Method, Request, header},
    reply::Response,
};

use crate::plugins::Registry;

/// Everything the server answers, over one connection or many.
pub fn service(
    registry: &Arc<Registry>,
) -> impl Service<Request<Body>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
    Heads(warp::service(super::routes(registry)))
}

/// Answers HEAD as GET is answered: the connection sends no body then.
#[derive(Clone)]
struct Heads<S>(S);

impl<S: Service<Request<Body>>> Service<Request<Body>> for Heads<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> S::Future {
        if request.method() == Method::HEAD {
            *request.method_mut() = Method::GET;
            // Only GET makes a WebSocket.
            request.headers_mut().remove(header::UPGRADE);
        }
        self.0.call(request)
    }
}
