//! What becomes of the pictures of a model, and of the line at the device, where whoever waits for one of them panics; and who
//! is to blame where a step of theirs ends the process.

use std::{
    collections::HashSet,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use reverie::{
    embedded::Embedded,
    execution::{AnyBackend, Denoise, Device, Ended, Lane, Watch, backend},
};
use reverie_crash::{
    blame,
    report::{self, Crash},
};
use reverie_models::{
    ModelFiles, denoise,
    pipeline::{Pipeline, Request},
};
use uuid::Uuid;

/// What a watch is asked, each of which panics in its turn.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    Priority,
    Stopped,
    Yields,
    Background,
    Stepped,
    Nothing,
}

/// Panics when it is asked one thing for the third time, by whoever.
struct Faulty {
    asked: Asked,
    times: AtomicUsize,
    job: Option<Uuid>,
}

impl Faulty {
    fn new(asked: Asked) -> Arc<Self> {
        Arc::new(Self { asked, times: AtomicUsize::new(0), job: None })
    }

    fn ask(&self, asked: Asked) {
        assert!(asked != self.asked || self.times.fetch_add(1, Relaxed) != 2, "injected into {asked:?}");
    }
}

impl Watch for Faulty {
    fn priority(&self) -> i64 {
        self.ask(Asked::Priority);
        0
    }

    fn stopped(&self) -> bool {
        self.ask(Asked::Stopped);
        false
    }

    fn yields(&self) -> bool {
        self.ask(Asked::Yields);
        false
    }

    fn background(&self) -> bool {
        self.ask(Asked::Background);
        false
    }

    fn job(&self) -> Option<Uuid> {
        self.job
    }

    fn stepped(&self, _: &Denoise) {
        self.ask(Asked::Stepped);
    }
}

/// A model on a device with one lane.
struct Machine {
    lane: Lane,
    device: Device,
    pipeline: Pipeline<AnyBackend>,
    backend: Arc<AnyBackend>,
    _folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let embedded = Embedded::new(folder.path());
        embedded.unpack().unwrap();
        let backend = backend::cpu(1);
        let files = ModelFiles::open(&embedded.model()).unwrap();
        let layers = Default::default();
        let pipeline = Pipeline::load(&*backend, &files, &layers, &Default::default()).unwrap();
        Arc::new(Self { lane: Lane::default(), device: Device::new(1), pipeline, backend, _folder: folder })
    }

    /// A small picture of eight steps.
    fn picture(&self) -> Denoise {
        self.guided(1.0)
    }

    fn guided(&self, guidance_scale: f32) -> Denoise {
        let side = 4 * self.pipeline.factor();
        let request = Request {
            prompt: "a cat".into(),
            negative_prompt: None,
            prompt_2: None,
            negative_prompt_2: None,
            width: side,
            height: side,
            time_ids: None,
            num_inference_steps: 8,
            guidance_scale,
            seed: 1,
            blends: Vec::new(),
            clip_skip: None,
            scheduler: None,
            image: None,
            mask: None,
            strength: 1.0,
            eta: 0.0,
            guidance_rescale: 0.0,
        };
        self.pipeline.prepare(&*self.backend, &request).unwrap()
    }

    fn step(&self, pictures: &mut [&mut Denoise]) -> reverie_models::Result<()> {
        denoise::step(&*self.backend, &self.pipeline.unet, pictures)
    }
}

#[test]
fn a_panic_of_whom_a_picture_is_for_leaves_the_lane_to_the_others() {
    let machine = Machine::new();
    let run = |asked| {
        let (machine, picture) = (machine.clone(), machine.picture());
        let (done, ended) = mpsc::channel();
        std::thread::spawn(move || {
            // Dropped, by a panic too, it ends the waiting below.
            let done = done;
            let step = |pictures: &mut [&mut Denoise]| machine.step(pictures);
            let made = machine.lane.run(&machine.device, picture, Faulty::new(asked), 2, &step);
            let _ = done.send(made.is_ok());
        });
        ended
    };
    for asked in [Asked::Priority, Asked::Stopped, Asked::Yields, Asked::Background, Asked::Stepped] {
        let pictures = [run(asked), run(Asked::Nothing), run(Asked::Nothing)];
        let ended = pictures.map(|ended| ended.recv_timeout(Duration::from_secs(30)));
        for ended in &ended {
            assert!(!matches!(ended, Err(mpsc::RecvTimeoutError::Timeout)), "{asked:?}: one hangs");
        }
        let made = ended.iter().filter(|ended| **ended == Ok(true)).count();
        // Who leads meets the panic: at most one of the three.
        assert!(made >= 2, "{asked:?}: {ended:?}");
        assert_eq!(run(Asked::Nothing).recv_timeout(Duration::from_secs(30)), Ok(true), "{asked:?}");
    }
}

