//! Counters for `GET /metrics`, in Prometheus' text format.

mod connections;

use std::time::Duration;

use prometheus::{
    Encoder, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};
use reverie_kernels::nvml;
use reverie_memory::{Budget, Use};

use crate::jobs;
pub use connections::Connections;

/// Every figure the server keeps. Durations are in seconds.
pub struct Metrics {
    registry: Registry,
    pub ws_clients: IntGauge,
    pub ws_received: IntCounter,
    pub ws_sent: IntCounter,
    pub ws_superseded: IntCounter,
    pub ws_slow_closed: IntCounter,
    jobs: IntGaugeVec,
    jobs_finished: IntCounterVec,
    job_seconds: HistogramVec,
    pub plugin_calls: IntCounterVec,
    pub plugin_call_seconds: HistogramVec,
    pub plugin_reloads: IntCounterVec,
    pub upload_bytes: IntGauge,
    memory: IntGaugeVec,
    memory_limit: IntGauge,
    pub connections: Connections,
    gpu_memory_free: IntGaugeVec,
    gpu_memory: IntGaugeVec,
    gpu_utilization: IntGaugeVec,
    gpu_temperature: IntGaugeVec,
}

impl Metrics {
    /// Registers them all, once for each server.
    pub fn new() -> Self {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("valid name");
            registry.register(Box::new(gauge.clone())).expect("registered once");
            gauge
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("valid name");
            registry.register(Box::new(counter.clone())).expect("registered once");
            counter
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(prometheus::Opts::new(name, help), labels).expect("valid name");
            registry.register(Box::new(counters.clone())).expect("registered once");
            counters
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: Vec<f64>| {
            let opts = prometheus::HistogramOpts::new(name, help).buckets(buckets);
            let histogram = HistogramVec::new(opts, labels).expect("valid name");
            registry.register(Box::new(histogram.clone())).expect("registered once");
            histogram
        };
        let gauges = |name: &str, help: &str, label: &str| {
            let gauges = IntGaugeVec::new(prometheus::Opts::new(name, help), &[label]).expect("valid name");
            registry.register(Box::new(gauges.clone())).expect("registered once");
            gauges
        };
        Self {
            ws_clients: gauge("reverie_ws_clients", "Open WebSocket connections."),
            ws_received: counter("reverie_ws_messages_received_total", "Messages from WebSocket clients."),
            ws_sent: counter("reverie_ws_messages_sent_total", "Messages to WebSocket clients."),
            ws_superseded: counter(
                "reverie_ws_superseded_total",
                "Waiting progress or status messages that newer ones took the place of.",
            ),
            ws_slow_closed: counter(
                "reverie_ws_slow_closed_total",
                "Clients dropped because they did not read.",
            ),
            jobs: gauges("reverie_jobs", "Jobs by state.", "state"),
            jobs_finished: counters("reverie_jobs_finished_total", "Ended jobs.", &["type", "state"]),
            job_seconds: histogram(
                "reverie_job_seconds",
                "Time from start to end of jobs.",
                &["type"],
                vec![0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0],
            ),
            plugin_calls: counters(
                "reverie_plugin_calls_total",
                "Calls into plugins.",
                &["plugin", "call", "result"],
            ),
            plugin_call_seconds: histogram(
                "reverie_plugin_call_seconds",
                "Time of message calls into plugins.",
                &["plugin"],
                vec![0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.025, 0.1, 1.0, 10.0],
            ),
            plugin_reloads: counters(
                "reverie_plugin_loads_total",
                "Plugin loads and reloads.",
                &["plugin", "result"],
            ),
            connections: Connections::new(&registry),
            upload_bytes: gauge("reverie_upload_bytes", "Bytes of uploads in memory."),
            memory: gauges("reverie_memory_bytes", "What is held of server.memory_mb, by use.", "use"),
            memory_limit: gauge("reverie_memory_limit_bytes", "server.memory_mb."),
            gpu_memory_free: gauges(
                "reverie_gpu_memory_free_bytes",
                "The GPU's memory that is free.",
                "device",
            ),
            gpu_memory: gauges("reverie_gpu_memory_bytes", "The GPU's memory.", "device"),
            gpu_utilization: gauges(
                "reverie_gpu_utilization_percent",
                "Part of the time in which a kernel ran.",
                "device",
            ),
            gpu_temperature: gauges("reverie_gpu_temperature_celsius", "The GPU's temperature.", "device"),
            registry,
        }
    }

    /// Counts a job that has ended.
    pub fn job_ended(&self, job: &jobs::Snapshot, ran: Option<Duration>) {
        self.jobs_finished.with_label_values(&[job.job_type.as_str(), job.status.as_str()]).inc();
        if let Some(ran) = ran {
            self.job_seconds.with_label_values(&[&job.job_type]).observe(ran.as_secs_f64());
        }
    }

    /// Sets how many jobs there are.
    pub fn jobs_are(&self, jobs: &jobs::Jobs) {
        let (queued, running) = jobs.figures();
        let (_, background) = jobs.background();
        for (label, count) in [("queued", queued), ("running", running), ("background", background)] {
            self.jobs.with_label_values(&[label]).set(count as i64);
        }
    }

    /// Sets what is held of the budget.
    pub fn memory_is(&self, memory: &Budget) {
        self.memory_limit.set(memory.limit() as i64);
        for of in Use::ALL {
            self.memory.with_label_values(&[of.name()]).set(memory.used_for(of) as i64);
        }
    }

    /// Sets what is known of the GPU.
    pub fn gpu(&self, device: &str, status: &nvml::Status) {
        let nvml::Memory { free_mb, total_mb } = status.memory;
        for (gauges, value) in [
            (&self.gpu_memory_free, Some((free_mb << 20) as i64)),
            (&self.gpu_memory, Some((total_mb << 20) as i64)),
            (&self.gpu_utilization, status.utilisation.map(i64::from)),
            (&self.gpu_temperature, status.temperature.map(i64::from)),
        ] {
            if let Some(value) = value {
                gauges.with_label_values(&[device]).set(value);
            }
        }
    }

    /// The exposition format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("writing to memory");
        String::from_utf8(text).expect("Prometheus text is UTF-8")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
