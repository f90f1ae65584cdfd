//! `GET /v1/jobs/ID/events`: what a WebSocket client that follows a job hears, as server-sent events, until the job ends.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use reverie_access::Caller;
use uuid::Uuid;
use warp::{Reply, reply::Response, sse};

use crate::{
    error::Error,
    hub::{Content, Listener, Next, Peer},
    plugins::Registry,
};

/// How often a comment keeps the connection open through proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The events of a job that the caller may see: its state first, its end last. Each event's name is its message's `type`, its data the message.
///
/// # Errors
/// `Unavailable` when `hub.max_clients` listen.
pub fn of(registry: &Arc<Registry>, caller: Caller, job: Uuid) -> Result<Response, Error> {
    let listener = registry.services.hub.listen(Peer::unnamed(caller, None))?;
    // Followed before it is read: between the two nothing can be missed.
    listener.client.follow(job);
    let snapshot = registry.services.jobs.get(job).ok();
    let mut first = Vec::new();
    let mut ended = true;
    if let Some(snapshot) = snapshot {
        first.push(snapshot.progress_message().to_string());
        ended = !snapshot.status.is_active();
        first.extend(snapshot.final_message().map(|message| message.to_string()));
    }
    first.reverse();
    let events = messages(State { listener, job, first, ended });
    Ok(sse::reply(sse::keep_alive().interval(KEEP_ALIVE).stream(events)).into_response())
}

struct State {
    listener: Listener,
    job: Uuid,
    /// What is told before anything else, the first last.
    first: Vec<String>,
    ended: bool,
}

fn messages(state: State) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    stream::unfold(state, |mut state| async move {
        loop {
            let text = match state.first.pop() {
                Some(text) => text,
                None if state.ended => return None,
                None => match state.listener.client.outbox.next().await {
                    Next::Close(..) => return None,
                    Next::Send(frame) => match frame.content {
                        Content::Text(text) => text.to_string(),
                        Content::Binary(_) => continue,
                    },
                },
            };
            // What goes to everyone is no matter of the job's.
            let Ok(message) = serde_json::from_str::<serde_json::Value>(&text) else { continue };
            if message["jobId"] != state.job.to_string() {
                continue;
            }
            let kind = message["type"].as_str().unwrap_or_default().to_owned();
            state.ended |= matches!(kind.as_str(), "job:complete" | "job:error");
            return Some((Ok(sse::Event::default().event(kind).data(text)), state));
        }
    })
}
