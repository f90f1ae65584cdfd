//! A session as it runs: one long job.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reverie_plugin_sdk::{
    Error, ErrorKind, Interruption, Job, clock, diffusion,
    images::{Filter, Format, Image},
    jobs, log, random, scoring, storage,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    JOB,
    config::Config,
    params::{Guide, Params, candidate_size, request},
    score::{Parts, cosine},
    state::{State, Status},
    strategy::Search,
    top::{Dream, Kept, rounded},
};

/// How often a resting session looks at what it was told, in milliseconds.
const REST_MS: u32 = 250;

/// Failures in a row that end a session, and the rest after each in milliseconds.
const FAILURES: u32 = 5;
const FAILURE_REST_MS: u32 = 1000;

/// Milliseconds between two reports of progress.
const PROGRESS_MS: f64 = 1000.0;

const THUMBNAIL_QUALITY: u8 = 75;

/// What a running session is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Told {
    Guide(Guide),
    Pause,
    Resume,
}

/// Runs a session to its end, or until the job has to give way.
pub fn run(job: &Job) -> Result<(), Error> {
    let params: Params = job.params()?;
    if jobs::find(JOB, &params.session).as_deref() != Some(&job.job_id) {
        return Err(Error::invalid_input("a session is started with dream:start"));
    }
    let state = match State::load(&params.session)? {
        Some(state) if state.job == job.job_id => state,
        _ => {
            let seed = params.seed.map_or_else(random::get_u64, |seed| seed as u64);
            State::new(&job.job_id, params, seed)
        }
    };
    let mut session = Session {
        job,
        config: Config::read()?,
        state,
        prompt: None,
        size: (0, 0),
        clock_ns: clock::monotonic_ns(),
        waited_ms: job.waited_ms(),
        saved_ms: 0.0,
        told_ms: f64::MIN,
    };
    session.save()?;
    session.dream()
}

struct Session<'a> {
    job: &'a Job,
    config: Config,
    state: State,
    /// The prompt's vector, once it is known.
    prompt: Option<Vec<f32>>,
    /// Of candidates; 0 until it is known.
    size: (u32, u32),
    clock_ns: u64,
    /// What its computations had waited for others by then.
    waited_ms: u64,
    /// When the state was stored last, and the client was told last, by the session's own clock.
    saved_ms: f64,
    told_ms: f64,
}

