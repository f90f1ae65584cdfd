//! What runs jobs, and what deletes their outputs.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use reverie_jobs::{JobHandle, Jobs, Outcome, Output, Status, error::Error};
use serde_json::Map;

use crate::{
    disk::{Fault, State},
    executor::{at_once, pause},
    history::OUTPUTS,
    request::{Deletion, content_of},
    world::Shared,
};

/// Longer than any history.
const LONG: Duration = Duration::from_secs(100_000);

pub fn file_of(key: &str) -> String {
    format!("{OUTPUTS}/{key}")
}

fn staged(key: &str) -> String {
    format!("{OUTPUTS}/{key}#1")
}

/// What the output of a key is, whenever it is.
pub fn output_of(key: &str) -> Bytes {
    content_of(key, key.len() * 53)
}

pub async fn foreground(world: Shared, jobs: Arc<Jobs>) {
    loop {
        let handle = jobs.take(false, &|_, _| true).await;
        let request = taken(&world, &handle);
        let outcome = work(&world, &jobs, &handle, request).await;
        finish(&world, &jobs, &handle, request, outcome).await;
    }
}

/// Takes note that a job runs.
fn taken(world: &Shared, handle: &JobHandle) -> usize {
    let request = handle.spec.params["request"].as_u64().expect("of the simulation") as usize;
    world.say(|| format!("    request {request} runs, attempt {}", handle.attempt));
    world.is_job(request, handle.id);
    let (process, attempt) = (world.process.get(), handle.attempt);
    let wrong = world.with(request, |request| match request.ran.replace((process, attempt)) {
        Some((other, before)) if other != process && attempt <= before => {
            Some(format!("it ran as attempt {before}, and runs again as attempt {attempt}"))
        }
        _ if request.told.is_some() => Some(format!("it runs after its end: {:?}", request.told)),
        _ if request.deletion == Deletion::Told => Some("it runs after its deletion".into()),
        _ if !request.acked && request.refused > 0 && request.open_tries + request.submitting == 0 => {
            Some("it runs though it was refused".into())
        }
        _ => None,
    });
    if let Some(wrong) = wrong {
        world.wrong(format!("request {request}: {wrong}"));
    }
    request
}

async fn work(world: &Shared, jobs: &Arc<Jobs>, handle: &JobHandle, request: usize) -> Outcome {
    if let Err(error) = read_inputs(world, jobs, handle, request).await {
        return Outcome::Failed(error);
    }
    let mut outputs = Vec::new();
    for _ in 0..world.below(3) {
        jobs.progress(handle.id, 0.5, Map::new());
        let key = format!("{request}-{}-{}", handle.attempt, world.next_output());
        let content = output_of(&key);
        jobs.stores(handle, &key, content.len() as u64).await;
        if put(world, &key, &content).await.is_err() {
            return Outcome::Failed(Error::internal("the output can't be stored"));
        }
        world.say(|| format!("    output {key} is stored"));
        outputs.push(Output::stored(key));
        if world.chance(1, 3) {
            checkpoint(world, jobs, handle, request);
        }
        pause().await;
    }
    if handle.is_cancelled() {
        return Outcome::Cancelled;
    }
    let mischief = world.mischief.get();
    match world.below(8) {
        0 if mischief => Outcome::Requeued,
        1 => Outcome::Failed(Error::invalid("steps: it does not like them")),
        _ => Outcome::Done { outputs, meta: Map::new() },
    }
}

fn checkpoint(world: &Shared, jobs: &Jobs, handle: &JobHandle, request: usize) {
    jobs.checkpoint(handle.id);
    world.with(request, |request| request.settle());
}

async fn finish(world: &Shared, jobs: &Arc<Jobs>, handle: &JobHandle, request: usize, outcome: Outcome) {
    let status = match &outcome {
        Outcome::Done { .. } => Status::Done,
        Outcome::Failed(_) => Status::Error,
        Outcome::Cancelled => Status::Cancelled,
        Outcome::Requeued => Status::Queued,
    };
    // Events are heard by then.
    pause().await;
    world.say(|| format!("    request {request} ends: {status:?}"));
    let now = world.clock.passed();
    world.with(request, |request| request.may_end(now));
    world.with(request, |request| match status {
        Status::Queued => {
            request.ran = None;
            // Until that is stored, it counts as running.
            request.interrupted += 1;
            request.settle();
        }
        _ => request.intended.push(status),
    });
    jobs.finish(handle.id, outcome).await;
    // Events are heard by then.
    pause().await;
    let told = world.with(request, |request| request.told.is_some());
    if status != Status::Queued && !told {
        world.wrong(format!("request {request} has ended, and nobody was told"));
    }
}

