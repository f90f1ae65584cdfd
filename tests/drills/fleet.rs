//! Clients that submit, cancel, hang up and come back, while the server ends and starts again.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use reverie_tests::picture;
use serde_json::{Value, json};

use crate::{
    drill::{Dice, becomes},
    line::{Line, Lost},
    model::{Kind, Model},
    process,
};

/// Jobs that a client has under way, and those that it submits in all.
const OUTSTANDING: usize = 8;
const MOST: usize = 4000;

/// Different pictures that are enlarged.
const PICTURES: u64 = 4;

const BUSY: u8 = 0;
const SETTLING: u8 = 1;
const OVER: u8 = 2;

struct Shared {
    address: String,
    life: AtomicU64,
    phase: AtomicU8,
    /// What each picture is enlarged to, as the first job of it made it.
    enlarged: Mutex<HashMap<u64, Vec<u8>>>,
}

pub struct Fleet {
    shared: Arc<Shared>,
    clients: Vec<(String, Arc<Mutex<Model>>)>,
    threads: Vec<JoinHandle<()>>,
}

impl Fleet {
    /// So many clients, each in a thread of its own.
    pub fn begin(address: &str, clients: usize, dice: &mut Dice) -> Self {
        let shared = Arc::new(Shared {
            address: address.to_owned(),
            life: AtomicU64::new(1),
            phase: AtomicU8::new(BUSY),
            enlarged: Mutex::default(),
        });
        let mut fleet = Self { shared, clients: Vec::new(), threads: Vec::new() };
        for n in 0..clients {
            let (name, model) = (format!("client{n}"), Arc::new(Mutex::new(Model::default())));
            let (shared, own, dice) = (fleet.shared.clone(), model.clone(), Dice::new(dice.next()));
            let called = name.clone();
            let live = move || Client { name: called, shared, model: own, dice }.live();
            fleet.threads.push(std::thread::spawn(live));
            fleet.clients.push((name, model));
        }
        fleet
    }

    /// To be called between the end of a server and the start of the next.
    pub fn next_life(&self) {
        self.shared.life.fetch_add(1, Ordering::SeqCst);
    }

