use super::*;

fn tracker() -> Tracker {
    Tracker::new("p", ["1", "2", "3", "4"].map(str::to_owned).into())
}

fn say(tracker: &mut Tracker, kind: &str, mut data: Value) -> Event {
    if data.get("prompt_id").is_none() {
        data["prompt_id"] = json!("p");
    }
    tracker.text(&json!({"type": kind, "data": data}).to_string())
}

fn workflow() -> Workflow {
    let node = |class: &str| json!({"class_type": class, "inputs": {}});
    let nodes = json!({"1": node("A"), "2": node("B"), "3": node("C"), "4": node("D")});
    Workflow::parse(nodes.to_string().as_bytes()).unwrap()
}

#[test]
fn messages_become_progress() {
    let mut t = tracker();
    assert_eq!(say(&mut t, "execution_start", json!({})), Event::Progress);
    say(&mut t, "execution_cached", json!({"nodes": ["1", "of another graph"]}));
    assert_eq!((t.cached, t.fraction()), (1, 0.25 * GRAPH_SHARE));
    say(&mut t, "executing", json!({"node": "2", "display_node": "2"}));
    say(&mut t, "progress", json!({"node": "2", "value": 5, "max": 10}));
    let detail = t.detail(&workflow());
    assert_eq!(detail["nodes_total"], 4);
    assert_eq!(detail["nodes_seen"], 2);
    assert_eq!(detail["current_node"], "2");
    assert_eq!(detail["current_title"], "B");
    assert_eq!(detail["node_fraction"], 0.5);
    assert_eq!(detail["node_progression"], json!(["1", "2"]));
    assert_eq!((&detail["step"], &detail["steps"]), (&json!(5), &json!(10)));
    assert_eq!(t.fraction(), 0.375 * GRAPH_SHARE);
    // An earlier state that comes late takes nothing back.
    say(&mut t, "progress", json!({"node": "2", "value": 1, "max": 10}));
    assert_eq!(t.fraction(), 0.375 * GRAPH_SHARE);
    say(&mut t, "executed", json!({"node": "2", "display_node": "2", "output": {"images": []}}));
    assert_eq!(t.outputs.len(), 1);
    assert_eq!(say(&mut t, "execution_success", json!({})), Event::Success);
}

#[test]
fn states_of_expanded_nodes_count_as_those_of_the_workflow() {
    let mut t = tracker();
    let state =
        |state: &str, shown: &str| json!({"state": state, "value": 1, "max": 4, "display_node_id": shown});
    say(
        &mut t,
        "progress_state",
        json!({"nodes": {"1": state("finished", "1"), "2.0.5": state("running", "2")}}),
    );
    assert_eq!((t.current(), t.current_step()), (Some("2"), Some(1.0)));
    say(&mut t, "progress_state", json!({"nodes": {"2.0.5": state("finished", "2")}}));
    assert_eq!(t.current(), Some("2"));
    say(
        &mut t,
        "progress_state",
        json!({"nodes": {"2": state("finished", "2"), "3": state("running", "3")}}),
    );
    assert_eq!(t.current(), Some("3"));
    assert_eq!(t.fraction(), (2.25 / 4.0) * GRAPH_SHARE);
    let delta = t.detail(&workflow())["delta"].clone();
    assert_eq!(delta, "node 3 (C): step 1 of 4");
}

#[test]
fn ends_are_told_apart() {
    let mut t = tracker();
    assert_eq!(say(&mut t, "executing", json!({"node": null})), Event::Success);
    assert_eq!(say(&mut t, "execution_interrupted", json!({})), Event::Interrupted);
    let failed =
        json!({"node_id": "3", "exception_type": "x.ValueError", "exception_message": "too small\n"});
    let Event::Failed(failure) = say(&mut t, "execution_error", failed) else { panic!("it is a failure") };
    assert_eq!(failure.describe(&workflow()), "node 3 (C) failed on ComfyUI: ValueError: too small");
    // Everybody hears when somebody's prompt is interrupted.
    assert_eq!(say(&mut t, "execution_interrupted", json!({"prompt_id": "q"})), Event::Foreign);
    assert_eq!(t.text(r#"{"type": "executing", "data": {"node": null}}"#), Event::Foreign);
    assert_eq!(t.text(r#"{"type": "status", "data": {"status": {}}}"#), Event::Foreign);
    assert_eq!(t.text("nonsense"), Event::Foreign);
}

#[test]
fn previews_are_found_behind_their_heads() {
    let t = tracker();
    let plain = [&[0, 0, 0, 1, 0, 0, 0, 2][..], b"PNG"].concat();
    assert_eq!(t.binary(&plain), Event::Preview { content: b"PNG".to_vec(), media_type: "image/png" });
    let about = |prompt: &str| {
        let about = json!({"prompt_id": prompt, "image_type": "image/jpeg"}).to_string();
        [&4_u32.to_be_bytes()[..], &(about.len() as u32).to_be_bytes(), about.as_bytes(), b"JPEG"].concat()
    };
    assert_eq!(t.binary(&about("p")), Event::Preview { content: b"JPEG".to_vec(), media_type: "image/jpeg" });
    assert_eq!(t.binary(&about("q")), Event::Foreign);
    assert_eq!(t.binary(&[0, 0, 0, 4, 0, 0, 1, 0, 1]), Event::Foreign);
    assert_eq!(t.binary(&[0, 0]), Event::Foreign);
}
