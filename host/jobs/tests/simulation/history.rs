//! One history: processes one after another, with clients, faults and ends that chance chooses, and a last one that is left
//! alone until all has ended.

use std::rc::Rc;

use crate::{
    checks::{check, check_leftovers},
    clients,
    disk::Faults,
    process::{Process, load},
    request::Request,
    vfs, workers,
    world::{Shared, World},
};

pub const LEDGER: &str = "store/ledger.db";
const LOG: &str = "store/ledger.db-wal";
pub const LOCK: &str = "store/ledger.db.lock";
pub const OUTPUTS: &str = "outputs";

/// Rounds after which what has not ended never will.
const PATIENCE: usize = 3000;

/// What came of a history.
#[derive(Debug, Default)]
pub struct Report {
    pub violations: Vec<String>,
    pub trace: Vec<String>,
    pub ends: u64,
    pub faults: u64,
    pub jobs: u64,
}

pub fn run(seed: u64, traced: bool) -> Report {
    let world = Rc::new(World::new(seed, traced));
    vfs::set(Some(world.disk.clone()));
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| live(&world)));
    vfs::set(None);
    if let Err(panic) = ran {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        world.wrong(format!("panic: {}", text.unwrap_or_default()));
    }
    Report {
        violations: world.violations.borrow().clone(),
        trace: world.trace(),
        ends: world.process.get() - 1,
        faults: world.disk.injected(),
        jobs: world.requests.borrow().iter().filter(|request| request.id.is_some()).count() as u64,
    }
}

fn live(world: &Shared) {
    let ends = world.below(5);
    let flaky = world.chance(1, 2);
    for _ in 0..ends {
        let Some(mut process) = begin(world, flaky) else { return };
        let steps = 5 + world.below(120);
        for _ in 0..steps {
            step(world, &mut process, flaky);
            process.hear(world);
            if world.disk.is_dead() {
                break;
            }
            if !world.violations.borrow().is_empty() {
                return;
            }
        }
        end(world, process);
    }
    let Some(process) = begin(world, false) else { return };
    let Some(process) = run_out(world, process) else { return };
    end(world, process);
    let Some(process) = begin(world, false) else { return };
    let Some(process) = run_out(world, process) else { return };
    process.close();
    world.disk.end_epoch(false);
    match load(world) {
        Ok((_, loaded)) => check_leftovers(world, &loaded.kept),
        Err(error) => world.wrong(format!("at the end the ledger can't be opened: {error}")),
    }
}

/// Opens the store, with or without faults, until that succeeds.
fn begin(world: &Shared, flaky: bool) -> Option<Process> {
    let mut tries = 0;
    loop {
        tries += 1;
        world.clock.begin_process();
        let flaky = flaky && tries < 3;
        set_faults(world, flaky && world.chance(1, 4));
        if flaky && world.chance(1, 5) {
            let most = world.pick(&[40, 140]);
            world.disk.die_after(Some(world.below(most)));
        }
        let injected = world.disk.injected();
        world.say(|| format!("process {} begins, {:?}", world.process.get(), world.disk.faults()));
        let opened = load(world);
        world.disk.die_after(None);
        if world.disk.is_dead() {
            world.say(|| "  it ends while it opens the ledger".into());
            end_epoch(world);
            continue;
        }
        let (database, loaded) = match opened {
            Ok(opened) => opened,
            Err(error) if world.disk.injected() > injected && tries < 5 => {
                world.say(|| format!("  it can't open the ledger: {error}"));
                end_epoch(world);
                continue;
            }
            Err(error) => {
                world.wrong(format!("the ledger can't be opened: {error}"));
                return None;
            }
        };
        world.say(|| format!("  it finds {} jobs; notes: {:?}", loaded.kept.records.len(), loaded.notes));
        // Whether what the end of a log holds was acknowledged can't be told.
        let of_the_log = |note: &String| note.starts_with("its log was cut short");
        if loaded.notes.iter().any(of_the_log) {
            let mut requests = world.requests.borrow_mut();
            requests.iter_mut().filter(|request| !request.acked).for_each(|request| request.found = true);
        }
        if world.disk.injected() == 0 && !loaded.notes.iter().all(of_the_log) {
            world.wrong(format!("nothing is damaged, but noted: {:?}", loaded.notes));
        }
        let process = Process::new(world, database, loaded);
        check(world, &process, "after the start");
        let fine = world.violations.borrow().is_empty();
        return fine.then_some(process);
    }
}