    /// Asks for every job that was acknowledged, and for the outputs of so many; what does not agree with what clients were
    /// told.
    pub fn examine(&self, outputs: usize, dice: &mut Dice) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, model) in &self.clients {
            if self.examine_client(name, model, outputs, dice, &mut faults).is_err() {
                faults.push("the server closed a connection while it was asked".into());
            }
            faults.append(&mut model.lock().faults);
        }
        faults
    }

    fn examine_client(
        &self,
        name: &str,
        model: &Mutex<Model>,
        outputs: usize,
        dice: &mut Dice,
        faults: &mut Vec<String>,
    ) -> Result<(), Lost> {
        let life = self.shared.life.load(Ordering::SeqCst);
        let mut line = Line::connect(&self.shared.address, &format!("examiner-{name}")).ok_or(Lost)?;
        let known: Vec<_> = model.lock().jobs.iter().filter(|job| job.id.is_some()).cloned().collect();
        for before in &known {
            let id = before.id.as_deref().expect("acknowledged");
            let got = line.ask(json!({"type": "job:get", "jobId": id}))?;
            let mut model = model.lock();
            let now = model.job(id).expect("known").clone();
            if got["type"] != "job:get:result" {
                if !now.delete_sent {
                    faults.push(format!("{name}: acknowledged, and unknown: job {id} {:?}", before.kind));
                }
                continue;
            }
            if before.deleted {
                faults.push(format!("{name}: deleted, and there: job {id}"));
            }
            let (shown, (sent, acknowledged)) = (&got["job"], before.priorities);
            let active = shown["status"] == "queued" || shown["status"] == "running";
            if active && sent == acknowledged && now.priorities == before.priorities {
                let priority = shown["priority"].as_i64();
                if priority != Some(before.priority) {
                    let told = before.priority;
                    faults.push(format!("{name}: job {id} has priority {priority:?}, was told {told}"));
                }
            }
            model.described(life, shown, before.ended.is_some());
        }
        let done = known.iter().filter(|job| !job.delete_sent && job.ended.is_some());
        let mut done: Vec<_> = done.filter(|job| matches!(job.kind, Kind::Enlarge(_))).collect();
        while done.len() > outputs {
            done.swap_remove(dice.below(done.len() as u64) as usize);
        }
        for job in done {
            let (Kind::Enlarge(picture), Some(end)) = (job.kind, &job.ended) else { continue };
            let Some(key) = end.outputs[0]["key"].as_str() else { continue };
            let found = process::stored(&self.shared.address, key);
            let deleted = || job.id.as_deref().is_some_and(|id| model.lock().job(id).unwrap().delete_sent);
            match found {
                Some((200, content)) => {
                    let mut enlarged = self.shared.enlarged.lock();
                    let same = *enlarged.entry(picture).or_insert_with(|| content.clone()) == content;
                    faults.extend((!same).then(|| format!("{name}: the output {key} is another picture")));
                }
                found if !deleted() => {
                    let status = found.map(|(status, _)| status);
                    faults.push(format!("{name}: the output {key} of job {:?} is gone: {status:?}", job.id));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Lets clients submit no more, and waits until all they were acknowledged has ended; then their threads end. What did not.
    pub fn settle(&mut self, within: Duration) -> Vec<String> {
        self.shared.phase.store(SETTLING, Ordering::SeqCst);
        let idle = |model: &Mutex<Model>| {
            let model = model.lock();
            model.outstanding() == 0 && model.unacknowledged().is_empty()
        };
        becomes(within, || self.clients.iter().all(|(_, model)| idle(model)));
        self.shared.phase.store(OVER, Ordering::SeqCst);
        let mut faults = Vec::new();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                faults.push("a client's thread panicked".into());
            }
        }
        for (name, model) in &self.clients {
            let model = model.lock();
            let open =
                model.jobs.iter().filter(|job| job.id.is_none() || (job.ended.is_none() && !job.delete_sent));
            faults.extend(open.map(|job| format!("{name}: not acknowledged, or without end: {job:?}")));
        }
        faults
    }

    /// Whether the server lists other jobs of a client than those that it knows: each key was accepted once.
    pub fn compare_lists(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, model) in &self.clients {
            let listed = Line::connect(&self.shared.address, name)
                .and_then(|mut line| line.ask(json!({"type": "job:list"})).ok())
                .unwrap_or_default();
            let listed = listed["jobs"].as_array().cloned().unwrap_or_default();
            let mut listed: Vec<String> =
                listed.iter().filter_map(|job| job["jobId"].as_str().map(str::to_owned)).collect();
            let model = model.lock();
            // Whether one whose deletion was not acknowledged is there is open.
            let open: Vec<&String> = model
                .jobs
                .iter()
                .filter(|job| job.delete_sent && !job.deleted)
                .filter_map(|job| job.id.as_ref())
                .collect();
            listed.retain(|id| !open.contains(&id));
            let known = model.jobs.iter().filter(|job| !job.delete_sent).filter_map(|job| job.id.clone());
            let mut known: Vec<String> = known.collect();
            listed.sort();
            known.sort();
            if listed != known {
                faults.push(format!("{name}: {} jobs are listed, {} are known", listed.len(), known.len()));
            }
        }
        faults
    }

    /// The outputs that jobs are known to have: keys in the storage; and those of jobs that are to be deleted.
    pub fn outputs(&self) -> (Vec<String>, Vec<String>) {
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for (_, model) in &self.clients {
            for job in &model.lock().jobs {
                let outputs = job.ended.as_ref().and_then(|end| end.outputs.as_array().cloned());
                let keys = outputs.into_iter().flatten().filter_map(|o| o["key"].as_str().map(str::to_owned));
                (if job.delete_sent { &mut gone } else { &mut kept }).extend(keys);
            }
        }
        (kept, gone)
    }

    /// What was done, in figures.
    pub fn summary(&self) -> String {
        let mut figures = Vec::new();
        let mut count = |what: &str, is: &dyn Fn(&crate::model::Job) -> bool| {
            let of = |model: &Mutex<Model>| model.lock().jobs.iter().filter(|job| is(job)).count();
            let n: usize = self.clients.iter().map(|(_, model)| of(model)).sum();
            figures.push(format!("{n} {what}"));
        };
        let ended = |job: &crate::model::Job, status: &str| {
            job.ended.as_ref().is_some_and(|end| end.status == status)
        };
        count("jobs acknowledged", &|job| job.id.is_some());
        count("done", &|job| ended(job, "done"));
        count("canceled", &|job| ended(job, "canceled"));
        count("without their upload (accepted after it was lost)", &|job| ended(job, "error"));
        count("deleted", &|job| job.deleted);
        count("seen to run again", &|job| job.attempt > 1);
        count("asked to stop and done all the same", &|job| job.stopping && ended(job, "done"));
        let retried: usize = self.clients.iter().map(|(_, model)| model.lock().retried).sum();
        format!("{}, {retried} submitted again with their key", figures.join(", "))
    }
}

struct Client {
    name: String,
    shared: Arc<Shared>,
    model: Arc<Mutex<Model>>,
    dice: Dice,
}

