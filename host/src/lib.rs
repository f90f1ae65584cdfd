//! Reverie: a plugin-hosted runtime for image generation. Read [`server`] first: it puts the parts together.

#![forbid(unsafe_code)]

pub mod audit;
pub mod cli;
pub mod config;
pub mod crashes;
pub mod diffusion;
pub mod dispatch;
pub mod doctor;
pub mod embedded;
pub mod execution;
pub mod health;
pub mod http;
pub mod hub;
pub mod json;
pub mod keys;
pub mod metrics;
pub mod models;
pub mod outbound;
pub mod paths;
pub mod pictures;
pub mod plugins;
pub mod quotas;
pub mod scoring;
pub mod server;
pub mod status;
pub mod storage;
pub mod uploads;

pub use reverie_jobs::{self as jobs, error};
