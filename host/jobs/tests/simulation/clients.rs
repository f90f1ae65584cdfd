//! What clients do.

use std::sync::Arc;

use reverie_jobs::{Jobs, Submitted, error::ErrorKind};
use reverie_memory::{Budget, Use};

use crate::{
    executor::pause,
    history::LOCK,
    request::{Deletion, Message, any_input, given},
    world::Shared,
};

/// Times that a client submits again after it was told that the store fails.
const RETRIES: usize = 2;

pub async fn submit(world: Shared, jobs: Arc<Jobs>, request: usize) {
    for _ in 0..=RETRIES {
        // A key is kept as long as its job.
        if !world.with(request, |request| request.may_be_submitted()) {
            return;
        }
        let (spec, inputs) = world.with(request, |request| {
            request.submitting += 1;
            (request.spec.clone(), given(&request.inputs))
        });
        let keyed = spec.key.is_some();
        let background = spec.background;
        let result = jobs.submit(spec, inputs, |_| {}).await;
        world.say(|| format!("    submit of request {request}: {result:?}"));
        world.with(request, |request| request.submitting -= 1);
        let error = match result {
            Ok(Submitted { id, .. }) => {
                world.is_job(request, id);
                world.with(request, |request| request.acked = true);
                if !world.disk.is_held(LOCK) {
                    world.wrong(format!("request {request} is accepted while others may write the ledger"));
                }
                return;
            }
            Err(error) => error,
        };
        match error.kind {
            ErrorKind::Busy => return world.with(request, |request| request.refused += 1),
            ErrorKind::Conflict if background => {
                return world.with(request, |request| request.refused += 1);
            }
            ErrorKind::Unavailable if world.disk.injected() > 0 => {
                world.with(request, |request| request.open_tries += 1);
            }
            _ => return world.wrong(format!("request {request} is refused: {error:?}")),
        }
        if !keyed {
            return;
        }
        pause().await;
    }
}

pub async fn cancel(world: Shared, jobs: Arc<Jobs>, request: usize) {
    let Some(id) = world.id(request) else { return };
    let now = world.clock.passed();
    world.with(request, |request| {
        request.may_end(now);
        request.cancel_asked = true;
    });
    let result = jobs.cancel(id).await;
    world.say(|| format!("    cancel of request {request}: {result:?}"));
    match result {
        Ok(status) if status.is_active() => {}
        Ok(status) => {
            if let Ok(job) = jobs.get(id) {
                world.told(request, &job);
            }
            // Events are heard by then.
            pause().await;
            let told = world.with(request, |request| request.told.clone());
            if told.as_ref().map(|told| told.status) != Some(status) && !world.may_be_dropped(request) {
                world.wrong(format!("request {request}: the cancel says {status:?}, events said {told:?}"));
            }
        }
        Err(_) => world.is_unknown(request, "job:cancel"),
    }
}

pub async fn set_priority(world: Shared, jobs: Arc<Jobs>, request: usize) {
    let Some(id) = world.id(request) else { return };
    let priority = world.below(9) as i64 - 4;
    let free = world.with(request, |request| {
        let free = request.other_priority.is_none();
        free.then(|| request.other_priority = Some(priority));
        free
    });
    if !free {
        return;
    }
    let result = jobs.set_priority(id, priority).await;
    world.say(|| format!("    priority {priority} of request {request}: {result:?}"));
    world.with(request, |request| {
        request.other_priority = None;
        if let Ok(job) = &result {
            request.priority = job.priority;
        }
    });
    if result.is_err() {
        world.is_unknown(request, "job:priority");
    }
}

pub async fn delete(world: Shared, jobs: Arc<Jobs>, request: usize) {
    let Some(id) = world.id(request) else { return };
    let ended = world.with(request, |request| {
        let ended = request.told.is_some() && request.deletion == Deletion::No && request.submitting == 0;
        ended.then(|| request.deletion = Deletion::Asked);
        ended
    });
    if !ended {
        return;
    }
    let result = jobs.delete(id).await;
    world.say(|| format!("    delete of request {request}: {result:?}"));
    match result {
        Ok(()) => world.with(request, |request| request.deletion = Deletion::Told),
        Err(error) => {
            world.with(request, |request| request.deletion = Deletion::No);
            match error.kind {
                ErrorKind::NotFound => world.is_unknown(request, "job:delete"),
                _ => world.wrong(format!("request {request} has ended and can't be deleted: {error:?}")),
            }
        }
    }
}

pub async fn look(world: Shared, jobs: Arc<Jobs>, request: usize) {
    let Some(id) = world.id(request) else { return };
    match jobs.get(id) {
        Ok(job) => {
            if let Some(wrong) = world.with(request, |request| request.differs(&job)) {
                world.wrong(format!("request {request}, as job:get shows it: {wrong}"));
            }
            world.told(request, &job);
        }
        Err(_) => world.is_unknown(request, "job:get"),
    }
}

pub async fn post(world: Shared, jobs: Arc<Jobs>, request: usize) {
    let Some(id) = world.id(request) else { return };
    let mut inputs = Vec::new();
    if world.chance(1, 3) {
        inputs.push(any_input(&mut world.chance.borrow_mut(), request));
    }
    let (number, text) = world.with(request, |request| {
        let number = request.messages.len();
        let text = format!("message {number} for {id}");
        request.messages.push(Message { text: text.clone(), acked: false, settled: false, taken: false });
        (number, text)
    });
    let message = Budget::unlimited().nothing(Use::Jobs).with(text);
    let result = jobs.post(id, message, given(&inputs)).await;
    world.say(|| format!("    message {number} to request {request}: {result:?}"));
    match result {
        Ok(()) => world.with(request, |request| {
            request.messages[number].acked = true;
            request.inputs.extend(inputs);
        }),
        Err(error) => match error.kind {
            ErrorKind::NotFound if world.with(request, |request| request.may_have_ended()) => {}
            ErrorKind::Unavailable if world.disk.injected() > 0 => {}
            _ => world.wrong(format!("request {request} takes no message: {error:?}")),
        },
    }
}