impl Client {
    fn live(mut self) {
        while self.phase() != OVER {
            let life = self.life();
            let line = Line::connect(&self.shared.address, &self.name);
            match line.filter(|_| self.life() == life) {
                // It ends with the server, or when the client hangs up.
                Some(mut line) => drop(self.talk(&mut line, life)),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn phase(&self) -> u8 {
        self.shared.phase.load(Ordering::SeqCst)
    }

    fn life(&self) -> u64 {
        self.shared.life.load(Ordering::SeqCst)
    }

    fn talk(&mut self, line: &mut Line, life: u64) -> Result<(), Lost> {
        let (unacknowledged, unfinished) = {
            let model = self.model.lock();
            (model.unacknowledged(), model.unfinished())
        };
        for message in unacknowledged {
            self.model.lock().retried += 1;
            line.send(&message)?;
        }
        for id in unfinished {
            line.send(&json!({"type": "job:subscribe", "jobId": id}))?;
        }
        while self.phase() != OVER {
            if self.phase() == BUSY {
                self.act(line, life)?;
                if self.dice.once_in(150) {
                    return Ok(());
                }
            }
            let until = Instant::now() + Duration::from_millis(self.dice.between(1, 30));
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                if let Some(message) = line.receive(left)? {
                    self.model.lock().hear(life, &message);
                }
            }
        }
        Ok(())
    }

    fn act(&mut self, line: &mut Line, life: u64) -> Result<(), Lost> {
        let (jobs, outstanding) = {
            let model = self.model.lock();
            (model.jobs.len(), model.outstanding())
        };
        let submits = outstanding < OUTSTANDING && jobs < MOST;
        match self.dice.below(12) {
            0..=4 if submits => self.submit(line, Kind::Echo, json!({"jobType": "echo"}), life),
            5..=6 if submits => {
                let (ms, steps) = (self.dice.between(1, 40), self.dice.between(1, 40));
                let message = json!({"jobType": "echo-sleep", "ms": ms, "steps": steps});
                self.submit(line, Kind::Sleep, message, life)
            }
            7..=8 if submits => {
                let n = self.dice.below(PICTURES) as u32;
                let uploaded = process::upload(&self.shared.address, &picture(8 + 4 * n, 12)).ok_or(Lost)?;
                if self.life() != life {
                    return Err(Lost);
                }
                let message = json!({"jobType": "sr", "fileRef": uploaded, "out_format": "png"});
                self.submit(line, Kind::Enlarge(n.into()), message, life)
            }
            9 => self.change(line, |job| {
                job.cancel_sent = true;
                json!({"type": "job:cancel"})
            }),
            10 => {
                let priority = self.dice.between(0, 201) as i64 - 100;
                self.change(line, |job| {
                    job.priorities.0 += 1;
                    json!({"type": "job:priority", "priority": priority})
                })
            }
            11 if self.dice.once_in(2) => self.delete(line),
            _ => Ok(()),
        }
    }

    fn submit(&mut self, line: &mut Line, kind: Kind, mut message: Value, life: u64) -> Result<(), Lost> {
        message["marker"] = json!(format!("{:016x}-é-\u{1f9ea}", self.dice.next()));
        if let Kind::Enlarge(_) = kind {
            message.as_object_mut().expect("an object").remove("marker");
        }
        let message = self.model.lock().plan(kind, &self.name, message, life);
        line.send(&message)?;
        // Now and then the acknowledgement is not waited for: the key says later which job it was.
        if self.dice.once_in(20) { Err(Lost) } else { Ok(()) }
    }

    /// Changes a job that is not known to have ended.
    fn change(
        &mut self,
        line: &mut Line,
        change: impl FnOnce(&mut crate::model::Job) -> Value,
    ) -> Result<(), Lost> {
        let message = {
            let mut model = self.model.lock();
            let open = model.unfinished();
            if open.is_empty() {
                return Ok(());
            }
            let id = open[self.dice.below(open.len() as u64) as usize].clone();
            let mut message = change(model.job(&id).expect("known"));
            message["jobId"] = json!(id);
            message
        };
        line.send(&message)
    }

    /// Deletes a job that has ended.
    fn delete(&mut self, line: &mut Line) -> Result<(), Lost> {
        let id = {
            let mut model = self.model.lock();
            let ended = model.jobs.iter().filter(|job| job.ended.is_some() && !job.delete_sent);
            let ended: Vec<String> = ended.filter_map(|job| job.id.clone()).collect();
            if ended.is_empty() {
                return Ok(());
            }
            let id = ended[self.dice.below(ended.len() as u64) as usize].clone();
            model.job(&id).expect("known").delete_sent = true;
            id
        };
        line.send(&json!({"type": "job:delete", "jobId": id}))
    }
}
