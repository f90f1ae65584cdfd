//! Jobs against made-up servers.

use super::*;
use crate::{
    fake::{
        Fake,
        Happening::{self, Break, Die, Fail, Finish, Removed, Return, Say, Start},
        fake,
    },
    workflow::Workflow,
};

const A: &str = "a:1";
const B: &str = "b:1";

fn attempt(fake: &Fake, image: Option<&str>, first_attempt: bool) -> Result<Made, Error> {
    let nodes = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
    });
    let workflow = Workflow::parse(nodes.to_string().as_bytes()).unwrap();
    let sidecar = Sidecar::derive(&workflow);
    let patched = crate::params::patch(&workflow, &sidecar, &Map::new(), image, 7)?;
    let servers = fake.world.servers.iter().map(|(name, _)| format!("http://{name}")).collect();
    let config = Config { servers, ..Config::default() };
    let task = Task {
        id: "job",
        workflow_id: "w",
        first_attempt,
        sidecar: &sidecar,
        patched,
        previews: false,
        max_wait_s: None,
    };
    run(fake, &config, task)
}

fn run_job(fake: &Fake) -> Result<Made, Error> {
    attempt(fake, None, true)
}

fn executing(node: &str) -> Happening {
    Say(json!({"type": "executing", "data": {"node": node, "display_node": node, "prompt_id": "job"}}))
}

fn happy() -> Vec<(u64, Happening)> {
    vec![(100, Start), (200, executing("1")), (900, executing("2")), (1000, Finish)]
}

#[test]
fn a_job_runs_to_its_end() {
    let fake = fake(&[A], happy());
    let made = attempt(&fake, Some("there"), true).unwrap();
    assert_eq!(made.keys, ["comfy-1"]);
    assert_eq!(*fake.stored.borrow(), ["image/png"]);
    assert_eq!(made.meta["server"], "http://a:1");
    assert_eq!(made.meta["outputs"][0]["node"], "2");
    let progress = fake.progress.borrow();
    assert!(progress.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{progress:?}");
    assert!(progress.iter().any(|(_, detail)| detail["current_node"] == "2" && detail["nodes_total"] == 2));
    assert_eq!(progress.last().unwrap().0, 1.0);
    assert!(attempt(&fake, Some("expired"), true).is_err());
}

#[test]
fn failures_name_the_node() {
    let fake = fake(&[A], vec![(10, Start), (50, Fail)]);
    let error = run_job(&fake).unwrap_err();
    assert_eq!(error.message, "node 2 (SaveImage) failed on ComfyUI: ValueError: too small");
}

#[test]
fn a_broken_connection_is_made_anew() {
    let script = vec![(100, Start), (500, Break), (20_000, Finish)];
    assert_eq!(run_job(&fake(&[A], script)).unwrap().keys.len(), 1);
    // It ends in the moment in which nobody listens.
    let script = vec![(100, Start), (500, Break), (501, Finish)];
    assert_eq!(run_job(&fake(&[A], script)).unwrap().keys.len(), 1);
}

#[test]
fn a_restarted_server_gets_the_job_again_once() {
    let script = vec![(100, Start), (500, Die), (8000, Return), (15_000, Start), (16_000, Finish)];
    let fake = fake(&[A], script);
    run_job(&fake).unwrap();
    assert_eq!(fake.world.servers[0].1.borrow().submitted, 2);
}

#[test]
fn a_server_that_stays_away_loses_its_job_to_another_one() {
    let fake = fake(&[A, B], vec![(100, Start), (500, Die)]);
    // The job is put onto the first server, and the second one plays its part of the script when it gets it.
    fake.world.servers[1].1.borrow_mut().load = 3;
    fake.world.servers[1].1.borrow_mut().script =
        vec![(20_000, Start), (21_000, Finish)].into_iter().collect();
    let made = run_job(&fake).unwrap();
    assert_eq!(made.meta["server"], "http://b:1");
    assert!(fake.world.now.get() < 25_000);
}

#[test]
fn without_another_server_it_fails_and_says_why() {
    let fake = fake(&[A], vec![(100, Start), (150, executing("1")), (500, Die)]);
    let error = run_job(&fake).unwrap_err();
    assert!(error.message.contains("connection refused; no sign of the job for 6"), "{}", error.message);
    assert!(error.message.ends_with("at node 1 (LoadImage)"), "{}", error.message);
    assert!(fake.world.now.get() < 70_000);
}

#[test]
fn silence_is_waited_for_only_so_long() {
    let fake = fake(&[A], vec![(100, Start), (150, executing("1"))]);
    let error = run_job(&fake).unwrap_err();
    assert!(error.message.contains("gave no sign of the job for 60 s"), "{}", error.message);
    assert_eq!(fake.world.servers[0].1.borrow().interrupts, 1);
    assert!((60_000..70_000).contains(&fake.world.now.get()));
}

#[test]
fn waiting_in_the_queue_is_no_silence_but_has_a_limit() {
    let fake = fake(&[A], Vec::new());
    let error = run_job(&fake).unwrap_err();
    assert!(error.message.contains("longer than 900 s (plugins.comfy.config.limit_s)"), "{}", error.message);
    assert_eq!(fake.world.servers[0].1.borrow().deletions, 1);
    assert!(fake.progress.borrow().iter().any(|(_, detail)| detail["queue_position"] == 0));
}

#[test]
fn cancelling_touches_this_job_alone() {
    let cancelled = |script| {
        let fake = Fake { cancel_at: 1000, ..fake(&[A], script) };
        assert_eq!(run_job(&fake).unwrap_err().kind, reverie_plugin_sdk::ErrorKind::Cancelled);
        let comfy = fake.world.servers[0].1.borrow();
        (comfy.deletions, comfy.interrupts)
    };
    assert_eq!(cancelled(Vec::new()), (1, 0));
    assert_eq!(cancelled(vec![(10, Start)]), (0, 1));
}

#[test]
fn a_removed_job_is_not_put_back() {
    let error = run_job(&fake(&[A], vec![(1000, Removed)])).unwrap_err();
    assert!(error.message.contains("removed from the queue of ComfyUI at http://a:1"), "{}", error.message);
}

#[test]
fn a_later_attempt_goes_on_with_what_an_earlier_one_began() {
    let fake = fake(&[A, B], Vec::new());
    let other = &fake.world.servers[1].1;
    other.borrow_mut().running = Some("job".into());
    other.borrow_mut().script = vec![(3000, Finish)].into_iter().collect();
    // The upload did not survive the crash, and is not needed.
    let made = attempt(&fake, Some("expired"), false).unwrap();
    assert_eq!((made.meta["server"].as_str(), other.borrow().submitted), (Some("http://b:1"), 0));
}

#[test]
fn the_least_loaded_server_gets_the_job() {
    let fake = fake(&[A, B], happy());
    fake.world.servers[0].1.borrow_mut().load = 2;
    assert_eq!(run_job(&fake).unwrap().meta["server"], "http://b:1");
    fake.world.servers[0].1.borrow_mut().down = true;
    fake.world.servers[1].1.borrow_mut().down = true;
    let error = run_job(&fake).unwrap_err();
    assert!(
        error.message.starts_with("no ComfyUI server can run the job: ComfyUI at http://a:1: "),
        "{}",
        error.message
    );
}