impl Session<'_> {
    fn dream(&mut self) -> Result<(), Error> {
        let mut failures = 0;
        loop {
            self.listen()?;
            if self.job.cancelled() {
                return self.end(Status::Stopped);
            }
            if let Some(reason) = self.job.interruption() {
                self.save()?;
                let why = if reason == Interruption::Superseded {
                    "a newer version goes on"
                } else {
                    "to be gone on with"
                };
                log::info(format!("session '{}' rests: {why}", self.state.params.session));
                return self.job.requeue();
            }
            if self.state.fraction() >= 1.0 {
                return self.end(Status::Finished);
            }
            if self.state.status == Status::Paused {
                continue;
            }
            match self.step() {
                Ok(()) => failures = 0,
                // Why, the next round sees.
                Err(error) if error.kind == ErrorKind::Cancelled => clock::sleep(1),
                Err(error) if error.kind == ErrorKind::InvalidInput => return self.fail(error),
                Err(error) => {
                    failures += 1;
                    if failures >= FAILURES {
                        return self.fail(error);
                    }
                    log::warn(format!("session '{}': {}", self.state.params.session, error.message));
                    clock::sleep(FAILURE_REST_MS);
                }
            }
            self.tick();
            self.report()?;
        }
    }

    /// Counts the time since the last look, but for what was waited for others.
    fn tick(&mut self) {
        let now = clock::monotonic_ns();
        // Another process's clock may stand anywhere.
        let passed = now.saturating_sub(self.clock_ns);
        self.clock_ns = now;
        let waited = self.job.waited_ms();
        let waiting = waited.saturating_sub(self.waited_ms);
        self.waited_ms = waited;
        if self.state.status == Status::Dreaming {
            self.state.elapsed_ms += (passed as f64 / 1e6 - waiting as f64).max(0.0);
        }
    }

    /// Takes in all that the session was told; at rest, waits for it.
    fn listen(&mut self) -> Result<(), Error> {
        let mut changed = false;
        let rest = if self.state.status == Status::Paused { REST_MS } else { 0 };
        let mut wait = rest;
        loop {
            let told = self.job.receive::<Told>(wait);
            self.tick();
            match told {
                Ok(None) => break,
                Ok(Some(Told::Guide(guide))) => self.state.guide(guide),
                Ok(Some(Told::Pause)) => self.state.status = Status::Paused,
                Ok(Some(Told::Resume)) => self.state.status = Status::Dreaming,
                Err(error) => log::warn(error.message),
            }
            (changed, wait) = (true, 0);
        }
        if changed {
            self.prompt = self.prompt.take().filter(|_| !self.state.rescore);
            self.save()?;
            self.told_ms = f64::MIN;
            self.report()?;
        }
        Ok(())
    }

    /// One candidate, or the full picture that is due.
    fn step(&mut self) -> Result<(), Error> {
        if let Some(id) = self.state.render_due {
            return self.render(id);
        }
        if self.size == (0, 0) {
            self.size = candidate_size(diffusion::size(&self.state.params.mode())?, &self.config);
        }
        let prompt = match self.prompt.take() {
            Some(prompt) => prompt,
            // What LoRAs a prompt names says nothing of the picture.
            None => {
                scoring::embed_text(&diffusion::check(&self.state.params.mode(), &self.state.params.prompt)?)?
            }
        };
        if self.state.rescore {
            self.state.turn_to(&prompt, &self.config);
        }
        let result = self.candidate(&prompt);
        self.prompt = Some(prompt);
        result
    }

    fn candidate(&mut self, prompt: &[f32]) -> Result<(), Error> {
        let state = &mut self.state;
        let search = Search {
            config: &self.config,
            strategy: state.params.strategy(),
            temperature: state.params.temperature(),
            best: state.top.best().map(|dream| &dream.genes).collect(),
            focus: state.focus.as_ref(),
        };
        // Only what comes to a score counts: an interrupted candidate is made again.
        let (mut rng, mut position) = (state.rng.clone(), state.position.clone());
        let genes = search.next(&mut rng, &mut position);
        let request = diffusion::Request {
            width: self.size.0,
            height: self.size.1,
            num_inference_steps: Some(self.config.candidate_steps),
            ..request(&state.params, &genes)
        };
        let picture = diffusion::generate(&request, None, None)?.picture;
        // Scored against the session's prompt: its variations shall not count for fitting themselves.
        let embedding = scoring::embed_image(&picture)?;
        let parts = Parts::new(cosine(&embedding, prompt), &scoring::measure(&picture)?, &self.config);
        let hash = scoring::perceptual_hash(&picture)?;
        (state.rng, state.position) = (rng, position);
        state.counts.candidates += 1;
        state.note(embedding.clone(), parts.cosine);

        let score = parts.score(&self.config);
        let mut dream = Dream {
            id: state.next_id,
            score,
            parts,
            prompt: request.prompt,
            genes,
            hash,
            embedding,
            thumbnail: String::new(),
            at_s: state.elapsed_s(),
            timestamp: clock::now_ms() as f64 / 1e3,
            key: None,
        };
        if parts.similarity < state.params.similarity_threshold() {
            state.counts.below_threshold += 1;
            return self.announce(&dream, None);
        }
        dream.thumbnail = thumbnail(&picture, self.config.thumbnail_side)?;
        let k = state.params.top_k(&self.config);
        let kept = state.top.offer(dream.clone(), k, self.config.duplicate_distance);
        match kept {
            Kept::New { .. } => {
                state.counts.kept += 1;
                state.next_id += 1;
                let interval = state.params.render_interval();
                if interval > 0 && state.counts.kept.is_multiple_of(interval) {
                    state.render_due = Some(dream.id);
                }
            }
            Kept::Duplicate => state.counts.duplicates += 1,
            Kept::TooLow => state.counts.too_low += 1,
        }
        self.announce(&dream, Some(kept))?;
        if self.state.elapsed_ms - self.saved_ms >= self.config.save_interval_s * 1e3 {
            self.save()
        } else {
            Ok(())
        }
    }

    /// Tells the session's clients of a candidate. One that was not kept has no id.
    fn announce(&self, dream: &Dream, kept: Option<Kept>) -> Result<(), Error> {
        let is_new = matches!(kept, Some(Kept::New { .. }));
        let mut described = dream.describe(is_new && self.state.params.thumbnails.unwrap_or(false));
        if !is_new {
            described["id"] = serde_json::Value::Null;
        }
        let outcome = match kept {
            None => "below_threshold",
            Some(Kept::New { .. }) => "kept",
            Some(Kept::Duplicate) => "duplicate",
            Some(Kept::TooLow) => "too_low",
        };
        let session = &self.state.params.session;
        if kept == Some(Kept::New { best: true }) {
            let event = json!({"type": "dream:best", "session": session, "dream": described});
            self.job.event(&event, Some("best"))?;
        }
        let event = json!({
            "type": "dream:candidate",
            "session": session,
            "kept": is_new,
            "outcome": outcome,
            "candidate": self.state.counts.candidates,
            "dream": described,
        });
        self.job.event(&event, Some("candidate"))
    }

    /// Renders a dream in full: the mode's own size and steps, with the same noise where the sizes agree and the same seeds
    /// otherwise.
    fn render(&mut self, id: u64) -> Result<(), Error> {
        let Some(dream) = self.state.top.get(id).cloned() else {
            self.state.render_due = None;
            return Ok(());
        };
        let params = Params { prompt: dream.prompt.clone(), ..self.state.params.clone() };
        let mut genes = dream.genes.clone();
        genes.words.clear();
        let made = diffusion::generate(&request(&params, &genes), None, None)?;
        let text = format!(
            "{}\nSteps: {}, Sampler: {}, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {}",
            dream.prompt,
            made.num_inference_steps,
            made.scheduler,
            made.guidance_scale,
            genes.seed,
            made.picture.width(),
            made.picture.height(),
            made.model,
        );
        let key = storage::put(&made.picture.encode_with_parameters(Format::Png, 0, &text)?)?;
        self.state.render_due = None;
        self.state.note_rendered(id, &key);
        self.save()?;
        let event = json!({
            "type": "dream:rendered",
            "session": self.state.params.session,
            "id": id,
            "key": key,
            "url": format!("/storage/{key}"),
        });
        self.job.event(&event, None)
    }

    /// Tells how far the session is, now and then, and stores it as often as it shall be.
    fn report(&mut self) -> Result<(), Error> {
        if self.state.elapsed_ms - self.told_ms >= PROGRESS_MS {
            self.told_ms = self.state.elapsed_ms;
            let counts = &self.state.counts;
            let detail = json!({
                "session": self.state.params.session,
                "dream": self.state.status,
                "candidates": counts.candidates,
                "kept": counts.kept,
                "best_score": self.state.top.best().next().map(|dream| rounded(dream.score)),
                "elapsed_s": self.state.elapsed_s(),
            });
            self.job.progress_with(self.state.fraction() as f32, &detail)?;
        }
        // Also when nothing is kept: the time counts.
        let due = 2.0 * self.config.save_interval_s * 1e3;
        if self.state.elapsed_ms - self.saved_ms >= due { self.save() } else { Ok(()) }
    }

    fn save(&mut self) -> Result<(), Error> {
        self.state.save()?;
        self.saved_ms = self.state.elapsed_ms;
        self.job.checkpoint();
        Ok(())
    }

    fn end(&mut self, status: Status) -> Result<(), Error> {
        self.state.status = status;
        self.save()?;
        let outputs: Vec<&str> = self.state.rendered.iter().map(String::as_str).collect();
        self.job.complete(&outputs, &self.state.figures(&self.config))
    }

    /// Ends with an error, keeping what was found.
    fn fail(&mut self, error: Error) -> Result<(), Error> {
        self.state.status = Status::Failed;
        self.state.error = Some(error.message.clone());
        self.save()?;
        Err(error)
    }
}

/// A small JPEG in base64.
fn thumbnail(picture: &Image, side: u32) -> Result<String, Error> {
    let (width, height) = (picture.width(), picture.height());
    let longer = width.max(height).max(1);
    let small;
    let mut shown = picture;
    if longer > side {
        let scaled = |own: u32| (own * side / longer).max(1);
        small = picture.resize(scaled(width), scaled(height), Filter::Lanczos3)?;
        shown = &small;
    }
    let jpeg = shown.encode(Format::Jpeg, THUMBNAIL_QUALITY)?;
    Ok(BASE64_STANDARD.encode(jpeg.read(0, jpeg.len())))
}
