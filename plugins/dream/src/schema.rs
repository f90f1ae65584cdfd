//! What clients may send, as JSON Schemas whose descriptions the host quotes when a field is wrong.

use serde_json::{Map, Value, json};

/// Fields of a session, for `dream:start` and the job.
fn start() -> Value {
    json!({
        "prompt": {"type": ["string", "null"], "maxLength": 4000, "description": "what is dreamt of; empty unless given"},
        "duration_hours": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 720,
            "description": "hours, over 0 to 720; 1 unless given"},
        "temperature": temperature(),
        "similarity_threshold": threshold(),
        "render_interval": {"type": ["integer", "null"], "minimum": 0, "maximum": 1_000_000,
            "description": "every how many kept dreams one is rendered in full, 0 to 1000000 (0: none); 100 unless given"},
        "strategy": strategy(),
        "top_k": {"type": ["integer", "null"], "minimum": 1, "maximum": 1000,
            "description": "dreams that are kept, 1 to 1000; the operator's number, 100, unless given"},
        "mode": {"type": ["string", "null"], "description": "the name of a mode"},
        "thumbnails": {"type": ["boolean", "null"], "description": "true: events carry a small picture"},
        "seed": {"type": ["integer", "null"], "minimum": 0, "maximum": 2_147_483_647_u64,
            "description": "what the session's random choices follow from, 0 to 2^31-1; random unless given"},
    })
}

fn guide() -> Value {
    json!({
        "prompt": {"type": ["string", "null"], "maxLength": 4000, "description": "what is dreamt of from now on"},
        "temperature": temperature(),
        "similarity_threshold": threshold(),
        "strategy": strategy(),
        "more_like": {"type": ["integer", "boolean"], "minimum": 0,
            "description": "the id of a dream to look around; false: no longer"},
    })
}

fn temperature() -> Value {
    json!({"type": ["number", "null"], "minimum": 0, "maximum": 1, "description": "how far candidates stray, 0 to 1"})
}

fn threshold() -> Value {
    json!({"type": ["number", "null"], "minimum": 0, "maximum": 1,
        "description": "the least similarity of what is kept, 0 to 1"})
}

fn strategy() -> Value {
    json!({"enum": ["random", "linear_walk", "grid", "evolve", null],
        "description": "random, linear_walk, grid or evolve"})
}

fn session() -> Value {
    json!({"type": ["string", "null"], "pattern": "^[A-Za-z0-9_-]{1,64}$",
        "description": "the session's name, 1 to 64 letters, digits, '-' and '_'; default unless given"})
}

fn list() -> Value {
    json!({
        "limit": {"type": ["integer", "null"], "minimum": 0, "maximum": 1000,
            "description": "dreams at most, 0 to 1000; 50 unless given"},
        "min_score": {"type": ["number", "null"], "description": "the least score"},
        "rendered_only": {"type": ["boolean", "null"], "description": "true: only those that were rendered in full"},
        "images": {"type": ["boolean", "null"],
            "description": "false: without image_data, the picture of each that was rendered"},
        "thumbnails": {"type": ["boolean", "null"], "description": "true: with a small picture of each"},
    })
}

/// A message whose fields may stand inside `params` or beside it, as all of the protocol's may.
fn message(fields: Value) -> String {
    let Value::Object(mut fields) = fields else { unreachable!("an object was written") };
    fields.insert("session".into(), session());
    let params = json!({"type": ["object", "null"], "properties": fields});
    fields.insert("params".into(), params);
    json!({"type": "object", "properties": fields}).to_string()
}

/// The schema of the job.
pub fn job() -> String {
    let Value::Object(mut fields) = start() else { unreachable!("an object was written") };
    fields.insert("session".into(), session());
    json!({"type": "object", "properties": fields, "required": ["prompt", "session"]}).to_string()
}

/// Name, description and schema of each message type.
pub fn messages() -> Vec<(&'static str, &'static str, String)> {
    let none = || message(Value::Object(Map::new()));
    vec![
        ("dream:start", "Starts a session.", message(start())),
        ("dream:stop", "Ends a session.", none()),
        ("dream:guide", "Steers a running session.", message(guide())),
        ("dream:pause", "Lets a session rest.", none()),
        ("dream:resume", "Lets a resting session go on.", none()),
        ("dream:status", "Tells how a session is doing.", none()),
        ("dream:top", "Lists the best dreams, best first.", message(list())),
        ("dream:recent", "Lists the last kept dreams, the last first.", message(list())),
        ("dream:stats", "Tells a session's figures.", none()),
        ("dream:subscribe", "Makes a session's events come to this client too.", none()),
        ("dream:unsubscribe", "And no longer.", none()),
    ]
}
