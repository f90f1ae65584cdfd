//! Misbehaves as it is told.

use reverie_plugin_sdk::{Error, Handler, Job, Manifest, Message, clock, export, hub};

struct Bad;

export!(Bad);

impl Handler for Bad {
    fn manifest() -> Manifest {
        let manifest = Manifest::new("bad", "1.0.0", "Misbehaves.")
            .job("bad-incomplete", "Ends without completing.", "")
            .job("bad-panic", "Panics.", "")
            .job("bad-deaf", "Does not hear that it is cancelled.", "");
        ["panic", "loop", "memory", "stack", "sleep", "json", "denied", "error"]
            .iter()
            .fold(manifest, |manifest, kind| manifest.message(&format!("bad:{kind}"), "Misbehaves.", ""))
    }

    fn message(message: Message) -> Result<(), Error> {
        match message.kind.as_str() {
            "bad:panic" => panic!("as told"),
            "bad:loop" => loop {
                std::hint::black_box(());
            },
            "bad:memory" => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(vec![1u8; 1 << 20]);
                }
            }
            "bad:stack" => {
                std::hint::black_box(deep(std::hint::black_box(1)));
                Ok(())
            }
            "bad:sleep" => {
                clock::sleep(60_000);
                Ok(())
            }
            "bad:json" => hub::reply("{"),
            "bad:denied" => hub::broadcast(r#"{"type": "x"}"#),
            _ => Err(Error::invalid_input("the field 'x' must be y")),
        }
    }

    fn job(job: Job) -> Result<(), Error> {
        match job.job_type.as_str() {
            "bad-incomplete" => Ok(()),
            "bad-panic" => panic!("as told"),
            _ => {
                clock::sleep(60_000);
                Ok(())
            }
        }
    }
}

#[allow(unconditional_recursion)]
fn deep(n: u64) -> u64 {
    let frame = std::hint::black_box([n; 64]);
    deep(n + 1) + frame[n as usize % 64]
}