fn set_faults(world: &Shared, flaky: bool) {
    let faults = match (flaky, world.below(5)) {
        (false, _) => Faults::default(),
        (true, 0) => Faults { full: true, ..Faults::default() },
        (true, 1) => Faults { sync: 300, ..Faults::default() },
        (true, 2) => Faults { write: 300, ..Faults::default() },
        (true, 3) => Faults { read: 100, names: 100, ..Faults::default() },
        (true, _) => Faults { read: 20, write: 60, sync: 60, names: 60, full: false },
    };
    world.disk.set_faults(faults);
}

fn end_epoch(world: &Shared) {
    let power_cut = world.chance(1, 2);
    world.say(|| if power_cut { "power cut".into() } else { "kill".into() });
    world.disk.end_epoch(power_cut);
    world.process.set(world.process.get() + 1);
}

/// Ends a process at once.
fn end(world: &Shared, process: Process) {
    let running = process.running();
    end_epoch(world);
    for id in running {
        if let Some(request) = world.request_of(&process.jobs, id) {
            let now = world.clock.passed();
            world.with(request, |request| {
                request.may_end(now);
                request.interrupted += 1;
            });
        }
    }
    for request in &mut *world.requests.borrow_mut() {
        request.open_tries += std::mem::take(&mut request.submitting);
    }
    drop(process);
}

fn step(world: &Shared, process: &mut Process, flaky: bool) {
    let choice = world.below(100);
    match choice {
        0..50 => {
            let ready = process.tasks.ready();
            match ready.is_empty() {
                true => commit(world, process),
                false => {
                    let task = ready[world.index(ready.len())];
                    world.say(|| format!("  {} goes on", process.tasks.name(task)));
                    process.poll(world, task);
                }
            }
        }
        50..73 => commit(world, process),
        73..92 => ask(world, process),
        92 => delete_ledger(world, process),
        93 => {
            let seconds = world.pick(&[1.0, 60.0, 1800.0]);
            world.clock.pass(seconds);
        }
        94 => {
            let days = world.pick(&[-400.0, -2.0, 2.0, 400.0]);
            world.clock.jump(days * 86_400.0);
        }
        95 => process.jobs.tick(),
        // A server has one.
        96 if !process.tasks.names().contains(&"sweeper") => {
            process.spawn("sweeper".into(), workers::sweep(world.clone(), process.jobs.clone()));
        }
        97 if flaky => {
            let some = world.chance(2, 3);
            set_faults(world, some);
            world.say(|| format!("  faults: {:?}", world.disk.faults()));
        }
        98 => world.disk.die_after(Some(world.below(30))),
        _ => open_again(world),
    }
}

fn commit(world: &Shared, process: &mut Process) {
    let most = world.pick(&[1, 2, 5, 100]);
    let done = process.commit(most);
    world.say(|| format!("  the store does {done}; {:?}", process.jobs.health().error));
}

/// Somebody deletes the ledger under a process, which makes it anew.
fn delete_ledger(world: &Shared, process: &mut Process) {
    if world.disk.faults() != Faults::default() || process.jobs.health().error.is_some() || world.chance(2, 3)
    {
        return;
    }
    world.say(|| "  somebody deletes the ledger".into());
    // What is being accepted may be stored twice, the first time without what it was asked with.
    world
        .requests
        .borrow_mut()
        .iter_mut()
        .filter(|request| !request.acked)
        .for_each(|request| request.found = true);
    world.disk.die_after(None);
    let with_log = world.chance(1, 2);
    let deleted = world.disk.of_epoch(world.disk.epoch(), |state| {
        if with_log && state.find(LOG).is_some() {
            state.remove(LOG)?;
        }
        state.remove(LEDGER)
    });
    assert_eq!(deleted, Ok(()), "without faults");
    process.commit(usize::MAX);
    if let Some(error) = process.jobs.health().error {
        world.wrong(format!("a ledger that was deleted is not made anew: {error}"));
    }
}

