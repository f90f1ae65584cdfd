//! A server with short times, and clients that are not nice.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode};
use reverie_net::{Body, Connections, Limits, Peer, Secure, Server, Tls, is_too_slow};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

/// The time of everything that is timed.
pub const TIME: Duration = Duration::from_millis(400);
/// How much later than its time something may end on a machine that is busy.
pub const LATER: Duration = Duration::from_millis(1500);

pub fn limits() -> Limits {
    Limits {
        handshake: TIME,
        head: TIME,
        body: TIME,
        body_bytes_per_s: 1000,
        write: TIME,
        idle: TIME,
        head_bytes: 16 * 1024,
        ..Limits::default()
    }
}

/// `/slow` answers after four times the time, `/large` with 64 MiB, `/length` with the length of its body, `/upgrade` changes
/// the protocol to one that echoes; anything else with who asks.
#[derive(Clone)]
pub struct Service;

impl tower_service::Service<Request<Body>> for Service {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async move { Ok(answer(request).await) })
    }
}

async fn answer(mut request: Request<Body>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    match request.uri().path() {
        "/slow" => tokio::time::sleep(TIME * 4).await,
        "/large" => *response.body_mut() = Full::new(vec![7; 64 << 20].into()),
        "/length" => match request.into_body().collect().await {
            Ok(body) => *response.body_mut() = body.to_bytes().len().to_string().into(),
            Err(error) if is_too_slow(&*error) => *response.status_mut() = StatusCode::REQUEST_TIMEOUT,
            Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
        },
        "/upgrade" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
                let mut content = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut content).await {
                    stream.write_all(&content[..length]).await.unwrap();
                }
            });
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", "upgrade".parse().unwrap());
            response.headers_mut().insert("upgrade", "echo".parse().unwrap());
        }
        _ => {
            let peer = request.extensions().get::<Peer>().expect("who asks").0;
            let secure = request.extensions().get::<Secure>().is_some();
            *response.body_mut() = format!("{} {secure}", peer.ip()).into();
        }
    }
    response
}

/// A server that runs.
pub struct Running {
    pub address: SocketAddr,
    pub connections: Connections,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    pub async fn start(limits: Limits, tls: Option<Tls>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::new(listener, limits, tls);
        let (address, connections) = (server.address().unwrap(), server.connections());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.serve(Service, async move { drop(stopped.await) }));
        Self { address, connections, stop: Some(stop), task }
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A connection on which `content` was sent.
    pub async fn sent(&self, content: &str) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(content.as_bytes()).await.unwrap();
        stream
    }

    /// Another client, who is well-meant, is answered at once.
    pub async fn serves_others(&self) {
        let asked = Instant::now();
        let mut stream = self.sent("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("127.0.0.1 false"), "{answer}");
        assert!(asked.elapsed() < LATER, "{:?}", asked.elapsed());
    }

    /// Begins the end of the server.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for the end of the server.
    pub async fn ended(self) {
        tokio::time::timeout(LATER, self.task).await.expect("it ends").unwrap();
    }
}

/// What comes until the connection's end, however that is.
pub async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut content = Vec::new();
    let _ = stream.read_to_end(&mut content).await;
    String::from_utf8_lossy(&content).into_owned()
}

/// What comes until the connection's end, which comes in its time: not earlier, and not much later.
pub async fn ends_in_time(stream: &mut TcpStream, since: Instant) -> String {
    let content = tokio::time::timeout(TIME * 2 + LATER, rest(stream)).await.expect("the connection ends");
    let took = since.elapsed();
    assert!(took >= TIME && took < TIME * 2 + LATER, "{took:?}");
    content
}
