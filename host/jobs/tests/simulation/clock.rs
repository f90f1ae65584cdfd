//! Time that passes when the simulation says so.

use parking_lot::Mutex;
use reverie_jobs::Clock;

#[derive(Default)]
struct Times {
    unix: f64,
    /// Since the process began.
    elapsed: f64,
    /// Since the history began.
    passed: f64,
}

pub struct Virtual(Mutex<Times>);

impl Virtual {
    pub fn new() -> Self {
        Self(Mutex::new(Times { unix: 1.7e9, ..Times::default() }))
    }

    pub fn pass(&self, seconds: f64) {
        let mut times = self.0.lock();
        times.unix += seconds;
        times.elapsed += seconds;
        times.passed += seconds;
    }

    /// Somebody sets the clock on the wall.
    pub fn jump(&self, seconds: f64) {
        self.0.lock().unix += seconds;
    }

    pub fn begin_process(&self) {
        self.0.lock().elapsed = 0.0;
    }

    /// Seconds since the history began.
    pub fn passed(&self) -> f64 {
        self.0.lock().passed
    }
}

impl Clock for Virtual {
    fn unix(&self) -> f64 {
        self.0.lock().unix
    }

    fn elapsed(&self) -> f64 {
        self.0.lock().elapsed
    }
}