/// A second process in the same folder ends before it has touched anything.
fn open_again(world: &Shared) {
    if !world.disk.is_held(LOCK) {
        return;
    }
    let before = world.disk.contents("store");
    match load(world) {
        Ok(_) => world.wrong("a second process opens the ledger".into()),
        Err(error) if error.contains("in use") || world.disk.injected() > 0 => {}
        Err(error) => world.wrong(format!("a second process is refused with: {error}")),
    }
    if world.disk.contents("store") != before {
        world.wrong("a second process has changed the ledger".into());
    }
}

/// A client does something.
fn ask(world: &Shared, process: &mut Process) {
    let jobs = process.jobs.clone();
    let count = world.requests.borrow().len();
    let fresh = count == 0 || world.chance(1, 3);
    let request = match fresh {
        true => {
            let keys = world.config.keep_finished > 2 && world.config.keep_finished_hours > 1.0;
            let request = Request::any(count, keys, &mut world.chance.borrow_mut());
            world.requests.borrow_mut().push(request);
            count
        }
        false => world.index(count),
    };
    let (keyed, background) =
        world.with(request, |request| (request.spec.key.is_some(), request.spec.background));
    let world = world.clone();
    let choice = world.below(6);
    let what = |what: &str| format!("{what} {request}");
    match (fresh, choice) {
        (true, _) => process.spawn(what("submit"), clients::submit(world, jobs, request)),
        (_, 0) if keyed => process.spawn(what("submit again"), clients::submit(world, jobs, request)),
        (_, 0 | 1) if background => process.spawn(what("post"), clients::post(world, jobs, request)),
        (_, 1) => process.spawn(what("cancel"), clients::cancel(world, jobs, request)),
        (_, 2) => process.spawn(what("priority"), clients::set_priority(world, jobs, request)),
        (_, 3) => process.spawn(what("delete"), clients::delete(world, jobs, request)),
        _ => process.spawn(what("look"), clients::look(world, jobs, request)),
    }
}

/// Without faults all ends by itself.
fn run_out(world: &Shared, mut process: Process) -> Option<Process> {
    world.mischief.set(false);
    world.disk.set_faults(Faults::default());
    let lost: Vec<usize> = {
        let requests = world.requests.borrow();
        let lost = |request: &Request| !request.acked && request.spec.key.is_some();
        (0..requests.len()).filter(|number| lost(&requests[*number])).collect()
    };
    for request in lost {
        process.spawn(
            format!("submit {request}"),
            clients::submit(world.clone(), process.jobs.clone(), request),
        );
    }
    for sweeps in 0..3 {
        settle(world, &mut process, sweeps)?;
        process.spawn("sweeper".into(), workers::sweep(world.clone(), process.jobs.clone()));
    }
    settle(world, &mut process, 3)?;
    if let Some(error) = process.jobs.health().error {
        world.wrong(format!("without faults the store still fails: {error}"));
    }
    check(world, &process, "at the end");
    world.violations.borrow().is_empty().then_some(process)
}

fn settle(world: &Shared, process: &mut Process, round: usize) -> Option<()> {
    for _ in 0..PATIENCE {
        let ready = process.tasks.ready();
        match ready.first() {
            Some(_) => {
                let task = ready[world.index(ready.len())];
                process.poll(world, task);
            }
            None => {
                process.commit(usize::MAX);
                process.hear(world);
            }
        }
        if !world.violations.borrow().is_empty() {
            return None;
        }
        let (active, background) = (process.jobs.figures(), process.jobs.background());
        if process.is_idle() && (active, background) == ((0, 0), (0, 0)) {
            return Some(());
        }
    }
    let names = process.tasks.names();
    let (figures, background) = (process.jobs.figures(), process.jobs.background());
    let error = process.jobs.health().error;
    world.wrong(format!(
        "round {round}: not all ends by itself: queued and running {figures:?}, of the background {background:?}, the store \
         says {error:?}, tasks {names:?}"
    ));
    None
}