#[test]
fn a_picture_that_is_no_numbers_any_more_ends_by_itself() {
    let machine = Machine::new();
    let largest = Arc::new(AtomicUsize::new(0));
    // The greatest guidance that there is leaves no latents that are numbers.
    let threads = [1.5, f32::MAX, 2.0].map(|guidance| {
        let (machine, picture, largest) = (machine.clone(), machine.guided(guidance), largest.clone());
        std::thread::spawn(move || {
            let step = |pictures: &mut [&mut Denoise]| {
                largest.fetch_max(pictures.len(), Relaxed);
                // So that the others are there at the next.
                std::thread::sleep(Duration::from_millis(50));
                machine.step(pictures)?;
                denoise::check(&*machine.backend, &machine.pipeline.unet, pictures)
            };
            machine.lane.run(&machine.device, picture, Faulty::new(Asked::Nothing), 3, &step)
        })
    });
    let [first, bad, second] = threads.map(|thread| thread.join().unwrap());
    assert!(largest.load(Relaxed) > 1, "no step was shared");
    for good in [first, second] {
        let good = good.unwrap();
        assert!(good.is_done() && good.fault().is_none());
    }
    let Err(Ended::Failed(error)) = bad else { panic!("it is done") };
    let message = error.to_string();
    assert!(
        message.contains("the UNet of ") && message.contains(" at step ") && message.contains(" of 8"),
        "{message}"
    );
}

#[test]
fn who_panics_while_waiting_leaves_the_line() {
    let device = Arc::new(Device::new(1));
    let held = device.ticket();
    let lease = held.lease(|| 0, || false).unwrap();
    let (own, asked) = (device.clone(), AtomicUsize::new(0));
    let priority = move || match asked.fetch_add(1, Relaxed) {
        0 => 9,
        _ => panic!("injected"),
    };
    let waiting = std::thread::spawn(move || own.ticket().lease(priority, || false).is_some());
    assert!(waiting.join().is_err());
    drop(lease);
    let asked = std::cell::Cell::new(0);
    let stop = || asked.replace(asked.get() + 1) == 2;
    assert!(device.ticket().lease(|| 0, stop).is_some(), "nobody is before it");
}

const FILE: &str = "REVERIE_CRASH_TEST";

#[test]
#[cfg(target_os = "linux")]
fn a_step_that_ends_the_process_is_blamed_on_all_of_its_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crash");
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", "a_step_aborts", "--ignored"]).env(FILE, &path).output().unwrap();
    let crashes = report::read(&path).unwrap();
    let [Crash { sent_by: None, on_device: false, jobs, .. }] = &crashes[..] else {
        panic!("{crashes:?} {output:?}")
    };
    // And not on the job of the thread that happens to lead.
    assert_eq!(HashSet::from_iter(jobs.iter().map(Uuid::as_u128)), HashSet::from([1, 2]));
}

#[test]
#[ignore = "ends the process"]
fn a_step_aborts() {
    reverie_crash::record_in(std::env::var_os(FILE).unwrap().as_ref()).unwrap();
    let machine = Machine::new();
    let threads = [1, 2].map(|job| {
        let (machine, picture) = (machine.clone(), machine.picture());
        std::thread::spawn(move || {
            let _working = blame::working_for([Uuid::from_u128(9)]);
            let step = |pictures: &mut [&mut Denoise]| {
                if pictures.len() == 2 {
                    std::process::abort();
                }
                std::thread::sleep(Duration::from_millis(100));
                machine.step(pictures)
            };
            let watch =
                Faulty { asked: Asked::Nothing, times: AtomicUsize::new(0), job: Some(Uuid::from_u128(job)) };
            machine.lane.run(&machine.device, picture, Arc::new(watch), 2, &step).is_ok()
        })
    });
    for thread in threads {
        thread.join().unwrap();
    }
}