/// Reads the files that a job was asked with.
async fn read_inputs(
    world: &Shared,
    jobs: &Arc<Jobs>,
    handle: &JobHandle,
    request: usize,
) -> Result<(), Error> {
    let inputs = world.with(request, |request| request.inputs.clone());
    for (upload, content) in inputs {
        let injected = world.disk.injected();
        let failing = jobs.health().error.is_some();
        let wrong = match jobs.input(handle.id, upload).await {
            Ok(Some((_, found))) if found == content => continue,
            Ok(Some(_)) => "has another content".to_owned(),
            Ok(None) if world.with(request, |request| request.told.is_some()) => return Ok(()),
            Ok(None) => "is gone".to_owned(),
            Err(error) if failing || world.disk.injected() > injected => return Err(error),
            Err(error) if world.with(request, |request| request.found) => return Err(error),
            Err(error) => error.to_string(),
        };
        world.wrong(format!("request {request}: an input {wrong}"));
    }
    Ok(())
}

pub async fn background(world: Shared, jobs: Arc<Jobs>) {
    loop {
        let handle = jobs.take(true, &|_, _| true).await;
        let request = taken(&world, &handle);
        let required: Vec<String> = world.with(request, |request| {
            request.messages.iter_mut().for_each(|message| message.taken = false);
            let due = request.messages.iter().filter(|message| message.acked && !message.settled);
            due.map(|message| message.text.clone()).collect()
        });
        let received = receive(&world, &handle, request).await;
        if let Some(missing) = required.iter().find(|message| !received.contains(message)) {
            world.wrong(format!("request {request} does not get '{missing}', only {received:?}"));
        }
        let mut outcome = work(&world, &jobs, &handle, request).await;
        for _ in 0..world.below(3) {
            receive(&world, &handle, request).await;
            if world.chance(1, 2) {
                checkpoint(&world, &jobs, &handle, request);
            }
            pause().await;
        }
        if handle.is_cancelled() {
            outcome = Outcome::Cancelled;
        }
        finish(&world, &jobs, &handle, request, outcome).await;
    }
}

async fn receive(world: &Shared, handle: &JobHandle, request: usize) -> Vec<String> {
    let mut received = Vec::new();
    while let Some(Some(text)) = at_once(handle.receive(LONG)).await {
        let known = world.with(request, |request| {
            let message = request.messages.iter_mut().find(|message| message.text == text && !message.taken);
            message.map(|message| message.taken = true).is_some()
        });
        if !known {
            world.wrong(format!("request {request} gets '{text}' twice, or nobody sent it"));
        }
        received.push(text);
    }
    received
}

/// A change of the disk by a process that may not be there any more.
async fn change(world: &Shared, act: impl FnOnce(&mut State) -> Result<(), Fault>) -> Result<(), Fault> {
    match world.disk.of_epoch(world.disk.epoch(), act) {
        Err(Fault::Dead) => std::future::pending().await,
        other => other,
    }
}

/// Stores an output as a storage of files does: beside its place, synced, renamed, and the folder synced.
async fn put(world: &Shared, key: &str, content: &[u8]) -> Result<(), Fault> {
    let (file, staged) = (file_of(key), staged(key));
    change(world, |state| {
        let inode = state.open(&staged, true)?;
        state.write(inode, 0, content)
    })
    .await?;
    pause().await;
    change(world, |state| {
        let inode = state.find(&staged).ok_or(Fault::Missing)?;
        state.sync(inode)
    })
    .await?;
    pause().await;
    change(world, |state| state.rename(&staged, &file)).await?;
    pause().await;
    change(world, |state| state.sync_folder(OUTPUTS)).await
}

/// Deletes an output for good.
async fn delete(world: Shared, key: String) -> Result<(), String> {
    world.say(|| format!("    output {key} is deleted"));
    for path in [staged(&key), file_of(&key)] {
        match change(&world, |state| state.remove(&path)).await {
            Ok(()) | Err(Fault::Missing) => {}
            Err(fault) => return Err(format!("{fault:?}")),
        }
    }
    pause().await;
    change(&world, |state| state.sync_folder(OUTPUTS)).await.map_err(|fault| format!("{fault:?}"))
}

pub async fn sweep(world: Shared, jobs: Arc<Jobs>) {
    let mut delete = |key| delete(world.clone(), key);
    jobs.sweep_once(&mut delete).await;
}
