//! Whether the store has kept its word.

use reverie_jobs::{Status, store::Kept};

use crate::{
    history::OUTPUTS,
    process::Process,
    request::Deletion,
    workers::{file_of, output_of},
    world::Shared,
};

/// Compares what clients were told with what a process knows that has just begun, or is about to end.
pub fn check(world: &Shared, process: &Process, when: &str) {
    let jobs = world.by_request(&process.jobs);
    let count = world.requests.borrow().len();
    for number in 0..count {
        let wrong = |what: &str| world.wrong(format!("{when}, request {number}: {what}"));
        let Some(job) = jobs.get(&number) else {
            let (settled, asked) =
                world.with(number, |request| (request.is_settled(), request.deletion == Deletion::Asked));
            if settled && !world.may_be_dropped(number) {
                wrong("its job was acknowledged and is gone");
            }
            if asked {
                world.with(number, |request| request.deletion = Deletion::Told);
            }
            continue;
        };
        world.with(number, |request| {
            if request.deletion == Deletion::Told {
                wrong("its job was deleted and is back");
            }
            // The deletion was never answered.
            request.deletion = Deletion::No;
            if !request.acked && request.refused > 0 && request.open_tries + request.submitting == 0 {
                wrong("its job was refused and is there");
            }
            if let Some(what) = request.differs(job) {
                wrong(&what);
            }
            (request.priority, request.other_priority) = (job.priority, None);
        });
        for output in job.outputs.iter().filter(|_| job.status == Status::Done) {
            match world.disk.contents(OUTPUTS).into_iter().find(|(path, _)| *path == file_of(&output.key)) {
                None => wrong(&format!("its output {} is gone", output.key)),
                Some((_, content)) if content != output_of(&output.key) => {
                    wrong(&format!("its output {} is another", output.key));
                }
                Some(_) => {}
            }
        }
    }
}

/// When all has ended and was swept, nothing is left that belongs to no job.
pub fn check_leftovers(world: &Shared, kept: &Kept) {
    for object in &kept.doomed {
        world.wrong(format!("output {} is to be deleted and never was", object.key));
    }
    for object in &kept.objects {
        if !kept.records.iter().any(|record| record.n == object.n) {
            world.wrong(format!("output {} is noted, and its job is gone", object.key));
        }
    }
    for (path, _) in world.disk.contents(OUTPUTS) {
        if !kept.objects.iter().any(|object| path.trim_end_matches("#1") == file_of(&object.key)) {
            world.wrong(format!("{path} is there, and its job is gone"));
        }
    }
    for record in kept.records.iter().filter(|record| record.job.status.is_active()) {
        world.wrong(format!("job {} has not ended", record.job.id));
    }
}
